"""Questions whose answer depends on where the objects stand, told anew from the objects of a record.

Each type has a function of the turn as stored, of the objects before the camera turned, which say what is meant, and of
the objects now; it returns question and answer as they are now. With the objects before in both places it returns the
stored ones, or the record means something else by that type.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from panollava.corpus.questions import below_60, left_neighbour, sector, side, turn_deg, whole_box
from panollava.corpus.records import BoxDeg, ChoiceAnswer, DirectionAnswer, DirectionDeg, LabelledBox, Record, Turn
from panollava.corpus.rotation.panorama import Rotation
from panollava.corpus.wording import DIRECTIONS, WORDS

AMBIGUOUS = "no unambiguous answer after the turn"
UNFOUNDED = "the objects do not give the stored answer"


class CannotRotate(ValueError):
    """A question cannot be turned; the message is the reason, and is counted."""


@dataclass(frozen=True)
class PlacedObject:
    """A named object and its box in degrees."""

    label: str
    box_deg: BoxDeg

    @property
    def yaw_deg(self) -> float:
        """Return the yaw of its centre."""
        return self.box_deg[0]

    @property
    def pitch_deg(self) -> float:
        """Return the pitch of its centre."""
        return self.box_deg[1]


@dataclass
class Surroundings:
    """Where the objects of a panorama stand, and the number of the one of which a dialogue speaks."""

    objects: list[PlacedObject]
    subject: int | None = None

    def turned(self, rotation: Rotation) -> "Surroundings":
        """Return the same objects in the turned panorama."""
        return Surroundings([replace(place, box_deg=rotation.box(place.box_deg)) for place in self.objects])


def placed_objects(records: Sequence[Record]) -> list[PlacedObject]:
    """Return the objects of a panorama, which may stand with any of its records."""
    return [PlacedObject(item.label, item.box_deg) for record in records for item in record.objects]


def spelt(label: str, language: str) -> str:
    """Return the label of an object of the synthetic world in another language, any other label as it is."""
    known = WORDS.get(language, {})
    words = label.split()
    return " ".join(known[word] for word in words) if all(word in known for word in words) else label


def _stands(word: str, text: str) -> re.Match[str] | None:
    # A particle may follow a Korean noun without a space.
    return re.search(rf"\b{re.escape(word)}(?![a-z])", text, flags=re.IGNORECASE)


def _mentioned(turn: Turn, objects: Sequence[PlacedObject], number: int) -> list[int]:
    """Return the numbers of the objects that a question names, in its order."""
    found = {n: _stands(spelt(place.label, turn.language), turn.human) for n, place in enumerate(objects)}
    named = sorted((match.start(), n) for n, match in found.items() if match)
    if len(named) != number:
        raise CannotRotate(UNFOUNDED)
    return [n for _, n in named]


def subject(turn: Turn, objects: Sequence[PlacedObject]) -> DirectionDeg | None:
    """Return yaw and pitch of the one object that a question is about; None where it is about several, or none.

    A typed answer says it. Otherwise it is the only object all of whose label stands in question and answer: in "What
    colour is the cube?", "red" it is the red cube.
    """
    match turn.answer:
        case DirectionAnswer():
            return turn.answer.yaw_deg, turn.answer.pitch_deg
        case LabelledBox():
            return turn.answer.box_deg[:2]
        case ChoiceAnswer():
            text = f"{turn.human} {turn.answer.text}"
            labels = [(place, spelt(place.label, turn.language).split()) for place in objects]
            found = [place for place, words in labels if all(_stands(word, text) for word in words)]
            return (found[0].yaw_deg, found[0].pitch_deg) if len(found) == 1 else None
    return None


def _direction(number: int | None, language: str) -> str:
    if number is None:
        raise CannotRotate(AMBIGUOUS)
    return DIRECTIONS[language][number]


def _bearings(sight: Surroundings, *numbers: int) -> list[PlacedObject]:
    """Return objects whose bearing means something."""
    found = [sight.objects[number] for number in numbers]
    if len(below_60(found)) < len(found):
        raise CannotRotate(AMBIGUOUS)
    return found


def _direction8(turn: Turn, before: Surroundings, now: Surroundings) -> tuple[str, str]:
    (now.subject,) = _mentioned(turn, before.objects, 1)
    return _where(turn, before, now)


def _where(turn: Turn, before: Surroundings, now: Surroundings) -> tuple[str, str]:
    if now.subject is None:
        raise CannotRotate(UNFOUNDED)
    (item,) = _bearings(now, now.subject)
    return turn.human, _direction(sector(item.yaw_deg), turn.language)


def _turn(turn: Turn, before: Surroundings, now: Surroundings) -> tuple[str, str]:
    faced, asked = _bearings(now, *_mentioned(turn, before.objects, 2))
    return turn.human, _direction(sector(turn_deg(faced, asked)), turn.language)


def _relation(turn: Turn, before: Surroundings, now: Surroundings) -> tuple[str, str]:
    # Which of the two is faced depends on the phrasing; the stored answer tells.
    words, pair = WORDS[turn.language], _mentioned(turn, before.objects, 2)
    sides = [side(*(before.objects[n] for n in order)) for order in (pair, pair[::-1])]
    said = [None if found is None else words[found] for found in sides]
    if choice_text(turn) not in said:
        raise CannotRotate(UNFOUNDED)
    found = side(*_bearings(now, *(pair if said[0] == choice_text(turn) else pair[::-1])))
    if found is None:
        raise CannotRotate(AMBIGUOUS)
    return turn.human, words[found]


def _look(turn: Turn, before: Surroundings, now: Surroundings) -> tuple[str, str]:
    angles = [int(number) for number in re.findall(r"-?\d+", turn.human)]
    for place, moved in zip(before.objects, now.objects, strict=True):
        if whole_box(place.box_deg)[:2] == angles and spelt(place.label, turn.language) == choice_text(turn):
            return _respelt(turn.human, whole_box(moved.box_deg)[:2]), choice_text(turn)
    raise CannotRotate(UNFOUNDED)


def _respelt(text: str, angles: list[int]) -> str:
    """Return a text with its numbers replaced by angles, in order."""
    following = iter(angles)
    return re.sub(r"-?\d+", lambda _: str(next(following)), text)


def _left(turn: Turn, before: Surroundings, now: Surroundings) -> tuple[str, str]:
    if now.subject is None:
        raise CannotRotate(UNFOUNDED)
    neighbour = left_neighbour(now.objects[now.subject], now.objects)
    if neighbour is None:
        raise CannotRotate(AMBIGUOUS)
    now.subject = next(number for number, place in enumerate(now.objects) if place is neighbour)
    return turn.human, spelt(neighbour.label, turn.language)


# The question and the answer of each type out of the objects before the turn, which say what is meant, and now.
REWORDERS: dict[str, Callable[[Turn, Surroundings, Surroundings], tuple[str, str]]] = {
    "direction8": _direction8,
    "relation": _relation,
    "turn": _turn,
    "look": _look,
    "dialogue_direction8": _direction8,
    "dialogue_left": _left,
    "dialogue_where": _where,
}


def choice_text(turn: Turn) -> str:
    """Return the right answer of a choice. Raises CannotRotate for another task."""
    if not isinstance(turn.answer, ChoiceAnswer):
        raise CannotRotate(f"type {turn.type}, but no choice")
    return turn.answer.text


# The types whose answer is one of eight directions.
DIRECTION_TYPES = ("direction8", "turn", "dialogue_direction8", "dialogue_where")
