"""The sphere: directions, rays, equirectangular pixels, rotations, great circles, solid angles, BFoV boxes.

Frame: x right, y up, z forward. Yaw is positive to the right, in [-pi, pi); pitch is positive up. Radians throughout.
Pixel centres of an H x W equirectangular image: u = (yaw / 2 pi + 1/2) W - 1/2, v = (1/2 - pitch / pi) H - 1/2.
A BFoV box is (yaw, pitch, width, height): a rectangle on the tangent plane of its centre, sides on great circles.
"""

import math

import torch
from torch import Tensor


def wrap_angle(angle: Tensor) -> Tensor:
    """Wrap angles to [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def directions_to_rays(yaw: Tensor, pitch: Tensor) -> Tensor:
    """Return unit rays `[..., 3]` of the directions `yaw`, `pitch` `[...]`."""
    return torch.stack((pitch.cos() * yaw.sin(), pitch.sin(), pitch.cos() * yaw.cos()), dim=-1)


def rays_to_directions(rays: Tensor) -> tuple[Tensor, Tensor]:
    """Return yaw and pitch `[...]` of rays `[..., 3]`; the rays need not have unit length."""
    x, y, z = rays.unbind(-1)
    return wrap_angle(torch.atan2(x, z)), torch.atan2(y, torch.hypot(x, z))


def rays_to_pixels(rays: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the column u and the row v `[...]` of rays `[..., 3]` in an equirectangular image."""
    yaw, pitch = rays_to_directions(rays)
    return (yaw / (2 * math.pi) + 0.5) * width - 0.5, (0.5 - pitch / math.pi) * height - 0.5


def pixels_to_rays(u: Tensor, v: Tensor, height: int, width: int) -> Tensor:
    """Return the unit rays `[..., 3]` of equirectangular pixel positions `u`, `v` `[...]`."""
    yaw = ((u + 0.5) / width - 0.5) * (2 * math.pi)
    pitch = (0.5 - (v + 0.5) / height) * math.pi
    return directions_to_rays(yaw, pitch)


def erp_rays(height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the unit ray of each pixel centre of an equirectangular image, `[H, W, 3]`."""
    v, u = torch.meshgrid(torch.arange(height, dtype=dtype), torch.arange(width, dtype=dtype), indexing="ij")
    return pixels_to_rays(u, v, height, width)


def erp_solid_angles(height: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the exact solid angle of each equirectangular pixel in steradians, `[H, W]`; they sum to 4 pi."""
    edges = (0.5 - torch.arange(height + 1, dtype=dtype) / height) * math.pi
    rows = (edges[:-1].sin() - edges[1:].sin()) * (2 * math.pi / width)
    return rows[:, None].expand(height, width)


def rotation(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """Return matrices `[..., 3, 3]` that map view rays to world rays: roll first, then pitch, then yaw.

    The third column is the viewing direction. A positive roll rotates the camera clockwise for its viewer.
    """
    cy, sy, cp, sp, cr, sr = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin(), roll.cos(), roll.sin()
    right = torch.stack((cy, torch.zeros_like(cy), -sy), dim=-1)
    up = torch.stack((-sy * sp, cp, -cy * sp), dim=-1)
    forward = torch.stack((sy * cp, sp, cy * cp), dim=-1)
    cr, sr = cr[..., None], sr[..., None]
    return torch.stack((cr * right - sr * up, sr * right + cr * up, forward), dim=-1)


def angular_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the angle between unit rays `a` and `b` `[..., 3]`, accurate for nearly equal and opposite rays too."""
    return 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))


def great_circle(a: Tensor, b: Tensor, points: int) -> Tensor:
    """Return `points` unit rays `[..., points, 3]`, equally spaced on the shorter arc from `a` to `b` `[..., 3]`."""
    angle = angular_distance(a, b)[..., None, None]
    t = torch.linspace(0, 1, points, dtype=a.dtype, device=a.device)[:, None]
    sine = angle.sin().clamp_min(1e-12)
    arc = ((1 - t) * angle).sin() / sine * a[..., None, :] + (t * angle).sin() / sine * b[..., None, :]
    return torch.nn.functional.normalize(arc, dim=-1)


def box_corners(boxes: Tensor) -> Tensor:
    """Return the corner rays `[..., 4, 3]` of BFoV boxes `[..., 4]`, counter-clockwise as seen from the centre.

    Extents must be below pi; no tangent-plane rectangle is wider.
    """
    yaw, pitch, width, height = boxes.unbind(-1)
    x, y = (width / 2).tan(), (height / 2).tan()
    one = torch.ones_like(x)
    plane = torch.stack([torch.stack((sx * x, sy * y, one), -1) for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))], -2)
    world = torch.einsum("...ij,...kj->...ki", rotation(yaw, pitch, torch.zeros_like(yaw)), plane)
    return torch.nn.functional.normalize(world, dim=-1)


def box_solid_angle(boxes: Tensor) -> Tensor:
    """Return the area of BFoV boxes `[..., 4]` in steradians, 4 arcsin(sin(width / 2) sin(height / 2))."""
    return 4 * torch.asin((boxes[..., 2] / 2).sin() * (boxes[..., 3] / 2).sin())


def rays_in_boxes(rays: Tensor, boxes: Tensor) -> Tensor:
    """Return which rays `[..., 3]` lie inside which BFoV boxes `[..., 4]` (leading shapes broadcast)."""
    yaw, pitch, width, height = boxes.unbind(-1)
    local = torch.einsum("...ij,...i->...j", rotation(yaw, pitch, torch.zeros_like(yaw)), rays)
    x, y, z = local.unbind(-1)
    return (z > 0) & (x.abs() <= z * (width / 2).tan()) & (y.abs() <= z * (height / 2).tan())
