"""Spherical IoU against integration by random rays, against closed forms, and in cases that are hard for clipping."""

import math

import pytest
import torch
from torch import Tensor

from panollava.metrics.spherical_iou import paired_iou, pairwise_iou, valid_boxes
from panollava.vlm.geometry import (
    box_corners,
    box_solid_angle,
    directions_to_rays,
    rays_in_boxes,
    rays_to_directions,
    rotation,
    wrap_angle,
)

RAYS = 400_000


def boxes_deg(*boxes: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(boxes, dtype=torch.float64).deg2rad()


def random_boxes(count: int, low_deg: float, high_deg: float, seed: int = 0) -> Tensor:
    """Return boxes with centres uniform on the sphere and extents between the bounds."""
    random = torch.rand(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    low, high = math.radians(low_deg), math.radians(high_deg)
    centre = ((random[:, 0] - 0.5) * 2 * math.pi, torch.asin(2 * random[:, 1] - 1))
    return torch.stack((*centre, *(low + (high - low) * random[:, 2:]).unbind(-1)), dim=-1)


def neighbours(boxes: Tensor, step_deg: float, seed: int = 1) -> Tensor:
    """Return boxes of other extents whose centres lie about a step away along great circles, over the poles too."""
    others = random_boxes(len(boxes), 1, 1, seed)
    wide = boxes.clone()
    wide[:, 2:] = math.radians(2 * step_deg)
    corner = box_corners(wide)[torch.arange(len(boxes)), (others[:, 0] > 0).long() + 2 * (others[:, 1] > 0).long()]
    yaw, pitch = rays_to_directions(corner)
    return torch.stack((yaw, pitch, *boxes[:, 2:].flip(0).unbind(-1)), dim=-1)


@pytest.mark.parametrize(
    ("extents", "step"), [((10, 70), 8), ((60, 120), 30), ((120, 179), 40)], ids=["usual", "wide", "nearly half"]
)
def test_agrees_with_integration_by_random_rays(extents: tuple[float, float], step: float) -> None:
    rays = torch.randn(RAYS, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    rays = torch.nn.functional.normalize(rays, dim=-1)
    a = random_boxes(8, *extents)
    b = neighbours(a, step)
    exact = paired_iou(a, b)
    assert (exact > 0.02).all()
    for one, other, iou in zip(a, b, exact, strict=True):
        in_a, in_b = rays_in_boxes(rays, one), rays_in_boxes(rays, other)
        union = (in_a | in_b).sum()
        error = (iou * (1 - iou) / union).sqrt()
        assert abs((in_a & in_b).sum() / union - iou) < 4 * error + 1e-6


CASES = {
    "identical": ((20, 30, 40, 25), (20, 30, 40, 25)),
    "nested": ((20, -30, 60, 50), (22, -33, 20, 10)),
    "nested, rotated over the pole": ((0, 90, 60, 60), (70, 80, 15, 25)),
    "both contain the zenith": ((10, 82, 40, 30), (120, 84, 30, 50)),
    "both contain the nadir": ((10, -80, 50, 40), (-170, -85, 45, 35)),
    "over the zenith": ((0, 80, 20, 40), (180, 80, 25, 40)),
    "across the seam": ((175, 10, 40, 30), (-170, 5, 30, 40)),
    "across the seam, high": ((178, 70, 40, 30), (-150, 68, 50, 30)),
    "a sliver through a box": ((0, 40, 60, 0.5), (5, 40, 10, 10)),
    "two slivers that cross": ((0, 0, 60, 0.8), (0, 0, 0.8, 60)),
    "far apart": ((0, 0, 30, 30), (180, 0, 30, 30)),
    "corners touch": ((0, 0, 20, 20), (18, 18, 20, 20)),
    "nearly half the sphere and a small one at its rim": ((0, 0, 179.9, 120), (85, 10, 20, 20)),
    "nearly half spheres": ((0, 0, 179, 179), (60, 20, 179, 179)),
}


@pytest.mark.parametrize("name", CASES)
def test_named_cases_agree_with_random_rays(name: str) -> None:
    a, b = boxes_deg(*CASES[name])
    exact = float(paired_iou(a, b))
    # Rays are uniform on each box's own cap, so that a small box gets as many as a large one. The overlap is measured
    # inside each of the two.
    for one, other in ((a, b), (b, a)):
        inside = rays_in_cap(one)
        inside = inside[rays_in_boxes(inside, one)]
        share = float(rays_in_boxes(inside, other).double().mean())
        assert len(inside) > 2000
        sizes = box_solid_angle(one), box_solid_angle(other)
        shared = exact / (1 + exact) * float(sizes[0] + sizes[1])
        expected = shared / float(sizes[0])
        error = math.sqrt(max(expected * (1 - expected), 1e-12) / len(inside))
        assert abs(share - expected) < 4 * error + 1e-6
        # The closed form of the area, by the share of the cap that the box fills.
        cap = 2 * math.pi * (1 - float(cap_cosine(one)))
        filled = len(inside) / RAYS
        area_error = cap * math.sqrt(filled * (1 - filled) / RAYS)
        assert abs(cap * filled - float(sizes[0])) < 4 * area_error


def cap_cosine(box: Tensor) -> Tensor:
    """Return the cosine of the angle between the centre of a box and its corners."""
    return (box_corners(box) * directions_to_rays(box[0], box[1])).sum(dim=-1).min()


def rays_in_cap(box: Tensor) -> Tensor:
    """Return rays uniform on the cap around a box."""
    random = torch.rand(RAYS, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    z = 1 - random[:, 0] * (1 - cap_cosine(box))
    across, around = (1 - z.square()).sqrt(), random[:, 1] * 2 * math.pi
    rays = torch.stack((across * around.cos(), across * around.sin(), z), dim=-1)
    return rays @ rotation(box[0], box[1], torch.zeros_like(box[0])).T


@pytest.mark.parametrize("extents", [(0.1, 1), (5, 60), (90, 179.99)])
def test_identical_boxes_have_iou_one(extents: tuple[float, float]) -> None:
    a = random_boxes(2000, *extents)
    assert (paired_iou(a, a) - 1).abs().max() < 1e-9


def test_almost_coincident_sides_change_the_iou_by_no_more_than_their_distance() -> None:
    a = random_boxes(2000, 5, 170)
    noise = torch.randn(a.shape, dtype=a.dtype, generator=torch.Generator().manual_seed(3))
    for exponent in range(9, 18):
        distance = 10.0**-exponent
        assert (paired_iou(a, a + distance * noise) - 1).abs().max() < 300 * distance + 1e-9, f"distance {distance}"


@pytest.mark.parametrize("narrowed", [(0.5, 1.0), (1.0, 0.3), (0.6, 0.7)], ids=["width", "height", "both"])
def test_nested_boxes_have_the_ratio_of_their_areas(narrowed: tuple[float, float]) -> None:
    outer = random_boxes(2000, 5, 179)
    inner = outer.clone()
    inner[:, 2:] *= torch.tensor(narrowed, dtype=torch.float64)
    torch.testing.assert_close(paired_iou(inner, outer), box_solid_angle(inner) / box_solid_angle(outer))


def test_swapping_yaw_and_mirroring_keep_the_iou() -> None:
    a = random_boxes(2000, 5, 150)
    b = neighbours(a, 20)
    iou = paired_iou(a, b)
    assert ((iou > 0) & (iou < 1)).float().mean() > 0.9
    torch.testing.assert_close(paired_iou(b, a), iou, rtol=0, atol=1e-14)
    yaw = torch.tensor([1.234, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(paired_iou(a + yaw, b + yaw), iou, rtol=0, atol=1e-12)
    mirror = torch.tensor([1, -1, 1, 1], dtype=torch.float64)
    torch.testing.assert_close(paired_iou(a * mirror, b * mirror), iou, rtol=0, atol=1e-12)


def test_the_iou_is_the_same_across_the_seam() -> None:
    a, b = boxes_deg((178, 10, 40, 30)), boxes_deg((-178, 10, 40, 30))
    inland_a, inland_b = boxes_deg((-2, 10, 40, 30)), boxes_deg((2, 10, 40, 30))
    torch.testing.assert_close(paired_iou(a, b), paired_iou(inland_a, inland_b))
    assert paired_iou(a, a + torch.tensor([2 * math.pi, 0, 0, 0])).item() == pytest.approx(1)
    # The value of an independent computation of these two boxes on the equator.
    assert paired_iou(*boxes_deg((178, 0, 40, 30), (-178, 0, 40, 30))).item() == pytest.approx(0.815, abs=5e-4)


def test_boxes_at_the_pole_rotate_with_their_yaw() -> None:
    # At the zenith, yaw rotates the box about its own centre; a square rotated by 90 degrees is itself.
    up, quarter, eighth = boxes_deg((0, 90, 5, 5), (90, 90, 5, 5), (45, 90, 5, 5))
    assert paired_iou(up, quarter).item() == pytest.approx(1, abs=1e-9)
    # A square and itself rotated by 45 degrees, on the plane: an octagon, IoU sqrt(2) / 2; a small one is flat.
    assert paired_iou(up, eighth).item() == pytest.approx(math.sqrt(0.5), abs=1e-3)
    across = boxes_deg((0, 85, 20, 20), (180, 85, 20, 20))
    level = boxes_deg((0, -5, 20, 20), (0, 5, 20, 20))
    torch.testing.assert_close(paired_iou(*across), paired_iou(*level))


def test_touching_disjoint_and_opposite_boxes_share_nothing() -> None:
    here = boxes_deg((10, 0, 20, 20)).expand(4, 4)
    there = boxes_deg((30, 0, 20, 20), (10, 20, 20, 20), (100, 0, 20, 20), (-170, 0, 170, 170))
    assert paired_iou(here, there).abs().max() < 1e-12
    assert pairwise_iou(here, there).abs().max() < 1e-12


def test_two_wide_boxes_share_a_lune() -> None:
    # Nearly half spheres, rotated by 90 degrees: a quarter of the sphere is shared, three quarters are covered.
    a, b = boxes_deg((0, 0, 179.999, 179.999), (90, 0, 179.999, 179.999))
    assert paired_iou(a, b).item() == pytest.approx(1 / 3, abs=1e-4)


def test_boxes_without_area_have_iou_zero() -> None:
    flat, point, box = boxes_deg((5, 5, 10, 0), (5, 5, 0, 0), (5, 5, 10, 10))
    for degenerate in (flat, point):
        assert paired_iou(degenerate, box) == 0
        assert paired_iou(degenerate, degenerate) == 0


def test_small_boxes_agree_with_planar_iou() -> None:
    # On the equator, one degree: the sphere is flat to about the square of the extent.
    a = random_boxes(500, 0.5, 1)
    a[:, :2] *= math.radians(0.3)
    b = a.roll(1, 0)
    overlap = (torch.minimum(a[:, :2] + a[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2)).sub(
        torch.maximum(a[:, :2] - a[:, 2:] / 2, b[:, :2] - b[:, 2:] / 2)
    )
    shared = overlap.clamp_min(0).prod(dim=-1)
    planar = shared / (a[:, 2:].prod(dim=-1) + b[:, 2:].prod(dim=-1) - shared)
    assert (planar > 0.05).float().mean() > 0.2
    assert (paired_iou(a, b) - planar).abs().max() < 2e-3


def test_every_pair_equals_its_own_call(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = random_boxes(40, 5, 120), random_boxes(30, 5, 120, seed=5)
    paired = paired_iou(a[:, None], b)
    assert paired.shape == (40, 30)
    assert 0 < (paired > 0).float().mean() < 1
    torch.testing.assert_close(pairwise_iou(a, b), paired, rtol=0, atol=1e-14)
    monkeypatch.setattr("panollava.metrics.spherical_iou.PAIRS_AT_ONCE", 7)
    monkeypatch.setattr("panollava.metrics.spherical_iou.CENTRES_AT_ONCE", 100)
    torch.testing.assert_close(pairwise_iou(a, b), paired, rtol=0, atol=1e-14)
    torch.testing.assert_close(paired_iou(a[:, None], b), paired, rtol=0, atol=1e-14)


def test_results_are_float64_and_may_be_empty() -> None:
    a = random_boxes(3, 10, 20).float()
    assert paired_iou(a, a).dtype == torch.float64
    assert paired_iou(a[0], a[0]).shape == ()
    assert paired_iou(a[:0], a[:0]).shape == (0,)
    assert pairwise_iou(a, a[:0]).shape == (3, 0)
    assert pairwise_iou(a[:0], a).shape == (0, 3)


def test_extents_of_180_degrees_or_more_are_refused() -> None:
    assert valid_boxes(torch.tensor([0, 0, math.nextafter(math.pi, 0), 1], dtype=torch.float64))
    widest = boxes_deg((20, 10, 179.9999, 60), (20, 10, 60, 179.9999), (20, 10, 179.9999, 179.9999))
    assert (paired_iou(widest, widest) - 1).abs().max() < 1e-9
    for extent in (180.0, 200.0, 359.9, 360.0, 720.0):
        for bad in ((0, 0, extent, 10), (0, 0, 10, extent)):
            assert not valid_boxes(boxes_deg(bad)).any()
            with pytest.raises(ValueError, match=rf"{extent}.* degrees .* below 180"):
                paired_iou(boxes_deg(bad), boxes_deg((0, 0, 10, 10)))


@pytest.mark.parametrize(
    "bad",
    [(0, 0, -1, 10), (0, 0, 10, -1e-9)]
    + [tuple(value if index == 2 else 5.0 for index in range(4)) for value in (math.nan, math.inf, -math.inf)]
    + [tuple(math.nan if index == bad else 5.0 for index in range(4)) for bad in range(4)],
)
def test_a_box_without_an_area_on_the_sphere_is_refused(bad: tuple[float, float, float, float]) -> None:
    good, boxes = boxes_deg((0, 0, 10, 10)), boxes_deg((0, 0, 10, 10), bad)
    assert valid_boxes(boxes).tolist() == [True, False]
    with pytest.raises(ValueError, match=r"box \[1\] of b is \[.*below 180"):
        pairwise_iou(good, boxes)
    with pytest.raises(ValueError, match=r"box \[1\] of a "):
        paired_iou(boxes, good)


def test_boxes_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a has shape \[2, 3\]"):
        paired_iou(torch.zeros(2, 3), torch.zeros(2, 4))


def test_centres_wrap() -> None:
    a = random_boxes(200, 5, 60)
    b = neighbours(a, 10)
    b_wrapped = torch.cat((wrap_angle(b[:, :1] + 4 * math.pi), b[:, 1:]), dim=-1)
    torch.testing.assert_close(paired_iou(a, b_wrapped), paired_iou(a, b), rtol=0, atol=1e-12)
