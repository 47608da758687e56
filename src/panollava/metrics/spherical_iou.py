"""Exact intersection over union of BFoV boxes on the sphere; boxes are (yaw, pitch, width, height) in radians.

The sides of a BFoV box lie on great circles, so a box of extents below pi is a convex spherical quadrilateral and two
boxes intersect in a convex spherical polygon of at most eight sides. The polygon is found by clipping (Sutherland and
Hodgman, 1974) and its area by the triangle formula of Van Oosterom and Strackee (1983), without approximation or
jitter. The computation is float64 for any input; scores have no gradients.

Rule for wide boxes: a width or height of pi (180 degrees) or more is no tangent-plane rectangle. The functions raise
ValueError for it, and for a box that is negative or not finite. Code that scores a model's answers checks `valid_boxes`
first and counts such an answer as unparsed. A box of width or height 0 is valid; its area is 0, and so is its IoU, even
with itself. Just below pi the corners converge: the error is up to about 1e-15 / (pi - extent).
"""

import math

import torch
from torch import Tensor

from panollava.vlm.geometry import box_corners, box_solid_angle, directions_to_rays, rotation

PAIRS_AT_ONCE = 16384  # the working set of one chunk stays in a core's cache
CENTRES_AT_ONCE = 1 << 20  # pairs whose centre distances are held at a time
# Half-spaces are widened by this much, so that rounding cannot split a shared side.
SLACK = 1e-14


def valid_boxes(boxes: Tensor) -> Tensor:
    """Return which boxes `[..., 4]` have an area: all numbers finite, width and height in [0, pi)."""
    extents = boxes[..., 2:]
    return boxes.isfinite().all(dim=-1) & ((extents >= 0) & (extents < math.pi)).all(dim=-1)


