"""One line of predictions.jsonl per answer: what was asked, what was said, and how right it is; degrees throughout.

An answer that cannot be read is as wrong as can be (180 degrees, IoU 0, no boxes) and marked `parsed: false`. A true
box of 180 degrees or more has no area on the sphere (see `metrics.spherical_iou`): grounding it has no score (`iou`
null), and detection leaves it out; `results` counts both.
"""

import math
from typing import Any, Literal

import torch

from panollava.corpus.records import (
    BoxDeg,
    ChoiceAnswer,
    DetectionAnswer,
    DirectionAnswer,
    DirectionDeg,
    LabelledBox,
    Turn,
)
from panollava.inference.answer import Answer
from panollava.metrics.spherical_iou import paired_iou
from panollava.metrics.text import normalise_answer
from panollava.tasks import DESCRIBED
from panollava.tasks.answers import parse_box, parse_detection, parse_direction, parse_object
from panollava.tasks.questions import Question
from panollava.vlm.geometry import angular_distance, directions_to_rays

Variant = Literal["model", "shuffled", "blind"]
Prediction = dict[str, Any]


def score_choice(text: str, truth: ChoiceAnswer) -> Prediction:
    """Score a closed answer: right if it reads like the truth, letter case and final punctuation aside."""
    return {"correct": normalise_answer(text) == normalise_answer(truth.text)}


def score_direction(text: str, truth: DirectionAnswer) -> Prediction:
    """Score a direction by its angle from the true one."""
    found = parse_direction(text)
    if found is None:
        return {"parsed": False, "error_deg": 180.0}
    return {"direction": list(found), "error_deg": angle_deg(found, (truth.yaw_deg, truth.pitch_deg))}


def score_grounding(text: str, truth: LabelledBox) -> Prediction:
    """Score the box of a named object by its spherical IoU with the true one."""
    found = parse_box(text)
    parsed: Prediction = {"parsed": found is not None}
    if found is not None:
        parsed["boxes"] = [{"label": truth.label, "box_deg": list(found)}]
    if not has_area(truth.box_deg):
        return parsed
    return parsed | {"iou": 0.0 if found is None else iou(found, truth.box_deg)}


def score_detection(text: str, truth: DetectionAnswer) -> Prediction:
    """Read the labelled boxes of a detection; average precision needs all images and comes later."""
    objects, unparsed = parse_detection(text)
    # An answer such as "nothing" to a question about nothing names no box, and that is right.
    if not truth.objects and not objects:
        unparsed = 0
    boxes = [{"label": label, "box_deg": list(box)} for label, box in objects]
    return {"parsed": unparsed == 0, "unparsed": unparsed, "boxes": boxes}


def box_scores(answer: Answer) -> list[float]:
    """Return the probability of each labelled box of a detection, that of its tokens given what is before.

    Where these are not known, as with a semicolon that is spelt in bytes, it is that of the whole answer.
    """
    parts = answer.text.split(";")
    known = answer.parts is not None and len(answer.parts) == len(parts)
    scores = answer.parts if known and answer.parts is not None else [answer.score] * len(parts)
    return [score for part, score in zip(parts, scores, strict=True) if parse_object(part) is not None]


def score_text(text: str, truth: None) -> Prediction:
    """Score nothing: free text is compared with its references as a corpus, later."""
    return {}


SCORERS = {
    "choice": score_choice,
    "direction": score_direction,
    "grounding": score_grounding,
    "detection": score_detection,
    "description": score_text,
    "open": score_text,
}


def score(variant: Variant, question: Question, answer: Answer) -> Prediction:
    """Return the line of predictions.jsonl for an answer."""
    turn = question.content
    line: Prediction = {
        "variant": variant,
        "image_id": question.image_id,
        "record": question.record,
        "turn": question.turn,
        "language": turn.language,
        "task": turn.task,
        "type": turn.type,
        "question": turn.human,
        "reference": turn.assistant,
        "references": references(turn),
        "answer": None if turn.answer is None else turn.answer.model_dump(mode="json"),
        "prediction": answer.text,
        "score": answer.score,
        "parsed": True,
        "correct": None,
        "error_deg": None,
        "direction": None,
        "iou": None,
        "boxes": None,
        "mask": None,
        "mask_iou": None,
        "mask_ceiling": None,
        "mask_majority": None,
        "boundary_deg": None,
    }
    line |= SCORERS[turn.task](answer.text, turn.answer)  # type: ignore[operator] # the task's own answer type
    if turn.task == "detection":
        line["boxes"] = [box | {"score": s} for box, s in zip(line["boxes"], box_scores(answer), strict=True)]
    return line


def block_of(line: Prediction) -> str:
    """Return the block of scores that a line counts in: its task, but for detection by description its type."""
    return DESCRIBED if (line["task"], line["type"]) == ("detection", DESCRIBED) else line["task"]


def references(turn: Turn) -> list[str]:
    """Return all texts that are right answers to a turn, each once: the one place that knows where they stand."""
    return list(dict.fromkeys(turn.references)) or [turn.assistant]


def reference_objects(line: Prediction) -> list[tuple[str, BoxDeg]]:
    """Return the true labels and boxes of a detection, labels in the language of the answer.

    The typed answer has the exact boxes, but its labels may be in another language than the text. Where the reference
    text lists as many objects as the typed answer, their labels count, in that order.
    """
    objects = line["answer"]["objects"]
    spelt, unparsed = parse_detection(line["reference"])
    typed = [truth["label"] for truth in objects]
    labels = [label for label, _ in spelt] if not unparsed and len(spelt) == len(objects) else typed
    pairs = zip(labels, objects, strict=True)
    return [(normalise_answer(label), tuple(truth["box_deg"])) for label, truth in pairs if has_area(truth["box_deg"])]


def has_area(box_deg: tuple[float, ...]) -> bool:
    """Return whether a true box can be compared: both extents below 180 degrees."""
    return max(box_deg[2:]) < 180


def angle_deg(a: DirectionDeg, b: DirectionDeg) -> float:
    """Return the angle in degrees between two directions (yaw, pitch) in degrees."""
    yaw, pitch = torch.tensor([a, b], dtype=torch.float64).deg2rad().unbind(-1)
    rays = directions_to_rays(yaw, pitch)
    return math.degrees(float(angular_distance(rays[0], rays[1])))


def iou(a: BoxDeg, b: BoxDeg) -> float:
    """Return the exact IoU on the sphere of two boxes in degrees."""
    boxes = torch.tensor([a, b], dtype=torch.float64).deg2rad()
    return float(paired_iou(boxes[0], boxes[1]))
