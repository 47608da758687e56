"""Non-maximum suppression of labelled boxes on the sphere; boxes in degrees, IoU exact.

Overlaps across the seam and over the poles count like any other. All overlaps of a label are computed at once.
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

    A box is removed if a better box that is kept, of the same label if there are labels, overlaps it by more than the
    threshold. Of equal scores, the earlier box is better.

    Raises:
        ValueError: the lists differ in length, a score is not finite, the threshold is outside [0, 1], or a box has no
            area (see `spherical_iou`).
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
        keep[own] = _kept(boxes[order[own]], iou_threshold)
    return order[keep].tolist()


def _kept(boxes: Tensor, iou_threshold: float) -> Tensor:
    """Return which boxes `[n, 4]`, best first, are kept: no better box that is kept overlaps them too much.

    All boxes start as kept. Each round removes the boxes that overlap a better one kept in the round before. The result
    is right for the first box, hence for the second, and so on. Rounds end when nothing changes, usually after a few.
    """
    better, worse = _overlapping_pairs(boxes, iou_threshold)
    kept = torch.ones(len(boxes), dtype=torch.bool)
    while True:
        still_kept = torch.ones_like(kept)
        still_kept[worse[kept[better]]] = False
        if still_kept.equal(kept):
            return kept
        kept = still_kept


def _overlapping_pairs(boxes: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor]:
    """Return the pairs of indices (earlier, later) whose boxes `[n, 4]` overlap by more than the threshold."""
    pairs = [torch.empty(0, 2, dtype=torch.int64)]
    rows_at_once = max(1, PAIRS_AT_ONCE // max(1, len(boxes)))
    for first in range(0, len(boxes), rows_at_once):
        overlap = pairwise_iou(boxes[first : first + rows_at_once], boxes[first:]) > iou_threshold
        pairs.append(overlap.triu(diagonal=1).nonzero() + first)
    better, worse = torch.cat(pairs).unbind(-1)
    return better, worse
