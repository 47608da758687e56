"""Boxes on a panorama: great-circle outlines as polylines that stop at one edge of the image and go on at the other.

Pixels are positions (u, v) of an equirectangular image of height H and width W, as in `vlm.geometry`.
"""

import math
from collections.abc import Sequence

import matplotlib.patheffects as effects
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from panollava.vlm.geometry import box_corners, great_circle, rays_to_pixels

# A tangent-plane rectangle must be narrower than 180 degrees; wider (predicted) boxes are drawn at this extent.
MAX_EXTENT_DEG = 179.0
_SHADOW = [effects.withStroke(linewidth=3.0, foreground="#000000a0")]


def box_radians(box_deg: Sequence[float]) -> Tensor:
    """Return a BFoV box `[4]` in radians; extents above `MAX_EXTENT_DEG` become that extent."""
    yaw, pitch, width, height = box_deg
    limited = [yaw, pitch, min(width, MAX_EXTENT_DEG), min(height, MAX_EXTENT_DEG)]
    return torch.tensor([math.radians(v) for v in limited], dtype=torch.float64)


def box_outline(box_deg: Sequence[float], points: int = 33) -> Tensor:
    """Return the closed outline of a BFoV box in degrees as unit rays `[4 * (points - 1) + 1, 3]`.

    Each side is a great-circle arc of `points` rays.
    """
    corners = box_corners(box_radians(box_deg))
    sides = great_circle(corners, corners.roll(-1, dims=0), points)
    return torch.cat((sides[:, :-1].reshape(-1, 3), sides[:1, 0]))


def split_at_seam(u: np.ndarray, v: np.ndarray, width: int) -> list[np.ndarray]:
    """Cut the polyline (`u`, `v`) `[n]` where it crosses the seam and return the pieces `[m, 2]`.

    A step of more than half the width is the short way round the back: the piece ends on the edge of the image
    (u = -1/2 or W - 1/2) and the next one starts at the same height on the other edge.
    """
    pieces: list[list[tuple[float, float]]] = [[(float(u[0]), float(v[0]))]]
    for index in range(1, len(u)):
        before, after = float(u[index - 1]), float(u[index])
        if abs(after - before) > width / 2:
            leaving, entering = (width - 0.5, -0.5) if before > after else (-0.5, width - 0.5)
            unwrapped = after + (leaving - entering)
            t = (leaving - before) / (unwrapped - before)
            edge_v = float(v[index - 1]) + t * (float(v[index]) - float(v[index - 1]))
            pieces[-1].append((leaving, edge_v))
            pieces.append([(entering, edge_v)])
        pieces[-1].append((after, float(v[index])))
    return [np.asarray(piece) for piece in pieces]


def box_polylines(box_deg: Sequence[float], height: int, width: int) -> list[np.ndarray]:
    """Return the outline of a BFoV box on an equirectangular image as polylines `[m, 2]` of pixel positions (u, v)."""
    u, v = rays_to_pixels(box_outline(box_deg), height, width)
    return split_at_seam(u.numpy(), v.numpy(), width)


def direction_pixel(yaw_deg: float, pitch_deg: float, height: int, width: int) -> tuple[float, float]:
    """Return the pixel position (u, v) of a direction in degrees; any yaw is wrapped into the image."""
    yaw = (yaw_deg + 180) % 360 - 180
    return (yaw / 360 + 0.5) * width - 0.5, (0.5 - pitch_deg / 180) * height - 0.5


def draw_panorama(axes: Axes, image: np.ndarray) -> None:
    """Show a panorama `[H, W, 3]` with a graticule of yaw and pitch in degrees."""
    height, width = image.shape[:2]
    axes.imshow(image, interpolation="bilinear", aspect="equal")
    yaws, pitches = range(-180, 181, 45), range(-60, 61, 30)
    axes.set_xticks([(yaw / 360 + 0.5) * width - 0.5 for yaw in yaws], [f"{yaw}°" for yaw in yaws])
    axes.set_yticks([(0.5 - pitch / 180) * height - 0.5 for pitch in pitches], [f"{pitch}°" for pitch in pitches])
    axes.tick_params(labelsize=7.5, length=2.5, pad=2)
    axes.set_xlabel("yaw (0°: front, 90°: right)", fontsize=7.5, labelpad=1)
    axes.set_ylabel("pitch (0°: horizon)", fontsize=7.5, labelpad=1)
    axes.grid(color="white", linewidth=0.5, alpha=0.25)
    axes.set_axisbelow(False)
    axes.spines[["top", "right"]].set_visible(True)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)


def draw_box(
    axes: Axes,
    box_deg: Sequence[float],
    image: np.ndarray,
    *,
    colour: str,
    dashed: bool,
    label: str,
    below: bool,
    shift: float = 0,
) -> None:
    """Draw the outline of a BFoV box with its label above or `below` it, `shift` points to the right."""
    height, width = image.shape[:2]
    style = (0, (3, 2)) if dashed else "solid"
    for piece in box_polylines(box_deg, height, width):
        axes.plot(piece[:, 0], piece[:, 1], color=colour, linewidth=1.6, linestyle=style, path_effects=_SHADOW)
    u, _ = direction_pixel(box_deg[0], box_deg[1], height, width)
    _, outline_v = rays_to_pixels(box_outline(box_deg), height, width)
    v = float(outline_v.max() if below else outline_v.min())
    # Keep labels inside the image, where a box touches a pole or its centre the seam.
    u = min(max(u, 0.065 * width), 0.935 * width)
    v = min(max(v, 0.055 * height), 0.945 * height)
    _draw_label(
        axes, label, (u, v), colour, offset=(shift, -4) if below else (shift, 4), va="top" if below else "bottom"
    )


def draw_direction(
    axes: Axes, direction_deg: tuple[float, float], image: np.ndarray, *, colour: str, marker: str, label: str
) -> None:
    """Mark a direction (yaw, pitch) in degrees with a labelled sign."""
    u, v = direction_pixel(*direction_deg, *image.shape[:2])
    axes.plot(u, v, marker, color=colour, markersize=8, markeredgewidth=2, path_effects=_SHADOW, clip_on=False)
    _draw_label(axes, label, (u, v), colour, offset=(9, 4), va="bottom")


def _draw_label(
    axes: Axes, text: str, place: tuple[float, float], colour: str, *, offset: tuple[float, float], va: str
) -> None:
    """Write dark text on a plate of the outline's colour, `offset` points away from the pixel `place`."""
    plate = {"boxstyle": "square,pad=0.1", "facecolor": colour, "edgecolor": "none", "alpha": 0.85}
    axes.annotate(
        text, place, xytext=offset, textcoords="offset points", fontsize=7.5, color="#101418", ha="center", va=va,
        bbox=plate,
    )  # fmt: skip
