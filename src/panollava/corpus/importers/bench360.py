"""360Bench: multiple-choice questions about panoramas of 7296 x 3648, a TSV with each question in four rotations.

Layout as in https://github.com/TranHuyen1191/360Bench-Free360 (data/360Bench.tsv and README, read): `image_file`,
`question`, `category`, `l2-category`, `bbox` (JSON, pixels), `multi-choice options` (a Python list of "A. ..." texts)
and `answer` (a letter). The four rotations of the options become one question. The seed and the question determine the
order of its options, and the letter of the answer follows.
"""

import ast
import json
from collections import Counter
from random import Random
from string import ascii_uppercase
from typing import Any

from panollava.corpus.importers.common import Imported, Origin, Request, annotation_file, entry, read_table, refuse

ORIGIN = Origin(
    "360Bench (Tran et al., ECCV 2026), https://github.com/TranHuyen1191/360Bench-Free360",
    "annotations CC BY 4.0; images by their sources (Flickr, NOIRLab, Insta360)",
)
COLUMNS = ("image_file", "question", "category", "l2-category", "bbox", "multi-choice options", "answer")
# Image, question, options in alphabetical order and the right one; rows that agree in these are one question.
QuestionKey = tuple[str, str, tuple[str, ...], str]


def _options(row: dict[str, str]) -> tuple[list[str], str]:
    """Return the options without their letters, and the right one; raises ValueError."""
    text = row["multi-choice options"]
    try:
        listed = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise ValueError(f"options {text!r}; expected a Python list of texts") from None
    lettered = isinstance(listed, list) and all(isinstance(option, str) for option in listed)
    letters = ascii_uppercase[: len(listed)] if lettered else ""
    if len(letters) < 2 or any(option[:2] != f"{letter}." for option, letter in zip(listed, letters, strict=True)):
        raise ValueError(f"options {text!r}; expected texts that begin with 'A.', 'B.' and so on")
    options = [option[2:].strip() for option in listed]
    if len(set(options)) < len(options) or row["answer"] not in tuple(letters):
        raise ValueError(f"answer {row['answer']!r} to options {text!r}; expected a letter of options that all differ")
    return options, options[letters.index(row["answer"])]


def _boxes(row: dict[str, str]) -> list[Any]:
    """Return the relevant objects as published, `bbox_2d` in pixels and `label`; raises ValueError."""
    try:
        boxes = json.loads(row["bbox"] or "[]")
    except json.JSONDecodeError as error:
        raise ValueError(f"bbox {row['bbox']!r} is not JSON: {error}") from None
    if not isinstance(boxes, list):
        raise ValueError(f"bbox {row['bbox']!r}; expected a list of boxes")
    return boxes


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
    rows = read_table(file, "\t", COLUMNS)
    numbers: dict[QuestionKey, list[int]] = {}
    problems = []
    for number, row in enumerate(rows, start=1):
        try:
            options, right = _options(row)
            _boxes(row)
        except ValueError as error:
            problems.append(f"{file.name} row {number} below the header: {error}")
            continue
        key = row["image_file"], row["question"], tuple(sorted(options)), right
        numbers.setdefault(key, []).append(number)
    refuse(f"rows of {file} cannot be read", problems)
    entries = []
    for question, found in numbers.items():
        fields = _fields(question, rows[found[0] - 1], found, request.seed)
        entries.append(entry(request, f"{file.name} row {found[0]} below the header", question[0], fields))
    dropped = Counter({"rows that rotate the options of a question": len(rows) - len(entries)})
    return Imported(ORIGIN, entries, +dropped)
