"""Average precision of labelled boxes on the sphere, also by their size; boxes in degrees, IoU exact.

The rules are those of COCO (pycocotools). Per image and label, predictions in order of score take the free reference
with the largest overlap. Precision is interpolated at 101 recalls, and the result is the mean over the labels in the
references. There are no crowd regions and no limits on the number of boxes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from panollava.metrics.spherical_iou import paired_iou, valid_boxes
from panollava.vlm.geometry import box_solid_angle

Box = Sequence[float]  # yaw, pitch, width, height in degrees
Prediction = tuple[str, Box, float]  # label, box, score
Reference = tuple[str, Box]  # label, box

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
RECALLS = np.linspace(0, 1, 101)
# Numbers in the largest array of a step over many resamples; affects memory, not results.
AT_ONCE = 1_000_000


def _square(side_deg: float) -> float:
    """Return the area in steradians of a box of equal sides."""
    return 4 * math.asin(math.sin(math.radians(side_deg) / 2) ** 2)


# The size of a box by its solid angle in steradians, [from, below): small below a box of 10 x 10 degrees (0.030 sr),
# large from 30 x 30 degrees (0.268 sr). COCO's bounds of 32 and 96 pixels have no angle, so only their ratio of three
# is kept. A patch of CLIP ViT-B/32 in a view of 90 degrees has 12.9 degrees, so a small object has about one visual
# token; a large one fills a ninth of the view or more.
SIZES = {
    "small": (0.0, _square(10)),
    "medium": (_square(10), _square(30)),
    "large": (_square(30), math.inf),
}
ANY_SIZE = (0.0, math.inf)


@dataclass(frozen=True)
class LabelMatches:
    """The matched predictions of one label, best score first: their image `[D]` and whether they hit `[T, D]`.

    `void` `[T, D]` marks predictions that are neither right nor wrong: they match a reference of another size, or they
    match none and have another size. `wanted` is the number of references of this size in each image.
    """

    image: NDArray[np.int64]
    hit: NDArray[np.bool_]
    void: NDArray[np.bool_]
    wanted: NDArray[np.int64]


@dataclass(frozen=True)
class _Cell:
    """The boxes of one label in one image, predictions best score first."""

    image: int
    label: str
    scores: list[float]
    found: list[Box]
    wanted: list[Box]


@dataclass(frozen=True)
class _Overlaps:
    """The IoUs `[D, G]` of a cell, and the areas in steradians of its predictions `[D]` and references `[G]`."""

    cell: _Cell
    iou: NDArray[np.float64]
    found: NDArray[np.float64]
    wanted: NDArray[np.float64]


def average_precision(
    predictions: Sequence[Sequence[Prediction]],
    references: Sequence[Sequence[Reference]],
    thresholds: Sequence[float] = THRESHOLDS,
) -> dict[str, float]:
    """Return "ap" (the mean over the IoU thresholds), "ap50" and "ap75" of predictions, one list per image.

    "ap_small", "ap_medium" and "ap_large" are "ap" on the references of one of the `SIZES`, absent if there are none.
    As in COCO, a prediction does not count there if it matches a reference of another size, or matches none and has
    another size itself. A label without a reference does not count.

    Raises:
        ValueError: the numbers of images differ, there is no reference, a score is not finite, or a box has no area
            (see `spherical_iou` for boxes of 180 degrees or more).
    """
    overlaps = _overlaps(predictions, references)
    everything = np.arange(len(references))
    precision = precision_of_images(_match(overlaps, len(references), (*thresholds, 0.5, 0.75), ANY_SIZE), everything)
    scores = {"ap": float(precision[:-2].mean()), "ap50": float(precision[-2]), "ap75": float(precision[-1])}
    for name, size in SIZES.items():
        matches = _match(overlaps, len(references), thresholds, size)
        if any(label.wanted.any() for label in matches):
            scores[f"ap_{name}"] = float(precision_of_images(matches, everything).mean())
    return scores


def match_detections(
    predictions: Sequence[Sequence[Prediction]],
    references: Sequence[Sequence[Reference]],
    thresholds: Sequence[float],
    size: tuple[float, float] = ANY_SIZE,
) -> list[LabelMatches]:
    """Match predictions to references at each IoU threshold; one result per label that the references contain.

    `size` bounds the area in steradians, [from, below). Matches do not depend on other images, so a bootstrap over
    images matches once and then calls `resampled_precision`. Raises ValueError as `average_precision` does.
    """
    return _match(_overlaps(predictions, references), len(references), thresholds, size)


def precision_of_images(matches: Sequence[LabelMatches], images: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the average precision `[T]` on the images with these indices; an index may occur more than once.

    It is the mean over the labels with a reference in these images, NaN if there is none.
    """
    per_label = []
    for label in matches:
        copies = np.bincount(images, minlength=len(label.wanted))
        wanted = int((copies * label.wanted).sum())
        if wanted:
            hit, void = (np.repeat(part, copies[label.image], axis=1) for part in (label.hit, label.void))
            per_label.append(_interpolated(hit, void, wanted))
    return np.mean(per_label, axis=0) if per_label else np.full(len(matches[0].hit), np.nan)


