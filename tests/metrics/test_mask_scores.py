"""Scores of masks on the sphere against known areas and distances."""

import math

import pytest
import torch
from torch import Tensor

from panollava.metrics import boundary_error_deg, mask_iou
from panollava.vlm.geometry import angular_distance, directions_to_rays, erp_rays

HEIGHT, WIDTH = 256, 512


def cap(yaw_deg: float, pitch_deg: float, radius_deg: float) -> Tensor:
    centre = directions_to_rays(torch.tensor(math.radians(yaw_deg)), torch.tensor(math.radians(pitch_deg)))
    return angular_distance(erp_rays(HEIGHT, WIDTH), centre) < math.radians(radius_deg)


def area(radius_deg: float) -> float:
    return 1 - math.cos(math.radians(radius_deg))


@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (180, 0), (30, 75), (0, 90), (-120, -60)])
def test_scores_of_a_cap_within_a_cap(yaw: float, pitch: float) -> None:
    small, large = cap(yaw, pitch, 20), cap(yaw, pitch, 30)
    assert mask_iou(small, large) == pytest.approx(area(20) / area(30), rel=0.06)  # whole pixels of 0.7 degrees
    assert boundary_error_deg(small, large) == pytest.approx(10, abs=0.75)
    assert mask_iou(small, small) == 1
    assert boundary_error_deg(small, small) == 0


def test_pixels_are_weighted_by_their_solid_angle() -> None:
    top, bottom = torch.zeros(HEIGHT, WIDTH).bool(), torch.zeros(HEIGHT, WIDTH).bool()
    top[: HEIGHT // 4] = True  # a quarter of the rows, but (1 - sin 45) / 2 of the sphere
    bottom[: HEIGHT // 2] = True
    assert mask_iou(top, bottom) == pytest.approx(1 - math.sin(math.pi / 4), rel=1e-9)


def test_disjoint_and_empty_masks() -> None:
    nothing, something = torch.zeros(HEIGHT, WIDTH).bool(), cap(0, 0, 10)
    assert mask_iou(something, cap(90, 0, 10)) == 0
    assert (mask_iou(nothing, something), mask_iou(nothing, nothing)) == (0, 1)
    assert boundary_error_deg(nothing, something) is None
    assert boundary_error_deg(something, cap(-90, 0, 10)) > 60


def test_the_seam_is_not_part_of_an_outline() -> None:
    across, front = cap(180, 0, 20), cap(0, 0, 20)
    moved = [boundary_error_deg(cap(yaw, 0, 20), cap(yaw + 3, 0, 20)) for yaw in (0, 179)]
    assert moved[0] == pytest.approx(moved[1], abs=0.1)
    assert boundary_error_deg(across, front.roll(WIDTH // 2, 1)) == pytest.approx(0, abs=0.4)


def test_masks_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[4, 8\] and \[2, 4\]"):
        mask_iou(torch.zeros(4, 8).bool(), torch.zeros(2, 4).bool())
