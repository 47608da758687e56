"""Rotate records: keep turns that still hold, reword those that depend on directions, and leave out the rest.

The type of a turn decides:

- Types in `REWORDERS` depend on where the objects are. Question and answer are reworded from the record's `objects`,
  provided that these give the stored question and answer before the rotation.
- Typed answers in degrees (directions, boxes, detections) are rotated. Other choices and free text are kept. Both need
  words without a direction and a question without a number, which could be an angle. A language whose direction words
  are not listed here cannot be checked.

A turn of neither kind is left out with the reason, and so are the later turns of its dialogue, which see it.
"""

import re
from collections.abc import Sequence
from typing import Any

from panollava.corpus.directions import whole_box
from panollava.corpus.records import ChoiceAnswer, DetectionAnswer, DirectionAnswer, LabelledBox, Record, Turn
from panollava.corpus.rotation.panorama import Rotation
from panollava.corpus.rotation.rewording import (
    CONTRADICTED,
    REWORDERS,
    CannotRotate,
    PlacedObject,
    Surroundings,
    choice_text,
    translated_label,
)
from panollava.corpus.vocabulary import DIRECTIONS, box_text, detection_text

# Words that a rotation may make untrue: whole words in English, beginnings of words in Korean.
DIRECTION_WORDS = {
    "en": r"\b(front|back|behind|ahead|forward|backward|left|right|straight|opposite|facing|face|centre|center|middle|"
    r"clockwise|counter-?clockwise|north|south|east|west|yaw|pitch|above|below|over|under|top|bottom|up|down|upper|"
    r"lower|edge|border|side)s?\b",
    "ko": r"\b(앞|뒤|왼|오른|정면|맞은편|반대|가운데|중앙|중심|시계|북쪽|남쪽|동쪽|서쪽|위쪽|위에|아래|가장자리|옆)",
}


def _require_no_direction(turn: Turn) -> None:
    """Raise CannotRotate for a turn whose words may become untrue."""
    if turn.language not in DIRECTION_WORDS:
        raise CannotRotate(f"language {turn.language}: its words of direction are not known")
    # An answer in degrees is rotated; only other answers are checked as text.
    in_degrees = isinstance(turn.answer, DirectionAnswer | LabelledBox | DetectionAnswer)
    words = turn.human if in_degrees else " ".join((turn.human, turn.assistant, *turn.references))
    if re.search(DIRECTION_WORDS[turn.language], words, flags=re.IGNORECASE) or re.search(r"\d", turn.human):
        raise CannotRotate("names a direction or a number")


def _rotated_answer(turn: Turn, rotation: Rotation) -> dict[str, Any]:
    """Return the changed fields of a turn with an answer in degrees, and none of another turn."""
    match turn.answer:
        case DirectionAnswer(yaw_deg=yaw, pitch_deg=pitch):
            yaw, pitch = rotation.direction(yaw, pitch)
            whole_yaw, whole_pitch, _, _ = whole_box((yaw, pitch, 1, 1))
            return _answer_fields(f"{whole_yaw}, {whole_pitch}", DirectionAnswer(yaw_deg=yaw, pitch_deg=pitch))
        case LabelledBox(label=label, box_deg=box):
            box = rotation.box(box)
            return _answer_fields(box_text(whole_box(box)), LabelledBox(label=label, box_deg=box))
        case DetectionAnswer(objects=objects):
            moved = [LabelledBox(label=o.label, box_deg=rotation.box(o.box_deg)) for o in objects]
            moved.sort(key=lambda o: whole_box(o.box_deg))
            named = [(translated_label(o.label, turn.language), whole_box(o.box_deg)) for o in moved]
            return _answer_fields(detection_text(named) or turn.assistant, DetectionAnswer(objects=moved))
    return {}


def _answer_fields(text: str, answer: ChoiceAnswer | DirectionAnswer | LabelledBox | DetectionAnswer) -> dict[str, Any]:
    return {"assistant": text, "answer": answer, "references": []}


def rotated_turn(turn: Turn, rotation: Rotation, before: Surroundings, after: Surroundings) -> Turn:
    """Return a turn for the rotated panorama; `before` and `after` pass the subject on to the dialogue's next turn.

    Raises:
        CannotRotate: the turn has no counterpart; the message is the reason.
    """
    if turn.type not in REWORDERS:
        _require_no_direction(turn)
        return turn.model_copy(update=_rotated_answer(turn, rotation))
    if turn.language not in DIRECTIONS:
        raise CannotRotate(f"language {turn.language}: its words of direction are not known")
    reword, stored = REWORDERS[turn.type], (turn.human, choice_text(turn))
    if reword(turn, before, before) != stored:
        raise CannotRotate(CONTRADICTED)
    human, answer = reword(turn, before, after)
    if answer == stored[1]:
        return turn.model_copy(update={"human": human})
    return turn.model_copy(update={"human": human} | _answer_fields(answer, ChoiceAnswer(text=answer)))


def rotated_record(
    record: Record, rotation: Rotation, objects: Sequence[PlacedObject]
) -> tuple[Record | None, list[str]]:
    """Return a record for the rotated panorama and one reason for each turn that is left out, from the first one on.

    `objects` are all objects of the panorama. The record's own objects are rotated without their masks. The record is
    None if no turn is left.
    """
    before = Surroundings(list(objects))
    after = before.rotated(rotation)
    turns: list[Turn] = []
    reasons: list[str] = []
    for turn in record.conversations:
        try:
            turns.append(rotated_turn(turn, rotation, before, after))
        except CannotRotate as reason:
            rest = len(record.conversations) - len(turns) - 1
            reasons = [str(reason), *["follows a turn that is left out"] * rest]
            break
    moved = [item.model_copy(update={"box_deg": rotation.box(item.box_deg), "mask": None}) for item in record.objects]
    changes = {"conversations": turns, "objects": moved}
    return (record.model_copy(update=changes) if turns else None), reasons
