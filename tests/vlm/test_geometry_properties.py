"""Properties of directions, pixels, rotations and boxes for any numbers, the seam and the poles among them."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from panollava.metrics.spherical_iou import paired_iou
from panollava.vlm.geometry import (
    angular_distance,
    box_corners,
    box_solid_angle,
    directions_to_rays,
    pixels_to_rays,
    rays_in_boxes,
    rays_to_directions,
    rays_to_pixels,
    rotation,
    wrap_angle,
)

EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True)


def angles(most: float) -> st.SearchStrategy[float]:
    """Return angles from -`most` to `most`, the ends and zero often among them."""
    return st.sampled_from((-most, 0.0, most)) | st.floats(-most, most)


YAWS, PITCHES, EXTENTS = angles(math.pi), angles(math.pi / 2), st.floats(1e-3, 3.1)
BOXES = st.tuples(YAWS, PITCHES, EXTENTS, EXTENTS)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@EXAMPLES
@given(YAWS, PITCHES)
def test_a_ray_leads_back_to_its_direction(yaw: float, pitch: float) -> None:
    ray = directions_to_rays(tensor(yaw), tensor(pitch))
    again = directions_to_rays(*rays_to_directions(ray))
    assert abs(ray.norm().item() - 1) < 1e-12
    assert angular_distance(ray, again).item() < 1e-7


@EXAMPLES
@given(st.integers(1, 4096), st.floats(0, 1), st.floats(0, 1))
def test_a_pixel_leads_back_to_itself(height: int, across: float, down: float) -> None:
    width = 2 * height
    u, v = across * (width - 1), down * (height - 1)
    again_u, again_v = rays_to_pixels(pixels_to_rays(tensor(u), tensor(v), height, width), height, width)
    assert abs(again_v.item() - v) < 1e-6
    # Near a pole a column is a point.
    narrow = math.cos((0.5 - (v + 0.5) / height) * math.pi)
    assert abs(again_u.item() - u) * narrow < 1e-6


@EXAMPLES
@given(st.floats(-1e4, 1e4))
def test_a_wrapped_angle_is_the_same_one_within_half_a_turn(angle: float) -> None:
    wrapped = wrap_angle(tensor(angle)).item()
    assert -math.pi <= wrapped < math.pi
    assert abs(math.remainder(wrapped - angle, 2 * math.pi)) < 1e-8
    assert wrap_angle(tensor(wrapped)).item() == wrapped


@EXAMPLES
@given(YAWS, PITCHES, YAWS)
def test_rotations_keep_lengths_and_handedness(yaw: float, pitch: float, roll: float) -> None:
    matrix = rotation(tensor(yaw), tensor(pitch), tensor(roll))[0]
    assert torch.allclose(matrix @ matrix.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert abs(torch.linalg.det(matrix).item() - 1) < 1e-12


@EXAMPLES
@given(BOXES)
def test_a_box_holds_its_centre_and_what_lies_within_its_corners(box: tuple[float, ...]) -> None:
    boxes = tensor(*box)[None]
    centre = directions_to_rays(boxes[:, 0], boxes[:, 1])
    inside = torch.nn.functional.normalize(0.999 * box_corners(boxes)[0] + 0.001 * centre, dim=-1)
    assert rays_in_boxes(centre, boxes).all()
    assert rays_in_boxes(inside, boxes.expand(4, 4)).all()
    assert not rays_in_boxes(-centre, boxes).any()
    assert 0 < box_solid_angle(boxes).item() < 2 * math.pi


@EXAMPLES
@given(BOXES, BOXES, YAWS)
def test_overlap_is_symmetric_bounded_and_the_same_after_a_yaw(
    first: tuple[float, ...], second: tuple[float, ...], yaw: float
) -> None:
    a, b = tensor(*first)[None], tensor(*second)[None]
    found = paired_iou(a, b).item()
    assert 0 <= found <= 1
    assert abs(paired_iou(b, a).item() - found) < 1e-9
    assert abs(paired_iou(a, a).item() - 1) < 1e-9
    turned = [torch.cat((wrap_angle(box[:, :1] + yaw), box[:, 1:]), dim=-1) for box in (a, b)]
    assert abs(paired_iou(*turned).item() - found) < 1e-7
    areas = box_solid_angle(a).item(), box_solid_angle(b).item()
    assert found <= min(areas) / max(areas) + 1e-9
