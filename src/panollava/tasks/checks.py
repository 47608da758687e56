"""Check that the texts of answers say what their typed answers say, in a form that evaluation reads.

Otherwise training would teach what evaluation counts as wrong. Texts may round to whole degrees, up or down.
"""

import math
from collections.abc import Callable, Sequence

from panollava.closed_answers import normalise_answer
from panollava.corpus.directions import whole_box
from panollava.corpus.reading import Problem, RecordLocation, shorten
from panollava.corpus.records import (
    ChoiceAnswer,
    DetectionAnswer,
    DirectionAnswer,
    LabelledBox,
    Record,
    Turn,
)
from panollava.corpus.vocabulary import box_text, detection_text
from panollava.tasks.prediction import typed
from panollava.tasks.spellings import (
    box_numbers,
    detection_numbers,
    direction_numbers,
    parse_box,
    parse_detection,
    parse_direction,
    wrapped,
)

# How far a number of a text may be from the typed one: rounded up or down to a whole degree.
ROUNDING_DEG = 1.0 + 1e-6


def answer_problems(located: Sequence[tuple[RecordLocation, Record]]) -> list[Problem]:
    """Return a problem for each answer whose text cannot be read, or contradicts its typed answer."""
    return [
        Problem(location, f"conversations.{number}.assistant", problem)
        for location, record in located
        for number, turn in enumerate(record.conversations)
        if turn.task in CHECKS and (problem := CHECKS[turn.task](turn)) is not None
    ]


def choice_problem(turn: Turn) -> str | None:
    """Return what is wrong with the text of a closed answer, or None."""
    truth = typed(turn.answer, ChoiceAnswer).text
    if not normalise_answer(truth):
        return f"got {shorten(truth)} as the typed answer: it has no word to compare; write the answer in words"
    if normalise_answer(turn.assistant) != normalise_answer(truth):
        return _contradiction(turn, shorten(truth), truth)
    return None


def direction_problem(turn: Turn) -> str | None:
    """Return what is wrong with the text of a direction, or None."""
    truth = typed(turn.answer, DirectionAnswer)
    right = f"{round(wrapped(truth.yaw_deg))}, {round(truth.pitch_deg)}"
    numbers = direction_numbers(turn.assistant)
    if numbers is None or parse_direction(turn.assistant) is None:
        return _unreadable(turn, "direction", right)
    yaw, pitch = abs(wrapped(numbers[0] - truth.yaw_deg)), abs(numbers[1] - truth.pitch_deg)
    # Near a pole a yaw means little.
    if min(yaw, yaw * math.cos(math.radians(truth.pitch_deg))) > ROUNDING_DEG or pitch > ROUNDING_DEG:
        return _contradiction(turn, f"yaw_deg {truth.yaw_deg:g}, pitch_deg {truth.pitch_deg:g}", right)
    return None


def grounding_problem(turn: Turn) -> str | None:
    """Return what is wrong with the text of a box, or None."""
    truth = typed(turn.answer, LabelledBox)
    right = box_text(whole_box(truth.box_deg))
    numbers = box_numbers(turn.assistant)
    if numbers is None or (parse_box(turn.assistant) is None and not _is_wide(truth)):
        return _unreadable(turn, "box", right)
    if not _same_box(numbers, truth.box_deg):
        return _contradiction(turn, f"box_deg {list(truth.box_deg)}", right)
    return None


def detection_problem(turn: Turn) -> str | None:
    """Return what is wrong with the text of a list of objects, or None; the text may name them in any language."""
    truths = typed(turn.answer, DetectionAnswer).objects
    if not truths:
        named, _ = parse_detection(turn.assistant)
        return _contradiction(turn, "an empty list", "nothing") if named else None
    numbers = detection_numbers(turn.assistant)
    labels = [truth.label for truth in truths]
    right = detection_text([(truth.label, whole_box(truth.box_deg)) for truth in truths])
    if numbers is None or (parse_detection(turn.assistant)[1] and not any(map(_is_wide, truths))):
        return _unreadable(turn, "list of labelled boxes", right)
    if len(numbers) != len(truths):
        return _contradiction(turn, f"a list of {len(truths)} objects, not {len(numbers)}", right)
    for place, ((label, box), truth) in enumerate(zip(numbers, truths, strict=True)):
        if not (_same_label(turn, label, labels[place]) and _same_box(box, truth.box_deg)):
            item = f"{truth.label!r} with box_deg {list(truth.box_deg)} as object {place} of the list"
            return _contradiction(turn, item, right)
    return None


CHECKS: dict[str, Callable[[Turn], str | None]] = {
    "choice": choice_problem,
    "direction": direction_problem,
    "grounding": grounding_problem,
    "detection": detection_problem,
}


def _is_wide(truth: LabelledBox) -> bool:
    """Return whether a box has 180 degrees or more: it has no area, and evaluation leaves it out."""
    return max(truth.box_deg[2:]) >= 180


def _same_box(numbers: Sequence[float], truth: Sequence[float]) -> bool:
    offsets = [abs(wrapped(numbers[0] - truth[0])), *(abs(a - b) for a, b in zip(numbers[1:], truth[1:], strict=True))]
    return max(offsets) <= ROUNDING_DEG


def _same_label(turn: Turn, label: str, truth: str) -> bool:
    """Return whether two labels agree; those of a text in another language than the typed ones cannot be compared."""
    comparable = turn.language == "en" and label.isascii() and truth.isascii()
    return not comparable or normalise_answer(label) == normalise_answer(truth)


def _unreadable(turn: Turn, what: str, right: str) -> str:
    return f"got {shorten(turn.assistant)}, in which evaluation can read no {what}; write {shorten(right)}"


def _contradiction(turn: Turn, truth: str, right: str) -> str:
    return (
        f"got {shorten(turn.assistant)}, but the typed answer is {truth}; "
        f"write {shorten(right)}, or correct the typed answer"
    )
