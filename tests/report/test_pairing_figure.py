"""The figure of the strip pairing: its errors are those of geometry, and it is drawn for rings of views alone."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_configs import poses_of

from panollava.report.pairing_figure import pairing_figure, strip_errors, strip_pairs
from panollava.report.style import png_bytes
from panollava.vlm.views import ViewSettings

RING = ViewSettings("anyres_e2p", fov_deg=90.0, stride_deg=45.0)


def plane_ray(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the unit rays of places of a pinhole view of 90 degrees, in its own frame."""
    rays = torch.stack((x, y, torch.ones_like(x)), dim=-1)
    return rays / rays.norm(dim=-1, keepdim=True)


def test_true_places_follow_the_homography_of_the_two_views() -> None:
    pairs = strip_pairs(poses_of("anyres_e2p"), 16)
    centre = (torch.arange(16) + 0.5) / 8 - 1
    y, x = (side.flatten() for side in torch.meshgrid(-centre, centre[8:], indexing="ij"))
    # At 90 degrees, 45 degrees on: x' = (x - 1) / (x + 1), y' = sqrt(2) y / (x + 1).
    assert torch.allclose(pairs.true, torch.stack(((x - 1) / (x + 1), math.sqrt(2) * y / (x + 1)), -1), atol=1e-5)
    assert torch.allclose(pairs.strip, torch.stack((x - 1, y), -1), atol=1e-6)
    dots = (plane_ray(*pairs.true.T) * plane_ray(*pairs.strip.T)).sum(-1)
    assert torch.allclose(pairs.error_deg, dots.clamp(-1, 1).acos().rad2deg(), atol=1e-2)
    assert float(pairs.error_deg.mean()) == pytest.approx(6.65, abs=0.01)
    assert float(pairs.error_deg.max()) == pytest.approx(8.83, abs=0.01)


def test_the_curve_is_lowest_where_half_a_view_is_what_two_views_share() -> None:
    strides, medians, largest = strip_errors(RING, 16)
    assert max(strides) < 90
    assert strides[int(np.argmin(medians))] == 45
    assert medians[strides.index(45)] == pytest.approx(float(np.median(strip_pairs(poses_of("e2p"), 16).error_deg)))
    assert all(median <= most for median, most in zip(medians, largest, strict=True))
    # Columns of windows are degrees of yaw: there the strip is exact, at this stride and at no other.
    strides, medians, largest = strip_errors(replace(RING, strategy="sliding_window"), 16)
    assert largest[strides.index(45)] < 0.1
    assert min(median for stride, median in zip(strides, medians, strict=True) if stride != 45) > 1


def test_a_stride_of_ones_own_is_on_the_curve() -> None:
    assert 22.5 in strip_errors(replace(RING, stride_deg=22.5), 16)[0]


@pytest.mark.parametrize("size", [4, 16])
def test_every_pair_is_drawn_with_its_numbers(size: int) -> None:
    figure = pairing_figure(RING, size)
    assert figure is not None
    plane, curve = figure.axes[:2]
    errors = strip_pairs(poses_of("e2p"), size).error_deg.numpy()
    assert f"Error of strip: median {np.median(errors):.1f}°, largest {errors.max():.1f}°" in plane.get_title(
        loc="left"
    )
    arrows = plane.collections[0]
    assert len(arrows.U) == size * size // 2
    assert curve.get_title(loc="left") == "Error by stride, for views 90° wide"
    assert png_bytes(figure) == png_bytes(pairing_figure(RING, size))


def test_places_far_outside_the_view_are_counted() -> None:
    figure = pairing_figure(replace(RING, stride_deg=72.0), 16)
    assert figure is not None
    drawn = len(figure.axes[0].collections[0].U)
    (text,) = [text.get_text() for text in figure.axes[0].texts]
    assert drawn < 128
    assert text == f"{128 - drawn} exact places lie further out"


@pytest.mark.parametrize("changes", [{"strategy": "cubemap"}, {"strategy": "resize"}, {"pitches_deg": (-30.0, 30.0)}])
def test_views_without_a_ring_have_no_figure(changes: dict[str, Any]) -> None:
    assert pairing_figure(replace(RING, **changes), 16) is None
