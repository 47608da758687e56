"""VQA's JSON: a file of questions and one of annotations, with all human answers to each question as references.

Layout as in https://visualqa.org/download.html (read): `questions` of `question_id`, `image_id`, `question`;
`annotations` of `question_id`, `image_id`, `answer_type`, `multiple_choice_answer`, `answers`. An image's file name is
its image_id, or `COCO_{data_subtype}_{12 digits}` (https://github.com/GT-Vision-Lab/VQA, vqaDemo.py, read). Yes/no and
number questions are closed, the others free text. The files of panoramic sets (VQA 360°, Pano-AVQA) were not seen.
"""

import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from panollava.corpus.importers.common import Entry, Imported, Origin, Request, TextOrNumber, as_text, image_name
from panollava.corpus.importers.findings import BadSample, Findings
from panollava.corpus.importers.sources import Source, fitted, read_object
from panollava.corpus.problems import printable, shorten

SOURCE = "questions and answers in the layout of VQA, https://visualqa.org"
CLOSED = ("yes/no", "number")
NO_TEXT = "answers without text"
ODD_MAJORITY = "majority answers that nobody gave (the most frequent answer was taken)"


def _as_object(value: object) -> object:
    """Return an answer that is only its text as the object that VQA makes of it."""
    return value if isinstance(value, dict) else {"answer": value}


class Answer(Source):
    """The answer of one person."""

    answer: TextOrNumber | None = None


class Licence(Source):
    """The licence in a file."""

    name: str = ""
    url: str = ""


class QuestionRow(Source):
    """One question."""

    question_id: TextOrNumber
    image_id: TextOrNumber
    question: str


class Annotation(Source):
    """The answers to one question."""

    question_id: TextOrNumber
    image_id: TextOrNumber
    answer_type: str | None = None
    multiple_choice_answer: TextOrNumber | None = None
    answers: list[Annotated[Answer, BeforeValidator(_as_object)]] | None = None


