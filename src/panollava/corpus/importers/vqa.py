"""VQA's JSON: a file of questions and one of annotations, with all human answers to each question as references.

Layout as in https://visualqa.org/download.html (read): `questions` of `question_id`, `image_id`, `question`;
`annotations` of `question_id`, `image_id`, `answer_type`, `multiple_choice_answer`, `answers`. An image's file name is
its image_id, or `COCO_{data_subtype}_{12 digits}` (https://github.com/GT-Vision-Lab/VQA, vqaDemo.py, read). Yes/no and
number questions are closed, the others free text. The files of panoramic sets (VQA 360°, Pano-AVQA) were not seen.
"""

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from panollava.corpus.importers.common import Entry, Imported, Origin, Request, Source, read_json, refuse

SOURCE = "questions and answers in the layout of VQA, https://visualqa.org"


class Licence(Source):
    """The licence in a file."""

    name: str
    url: str


class QuestionRow(Source):
    """One question."""

    question_id: int | str
    image_id: int | str
    question: str


class Questions(Source):
    """A file of questions."""

    questions: list[QuestionRow]
    data_subtype: str = ""
    license: Licence | None = None


class Answer(Source):
    """The answer of one person."""

    answer: str


class Annotation(Source):
    """The answers to one question."""

    question_id: int | str
    image_id: int | str
    answer_type: Literal["yes/no", "number", "other"]
    multiple_choice_answer: str
    answers: list[Answer]


class Annotations(Source):
    """A file of answers."""

    annotations: list[Annotation]


def _file(folder: Path, ending: str) -> Path:
    found = sorted(folder.glob(f"*{ending}"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise ValueError(f"{folder}: expected a folder with exactly one *{ending}, found {names}")
    return found[0]


def _paired(questions: list[QuestionRow], annotations: list[Annotation]) -> list[tuple[QuestionRow, Annotation]]:
    """Return the questions with their answers; raises ValueError for any without a counterpart or with two."""
    problems = []
    for kind, rows in (("questions", questions), ("annotations", annotations)):
        counts = Counter(row.question_id for row in rows)
        problems += [
            f"{kind}: question_id {name!r} occurs {count} times" for name, count in counts.items() if count > 1
        ]
    answered = {row.question_id: row for row in annotations}
    known = {row.question_id for row in questions}
    problems += [f"question_id {name!r} has annotations but no question" for name in answered if name not in known]
    for row in questions:
        if row.question_id not in answered:
            problems.append(f"question_id {row.question_id!r} has no annotation; test questions cannot be imported")
        elif answered[row.question_id].image_id != row.image_id:
            problems.append(f"question_id {row.question_id!r} has two image_ids, one in each file")
    refuse("questions and annotations do not fit", problems)
    return [(row, answered[row.question_id]) for row in questions]


def _turn(question: QuestionRow, answers: Annotation, dropped: Counter[str]) -> dict[str, Any]:
    given = [person.answer for person in answers.answers if person.answer.strip()]
    dropped["answers without text"] += len(answers.answers) - len(given)
    text = answers.multiple_choice_answer
    turn: dict[str, Any] = {"human": question.question, "assistant": text, "type": f"vqa {answers.answer_type}"}
    if answers.answer_type != "other":
        turn |= {"task": "choice", "answer": {"text": text}}
    return turn | {"references": given}


def _images(folder: Path, rows: list[QuestionRow], subtype: str) -> dict[int | str, Path]:
    """Return the image file of each image_id, below the folder; raises ValueError for image_ids with two files."""
    by_stem: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix != ".json":
            by_stem.setdefault(file.stem, []).append(file)
    files, problems = {}, []
    for name in dict.fromkeys(row.image_id for row in rows):
        stems = [str(name), f"COCO_{subtype}_{str(name).zfill(12)}"]
        found = [file for stem in stems for file in by_stem.get(stem, [])]
        if len(found) > 1:
            problems.append(f"image_id {name!r}: {', '.join(map(str, found))}; expected one file {' or '.join(stems)}")
        # A missing image gets a name that no file has; the writer reports it or leaves it out.
        files[name] = found[0] if found else folder / f"{name}.*"
    refuse(f"images of {folder} are ambiguous", problems)
    return files


def read(request: Request) -> Imported:
    """Return one record per question, with the most frequent answer and with all answers as references.

    SRC is a folder with one *questions.json and one *annotations.json.
    """
    if not request.src.is_dir():
        raise ValueError(f"{request.src}: expected a folder with one *questions.json and one *annotations.json")
    questions = read_json(_file(request.src, "questions.json"), Questions)
    annotations = read_json(_file(request.src, "annotations.json"), Annotations)
    pairs = _paired(questions.questions, annotations.annotations)
    files = _images(request.image_folder, questions.questions, questions.data_subtype)
    dropped: Counter[str] = Counter()
    entries = []
    for question, answers in pairs:
        file = files[question.image_id]
        fields: dict[str, Any] = {"conversations": [_turn(question, answers, dropped)]}
        fields["metadata"] = {"question_id": question.question_id}
        name = file.relative_to(request.image_folder).as_posix()
        entries.append(Entry(f"question_id {question.question_id!r}", file, name, fields))
    stated = questions.license
    licence = "not stated by the file" if stated is None else f"{stated.name}, {stated.url}"
    return Imported(Origin(SOURCE, licence), entries, +dropped)
