"""The views of a byte panorama through OpenCV: what `views_of_panorama` computes, several times faster on a CPU.

Positions are exact to 1/32 pixel and values to a grey level. OpenCV is optional (`pip install 'panollava[bench]'`) and
never chosen by itself: whoever wants its speed names it, so that no result depends on what is installed.
"""

import importlib
import math
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .geometry import rays_to_pixels
from .views import ERP_WINDOW, POSE_SIZE, blur_of_view, box_factor, view_rays

# Rows whose blur differs by less than this factor are blurred together; the widest blur is this share of a turn.
BAND, WIDEST_BLUR = 1.2, 1 / 16
# A Gaussian is cut off after so many standard deviations.
CUT = 3.0


def load_opencv() -> Any:
    """Return the module cv2.

    Raises:
        ValueError: OpenCV is not installed.
    """
    try:
        return importlib.import_module("cv2")
    except ModuleNotFoundError as error:
        raise ValueError("OpenCV is not installed; pip install 'panollava[bench]' brings it") from error


def opencv_views(panorama: np.ndarray, poses: Tensor, size: int, *, antialias: bool = True) -> np.ndarray:
    """Return the views `[V, size, size, 3]` (bytes) of a panorama `[H, W, 3]` (bytes) at pinhole poses `[V, 6]`.

    Raises:
        ValueError: OpenCV is not installed, an equirectangular window among the poses, or other values than bytes.
    """
    cv2 = load_opencv()
    if panorama.dtype != np.uint8:
        raise ValueError(f"the panorama holds {panorama.dtype}; the OpenCV sampler takes bytes (uint8)")
    if (poses[:, 5] == ERP_WINDOW).any():
        raise ValueError("the OpenCV sampler draws pinhole views alone; sample equirectangular windows with torch")
    height, width = panorama.shape[:2]
    views = np.empty((len(poses), size, size, 3), np.uint8)
    reduced: dict[tuple[int, float], np.ndarray] = {}
    key = tuple(poses.double().flatten().tolist())
    for index, pose in enumerate(poses):
        factor = box_factor(pose, size, height, width) if antialias else 1
        source = panorama
        if factor > 1:
            blur = blur_of_view(pose, size, height // factor)
            if (factor, blur) not in reduced:
                rows = _rows_seen(key, size, height // factor, width // factor)
                reduced[factor, blur] = _band_limited(panorama, factor, blur, rows)
            source = reduced[factor, blur]
        maps = _cached_maps(key[index * POSE_SIZE : (index + 1) * POSE_SIZE], size, height // factor, width // factor)
        cv2.remap(source, *maps, cv2.INTER_LINEAR, dst=views[index], borderMode=cv2.BORDER_WRAP)
    return views


def _pixels(pose: tuple[float, ...], size: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    rays = view_rays(torch.tensor(pose, dtype=torch.float64).view(-1, POSE_SIZE), size, size)
    u, v = rays_to_pixels(rays, height, width)
    return u, v.clamp(0, height - 1)


@lru_cache(maxsize=512)
def _cached_maps(pose: tuple[float, ...], size: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    cv2 = load_opencv()
    u, v = _pixels(pose, size, height, width)
    return cv2.convertMaps(u[0].float().numpy(), v[0].float().numpy(), cv2.CV_16SC2)


@lru_cache(maxsize=64)
def _rows_seen(poses: tuple[float, ...], size: int, height: int, width: int) -> tuple[int, int]:
    """Return the first row and one past the last that the views read; the other rows need not be computed."""
    _, v = _pixels(poses, size, height, width)
    return int(v.min().floor()), min(int(v.max().floor()) + 2, height)


def _band_limited(panorama: np.ndarray, factor: int, blur: float, rows: tuple[int, int]) -> np.ndarray:
    """Return a panorama reduced by `factor` and blurred evenly on the sphere; rows outside `rows` are left unset."""
    cv2 = load_opencv()
    height, width = panorama.shape[0] // factor, panorama.shape[1] // factor
    result = np.empty((height, width, 3), np.uint8)
    reach = math.ceil(CUT * blur)
    top, bottom = max(rows[0] - reach, 0), min(rows[1] + reach, height)
    boxed = cv2.resize(panorama[top * factor : bottom * factor], (width, bottom - top), interpolation=cv2.INTER_AREA)
    for first, last, wide in _bands(*rows, height, blur):
        margin = min(math.ceil(CUT * wide), width // 2)
        above, below = max(first - reach, top), min(last + reach, bottom)
        part = cv2.copyMakeBorder(boxed[above - top : below - top], 0, 0, margin, margin, cv2.BORDER_WRAP)
        across, along = cv2.getGaussianKernel(2 * margin + 1, wide), cv2.getGaussianKernel(2 * reach + 1, blur)
        blurred = cv2.sepFilter2D(part, -1, across, along, borderType=cv2.BORDER_REPLICATE)
        result[first:last] = blurred[first - above : last - above, margin : margin + width]
    return result


def _bands(first: int, last: int, height: int, blur: float) -> list[tuple[int, int, float]]:
    """Return bands of rows (first, last, blur along the row in pixels): the blur grows as the parallels shrink."""
    widest = 2 * height * WIDEST_BLUR
    latitudes = (0.5 - (np.arange(first, last) + 0.5) / height) * math.pi
    wide = np.minimum(blur / np.cos(latitudes), widest)
    steps = np.floor(np.log(wide / blur) / math.log(BAND)).astype(int)
    edges = [0, *(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(steps)]
    return [
        (first + start, first + end, float(np.sqrt(wide[start:end].min() * wide[start:end].max())))
        for start, end in pairwise(edges)
    ]
