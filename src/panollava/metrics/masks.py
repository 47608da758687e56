"""Masks on the sphere: overlap by solid angle, and how far the outlines are apart in degrees.

A mask is boolean `[H, W]` over an equirectangular panorama; a row near a pole counts as little as it is.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from panollava.vlm.geometry import erp_rays, erp_solid_angles


def resized(mask: Tensor, height: int, width: int) -> Tensor:
    """Return a mask `[H, W]` at another size, each pixel that of the nearest centre."""
    rows, columns = (
        ((torch.arange(new) + 0.5) * old / new).long() for new, old in zip((height, width), mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]


def mask_iou(first: Tensor, second: Tensor) -> float:
    """Return the intersection over union of two masks `[H, W]` in solid angle; of two empty masks it is 1.

    Raises:
        ValueError: masks of different sizes.
    """
    _check(first, second)
    areas = erp_solid_angles(*first.shape)
    union = float((areas * (first | second)).sum())
    return float((areas * (first & second)).sum()) / union if union else 1.0


def boundary_error_deg(first: Tensor, second: Tensor) -> float | None:
    """Return how far the outlines of two masks `[H, W]` are apart in degrees, on average over both; None without one.

    From each outline's pixels to the nearest pixel of the other one, the mean of both ways (the average symmetric
    surface distance, on the sphere).

    Raises:
        ValueError: masks of different sizes.
    """
    _check(first, second)
    outlines = [_outline(mask) for mask in (first, second)]
    if not all(len(outline) for outline in outlines):
        return None
    one, other = (cKDTree(outline) for outline in outlines)
    chords = (other.query(outlines[0])[0], one.query(outlines[1])[0])
    return float(np.mean([np.degrees(2 * np.arcsin(np.clip(chord / 2, 0, 1))).mean() for chord in chords]))


def _outline(mask: Tensor) -> NDArray[np.float64]:
    """Return the rays of a mask's pixels that touch a pixel outside, across the seam too, `[N, 3]`."""
    above, below = torch.vstack((mask[:1], mask[:-1])), torch.vstack((mask[1:], mask[-1:]))
    inner = above & below & mask.roll(1, 1) & mask.roll(-1, 1)
    height, width = mask.shape
    return erp_rays(height, width, torch.float64)[mask & ~inner].numpy()


def _check(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(f"the masks are {list(first.shape)} and {list(second.shape)}; both must be of one panorama")
