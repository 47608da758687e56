"""Reword questions whose answer depends on where the objects are, from the objects of the record.

Each question type has a rewording function. It takes the stored turn, the objects before the rotation, which identify
the objects of the question, and the objects after it. It returns the question and the answer after the rotation. With
the objects before the rotation in both arguments it must return the stored ones; otherwise the record uses the type in
another sense.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from panollava.corpus.directions import below_60, left_neighbour, relative_yaw_deg, sector, side, whole_box
from panollava.corpus.records import BoxDeg, ChoiceAnswer, DirectionAnswer, DirectionDeg, LabelledBox, Record, Turn
from panollava.corpus.rotation.panorama import Rotation
from panollava.corpus.vocabulary import DIRECTIONS, WORDS

AMBIGUOUS = "no unambiguous answer after the rotation"
CONTRADICTED = "the objects do not give the stored answer"


class CannotRotate(ValueError):
    """A question has no counterpart in the rotated panorama; the message is the reason, by which it is counted."""


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
    """The objects of a panorama, and the index of the one that a dialogue is about."""

    objects: list[PlacedObject]
    subject: int | None = None

    def rotated(self, rotation: Rotation) -> "Surroundings":
        """Return the same objects in the rotated panorama."""
        return Surroundings([replace(item, box_deg=rotation.box(item.box_deg)) for item in self.objects])


Rewording = Callable[[Turn, Surroundings, Surroundings], tuple[str, str]]


def placed_objects(records: Sequence[Record]) -> list[PlacedObject]:
    """Return the objects of a panorama; any of its records may list some."""
    return [PlacedObject(item.label, item.box_deg) for record in records for item in record.objects]


def translated_label(label: str, language: str) -> str:
    """Return the label of a synthetic object in another language, and any other label unchanged."""
    known = WORDS.get(language, {})
    words = label.split()
    return " ".join(known[word] for word in words) if all(word in known for word in words) else label


def _find(word: str, text: str) -> re.Match[str] | None:
    # A particle may follow a Korean noun without a space.
    return re.search(rf"\b{re.escape(word)}(?![a-z])", text, flags=re.IGNORECASE)


def _mentioned(turn: Turn, objects: Sequence[PlacedObject], number: int) -> list[int]:
    """Return the indices of the objects that a question names, in its order; CannotRotate unless there are `number`."""
    found = {
        index: _find(translated_label(item.label, turn.language), turn.human) for index, item in enumerate(objects)
    }
    named = sorted((match.start(), index) for index, match in found.items() if match)
    if len(named) != number:
        raise CannotRotate(CONTRADICTED)
    return [index for _, index in named]


def subject(turn: Turn, objects: Sequence[PlacedObject]) -> DirectionDeg | None:
    """Return yaw and pitch of the only object that a question is about; None if there are several, or none.

    A typed answer gives it directly. Otherwise it is the only object whose whole label occurs in question and answer:
    "What colour is the cube?" with the answer "red" is about the red cube.
    """
    match turn.answer:
        case DirectionAnswer():
            return turn.answer.yaw_deg, turn.answer.pitch_deg
        case LabelledBox():
            return turn.answer.box_deg[:2]
        case ChoiceAnswer():
            text = f"{turn.human} {turn.answer.text}"
            labels = [(item, translated_label(item.label, turn.language).split()) for item in objects]
            found = [item for item, words in labels if all(_find(word, text) for word in words)]
            return (found[0].yaw_deg, found[0].pitch_deg) if len(found) == 1 else None
    return None


def _sector_name(number: int | None, language: str) -> str:
    if number is None:
        raise CannotRotate(AMBIGUOUS)
    return DIRECTIONS[language][number]


def _with_bearing(surroundings: Surroundings, *indices: int) -> list[PlacedObject]:
    """Return objects; raise CannotRotate if one is so near a pole that its yaw means little."""
    found = [surroundings.objects[index] for index in indices]
    if len(below_60(found)) < len(found):
        raise CannotRotate(AMBIGUOUS)
    return found


def _direction8(turn: Turn, before: Surroundings, after: Surroundings) -> tuple[str, str]:
    (after.subject,) = _mentioned(turn, before.objects, 1)
    return _where(turn, before, after)


def _where(turn: Turn, before: Surroundings, after: Surroundings) -> tuple[str, str]:
    if after.subject is None:
        raise CannotRotate(CONTRADICTED)
    (item,) = _with_bearing(after, after.subject)
    return turn.human, _sector_name(sector(item.yaw_deg), turn.language)


def _relative_direction(turn: Turn, before: Surroundings, after: Surroundings) -> tuple[str, str]:
    faced, other = _with_bearing(after, *_mentioned(turn, before.objects, 2))
    return turn.human, _sector_name(sector(relative_yaw_deg(faced, other)), turn.language)


def _relation(turn: Turn, before: Surroundings, after: Surroundings) -> tuple[str, str]:
    # The phrasing decides which of the two objects is faced, so the stored answer decides.
    words, pair = WORDS[turn.language], _mentioned(turn, before.objects, 2)
    sides = [side(*(before.objects[index] for index in order)) for order in (pair, pair[::-1])]
    answers = [None if found is None else words[found] for found in sides]
    if choice_text(turn) not in answers:
        raise CannotRotate(CONTRADICTED)
    found = side(*_with_bearing(after, *(pair if answers[0] == choice_text(turn) else pair[::-1])))
    if found is None:
        raise CannotRotate(AMBIGUOUS)
    return turn.human, words[found]


def _look(turn: Turn, before: Surroundings, after: Surroundings) -> tuple[str, str]:
    angles = [int(number) for number in re.findall(r"-?\d+", turn.human)]
    for item, moved in zip(before.objects, after.objects, strict=True):
        same_object = translated_label(item.label, turn.language) == choice_text(turn)
        if whole_box(item.box_deg)[:2] == angles and same_object:
            return _with_numbers(turn.human, whole_box(moved.box_deg)[:2]), choice_text(turn)
    raise CannotRotate(CONTRADICTED)


def _with_numbers(text: str, numbers: list[int]) -> str:
    """Return a text with its numbers replaced, in order."""
    following = iter(numbers)
    return re.sub(r"-?\d+", lambda _: str(next(following)), text)


def _left(turn: Turn, before: Surroundings, after: Surroundings) -> tuple[str, str]:
    if after.subject is None:
        raise CannotRotate(CONTRADICTED)
    neighbour = left_neighbour(after.objects[after.subject], after.objects)
    if neighbour is None:
        raise CannotRotate(AMBIGUOUS)
    after.subject = next(index for index, item in enumerate(after.objects) if item is neighbour)
    return turn.human, translated_label(neighbour.label, turn.language)


# Question types that depend on where the objects are.
REWORDERS: dict[str, Rewording] = {
    "direction8": _direction8,
    "relation": _relation,
    "turn": _relative_direction,
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
