"""Average precision of labelled boxes on the sphere, and non-maximum suppression; boxes in degrees, IoU exact.

The rules are those of COCO (pycocotools): per image and label the highest score chooses first and takes the free
reference that it overlaps most, precision is read at 101 recalls, and the result is the mean over the labels that
occur in the references. There are no crowd regions, size buckets or limits on the number of boxes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from panollava.metrics.spherical_iou import paired_iou, pairwise_iou, valid_boxes

Box = Sequence[float]  # yaw, pitch, width, height in degrees
Prediction = tuple[str, Box, float]  # label, box, score
Reference = tuple[str, Box]  # label, box

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class LabelMatches:
    """What became of one label's predictions, best score first: their image `[D]` and whether they hit `[T, D]`.

    `wanted` holds the number of references in each image.
    """

    image: NDArray[np.int64]
    hit: NDArray[np.bool_]
    wanted: NDArray[np.int64]


@dataclass(frozen=True)
class _Cell:
    """The boxes of one label in one image, predictions best score first."""

    image: int
    label: str
    scores: list[float]
    found: list[Box]
    wanted: list[Box]


def average_precision(
    predictions: Sequence[Sequence[Prediction]],
    references: Sequence[Sequence[Reference]],
    thresholds: Sequence[float] = THRESHOLDS,
) -> dict[str, float]:
    """Return "ap" (the mean over the IoU thresholds), "ap50" and "ap75" of predictions, one list per image.

    A label that occurs in no reference does not count, as in COCO. Raises ValueError when the numbers of images differ,
    there is no reference at all, a score is not finite, or a box has no area (see `spherical_iou` for boxes >= 180).
    """
    matches = match_detections(predictions, references, (*thresholds, 0.5, 0.75))
    precision = precision_of_images(matches, np.arange(len(references)))
    return {"ap": float(precision[:-2].mean()), "ap50": float(precision[-2]), "ap75": float(precision[-1])}


def match_detections(
    predictions: Sequence[Sequence[Prediction]],
    references: Sequence[Sequence[Reference]],
    thresholds: Sequence[float],
) -> list[LabelMatches]:
    """Match predictions to references at each IoU threshold; one result per label that the references contain.

    No match depends on another image, so a bootstrap over images matches once and then calls `precision_of_images`.
    Raises ValueError as `average_precision` does.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} images have predictions but {len(references)} have references")
    if not any(references):
        raise ValueError(f"none of the {len(references)} images has a reference box: average precision is undefined")
    _check(predictions, references)
    cells = _cells(predictions, references)
    ious = _cell_ious(cells)
    matches = []
    for label in sorted({cell.label for cell in cells if cell.wanted}):
        ours = [index for index, cell in enumerate(cells) if cell.label == label]
        wanted = np.zeros(len(references), dtype=np.int64)
        wanted[[cells[index].image for index in ours]] = [len(cells[index].wanted) for index in ours]
        image = np.repeat([cells[index].image for index in ours], [len(cells[index].found) for index in ours])
        hit = np.concatenate([_greedy_hits(ious[index], thresholds) for index in ours], axis=1)
        order = np.argsort([-score for index in ours for score in cells[index].scores], kind="stable")
        matches.append(LabelMatches(image[order], hit[:, order], wanted))
    return matches