def resampled_precision(matches: Sequence[LabelMatches], copies: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the average precision `[R]` at the first threshold of `R` resamples with `copies` `[R, n]` of each image.

    It equals `precision_of_images` of each resample, computed for all at once. Copies of a hit only raise the precision
    and copies of a miss only lower it, so the last copy of each prediction determines the whole curve.
    """
    total, labels = np.zeros(len(copies)), np.zeros(len(copies))
    for label in matches:
        labels += copies @ label.wanted > 0
        parts = 1 + len(copies) * len(label.image) // AT_ONCE
        total += np.concatenate([_resampled_label(label, part) for part in np.array_split(copies, parts)])
    return np.divide(total, labels, out=np.full(len(copies), np.nan), where=labels > 0)


def _resampled_label(label: LabelMatches, copies: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the precision `[R]` of one label, 0 for a resample without its references."""
    wanted, hit = copies @ label.wanted, label.hit[0]
    if not hit.any():
        return np.zeros(len(copies))
    drawn = copies[:, label.image]
    true, total = np.cumsum(drawn[:, hit], axis=1), np.cumsum(drawn, axis=1)[:, hit]
    envelope = np.maximum.accumulate((true / np.maximum(total, 1))[:, ::-1], axis=1)[:, ::-1]
    reached = np.searchsorted(RECALLS, true / np.maximum(wanted, 1)[:, None], side="right")
    return (envelope * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(RECALLS)


def _radians(boxes_deg: Iterable[Box]) -> torch.Tensor:
    return torch.tensor([list(box) for box in boxes_deg], dtype=torch.float64).reshape(-1, 4).deg2rad()


def _check(predictions: Sequence[Sequence[Prediction]], references: Sequence[Sequence[Reference]]) -> None:
    """Raise ValueError for the first image, label and value that cannot be scored."""
    for image, found in enumerate(predictions):
        for label, box, score in found:
            if not np.isfinite(score):
                raise ValueError(f"image {image}: {label!r} at {list(box)} has the score {score}, not a finite number")
    predicted = [(image, label, box) for image, found in enumerate(predictions) for label, box, _ in found]
    expected = [(image, label, box) for image, wanted in enumerate(references) for label, box in wanted]
    for side, items in (("predicted", predicted), ("reference", expected)):
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


def _overlaps(
    predictions: Sequence[Sequence[Prediction]], references: Sequence[Sequence[Reference]]
) -> list[_Overlaps]:
    """Return the overlaps and areas of all cells, computed in one call; raise ValueError for invalid input."""
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} images have predictions but {len(references)} have references")
    if not any(references):
        raise ValueError(f"none of the {len(references)} images has a reference box: average precision is undefined")
    _check(predictions, references)
    cells = _cells(predictions, references)
    pairs = [(found, wanted) for cell in cells for found in cell.found for wanted in cell.wanted]
    ious = paired_iou(_radians(found for found, _ in pairs), _radians(wanted for _, wanted in pairs)).numpy()
    parts = zip(
        cells,
        _split(ious, [len(cell.found) * len(cell.wanted) for cell in cells]),
        _split(_areas(box for cell in cells for box in cell.found), [len(cell.found) for cell in cells]),
        _split(_areas(box for cell in cells for box in cell.wanted), [len(cell.wanted) for cell in cells]),
        strict=True,
    )
    return [_Overlaps(cell, iou.reshape(len(found), len(wanted)), found, wanted) for cell, iou, found, wanted in parts]


def _areas(boxes_deg: Iterable[Box]) -> NDArray[np.float64]:
    return box_solid_angle(_radians(boxes_deg)).numpy()


def _split(values: NDArray[np.float64], counts: Sequence[int]) -> list[NDArray[np.float64]]:
    return np.split(values, np.cumsum(counts)[:-1])


def _inside(areas: NDArray[np.float64], size: tuple[float, float]) -> NDArray[np.bool_]:
    return (areas >= size[0]) & (areas < size[1])


def _match(
    overlaps: Sequence[_Overlaps], images: int, thresholds: Sequence[float], size: tuple[float, float]
) -> list[LabelMatches]:
    """Match the cells of each label; references outside the size bounds are matched too, but do not count."""
    matches = []
    for label in sorted({own.cell.label for own in overlaps if own.cell.wanted}):
        ours = [own for own in overlaps if own.cell.label == label]
        inside = [_inside(own.wanted, size) for own in ours]
        wanted = np.zeros(images, dtype=np.int64)
        wanted[[own.cell.image for own in ours]] = [counting.sum() for counting in inside]
        image = np.repeat([own.cell.image for own in ours], [len(own.cell.found) for own in ours])
        taken = [_greedy(own.iou, counting, thresholds) for own, counting in zip(ours, inside, strict=True)]
        hit, aside = (np.concatenate(parts, axis=1) for parts in zip(*taken, strict=True))
        void = aside | (~hit & ~_inside(np.concatenate([own.found for own in ours]), size))
        order = np.argsort([-score for own in ours for score in own.cell.scores], kind="stable")
        matches.append(LabelMatches(image[order], hit[:, order], void[:, order], wanted))
    return matches


def _greedy(
    iou: NDArray[np.float64], counting: NDArray[np.bool_], thresholds: Sequence[float]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which predictions match a reference that counts, and which match another one, both `[T, D]`.

    `iou` is `[D, G]`, best score first, and `counting` `[G]`. References that count are preferred.
    """
    found, wanted = iou.shape
    hit, aside = np.zeros((2, len(thresholds), found), dtype=bool)
    choices = [(taken, group) for taken, group in ((hit, counting), (aside, ~counting)) if group.any()]
    closest = iou.max(initial=-1.0)
    for level, threshold in enumerate(thresholds):
        # Equal boxes must match at a threshold of 1 despite rounding.
        enough = min(threshold, 1 - 1e-10)
        if closest < enough:
            continue
        free = np.ones(wanted, dtype=bool)
        for row in np.flatnonzero((iou >= enough).any(axis=1)):
            for taken, group in choices:
                overlap = np.where(free & group, iou[row], -1.0)
                best = wanted - 1 - int(overlap[::-1].argmax())  # the last of equals, as in pycocotools
                if overlap[best] >= enough:
                    taken[level, row], free[best] = True, False
                    break
    return hit, aside


def _interpolated(hit: NDArray[np.bool_], void: NDArray[np.bool_], wanted: int) -> NDArray[np.float64]:
    """Return the mean precision `[T]` at 101 recalls of ranked predictions `[T, D]` for `wanted` references.

    The precision at a recall is the highest one at that recall or beyond, 0 if the recall is never reached.
    """
    true = hit.cumsum(axis=1)
    precision = true / (~void).cumsum(axis=1).clip(min=1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    envelope = np.concatenate((envelope, np.zeros((len(hit), 1))), axis=1)
    at = [np.searchsorted(recall, RECALLS) for recall in true / wanted]
    return np.take_along_axis(envelope, np.stack(at), axis=1).mean(axis=1)
