"""Grounding: the box of a named object as `[35, -12, 20, 15]`, in degrees, scored by its exact IoU on the sphere.

A true box of 180 degrees or more has no area: grounding it has no score (`iou` null), and the block counts it. Where
the record has a mask, the answer has one too (see `segmentation`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from panollava.corpus.records import LabelledBox, Turn
from panollava.corpus.rotation.panorama import Rotation
from panollava.metrics.spherical_iou import pairwise_iou
from panollava.tasks.degrees import box_iou, has_area
from panollava.tasks.prediction import Prediction, typed
from panollava.tasks.scorer import Block, Scorer, evenly, interval_block, mean, too_wide, unparsed
from panollava.tasks.segmentation import MASK_BLOCK, MASK_MEASURE
from panollava.tasks.spellings import parse_box
from panollava.tasks.task import Fields, Measure, Predictions, RotationStudy, ScoreBlock, ScoreNumber, Task

if TYPE_CHECKING:
    from panollava.inference.answer import Answer

# A box that overlaps the true one this much is right.
HALF = 0.5
# Of how many true boxes one is chosen that stands for all; each is compared with all others.
TRIED_BOXES = 100


def score_grounding(answer: "Answer", turn: Turn) -> Fields:
    """Score the box of a named object by its spherical IoU with the true one."""
    found, truth = parse_box(answer.text), typed(turn.answer, LabelledBox)
    fields: Fields = {"parsed": found is not None}
    if found is not None:
        fields["boxes"] = [{"label": truth.label, "box_deg": found}]
    if has_area(truth.box_deg):
        fields["iou"] = 0.0 if found is None else box_iou(found, truth.box_deg)
    return fields


def check_grounding(prediction: Prediction) -> None:
    """Raise a ValueError if a prediction lacks its score, or has one although the true box has no area."""
    known = prediction.answer is not None and comparable(prediction)
    if (prediction.iou is None) == known:
        raise ValueError(
            f"`iou` is {prediction.iou}; it must be null exactly where the true box has 180 degrees or more"
        )


def comparable(prediction: Prediction) -> bool:
    """Return whether the true box has an area."""
    return has_area(prediction.truth(LabelledBox).box_deg)


def is_found(prediction: Prediction) -> bool | None:
    """Return whether the IoU is at least a half; None for a true box without an area."""
    return None if prediction.iou is None else prediction.iou >= HALF


def constant_box(predictions: Predictions, training: Predictions) -> float:
    """Return the share of named objects that one box hits, IoU ≥ 0.5: the one that hits most of the training split.

    It is one of `TRIED_BOXES` true ones there.
    """
    known, asked = _boxes(evenly(training)), _boxes(predictions)
    tried = known[torch.tensor(evenly(range(len(known)), TRIED_BOXES))]
    best = tried[(pairwise_iou(tried, known) >= HALF).sum(1).argmax()]
    return float((pairwise_iou(best[None], asked) >= HALF).double().mean())


def _boxes(predictions: Predictions) -> torch.Tensor:
    return torch.tensor([p.truth(LabelledBox).box_deg for p in predictions]).double().deg2rad()


def grounding(scorer: Scorer) -> Block:
    """Return the share of named objects whose box overlaps the true one by at least half, and the mean IoU."""
    asked = scorer.of("model")
    predictions = _with_iou(asked)
    if not predictions:
        return {}
    interval = scorer.mean_interval(predictions, halves(predictions))
    block = interval_block("iou50", predictions, interval)
    block |= {"mean_iou": mean(p.iou for p in predictions), "unparsed": unparsed(predictions)}
    if known := [p for p in scorer.training if comparable(p)]:
        block["majority"] = constant_box(predictions, known)
    for variant, answered in scorer.baselines.items():
        if others := _with_iou(answered):
            block[variant] = mean(halves(others))
    return block | too_wide(len(asked) - len(predictions))


def halves(predictions: Predictions) -> Sequence[float]:
    """Return 1 for each box that overlaps the true one by at least half, 0 for each other one with an IoU."""
    return [float(p.iou >= HALF) for p in predictions if p.iou is not None]


def _with_iou(predictions: Predictions) -> list[Prediction]:
    return [p for p in predictions if p.iou is not None]


def wide_boxes(predictions: Predictions) -> int:
    """Return the number of true boxes without an area."""
    return sum(not comparable(p) for p in predictions)


def agrees(rotated: Prediction, plain: Prediction, rotation: Rotation) -> bool:
    """Return whether two boxes have an IoU of at least a half once the plain one is rotated too."""
    if not (rotated.boxes and plain.boxes):
        return False
    return box_iou(rotation.box(plain.boxes[0].box_deg), rotated.boxes[0].box_deg) >= HALF


GROUNDING = Task(
    name="grounding",
    max_new_tokens=32,
    score=score_grounding,
    check=check_grounding,
    right=is_found,
    blocks=(
        ScoreBlock(
            "grounding",
            grounding,
            (
                ScoreNumber("grounding, IoU ≥ 0.5", "iou50", "{}"),
                ScoreNumber("grounding, mean IoU", "mean_iou"),
            ),
        ),
        MASK_BLOCK,
    ),
    measures=(
        Measure(
            "grounding",
            "grounding, IoU ≥ 0.5",
            "higher",
            "grounding.iou50",
            halves,
            comparable=comparable,
            wide_boxes=wide_boxes,
        ),
        MASK_MEASURE,
    ),
    rotated=RotationStudy("grounding", agrees, also={"iou": lambda prediction: prediction.iou}),
)