@torch.no_grad()
def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU of each box of `a` with the box of `b` at the same index, both `[..., 4]` (they broadcast).

    The result `[...]` is float64. Raises ValueError for a box that is not finite, negative, or pi wide or more.
    """
    a, b = torch.broadcast_tensors(_checked(a, "a"), _checked(b, "b"))
    shape = a.shape[:-1]
    a, b = a.reshape(-1, 4), b.reshape(-1, 4)
    cosine = (_centres(a) * _centres(b)).sum(dim=-1)
    near = _caps_may_intersect(cosine, _cap_cosine(a), _cap_cosine(b)).nonzero()[:, 0]
    iou = a.new_zeros(len(a))
    for some in near.split(PAIRS_AT_ONCE):
        iou[some] = _iou(a[some], b[some])
    return iou.reshape(shape)


@torch.no_grad()
def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU `[N, M]` in float64 of each box of `a` `[N, 4]` with each box of `b` `[M, 4]`.

    Raises ValueError for a box that is not finite, negative, or pi wide or more.
    """
    a, b = _checked(a, "a"), _checked(b, "b")
    iou = a.new_zeros(len(a), len(b))
    centres, cap = _centres(b), _cap_cosine(b)
    rows_at_once = max(1, CENTRES_AT_ONCE // max(1, len(b)))
    for first in range(0, len(a), rows_at_once):
        rows = a[first : first + rows_at_once]
        near = _caps_may_intersect(_centres(rows) @ centres.T, _cap_cosine(rows)[:, None], cap).nonzero()
        for some in near.split(PAIRS_AT_ONCE):
            row, column = some.unbind(dim=-1)
            iou[first + row, column] = _iou(rows[row], b[column])
    return iou


def _checked(boxes: Tensor, name: str) -> Tensor:
    """Return the boxes in float64; raise ValueError that names the first one without an area."""
    if boxes.shape[-1:] != (4,):
        raise ValueError(f"{name} has shape {list(boxes.shape)}; boxes are (yaw, pitch, width, height), so [..., 4]")
    boxes = boxes.detach().double()
    bad = (~valid_boxes(boxes)).nonzero()
    if len(bad):
        index = bad[0].tolist()
        degrees = [round(math.degrees(value), 6) for value in boxes[tuple(index)].tolist()]
        raise ValueError(
            f"box {index} of {name} is {degrees} degrees (yaw, pitch, width, height) and has no area on the sphere: "
            "all four must be finite, width and height at least 0 and below 180"
        )
    return boxes


def _centres(boxes: Tensor) -> Tensor:
    return directions_to_rays(boxes[..., 0], boxes[..., 1])


def _cap_cosine(boxes: Tensor) -> Tensor:
    """Return the cosine of the angle between a box's centre and its corners."""
    x, y = (boxes[..., 2] / 2).tan(), (boxes[..., 3] / 2).tan()
    return (1 + x.square() + y.square()).rsqrt()


def _caps_may_intersect(cosine: Tensor, cap_a: Tensor, cap_b: Tensor) -> Tensor:
    """Return whether caps around two boxes may intersect, by the cosines of distance and radii; never miss one."""
    sines = ((1 - cap_a.square()) * (1 - cap_b.square())).clamp_min(0).sqrt()
    return cosine >= cap_a * cap_b - sines - 1e-12


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU `[K]` of boxes `a` and `b` `[K, 4]`, one chunk."""
    area_a, area_b = box_solid_angle(a), box_solid_angle(b)
    # The smaller box is the frame: its triangles are as small as the result, and swapping a and b changes nothing.
    a_is_smaller = (area_a <= area_b)[:, None]
    shared = _shared_area(torch.where(a_is_smaller, a, b), torch.where(a_is_smaller, b, a))
    shared = shared.clamp_min(0).minimum(area_a).minimum(area_b)
    union = area_a + area_b - shared
    return torch.where(union > 0, shared / union, 0.0)


def _shared_area(frame: Tensor, other: Tensor) -> Tensor:
    """Return the area `[K]` in steradians of `other` clipped to `frame`, both boxes `[K, 4]`.

    In the frame's own view (z to its centre) its sides are the half-spaces |x| cos(width / 2) <= z sin(width / 2) and
    |y| cos(height / 2) <= z sin(height / 2). The polygon is stored as directed sides, `start` and `end` `[3, E, K]`,
    not as a list of vertices. A side that is clipped away becomes two zero vectors, which add no area and are inside
    every half-space. Each clip appends the side that closes the gap. So no buffer is ever compacted or sorted.
    """
    yaw, pitch, width, height = frame.unbind(-1)
    view = rotation(yaw, pitch, torch.zeros_like(yaw))
    start = (box_corners(other) @ view).permute(2, 1, 0).contiguous()
    end = start.roll(-1, dims=1)
    for axis, extent in ((0, width), (1, height)):
        towards_centre, inwards = (extent / 2).sin(), (extent / 2).cos()
        start, end = _clip(start, end, axis, inwards, towards_centre)
        start, end = _clip(start, end, axis, -inwards, towards_centre)
    return _fan_area(start, end)


def _clip(start: Tensor, end: Tensor, axis: int, across: Tensor, ahead: Tensor) -> tuple[Tensor, Tensor]:
    """Keep across * ray[axis] + ahead * z >= 0 of a convex polygon; its sides `[3, E, K]` become `[3, E + 1, K]`."""
    depth_start = across * start[axis] + ahead * start[2] + SLACK
    depth_end = across * end[axis] + ahead * end[2] + SLACK
    start_inside, end_inside = depth_start >= 0, depth_end >= 0
    crossing = start + depth_start / (depth_start - depth_end) * (end - start)
    leaving = torch.where(start_inside & ~end_inside, crossing, 0.0)
    entering = torch.where(end_inside & ~start_inside, crossing, 0.0)
    kept_start = torch.where(start_inside, start, entering)
    kept_end = torch.where(end_inside, end, leaving)
    # A convex outline leaves a half-space once and enters it once, so each sum has one nonzero term.
    return (
        torch.cat((kept_start, leaving.sum(dim=1, keepdim=True)), dim=1),
        torch.cat((kept_end, entering.sum(dim=1, keepdim=True)), dim=1),
    )


def _fan_area(start: Tensor, end: Tensor) -> Tensor:
    """Return the signed area `[K]` of the triangles between the z axis and directed sides `[3, E, K]`.

    tan(area / 2) = z . (s x e) / (|s| |e| + |e| z . s + |s| z . e + s . e), Van Oosterom and Strackee (1983).
    """
    length_start, length_end = start.square().sum(dim=0).sqrt(), end.square().sum(dim=0).sqrt()
    volume = start[0] * end[1] - start[1] * end[0]
    dots = length_start * length_end + start[2] * length_end + end[2] * length_start + (start * end).sum(dim=0)
    return 2 * torch.atan2(volume, dots).sum(dim=0)
