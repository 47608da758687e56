"""Suppression against a loop over pairs, by hand across the seam and the pole, and invalid input."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from panollava.metrics.spherical_iou import paired_iou
from panollava.metrics.suppression import nms


def brute_force(boxes: np.ndarray, scores: np.ndarray, labels: list[str], threshold: float) -> list[int]:
    """Return the boxes that the textbook's loop over pairs keeps."""
    radians = torch.from_numpy(boxes).deg2rad()
    overlap = paired_iou(radians[:, None], radians).tolist()
    keep: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda box: (-scores[box], box)):
        own = [other for other in keep if labels[other] == labels[index]]
        if all(overlap[other][index] <= threshold for other in own):
            keep.append(index)
    return keep


def crowd(seed: int, count: int = 40) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return crowded boxes around the seam and the zenith, with tied scores and two labels."""
    random = np.random.default_rng(seed)
    seam = [random.uniform(160, 200, count), random.uniform(-15, 15, count)]
    pole = [random.uniform(-180, 180, count), random.uniform(70, 90, count)]
    centres = np.where(random.random(count) < 0.5, seam, pole)
    boxes = np.stack((*centres, *random.uniform(8, 40, (2, count))), axis=1)
    return boxes, random.random(count).round(1), random.choice(["a", "나무"], count).tolist()


@pytest.mark.parametrize("pairs_at_once", [1 << 20, 100])
def test_agrees_with_a_loop_over_pairs(pairs_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("panollava.metrics.suppression.PAIRS_AT_ONCE", pairs_at_once)
    for seed, threshold in product(range(3), (0.0, 0.2, 0.6)):
        case = f"seed {seed}, threshold {threshold}"
        boxes, scores, labels = crowd(seed)
        expected = brute_force(boxes, scores, labels, threshold)
        assert 2 < len(expected) < len(boxes), case
        assert nms(boxes.tolist(), scores.tolist(), labels, threshold) == expected, case
        assert nms(torch.from_numpy(boxes), torch.from_numpy(scores), labels, threshold) == expected, case
        without_labels = brute_force(boxes, scores, ["a"] * len(boxes), threshold)
        assert nms(boxes.tolist(), scores.tolist(), iou_threshold=threshold) == without_labels, case


def test_every_other_box_of_a_long_chain_is_kept() -> None:
    # Each box overlaps its neighbours only, so that every other one is kept, after many rounds.
    chain = [(2.0 * index, 0, 4, 4) for index in range(60)]
    scores = [1 - index / 100 for index in range(60)]
    assert nms(chain, scores, iou_threshold=0.2) == list(range(0, 60, 2))


def test_suppression_keeps_the_best_of_each_label_across_the_seam_and_the_pole() -> None:
    centres = [(179, 0), (-179, 0), (-179, 0), (0, 89), (180, 89), (60, 0)]
    boxes = [(*centre, 20, 20) for centre in centres]
    labels = ["a", "a", "b", "a", "a", "a"]
    assert nms(boxes, [0.5, 0.9, 0.1, 0.3, 0.2, 0.4], labels, 0.5) == [1, 5, 3, 2]
    assert nms(boxes, [0.5, 0.9, 0.1, 0.3, 0.2, 0.4], labels, 0.95) == [1, 0, 5, 3, 4, 2]
    assert nms([], [], [], 0.5) == []


def test_a_suppressed_box_suppresses_nothing() -> None:
    chain = [(0, 0, 20, 20), (8, 0, 20, 20), (16, 0, 20, 20)]
    assert nms(chain, [0.9, 0.8, 0.7], ["a", "a", "a"], 0.4) == [0, 2]


@pytest.mark.parametrize(
    ("boxes", "scores", "labels", "threshold", "message"),
    [
        ([(0, 0, 9, 9)], [0.1, 0.2], ["a"], 0.5, "1 boxes, 2 scores and 1 labels"),
        ([(0, 0, 9, 9)], [0.1], [], 0.5, "1 boxes, 1 scores and 0 labels"),
        ([(0, 0, 9, 9)] * 2, [0.1, math.nan], None, 0.5, "score 1 is nan"),
        ([(0, 0, 9, 9)], [0.1], None, 1.5, "iou_threshold is 1.5"),
        ([(0, 0, 9, 9)], [0.1], None, math.nan, "iou_threshold is nan"),
        ([(0, 0, 180, 9)], [0.1], None, 0.5, r"\[0.0, 0.0, 180.0, 9.0\] degrees .* below 180"),
    ],
)
def test_invalid_boxes_scores_and_thresholds_are_refused(
    boxes: list, scores: list[float], labels: list[str] | None, threshold: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        nms(boxes, scores, labels, threshold)
