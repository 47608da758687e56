"""What two runs are compared by: for each block of scores a measure, and the answers that it is taken of.

Answers that have no such number are left out: boxes of 180 degrees or more, questions without a mask.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from panollava.experiments.runs import Key
from panollava.metrics.text import chrf
from panollava.tasks import DESCRIBED
from panollava.tasks.results import references
from panollava.tasks.scoring import Prediction, block_of, has_area

DETECTION = ("detection", DESCRIBED)


@dataclass(frozen=True)
class Measure:
    """How one block of scores is compared; `metric` is the same number's key below a language in evaluate.json."""

    name: str
    better: Literal["higher", "lower"]
    metric: str
    values: Callable[[Sequence[Prediction]], list[float]] | None = None  # None: no value of a single question


def _chrf_each(lines: Sequence[Prediction]) -> list[float]:
    """Return the chrF of each answer; the corpus chrF of metrics/evaluate.json has no value of a single question."""
    return [chrf([line["prediction"]], [own]) for line, own in zip(lines, references(lines), strict=True)]


# By the block of scores that they compare.
MEASURES: dict[str, Measure] = {
    "choice": Measure(
        "closed questions, mean accuracy", "higher", "accuracy.value", lambda lines: [x["correct"] for x in lines]
    ),
    "direction": Measure(
        "direction, median error", "lower", "direction.median_deg", lambda lines: [x["error_deg"] for x in lines]
    ),
    "grounding": Measure(
        "grounding, IoU ≥ 0.5", "higher", "grounding.iou50", lambda lines: [x["iou"] >= 0.5 for x in lines]
    ),
    "segmentation": Measure(
        "segmentation, mean IoU", "higher", "segmentation.miou", lambda lines: [x["mask_iou"] for x in lines]
    ),
    "detection": Measure("detection, AP50", "higher", "detection.ap50"),
    DESCRIBED: Measure("detection by description, AP50", "higher", f"{DESCRIBED}.ap50"),
    "description": Measure("description, mean chrF of an answer", "higher", "", _chrf_each),
    "open": Measure("open questions, mean chrF of an answer", "higher", "", _chrf_each),
}


def key_of(line: Prediction) -> Key:
    """Return what identifies a question."""
    return line["image_id"], line["record"], line["turn"], line["language"]


def lines_of(task: str, asked: Sequence[Prediction], masked: Collection[Key]) -> list[Prediction]:
    """Return the lines that one of the `MEASURES` compares; `masked` are the questions that have a mask."""
    if task == "segmentation":
        return [line for line in asked if key_of(line) in masked]
    return [line for line in asked if block_of(line) == task and comparable(line)]


def defined(task: str, lines: Sequence[Prediction]) -> bool:
    """Return whether there is anything to measure: average precision needs a true box."""
    return any(true_boxes(lines)) if task in DETECTION else bool(lines)


def comparable(line: Prediction) -> bool:
    """Return whether the box of a grounding question has an area; other questions have no such box."""
    return line["task"] != "grounding" or has_area(line["answer"]["box_deg"])


def true_boxes(lines: Sequence[Prediction]) -> list[int]:
    """Return the number of true boxes of each line that have an area."""
    return [sum(has_area(truth["box_deg"]) for truth in line["answer"]["objects"]) for line in lines]
