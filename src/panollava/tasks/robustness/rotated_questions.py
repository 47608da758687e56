"""Questions for rotated panoramas: all with short answers, and for the seam those about one object.

Questions keep the numbers that they have in the panorama as it is, so their answers can be compared.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from panollava.corpus.records import Record
from panollava.corpus.rotation.panorama import Rotation, whole_pixel_yaw_deg
from panollava.corpus.rotation.rewording import placed_objects, subject
from panollava.corpus.rotation.rotated_records import rotated_record
from panollava.tasks.prediction import QuestionKey
from panollava.tasks.questions import Question, panorama_questions
from panollava.tasks.table import TASKS

# Rotations about the vertical, tilts, and the same object astride the seam and in front.
Study = Literal["yaw", "tilt", "seam", "away"]
LONG = "long and free answers are not asked for again"


@dataclass(frozen=True)
class RotatedQuestions:
    """Questions about one rotated panorama."""

    study: Study
    rotation: Rotation
    questions: list[Question]


def is_short(question: Question) -> bool:
    """Return whether the answer is short enough to be given again for each rotation."""
    return TASKS[question.content.task].rotated is not None


def rotated_questions(
    study: Study, image_id: str, records: Sequence[Record], rotation: Rotation
) -> tuple[RotatedQuestions, Counter[str]]:
    """Return the questions for a rotated panorama, and counts of those left out, by `type: reason`."""
    objects = placed_objects(records)
    questions: list[Question] = []
    left_out: Counter[str] = Counter()
    for number, record in enumerate(records):
        rotated, reasons = rotated_record(record, rotation, objects)
        rest = record.conversations[len(record.conversations) - len(reasons) :]
        left_out.update(f"{turn.type}: {reason}" for turn, reason in zip(rest, reasons, strict=True))
        if rotated is not None:
            questions += [replace(question, record=number) for question in panorama_questions(image_id, [rotated])]
    left_out.update(f"{question.content.type}: {LONG}" for question in questions if not is_short(question))
    return RotatedQuestions(study, rotation, list(filter(is_short, questions))), left_out


def seam_pair(image_id: str, records: Sequence[Record], width: int) -> list[RotatedQuestions]:
    """Return the questions about one object of a panorama, with it astride the seam and with it in front.

    The object is the one with the most questions. The panorama is rotated by whole pixels of its `width`. Empty where
    no question is about a single object.
    """
    about: dict[tuple[float, float], set[QuestionKey]] = {}
    for question in panorama_questions(image_id, records):
        where = subject(question.content, placed_objects(records))
        if where is not None and is_short(question):
            about.setdefault(where, set()).add(question.key)
    if not about:
        return []
    where, keys = max(about.items(), key=lambda item: len(item[1]))
    yaw = whole_pixel_yaw_deg(180 - where[0], width)
    astride, _ = rotated_questions("seam", image_id, records, Rotation(yaw))
    away, _ = rotated_questions("away", image_id, records, Rotation(yaw + 180))
    keys &= {q.key for q in astride.questions} & {q.key for q in away.questions}
    pair = [replace(asked, questions=[q for q in asked.questions if q.key in keys]) for asked in (astride, away)]
    return pair if keys else []
