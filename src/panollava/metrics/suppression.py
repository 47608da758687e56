"""Non-maximum suppression of labelled boxes on the sphere; boxes in degrees, IoU exact.

Overlaps across the seam and over the poles count as any other, and all overlaps of a label are found at once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from panollava.metrics.spherical_iou import pairwise_iou

PAIRS_AT_ONCE = 1 << 20  # overlaps held at a time


def nms(
    boxes_deg: Sequence[Sequence[float]] | Tensor,
    scores: Sequence[float] | Tensor,
    labels: Sequence[str] | None = None,
    iou_threshold: float = 0.5,
) -> list[int]:
    """Return the indices of the boxes (yaw, pitch, width, height) `[n, 4]` to keep, best score first.

    A box goes when a better one that stays, of the same label where there are labels, overlaps it by more than the
    threshold; of equal scores the earlier box is the better. Raises ValueError for lists of different length, a score
    that is not finite, a threshold outside [0, 1], and a box without an area (see `spherical_iou`).
    """
    boxes = torch.as_tensor(boxes_deg, dtype=torch.float64).reshape(-1, 4).deg2rad()
    points = torch.as_tensor(scores, dtype=torch.float64).reshape(-1)
    names = [""] * len(boxes) if labels is None else labels
    if not len(boxes) == len(points) == len(names):
        raise ValueError(f"{len(boxes)} boxes, {len(points)} scores and {len(names)} labels; give as many of each")
    if len(bad := (~points.isfinite()).nonzero()):
        raise ValueError(f"score {int(bad[0])} is {float(points[bad[0]])}; scores must be finite")
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold is {iou_threshold}; an IoU lies between 0 and 1")
    order = points.argsort(descending=True, stable=True)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    label = torch.tensor([numbers[name] for name in names], dtype=torch.int64)[order]
    keep = torch.ones(len(boxes), dtype=torch.bool)
    for number in range(len(numbers)):
        own = (label == number).nonzero()[:, 0]
        keep[own] = _unbeaten(boxes[order[own]], iou_threshold)
    return order[keep].tolist()


def _unbeaten(boxes: Tensor, iou_threshold: float) -> Tensor:
    """Return which boxes `[n, 4]`, best first, no better box that stays itself overlaps too much.

    All boxes start as staying. A round beats those that overlap a better one that stays by the round before: it is
    right for the first box, hence for the second, and so on; rounds end when nothing changes, mostly after a few.
    """
    winner, loser = _rivals(boxes, iou_threshold)
    stays = torch.ones(len(boxes), dtype=torch.bool)
    while True:
        unbeaten = torch.ones_like(stays)
        unbeaten[loser[stays[winner]]] = False
        if unbeaten.equal(stays):
            return stays
        stays = unbeaten


def _rivals(boxes: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor]:
    """Return the pairs of places (earlier, later) whose boxes `[n, 4]` overlap by more than the threshold."""
    pairs = [torch.empty(0, 2, dtype=torch.int64)]
    rows_at_once = max(1, PAIRS_AT_ONCE // max(1, len(boxes)))
    for first in range(0, len(boxes), rows_at_once):
        overlap = pairwise_iou(boxes[first : first + rows_at_once], boxes[first:]) > iou_threshold
        pairs.append(overlap.triu(diagonal=1).nonzero() + first)
    winner, loser = torch.cat(pairs).unbind(-1)
    return winner, loser
