"""360Bench: multiple-choice questions about panoramas of 7296 x 3648, a TSV with each question in four rotations.

Layout as in https://github.com/TranHuyen1191/360Bench-Free360 (data/360Bench.tsv and README, read): `image_file`,
`question`, `category`, `l2-category`, `bbox` (JSON, pixels), `multi-choice options` (a Python list of "A. ..." texts)
and `answer` (a letter). The four rotations of the options become one question. The seed and the question determine the
order of its options, and the letter of the answer follows.
"""

import ast
from random import Random
from string import ascii_uppercase
from typing import Any

from panollava.corpus.importers.common import Entry, Imported, Origin, Request, annotation_file, image_name
from panollava.corpus.importers.findings import BadSample, Findings
from panollava.corpus.importers.tables import TableRow, read_table
from panollava.corpus.json_files import decoded
from panollava.corpus.json_values import value_faults
from panollava.corpus.problems import shorten

ORIGIN = Origin(
    "360Bench (Tran et al., ECCV 2026), https://github.com/TranHuyen1191/360Bench-Free360",
    "annotations CC BY 4.0; images by their sources (Flickr, NOIRLab, Insta360)",
)
COLUMNS = ("image_file", "question", "category", "l2-category", "bbox", "multi-choice options", "answer")
# Image, question, options in alphabetical order and the right one; rows that agree in these are one question.
QuestionKey = tuple[str, str, tuple[str, ...], str]


# More than any options have; the parser of Python lists takes memory by nesting.
LONGEST_OPTIONS = 10_000


def _options(row: dict[str, str]) -> tuple[list[str], str]:
    """Return the options without their letters, and the right one; raises BadSample."""
    text = row["multi-choice options"]
    kind, shown = "bad options", shorten(text)
    try:
        listed = ast.literal_eval(text) if len(text) <= LONGEST_OPTIONS else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        listed = None
    if not isinstance(listed, list):
        raise BadSample(kind, f"options {shown}; expected a Python list of texts")
    lettered = all(isinstance(option, str) for option in listed)
    letters = ascii_uppercase[: len(listed)] if lettered else ""
    if not 2 <= len(listed) == len(letters) or any(
        option[:2] != f"{letter}." for option, letter in zip(listed, letters, strict=True)
    ):
        raise BadSample(kind, f"options {shown}; expected texts that begin with 'A.', 'B.' and so on")
    options = [option[2:].strip() for option in listed]
    if len(set(options)) < len(options) or row["answer"] not in tuple(letters):
        text = f"answer {shorten(row['answer'])} to options {shown}; expected a letter of options that all differ"
        raise BadSample("a bad answer", text)
    return options, options[letters.index(row["answer"])]


def _boxes(row: dict[str, str]) -> list[Any]:
    """Return the relevant objects as published, `bbox_2d` in pixels and `label`; raises BadSample."""
    text = row["bbox"].strip() or "[]"
    kind, shown = "a bad bbox", shorten(text)
    try:
        boxes, end = decoded(text)
    except ValueError as error:
        raise BadSample(kind, f"bbox {shown} is not JSON: {error}") from None
    if not isinstance(boxes, list) or end < len(text):
        raise BadSample(kind, f"bbox {shown}; expected a list of boxes")
    for _, fault in value_faults(boxes):
        raise BadSample(kind, f"bbox {shown}: {fault}")
    return boxes


def _key(request: Request, row: TableRow) -> QuestionKey:
    """Return what the rotations of a question have in common; raises BadSample."""
    options, right = _options(row.cells)
    _boxes(row.cells)
    image = image_name(request.image_folder, row.cells["image_file"])
    return image, row.cells["question"], tuple(sorted(options)), right


def _fields(question: QuestionKey, row: dict[str, str], numbers: list[int], seed: int) -> dict[str, Any]:
    image, text, options, right = question
    order = list(options)
    Random(f"{seed}/{image}/{text}").shuffle(order)
    lines = [f"{letter}. {option}" for letter, option in zip(ascii_uppercase, order, strict=False)]
    letter = ascii_uppercase[order.index(right)]
    human = "\n".join([text, *lines, "Answer with the letter of the right option."])
    turn: dict[str, Any] = {"human": human, "assistant": letter}
    turn |= {"task": "choice", "type": f"{row['category']}-{row['l2-category']}", "answer": {"text": letter}}
    metadata = {"rows": numbers, "boxes_px_7296x3648": _boxes(row)}
    return {"conversations": [turn], "metadata": metadata}


def read(request: Request) -> Imported:
    """Return one record per question, its options in seeded order."""
    file = annotation_file(request.src, ".tsv")
    findings = Findings("rows")
    rows: dict[QuestionKey, list[TableRow]] = {}
    for row in read_table(file, "\t", COLUMNS, findings):
        try:
            rows.setdefault(_key(request, row), []).append(row)
        except BadSample as error:
            findings.reject(row.where, error)
    entries = []
    for question, found in rows.items():
        fields = _fields(question, found[0].cells, [row.number for row in found], request.seed)
        entries.append(Entry(found[0].where, question[0], fields))
        findings.left_out["rows that rotate the options of a question"] += len(found) - 1
    return Imported(ORIGIN, request.image_folder, entries, findings)
