"""What is asked of which turned panorama: all that has a short answer, and for the seam what is about one object."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from panollava.corpus.records import Record
from panollava.corpus.rotation.panorama import Rotation, whole_pixel_yaw_deg
from panollava.corpus.rotation.rewording import placed_objects, subject
from panollava.corpus.rotation.rotated_records import rotated_record
from panollava.tasks.questions import Question, panorama_questions

Study = Literal["roll", "tilt", "seam", "away"]
Key = tuple[str, int, int]
# The tasks whose answers are short enough to be given at every turn.
ASKED = ("choice", "direction", "grounding")
LONG = "long and free answers are not asked for again"


@dataclass(frozen=True)
class Asking:
    """Questions about one panorama, turned."""

    study: Study
    rotation: Rotation
    questions: list[Question]


def asking(study: Study, image_id: str, records: Sequence[Record], rotation: Rotation) -> tuple[Asking, Counter[str]]:
    """Return what can be asked of a turned panorama, and what is left out, by type and reason."""
    questions, left_out = rotated_questions(image_id, records, rotation)
    left_out.update(f"{q.content.type}: {LONG}" for q in questions if q.content.task not in ASKED)
    return Asking(study, rotation, [q for q in questions if q.content.task in ASKED]), left_out


def seam_askings(image_id: str, records: Sequence[Record], width: int) -> list[Asking]:
    """Return the questions about one object of a panorama with it astride the seam, and half a turn away from there.

    The object is that of the most questions; it is moved by whole pixels. Empty where no question is about one object.
    """
    about: dict[tuple[float, float], set[Key]] = {}
    for question in panorama_questions(image_id, records):
        where = subject(question.content, placed_objects(records))
        if where is not None and question.content.task in ASKED:
            about.setdefault(where, set()).add(key_of(question))
    if not about:
        return []
    where, keys = max(about.items(), key=lambda item: len(item[1]))
    roll = whole_pixel_yaw_deg(180 - where[0], width)
    astride, _ = asking("seam", image_id, records, Rotation(roll))
    away, _ = asking("away", image_id, records, Rotation(roll + 180))
    keys &= {key_of(q) for q in astride.questions} & {key_of(q) for q in away.questions}
    chosen = [Asking(a.study, a.rotation, [q for q in a.questions if key_of(q) in keys]) for a in (astride, away)]
    return chosen if keys else []


def key_of(question: Question) -> Key:
    """Return what names a question, however its panorama is turned."""
    return question.image_id, question.record, question.turn


def rotated_questions(
    image_id: str, records: Sequence[Record], rotation: Rotation
) -> tuple[list[Question], Counter[str]]:
    """Return all questions of a panorama that can be asked of it turned, numbered as unturned, and what is left out.

    The counts are by type and reason, `type: reason`.
    """
    objects = placed_objects(records)
    questions: list[Question] = []
    left_out: Counter[str] = Counter()
    for number, record in enumerate(records):
        turned, reasons = rotated_record(record, rotation, objects)
        rest = record.conversations[len(record.conversations) - len(reasons) :]
        left_out.update(f"{turn.type}: {reason}" for turn, reason in zip(rest, reasons, strict=True))
        if turned is not None:
            questions += [replace(question, record=number) for question in panorama_questions(image_id, [turned])]
    return questions, left_out
