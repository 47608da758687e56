"""Detection: all objects as `red cube [35, -12, 20, 15]; blue ball [..]`, scored by average precision on the sphere.

Questions ask for all objects or, in the type `detection_described`, for those that match a description; each kind has a
block of its own. True boxes of 180 degrees or more have no area: they are left out and counted.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from panollava.corpus.records import BoxDeg, DetectionAnswer, Turn
from panollava.metrics import SIZES
from panollava.metrics.detection import average_precision, match_detections, resampled_precision
from panollava.metrics.intervals import clustered_statistic
from panollava.metrics.paired import Statistic
from panollava.metrics.spherical_iou import pairwise_iou
from panollava.metrics.text import normalise_answer
from panollava.tasks.degrees import has_area
from panollava.tasks.grounding import HALF, TRIED_BOXES
from panollava.tasks.prediction import Prediction, typed
from panollava.tasks.scorer import Block, Scorer, evenly, too_wide
from panollava.tasks.spellings import parse_detection, parse_object
from panollava.tasks.task import Fields, Measure, Predictions, ScoreBlock, ScoreNumber, Task, require

if TYPE_CHECKING:
    from panollava.inference.answer import Answer

# The type of questions for the objects that match a description.
DESCRIBED = "detection_described"


def score_detection(answer: "Answer", turn: Turn) -> Fields:
    """Read the labelled boxes of a detection; average precision needs all images and comes later."""
    objects, unparsed = parse_detection(answer.text)
    # An answer such as "nothing" to a question about nothing names no box, and that is right.
    if not typed(turn.answer, DetectionAnswer).objects and not objects:
        unparsed = 0
    scored = zip(objects, box_scores(answer), strict=True)
    boxes = [{"label": label, "box_deg": box, "score": score} for (label, box), score in scored]
    return {"parsed": unparsed == 0, "unparsed": unparsed, "boxes": boxes}


def box_scores(answer: "Answer") -> list[float]:
    """Return the probability of each labelled box of a detection, that of its tokens given those before.

    Where these are not known, as with a semicolon that is spelt in bytes, it is that of the whole answer; so it is for
    boxes without semicolons between them.
    """
    parts = answer.text.split(";")
    read = [parse_object(part) is not None for part in parts]
    boxes, _ = parse_detection(answer.text)
    if sum(read) != len(boxes):
        return [answer.score] * len(boxes)
    known = answer.parts is not None and len(answer.parts) == len(parts)
    scores = answer.parts if known and answer.parts is not None else [answer.score] * len(parts)
    return [score for found, score in zip(read, scores, strict=True) if found]


def check_detection(prediction: Prediction) -> None:
    """Raise a ValueError if a prediction lacks its boxes or one of their scores."""
    require(prediction, "boxes", prediction.boxes)
    if any(box.score is None for box in prediction.boxes or ()):
        raise ValueError("a box of a detection needs `score`; versions before 0.5 wrote none: evaluate that run again")


def reference_objects(prediction: Prediction) -> list[tuple[str, BoxDeg]]:
    """Return the true labels and boxes of a detection, labels in the language of the answer.

    The typed answer has the exact boxes, but its labels may be in another language than the text. Where the reference
    text lists as many objects as the typed answer, their labels count, in that order.
    """
    objects = prediction.truth(DetectionAnswer).objects
    spelt, unparsed = parse_detection(prediction.reference)
    typed_labels = [truth.label for truth in objects]
    labels = [label for label, _ in spelt] if not unparsed and len(spelt) == len(objects) else typed_labels
    pairs = zip(labels, objects, strict=True)
    return [(normalise_answer(label), truth.box_deg) for label, truth in pairs if has_area(truth.box_deg)]


def detections(predictions: Predictions) -> tuple[list[list[tuple]], list[list[tuple]]]:
    """Return the (label, box, score) and the true (label, box) of each prediction, for `match_detections`."""
    found = [[(normalise_answer(b.label), b.box_deg, b.score) for b in p.boxes or ()] for p in predictions]
    return found, [list(reference_objects(p)) for p in predictions]


def constant_detections(predictions: Predictions) -> list[tuple[str, tuple[float, ...], float]]:
    """Return one (label, box, score) for each true label: the best answer that is the same for every panorama.

    The box is the true one that hits most true boxes of its label, IoU ≥ 0.5, of `TRIED_BOXES` tried ones; its score
    is the share of questions in which it does.
    """
    places: dict[str, list[tuple[int, tuple[float, ...]]]] = {}
    for number, prediction in enumerate(predictions):
        for label, box in reference_objects(prediction):
            places.setdefault(label, []).append((number, box))
    constant = []
    for label, own in places.items():
        boxes = torch.tensor([box for _, box in own]).double().deg2rad()
        tried = range(0, len(own), -(-len(own) // TRIED_BOXES))
        hits = pairwise_iou(boxes[list(tried)], boxes) >= HALF
        best = int(hits.sum(1).argmax())
        asked = {number for (number, _), hit in zip(own, hits[best].tolist(), strict=True) if hit}
        constant.append((label, own[tried[best]][1], len(asked) / len(predictions)))
    return constant


def detection(scorer: Scorer) -> Block:
    """Return the average precision of detections, each box scored by the probability of its own tokens."""
    predictions = scorer.of("model")
    found, wanted = detections(predictions)
    if not any(wanted):
        return {}
    matches = match_detections(found, wanted, (HALF,))

    def ap50(items: NDArray[np.int64]) -> float:
        return float(resampled_precision(matches, np.bincount(items, minlength=len(predictions))[None])[0])

    interval = clustered_statistic(ap50, [p.image_id for p in predictions], **scorer.draws)
    block: Block = dict(average_precision(found, wanted))
    block |= {"low": interval.low, "high": interval.high, "n": len(predictions)}
    block["unparsed"] = sum(p.unparsed or 0 for p in predictions)
    # Questions for all objects, or those by description, as in the block.
    if known := [p for p in scorer.training if is_described(p) == is_described(predictions[0])]:
        constant = match_detections([constant_detections(evenly(known))] * len(predictions), wanted, (HALF,))
        everything = np.ones((1, len(predictions)), dtype=np.int64)
        block["majority_ap50"] = float(resampled_precision(constant, everything)[0])
    for variant, others in scorer.baselines.items():
        block[f"{variant}_ap50"] = average_precision(*detections(others), thresholds=(HALF,))["ap50"]
    return block | too_wide(wide_boxes(predictions))


def ap50_statistic(predictions: Predictions) -> Statistic:
    """Return the AP50 of predictions as a function of how often each of them counts."""
    matches = match_detections(*detections(predictions), (HALF,))
    return lambda copies: resampled_precision(matches, copies)


def wide_boxes(predictions: Predictions) -> int:
    """Return the number of true boxes without an area."""
    return sum(not has_area(truth.box_deg) for p in predictions for truth in p.truth(DetectionAnswer).objects)


def has_true_box(predictions: Predictions) -> bool:
    """Return whether any true box has an area; average precision needs one."""
    return any(has_area(truth.box_deg) for p in predictions for truth in p.truth(DetectionAnswer).objects)


def is_described(prediction: Prediction) -> bool:
    """Return whether a question asks for the objects that match a description."""
    return prediction.type == DESCRIBED


def is_whole(prediction: Prediction) -> bool:
    """Return whether a question asks for all objects."""
    return not is_described(prediction)


def _numbers(title: str) -> tuple[ScoreNumber, ...]:
    return (
        ScoreNumber(f"{title}, AP50", "ap50", "{}_ap50"),
        ScoreNumber(f"{title}, AP75", "ap75"),
        ScoreNumber(f"{title}, AP", "ap"),
    )


def _measure(key: str, title: str, belongs: Callable[[Prediction], bool]) -> Measure:
    return Measure(
        key,
        f"{title}, AP50",
        "higher",
        f"{key}.ap50",
        statistic=ap50_statistic,
        belongs=belongs,
        wide_boxes=wide_boxes,
        defined=has_true_box,
        undefined="no true box at all, so average precision is undefined",
    )


_SIZES = tuple(ScoreNumber(f"detection, AP of {size} objects", f"ap_{size}") for size in SIZES)

DETECTION = Task(
    name="detection",
    max_new_tokens=256,
    score=score_detection,
    check=check_detection,
    blocks=(
        ScoreBlock("detection", detection, (*_numbers("detection"), *_SIZES), belongs=is_whole),
        ScoreBlock(DESCRIBED, detection, _numbers("detection by description"), belongs=is_described),
    ),
    measures=(
        _measure("detection", "detection", is_whole),
        _measure(DESCRIBED, "detection by description", is_described),
    ),
)
