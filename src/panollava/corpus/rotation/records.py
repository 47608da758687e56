"""Questions about a turned panorama: what still holds, what is told anew, and what cannot be turned.

The rule, by the type of a turn (its `type` in the record; that of a typed answer is its task):

- The types in `REWORDERS` depend on where the objects stand. Question and answer are told anew from the `objects` of the
  record, provided that these give the stored question and answer before the turn; if not, it means something else.
- Directions, boxes and detections have typed answers in degrees, which turn. Every other choice, and free text, holds
  after any turn. Both only while the words name no direction and the question no number, which could be an angle: in a
  language whose words of direction are not listed here, nobody can tell.

All else is left out with its reason, and so are the later turns of its dialogue, whose history it would be.
"""

import re
from collections.abc import Sequence
from typing import Any

from panollava.corpus.questions import whole_box
from panollava.corpus.records import ChoiceAnswer, DetectionAnswer, DirectionAnswer, LabelledBox, Record, Turn
from panollava.corpus.rotation.panorama import Rotation
from panollava.corpus.rotation.wording import (
    REWORDERS,
    UNFOUNDED,
    CannotRotate,
    PlacedObject,
    Surroundings,
    choice_text,
    spelt,
)
from panollava.corpus.wording import DIRECTIONS, box_text, detection_text

# Words that a turn may make untrue, whole words in English and beginnings in Korean.
DIRECTION_WORDS = {
    "en": r"\b(front|back|behind|ahead|forward|backward|left|right|straight|opposite|facing|face|centre|center|middle|"
    r"clockwise|counter-?clockwise|north|south|east|west|yaw|pitch|above|below|over|under|top|bottom|up|down|upper|"
    r"lower|edge|border|side)s?\b",
    "ko": r"\b(앞|뒤|왼|오른|정면|맞은편|반대|가운데|중앙|중심|시계|북쪽|남쪽|동쪽|서쪽|위쪽|위에|아래|가장자리|옆)",
}


def _require_no_direction(turn: Turn) -> None:
    """Refuse a turn whose words may become untrue."""
    if turn.language not in DIRECTION_WORDS:
        raise CannotRotate(f"language {turn.language}: its words of direction are not known")
    # The answer in degrees of a task that has one is told anew; that of others is text.
    told = isinstance(turn.answer, DirectionAnswer | LabelledBox | DetectionAnswer)
    words = turn.human if told else " ".join((turn.human, turn.assistant, *turn.references))
    if re.search(DIRECTION_WORDS[turn.language], words, flags=re.IGNORECASE) or re.search(r"\d", turn.human):
        raise CannotRotate("names a direction or a number")


def _typed(turn: Turn, rotation: Rotation) -> dict[str, Any]:
    """Return the fields of a turn that its typed answer changes."""
    match turn.answer:
        case DirectionAnswer(yaw_deg=yaw, pitch_deg=pitch):
            yaw, pitch = rotation.direction(yaw, pitch)
            spoken = whole_box((yaw, pitch, 1, 1))[:2]
            return _told(f"{spoken[0]}, {spoken[1]}", DirectionAnswer(yaw_deg=yaw, pitch_deg=pitch))
        case LabelledBox(label=label, box_deg=box):
            box = rotation.box(box)
            return _told(box_text(whole_box(box)), LabelledBox(label=label, box_deg=box))
        case DetectionAnswer(objects=objects):
            moved = [LabelledBox(label=o.label, box_deg=rotation.box(o.box_deg)) for o in objects]
            moved.sort(key=lambda o: whole_box(o.box_deg))
            named = [(spelt(o.label, turn.language), whole_box(o.box_deg)) for o in moved]
            return _told(detection_text(named) or turn.assistant, DetectionAnswer(objects=moved))
    return {}


def _told(text: str, answer: ChoiceAnswer | DirectionAnswer | LabelledBox | DetectionAnswer) -> dict[str, Any]:
    return {"assistant": text, "answer": answer, "references": []}


def rotated_turn(turn: Turn, rotation: Rotation, before: Surroundings, after: Surroundings) -> Turn:
    """Return a turn as it is asked and answered in the turned panorama; the sights carry a dialogue's subject on.

    Raises:
        CannotRotate: with the reason.
    """
    if turn.type not in REWORDERS:
        _require_no_direction(turn)
        return turn.model_copy(update=_typed(turn, rotation))
    if turn.language not in DIRECTIONS:
        raise CannotRotate(f"language {turn.language}: its words of direction are not known")
    tell, stored = REWORDERS[turn.type], (turn.human, choice_text(turn))
    if tell(turn, before, before) != stored:
        raise CannotRotate(UNFOUNDED)
    human, answer = tell(turn, before, after)
    if answer == stored[1]:
        return turn.model_copy(update={"human": human})
    return turn.model_copy(update={"human": human} | _told(answer, ChoiceAnswer(text=answer)))


def rotated_record(
    record: Record, rotation: Rotation, objects: Sequence[PlacedObject]
) -> tuple[Record | None, list[str]]:
    """Return a record in the turned panorama up to the first turn that cannot be turned, and why the rest is left out.

    `objects` are all of the panorama's; the record's own are turned, their masks dropped. None where nothing is left.
    """
    before = Surroundings(list(objects))
    after = before.turned(rotation)
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
