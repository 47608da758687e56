"""Directions, pixels, rotations, great circles, boxes: each against a second way to compute the same."""

import math

import pytest
import torch
from torch import Tensor

from panollava.vlm.geometry import (
    angular_distance,
    box_corners,
    box_solid_angle,
    directions_to_rays,
    erp_rays,
    erp_solid_angles,
    great_circle,
    pixels_to_rays,
    rays_in_boxes,
    rays_to_directions,
    rays_to_pixels,
    rotation,
    wrap_angle,
)


def random_rays(count: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 3, dtype=torch.float64), dim=-1)


def radians(*degrees: float) -> Tensor:
    return torch.tensor(degrees, dtype=torch.float64).deg2rad()


def test_frame_is_right_up_forward() -> None:
    yaw, pitch = radians(0, 90, 0, -90), radians(0, 0, 90, 0)
    expected = torch.tensor([[0, 0, 1], [1, 0, 0], [0, 1, 0], [-1, 0, 0]], dtype=torch.float64)
    assert torch.allclose(directions_to_rays(yaw, pitch), expected, atol=1e-12)


def test_directions_to_rays_and_back() -> None:
    rays = random_rays(500)
    yaw, pitch = rays_to_directions(3 * rays)  # the length does not matter
    assert torch.allclose(directions_to_rays(yaw, pitch), rays, atol=1e-12)
    assert (yaw >= -math.pi).all()
    assert (yaw < math.pi).all()


def test_wrap_angle_maps_both_ends_to_minus_pi() -> None:
    angles = torch.tensor([-math.pi, math.pi, 3 * math.pi, 0.0, 2 * math.pi], dtype=torch.float64)
    expected = torch.tensor([-math.pi, -math.pi, -math.pi, 0.0, 0.0], dtype=torch.float64)
    assert torch.allclose(wrap_angle(angles), expected)


def test_pixels_to_rays_and_back_with_the_convention_of_centres() -> None:
    u, v = torch.rand(200, dtype=torch.float64) * 63, torch.rand(200, dtype=torch.float64) * 31
    back = rays_to_pixels(pixels_to_rays(u, v, 32, 64), 32, 64)
    assert torch.allclose(torch.stack(back), torch.stack((u, v)), atol=1e-9)
    # The centre of the image lies between two pixels; the first column looks almost backwards, from the right.
    forward = rays_to_pixels(torch.tensor([0.0, 0.0, 1.0]), 32, 64)
    assert torch.allclose(torch.stack(forward), torch.tensor([31.5, 15.5]))
    assert erp_rays(32, 64)[16, 0, 0] < 0


def test_solid_angles_of_pixels_add_up_to_the_sphere() -> None:
    angles = erp_solid_angles(24, 48)
    assert angles.sum().item() == pytest.approx(4 * math.pi, rel=1e-12)
    # The upper eighth of the sky by latitude: a cap of area 2 pi (1 - sin latitude).
    assert angles[:3].sum().item() == pytest.approx(2 * math.pi * (1 - math.sin(math.radians(67.5))), rel=1e-12)


def test_rotation_is_proper_and_looks_along_its_direction() -> None:
    yaw, pitch, roll = (torch.rand(3, 50, dtype=torch.float64) - 0.5) * math.pi
    matrix = rotation(yaw, pitch, roll)
    assert torch.allclose(matrix @ matrix.mT, torch.eye(3, dtype=torch.float64).expand(50, 3, 3), atol=1e-12)
    assert torch.allclose(torch.linalg.det(matrix), torch.ones(50, dtype=torch.float64))
    assert torch.allclose(matrix[..., 2], directions_to_rays(yaw, pitch))


def test_positive_roll_is_clockwise() -> None:
    zero = torch.zeros((), dtype=torch.float64)
    right = rotation(zero, zero, torch.tensor(0.1, dtype=torch.float64))[:, 0]
    assert right[1] < 0  # the viewer's right is lower in the world


def test_angular_distance_is_exact_for_tiny_and_for_opposite_angles() -> None:
    start = directions_to_rays(radians(0), radians(0))
    for angle in (1e-9, 1.0, math.pi - 1e-9):
        end = directions_to_rays(torch.tensor([angle], dtype=torch.float64), radians(0))
        assert angular_distance(start, end).item() == pytest.approx(angle, rel=1e-9, abs=1e-15)


def test_great_circle_is_evenly_spaced_in_one_plane() -> None:
    a, b = random_rays(20), random_rays(20)
    arc = great_circle(a, b, 9)
    steps = angular_distance(arc[:, 1:], arc[:, :-1])
    assert torch.allclose(steps, (angular_distance(a, b) / 8)[:, None].expand_as(steps), atol=1e-9)
    normal = torch.linalg.cross(a, b)
    assert torch.einsum("npk,nk->np", arc, normal).abs().max() < 1e-9


BOXES = [(0, 0, 40, 30), (179, 10, 60, 50), (35, 80, 40, 20), (-120, -60, 100, 120)]


@pytest.mark.parametrize("box", BOXES)
def test_box_area_is_the_share_of_directions_inside(box: tuple[float, ...]) -> None:
    boxes = radians(*box)
    inside = rays_in_boxes(erp_rays(600, 1200, torch.float64), boxes)
    measured = erp_solid_angles(600, 1200)[inside].sum().item()
    assert measured == pytest.approx(box_solid_angle(boxes).item(), rel=0.01)


@pytest.mark.parametrize("box", BOXES)
def test_box_corners_are_on_the_border(box: tuple[float, ...]) -> None:
    boxes = radians(*box)
    corners = box_corners(boxes)
    centre = directions_to_rays(boxes[0], boxes[1])
    inner, outer = (torch.nn.functional.normalize(corners + step * centre, dim=-1) for step in (0.01, -0.01))
    assert rays_in_boxes(inner, boxes).all()
    assert not rays_in_boxes(outer, boxes).any()
    # Counter-clockwise as seen from the centre: every corner bends the same way.
    bends = torch.linalg.cross(corners, corners.roll(-1, 0)) @ centre
    assert (bends.sign() == bends[0].sign()).all()
