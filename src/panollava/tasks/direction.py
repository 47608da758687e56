"""Direction: yaw and pitch of a named object as `35, -12`, in degrees, scored by the angle from the true direction."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from panollava.corpus.records import DirectionAnswer, Turn
from panollava.corpus.rotation.panorama import Rotation
from panollava.metrics.intervals import clustered_bootstrap
from panollava.tasks.degrees import angle_deg
from panollava.tasks.prediction import Prediction, typed
from panollava.tasks.scorer import Block, Scorer, evenly, interval_block, unparsed
from panollava.tasks.spellings import parse_direction
from panollava.tasks.task import Fields, Measure, Predictions, RotationStudy, ScoreBlock, ScoreNumber, Task, require
from panollava.vlm.geometry import angular_distance, directions_to_rays

if TYPE_CHECKING:
    from panollava.inference.answer import Answer

# A direction this close is right.
NEAR_DEG = 15.0


def score_direction(answer: "Answer", turn: Turn) -> Fields:
    """Score a direction by its angle from the true one; one that cannot be read is 180 degrees off."""
    found, truth = parse_direction(answer.text), typed(turn.answer, DirectionAnswer)
    if found is None:
        return {"parsed": False, "error_deg": 180.0}
    return {"direction": found, "error_deg": angle_deg(found, (truth.yaw_deg, truth.pitch_deg))}


def check_direction(prediction: Prediction) -> None:
    """Raise a ValueError if a prediction lacks its score."""
    require(prediction, "error_deg", prediction.error_deg)


def is_near(prediction: Prediction) -> bool | None:
    """Return whether a direction is within 15 degrees of the true one."""
    return prediction.error_deg is not None and prediction.error_deg <= NEAR_DEG


def constant_direction_deg(predictions: Predictions, training: Predictions) -> float:
    """Return the median error of the one true direction of the training split that has the least there, in degrees."""
    known, asked = _rays(evenly(training)), _rays(predictions)
    errors = np.median(angular_distance(known[:, None], known).numpy(), axis=1)
    best = known[int(errors.argmin())]
    return float(np.median(angular_distance(best, asked).rad2deg().numpy()))


def _rays(predictions: Predictions) -> torch.Tensor:
    truths = [p.truth(DirectionAnswer) for p in predictions]
    angles = torch.tensor([[truth.yaw_deg, truth.pitch_deg] for truth in truths]).double()
    return directions_to_rays(*angles.deg2rad().unbind(-1))


def direction(scorer: Scorer) -> Block:
    """Return the median error of directions in degrees, and the share within 15 degrees."""
    predictions = scorer.of("model")
    if not predictions:
        return {}
    errors, panoramas = np.array(errors_deg(predictions)), [p.image_id for p in predictions]
    interval = clustered_bootstrap(errors, panoramas, "median", **scorer.draws)
    block = interval_block("median_deg", predictions, interval)
    block |= {"within_15_deg": float((errors <= NEAR_DEG).mean()), "unparsed": unparsed(predictions)}
    if scorer.training:
        block["majority_median_deg"] = constant_direction_deg(predictions, scorer.training)
    for variant, others in scorer.baselines.items():
        block[f"{variant}_median_deg"] = float(np.median(errors_deg(others)))
    return block


def errors_deg(predictions: Predictions) -> Sequence[float]:
    """Return the angle of each direction from the true one in degrees."""
    return [p.error_deg for p in predictions if p.error_deg is not None]


def agrees(rotated: Prediction, plain: Prediction, rotation: Rotation) -> bool:
    """Return whether two directions agree within 15 degrees once the plain one is rotated too."""
    if not (rotated.direction and plain.direction):
        return False
    return angle_deg(rotation.direction(*plain.direction), rotated.direction) <= NEAR_DEG


DIRECTION = Task(
    name="direction",
    max_new_tokens=16,
    score=score_direction,
    check=check_direction,
    right=is_near,
    blocks=(
        ScoreBlock(
            "direction",
            direction,
            (
                ScoreNumber("direction, median error", "median_deg", "{}_median_deg", degrees=True),
                ScoreNumber("direction, within 15°", "within_15_deg"),
            ),
        ),
    ),
    measures=(
        Measure(
            "direction",
            "direction, median error",
            "lower",
            "direction.median_deg",
            errors_deg,
            median=True,
            degrees=True,
        ),
    ),
    rotated=RotationStudy("direction", agrees),
)
