"""Scores of masks on the sphere: overlap by solid angle, and distance of the outlines in degrees.

A mask is boolean `[H, W]` over an equirectangular panorama; each pixel is weighted by its solid angle.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from panollava.vlm.geometry import erp_rays, erp_solid_angles


def resized(mask: Tensor, height: int, width: int) -> Tensor:
    """Return a mask `[H, W]` resized by nearest neighbour."""
    rows, columns = (
        ((torch.arange(new) + 0.5) * old / new).long() for new, old in zip((height, width), mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]


def mask_iou(first: Tensor, second: Tensor) -> float:
    """Return the intersection over union of two masks `[H, W]` in solid angle; 1 for two empty masks.

    Raises:
        ValueError: the masks have different sizes.
    """
    _check(first, second)
    areas = erp_solid_angles(*first.shape)
    union = float((areas * (first | second)).sum())
    return float((areas * (first & second)).sum()) / union if union else 1.0


def boundary_error_deg(first: Tensor, second: Tensor) -> float | None:
    """Return the mean distance of the outlines of two masks `[H, W]` in degrees; None if a mask is empty.

    The distance is that of each outline pixel to the nearest pixel of the other outline, averaged over each outline and
    then over both (the average symmetric surface distance, on the sphere).

    Raises:
        ValueError: the masks have different sizes.
    """
    _check(first, second)
    outlines = [_outline(mask) for mask in (first, second)]
    if not all(len(outline) for outline in outlines):
        return None
    first_tree, second_tree = (cKDTree(outline) for outline in outlines)
    chords = (second_tree.query(outlines[0])[0], first_tree.query(outlines[1])[0])
    return float(np.mean([np.degrees(2 * np.arcsin(np.clip(chord / 2, 0, 1))).mean() for chord in chords]))


def _outline(mask: Tensor) -> NDArray[np.float64]:
    """Return the rays `[n, 3]` of a mask's pixels with a neighbour outside the mask; columns wrap at the seam."""
    above, below = torch.vstack((mask[:1], mask[:-1])), torch.vstack((mask[1:], mask[-1:]))
    inner = above & below & mask.roll(1, 1) & mask.roll(-1, 1)
    height, width = mask.shape
    return erp_rays(height, width, torch.float64)[mask & ~inner].numpy()


def _check(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(f"the masks are {list(first.shape)} and {list(second.shape)}; both must be of one panorama")
