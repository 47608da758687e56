"""The figure of the published `strip` pairing of overlapping views: its partners, and how far they are off.

All places and pairs are those that the overlap loss takes (`training.overlap`), for the views of the run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from panollava.report.style import GRID, INK, MODEL, MUTED, styled
from panollava.training.overlap import neighbours, read_at
from panollava.vlm.geometry import angular_distance
from panollava.vlm.views import ViewSettings, correspondences, token_solid_angles, view_poses, view_rays

# Strategies with rows of views around the horizon, which the strip pairing takes for granted.
RINGS = ("sliding_window", "e2p", "anyres", "anyres_e2p")
STRIDES_DEG = (10, 12, 15, 18, 20, 24, 30, 36, 40, 45, 60, 72, 90, 120)
REACH = 1.35  # of the drawn plane, in half views


@dataclass(frozen=True)
class StripPairs:
    """The strip's pairs of one view and the next: true places and strip's `[M, 2]`, and the angle between, `[M]`.

    Places are those of the next view, x and y in [-1, 1]; a true place may lie outside.
    """

    true: Tensor
    strip: Tensor
    error_deg: Tensor


def strip_pairs(poses: Tensor, size: int) -> StripPairs:
    """Return the strip's pairs of the first views of a ring at `poses` `[V, 6]`, of `size` x `size` tokens."""
    overlap = neighbours(poses, size, "strip")[0]
    source, target = poses[overlap.source], poses[overlap.target]
    true = correspondences(source, target, size)[0].flatten(0, 1)[overlap.tokens]
    rays = view_rays(source, size, size).flatten(0, 1)[overlap.tokens]
    # The strip's places are centres of tokens, where reading a map returns the token itself.
    partners = read_at(view_rays(poses, size, size)[None, overlap.target], overlap.positions)[0]
    return StripPairs(true, overlap.positions, angular_distance(rays, partners).rad2deg())


@styled
def pairing_figure(views: ViewSettings, tokens_per_side: int) -> Figure | None:
    """Draw the partners that strip takes in the next view, and their error by stride.

    None without a ring of views, or where a view is a single token and has no halves.
    """
    if views.strategy not in RINGS or 0 not in views.pitches_deg or tokens_per_side < 2:
        return None
    ring = _ring(views)
    pairs = strip_pairs(ring, tokens_per_side)
    token_deg = float(token_solid_angles(ring, tokens_per_side, tokens_per_side)[-1].sqrt().rad2deg().mean())
    figure = Figure(figsize=(13, 6.2), layout="constrained")
    figure.suptitle(
        "Overlapping views: the token that the published “strip” pairing takes, and the exact place", x=0.01, ha="left"
    )
    plane, curve = figure.subplots(1, 2)
    colours = ScalarMappable(Normalize(0, max(float(pairs.error_deg.max()), 1.0)), "YlOrRd")
    _draw_plane(plane, pairs, tokens_per_side, colours)
    median, worst = float(np.median(pairs.error_deg)), float(pairs.error_deg.max())
    plane.set_title(
        f"Tokens of one view, drawn in the next view {views.stride_deg:g}° further right\n"
        f"Error of strip: median {median:.1f}°, largest {worst:.1f}°"
    )
    figure.colorbar(colours, ax=plane, label="error of the strip pairing, degrees", shrink=0.75)
    _draw_curve(curve, views, tokens_per_side, token_deg)
    return figure


def _ring(views: ViewSettings) -> Tensor:
    """Return the poses `[V, 6]` of one row of views on the horizon."""
    return view_poses(replace(views, pitches_deg=(0.0,)))


def _draw_plane(axes: Axes, pairs: StripPairs, size: int, colours: ScalarMappable) -> None:
    """Draw the target view's token grid and an arrow for each pair, from the true place to the strip's."""
    for edge in np.linspace(-1, 1, size + 1):
        axes.plot([edge, edge], [-1, 1], [-1, 1], [edge, edge], color=GRID, linewidth=0.8, zorder=1)
    axes.add_patch(Rectangle((-1, -1), 2, 2, fill=False, edgecolor=INK, linewidth=1.4, zorder=2))
    true, strip = pairs.true.numpy(), pairs.strip.numpy()
    colour = colours.to_rgba(pairs.error_deg.numpy())
    far = np.abs(true).max(1) > REACH
    step = strip - true
    axes.quiver(
        *true[~far].T, *step[~far].T, color=colour[~far], angles="xy", scale_units="xy", scale=1, width=0.004, zorder=4
    )
    axes.plot(
        *true[~far].T,
        "o",
        color=INK,
        markersize=4,
        zorder=5,
        label="exact place of a token of this view",
    )
    axes.plot(
        *strip.T, "s", color="none", markeredgecolor=MODEL, markersize=6, zorder=3, label="place that strip takes"
    )
    if far.any():
        axes.text(0, -REACH + 0.05, f"{far.sum()} exact places lie further out", ha="center", color=MUTED)
    axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, -0.06), ncols=2, fontsize=8.5)


def _draw_curve(axes: Axes, views: ViewSettings, tokens_per_side: int, token_deg: float) -> None:
    """Draw the median and the largest error of strip by the stride of the ring."""
    strides, medians, largest = strip_errors(views, tokens_per_side)
    axes.plot(strides, largest, "o-", color=MUTED, markersize=4, linewidth=1.4, label="largest error")
    axes.plot(strides, medians, "o-", color=MODEL, linewidth=2, label="median error")
    axes.axhline(token_deg, color=MUTED, linestyle=":", label=f"mean width of a token: {token_deg:.1f}°")
    axes.axvline(views.stride_deg, color=INK, linestyle="--", linewidth=1.2, label="stride of this run")
    axes.set(
        xlabel="stride between neighbouring views, degrees",
        ylabel="error of the strip pairing, degrees",
        ylim=(0, None),
    )
    axes.set_title(f"Error by stride, for views {views.fov_deg:g}° wide")
    axes.grid(axis="y")
    axes.legend(fontsize=8.5)


def strip_errors(views: ViewSettings, tokens_per_side: int) -> tuple[Sequence[float], list[float], list[float]]:
    """Return the strides at which neighbouring views overlap, and the strip's median and largest error in degrees."""
    strides = sorted({stride for stride in (*STRIDES_DEG, views.stride_deg) if stride < views.fov_deg})
    rings = [_ring(replace(views, stride_deg=stride)) for stride in strides]
    errors = [strip_pairs(ring, tokens_per_side).error_deg for ring in rings]
    return strides, [float(np.median(e)) for e in errors], [float(e.max()) for e in errors]