def _file(folder: Path, ending: str) -> Path:
    found = sorted(folder.glob(f"*{ending}"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise ValueError(f"{folder}: expected a folder with exactly one *{ending}, found {names}")
    return found[0]


def _annotations(rows: list[Any]) -> tuple[dict[str, Annotation], dict[str, BadSample]]:
    """Return the annotation of each question_id, and the fault of each id that has no usable one."""
    found: dict[str, Annotation] = {}
    faults: dict[str, BadSample] = {}
    for number, row in enumerate(rows):
        try:
            item = fitted(Annotation, row)
        except BadSample as error:
            key = row.get("question_id") if isinstance(row, dict) else None
            faults[str(as_text(key))] = BadSample(f"{error.kind} in annotations", f"annotations.{number}.{error}")
            continue
        if found.setdefault(item.question_id, item) != item:
            text = f"annotations.{number} differs from an earlier annotation of this question_id; expected one"
            faults[item.question_id] = BadSample("two annotations", text)
    return found, faults


def _turn(question: str, answers: Annotation, findings: Findings) -> dict[str, Any]:
    """Return a question with its most frequent answer and all answers as references; raises BadSample without any.

    As in VQA's evaluation the answers decide, not the file's `multiple_choice_answer`, which need not be one of them.
    """
    people = answers.answers or []
    given = [person.answer for person in people if person.answer is not None and person.answer.strip()]
    text = answers.multiple_choice_answer or ""
    if not given and not text.strip():
        raise BadSample("no answer", f"question_id {shorten(answers.question_id)} has no answer with text")
    findings.besides[NO_TEXT] += len(people) - len(given)
    if given and text not in given:
        findings.changed[ODD_MAJORITY] += bool(text.strip())
        text = Counter(given).most_common(1)[0][0]
    kind = answers.answer_type or "other"
    turn: dict[str, Any] = {"human": question, "assistant": text, "type": f"vqa {kind}"}
    if kind in CLOSED:
        turn |= {"task": "choice", "answer": {"text": text}}
    return turn | ({"references": given} if given else {})


@dataclass(frozen=True)
class Images:
    """The files of a folder by their name without suffix."""

    folder: Path
    by_stem: dict[str, list[Path]]
    subtype: str

    def name(self, image_id: str) -> str:
        """Return the name of the one image of an image_id; raises BadSample if there are two.

        A missing image gets a name that no file has; the writer reports it or leaves it out.
        """
        stems = [image_id, f"COCO_{self.subtype}_{image_id.zfill(12)}"]
        found = [file for stem in stems for file in self.by_stem.get(unicodedata.normalize("NFC", stem), [])]
        if len(found) > 1:
            text = f"image_id {shorten(image_id)}: {', '.join(map(str, found))}; expected one file {' or '.join(stems)}"
            raise BadSample("two images", text)
        return found[0].relative_to(self.folder).as_posix() if found else image_name(self.folder, f"{image_id}.*")


def _images(folder: Path, subtype: str) -> Images:
    """Return the files below the folder."""
    by_stem: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix != ".json":
            by_stem.setdefault(unicodedata.normalize("NFC", file.stem), []).append(file)
    return Images(folder, by_stem, subtype)


def _questions(file: Path, rows: list[Any], findings: Findings) -> list[tuple[str, QuestionRow]]:
    """Return the questions with their places, without identical ones and those that share a question_id."""
    placed: list[tuple[str, QuestionRow]] = []
    variants: dict[str, set[tuple[str, str]]] = {}
    for number, row in enumerate(rows):
        findings.read += 1
        where = f"{file.name} questions.{number}"
        try:
            question = fitted(QuestionRow, row)
        except BadSample as error:
            findings.reject(where, error)
            continue
        placed.append((f"{where} (question_id {shorten(question.question_id)})", question))
        variants.setdefault(question.question_id, set()).add((question.image_id, question.question))
    kept: dict[str, tuple[str, QuestionRow]] = {}
    for where, question in placed:
        if len(variants[question.question_id]) > 1:
            text = "other questions have this question_id; expected a question_id of its own"
            findings.reject(where, BadSample("a question_id of several questions", text))
        elif question.question_id in kept:
            first = kept[question.question_id][0]
            findings.leave_out(f"{where} is {first}", "identical to an earlier one")
        else:
            kept[question.question_id] = where, question
    return list(kept.values())


def _licence(stated: object) -> str:
    """Return the licence that a file states, in VQA's form."""
    try:
        licence = fitted(Licence, stated)
    except BadSample:
        licence = Licence()
    return (
        ", ".join(printable(text) for text in (licence.name, licence.url) if text.strip()) or "not stated by the file"
    )


def read(request: Request) -> Imported:
    """Return one record per question, with the most frequent answer and with all answers as references.

    SRC is a folder with one *questions.json and one *annotations.json.
    """
    if not request.src.is_dir():
        raise ValueError(f"{request.src}: expected a folder with one *questions.json and one *annotations.json")
    file = _file(request.src, "questions.json")
    content: dict[str, Any] = read_object(file, "questions")
    answered: dict[str, Any] = read_object(_file(request.src, "annotations.json"), "annotations")
    findings = Findings("questions")
    annotations, faults = _annotations(answered["annotations"])
    images = _images(request.image_folder, str(content.get("data_subtype") or ""))
    entries = []
    questions = _questions(file, content["questions"], findings)
    for where, question in questions:
        try:
            if question.question_id in faults:
                raise faults[question.question_id]
            answers = annotations.get(question.question_id)
            if answers is None:
                raise BadSample("no annotation", "has no annotation; questions without answers cannot be imported")
            if answers.image_id != question.image_id:
                ids = f"{shorten(question.image_id)} here, {shorten(answers.image_id)} in the annotations"
                raise BadSample("two image_ids", f"image_id {ids}; expected the same")
            name = images.name(question.image_id)
            turn = _turn(question.question, answers, findings)
        except BadSample as error:
            findings.reject(where, error)
            continue
        fields = {"conversations": [turn], "metadata": {"question_id": question.question_id}}
        entries.append(Entry(where, name, fields))
    known = {question.question_id for _, question in questions}
    findings.besides["annotations without a question"] += sum(name not in known for name in annotations)
    origin = Origin(SOURCE, _licence(content.get("license")))
    return Imported(origin, request.image_folder, entries, findings)
