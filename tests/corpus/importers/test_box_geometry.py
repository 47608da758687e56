"""Upright boxes around rotated boxes and around masks."""

import math

import numpy as np
import pytest
import torch

from panollava.corpus.importers.box_geometry import mask_box, upright_box
from panollava.vlm.geometry import erp_rays, rays_in_boxes


def test_the_upright_box_touches_the_corners_of_the_rotated_one() -> None:
    width, height = upright_box(60, 40, 25)
    across, along = (math.tan(math.radians(extent / 2)) for extent in (60, 40))
    angle = math.radians(25)
    corners = [
        (x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle))
        for x in (-across, across)
        for y in (-along, along)
    ]
    assert max(x for x, _ in corners) == pytest.approx(math.tan(math.radians(width / 2)))
    assert max(y for _, y in corners) == pytest.approx(math.tan(math.radians(height / 2)))
    assert upright_box(60, 40, 25) == pytest.approx(upright_box(60, 40, -25))


@pytest.mark.parametrize("box", [[0, 0, 40, 20], [178, 10, 30, 50], [-90, 75, 60, 40], [20, -90, 50, 50]])
def test_the_box_of_a_mask_is_the_box_that_drew_it(box: list[float]) -> None:
    rays = erp_rays(180, 360, torch.float64)
    mask = rays_in_boxes(rays, torch.tensor(box, dtype=torch.float64).deg2rad())
    yaw, pitch, *extents = mask_box(mask.numpy())
    assert pitch == pytest.approx(box[1], abs=1.5)
    if box[1] > -90:  # at a pole every yaw is the same centre, but not the same box
        assert abs((yaw - box[0] + 180) % 360 - 180) < 3
        assert extents == pytest.approx(box[2:], abs=2.5)
    found = torch.tensor([yaw, pitch, *extents], dtype=torch.float64).deg2rad()
    assert rays_in_boxes(rays, found)[mask].double().mean() > 0.999


def test_a_mask_that_no_tangent_plane_holds_has_a_box_of_180_degrees_or_more() -> None:
    band = np.zeros((32, 64), dtype=bool)
    band[14:18] = True
    _, _, width, height = mask_box(band)
    assert width == 359
    assert height == pytest.approx(4 * 180 / 32, abs=0.1)
    one = np.zeros((32, 64), dtype=bool)
    one[16, 32] = True
    assert mask_box(one) == pytest.approx([180 / 64, -180 / 64, 360 / 64, 360 / 64], abs=1e-3)