def precision_of_images(matches: Sequence[LabelMatches], images: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the average precision `[T]` on the images with these indices; an index may come more than once.

    It is the mean over the labels that these images ask for, NaN when they ask for none.
    """
    per_label = []
    for label in matches:
        copies = np.bincount(images, minlength=len(label.wanted))
        wanted = int((copies * label.wanted).sum())
        if wanted:
            per_label.append(_interpolated(np.repeat(label.hit, copies[label.image], axis=1), wanted))
    return np.mean(per_label, axis=0) if per_label else np.full(len(matches[0].hit), np.nan)


def nms(boxes_deg: Sequence[Box], scores: Sequence[float], labels: Sequence[str], iou_threshold: float) -> list[int]:
    """Return the indices of the boxes to keep, best score first.

    A box goes when a better one of the same label overlaps it by more than the threshold, across the seam and the poles
    too. Raises ValueError for lists of different length and for a box without an area.
    """
    if not len(boxes_deg) == len(scores) == len(labels):
        raise ValueError(f"{len(boxes_deg)} boxes, {len(scores)} scores and {len(labels)} labels; give as many of each")
    boxes = _radians(boxes_deg)
    names = np.array(labels)
    rivals = (pairwise_iou(boxes, boxes) > iou_threshold).numpy() & (names[:, None] == names)
    keep: list[int] = []
    for index in np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable"):
        if not rivals[index, keep].any():
            keep.append(int(index))
    return keep


def _radians(boxes_deg: Iterable[Box]) -> torch.Tensor:
    return torch.tensor([list(box) for box in boxes_deg], dtype=torch.float64).reshape(-1, 4).deg2rad()


def _check(predictions: Sequence[Sequence[Prediction]], references: Sequence[Sequence[Reference]]) -> None:
    """Raise ValueError that names the first image, label and value that cannot be scored."""
    for image, found in enumerate(predictions):
        for label, box, score in found:
            if not np.isfinite(score):
                raise ValueError(f"image {image}: {label!r} at {list(box)} has the score {score}, not a finite number")
    said = [(image, label, box) for image, found in enumerate(predictions) for label, box, _ in found]
    true = [(image, label, box) for image, wanted in enumerate(references) for label, box in wanted]
    for side, items in (("predicted", said), ("reference", true)):
        bad = (~valid_boxes(_radians(box for _, _, box in items))).nonzero()
        if len(bad):
            image, label, box = items[int(bad[0])]
            raise ValueError(
                f"image {image}: the {side} box {list(box)} of {label!r} has no area on the sphere; "
                "all numbers must be finite, width and height at least 0 and below 180 degrees"
            )


def _cells(predictions: Sequence[Sequence[Prediction]], references: Sequence[Sequence[Reference]]) -> list[_Cell]:
    cells = []
    for image, (found, wanted) in enumerate(zip(predictions, references, strict=True)):
        for label in sorted({name for name, _, _ in found} | {name for name, _ in wanted}):
            ranked = sorted(((score, box) for name, box, score in found if name == label), key=lambda item: -item[0])
            scores, boxes = [score for score, _ in ranked], [box for _, box in ranked]
            cells.append(_Cell(image, label, scores, boxes, [box for name, box in wanted if name == label]))
    return cells


def _cell_ious(cells: Sequence[_Cell]) -> list[NDArray[np.float64]]:
    """Return the IoUs `[D, G]` of predictions with references in each cell, all computed in one call."""
    pairs = [(found, wanted) for cell in cells for found in cell.found for wanted in cell.wanted]
    ious = paired_iou(_radians(found for found, _ in pairs), _radians(wanted for _, wanted in pairs)).numpy()
    ends = np.cumsum([len(cell.found) * len(cell.wanted) for cell in cells])
    parts = np.split(ious, ends[:-1]) if cells else []
    return [part.reshape(len(cell.found), len(cell.wanted)) for cell, part in zip(cells, parts, strict=True)]


def _greedy_hits(iou: NDArray[np.float64], thresholds: Sequence[float]) -> NDArray[np.bool_]:
    """Return which predictions `[T, D]` find a reference that is still free, by IoUs `[D, G]`, best score first."""
    found, wanted = iou.shape
    hit = np.zeros((len(thresholds), found), dtype=bool)
    if not wanted:
        return hit
    for level, threshold in enumerate(thresholds):
        free = np.ones(wanted, dtype=bool)
        for row in range(found):
            overlap = np.where(free, iou[row], -1.0)
            best = wanted - 1 - int(overlap[::-1].argmax())  # the last of equals, as pycocotools takes
            # One box on itself must count at a threshold of 1, whatever the last bit.
            if overlap[best] >= min(threshold, 1 - 1e-10):
                hit[level, row], free[best] = True, False
    return hit


def _interpolated(hit: NDArray[np.bool_], wanted: int) -> NDArray[np.float64]:
    """Return the mean precision `[T]` at 101 recalls of ranked predictions `[T, D]` for `wanted` references.

    The precision at a recall is the best one at that recall or beyond, 0 where the recall is never reached.
    """
    true = hit.cumsum(axis=1)
    precision = true / np.arange(1, hit.shape[1] + 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    envelope = np.concatenate((envelope, np.zeros((len(hit), 1))), axis=1)
    at = [np.searchsorted(recall, RECALLS) for recall in true / wanted]
    return np.take_along_axis(envelope, np.stack(at), axis=1).mean(axis=1)
