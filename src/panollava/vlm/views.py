"""Views: which parts of a panorama the encoder sees, and where each of their pixels and tokens lies on the sphere.

A view is a pose of six numbers (yaw, pitch, roll, fov_x, fov_y, kind) in radians; kind 0 is a pinhole camera, kind 1
an equirectangular window. All geometry follows from the poses, so a model needs nothing but `[V, 6]` poses to know the
ray and the solid angle of each of its tokens. Sampling is bilinear, one call for all views, exact across the seam.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import rays_to_pixels, rotation

POSE_SIZE = 6
PINHOLE, ERP_WINDOW = 0.0, 1.0
# Two view centres are equally near a direction when the cosines of its distances differ by less.
TIE = 1e-4


def _pinhole(yaw_deg: float, pitch_deg: float, fov_deg: float) -> tuple[float, ...]:
    fov = math.radians(fov_deg)
    return (math.radians(yaw_deg), math.radians(pitch_deg), 0.0, fov, fov, PINHOLE)


def _ring(fov_deg: float, stride_deg: float) -> list[tuple[float, ...]]:
    count = round(360 / stride_deg)
    return [_pinhole((i * 360 / count + 180) % 360 - 180, 0.0, fov_deg) for i in range(count)]


def _cube() -> list[tuple[float, ...]]:
    return [*_ring(90.0, 90.0), _pinhole(0.0, 90.0, 90.0), _pinhole(0.0, -90.0, 90.0)]


WHOLE = (0.0, 0.0, 0.0, 2 * math.pi, math.pi, ERP_WINDOW)

VIEW_STRATEGIES = {
    "resize": lambda fov_deg, stride_deg: [WHOLE],
    "e2p": lambda fov_deg, stride_deg: _ring(fov_deg, stride_deg),
    "cubemap": lambda fov_deg, stride_deg: _cube(),
    "anyres_e2p": lambda fov_deg, stride_deg: [WHOLE, *_ring(fov_deg, stride_deg)],
}


def view_poses(strategy: str, *, fov_deg: float = 90.0, stride_deg: float = 45.0) -> Tensor:
    """Return the poses `[V, 6]` of a view strategy; `cubemap` fixes its own field of view.

    Raises:
        ValueError: an unknown strategy, a field of view outside (0, 180), a stride that does not divide 360.
    """
    if strategy not in VIEW_STRATEGIES:
        raise ValueError(f"view strategy {strategy!r} is unknown; choose one of {', '.join(VIEW_STRATEGIES)}")
    if not 0 < fov_deg < 180:
        raise ValueError(f"fov_deg is {fov_deg}; a pinhole view needs a field of view between 0 and 180 degrees")
    if stride_deg <= 0 or abs(360 / stride_deg - round(360 / stride_deg)) > 1e-9:
        raise ValueError(f"stride_deg is {stride_deg}; it must divide 360 so that the ring of views closes")
    return torch.tensor(VIEW_STRATEGIES[strategy](fov_deg, stride_deg), dtype=torch.float32)


def view_rays(poses: Tensor, height: int, width: int) -> Tensor:
    """Return the unit world ray of each cell centre of views, `[..., height, width, 3]`, from poses `[..., 6]`."""
    x, y = _cell_centres(poses, height, width)
    fov_x, fov_y, kind = (p[..., None, None] for p in poses[..., 3:].unbind(-1))
    window_yaw, window_pitch = torch.broadcast_tensors(x * fov_x / 2, y * fov_y / 2)
    # The unused branch must stay finite: tan of a window's half extent is not.
    half_x, half_y = ((fov / 2).clamp(max=1.5).tan() for fov in (fov_x, fov_y))
    plane_x, plane_y = torch.broadcast_tensors(x * half_x, y * half_y)
    plane = torch.stack((plane_x, plane_y, torch.ones_like(plane_x)), dim=-1)
    window = torch.stack(
        (window_pitch.cos() * window_yaw.sin(), window_pitch.sin(), window_pitch.cos() * window_yaw.cos()), dim=-1
    )
    local = torch.where((kind == ERP_WINDOW)[..., None], window, F.normalize(plane, dim=-1))
    return torch.einsum("...ij,...hwj->...hwi", rotation(*poses[..., :3].unbind(-1)), local)


def token_solid_angles(poses: Tensor, height: int, width: int) -> Tensor:
    """Return the solid angle of each cell of views in steradians, `[..., height, width]`; pinhole cells by midpoint.

    A plane cell at (x, y) of area dA covers dA / (1 + x^2 + y^2)^(3/2) steradians.
    """
    x, y = _cell_centres(poses, height, width)
    fov_x, fov_y, kind = (p[..., None, None] for p in poses[..., 3:].unbind(-1))
    half_x, half_y = ((fov / 2).clamp(max=1.5).tan() for fov in (fov_x, fov_y))
    plane = 4 * half_x * half_y / (height * width) * (1 + (x * half_x) ** 2 + (y * half_y) ** 2) ** -1.5
    top, bottom = (y + 1 / height) * fov_y / 2, (y - 1 / height) * fov_y / 2
    window = (top.sin() - bottom.sin()) * fov_x / width
    return torch.where(kind == ERP_WINDOW, window.expand_as(plane), plane)


def _cell_centres(poses: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return cell centres in [-1, 1]: x `[width]` to the right, y `[height, 1]` upwards."""
    x = (torch.arange(width, dtype=poses.dtype, device=poses.device) + 0.5) * (2 / width) - 1
    y = 1 - (torch.arange(height, dtype=poses.dtype, device=poses.device) + 0.5) * (2 / height)
    return x, y[:, None]


def project(rays: Tensor, pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return view coordinates x, y in [-1, 1] of world rays `[..., 3]` and whether they fall inside the view.

    `pose` is `[6]` or broadcasts with the leading shape of `rays` as `[..., 6]`.
    """
    yaw, pitch, roll, fov_x, fov_y, kind = pose.unbind(-1)
    local = torch.einsum("...ij,...i->...j", rotation(yaw, pitch, roll), rays)
    x, y, z = local.unbind(-1)
    window_x = torch.atan2(x, z) / (fov_x / 2)
    window_y = torch.atan2(y, torch.hypot(x, z)) / (fov_y / 2)
    depth = z.clamp_min(1e-6)
    plane_x, plane_y = x / depth / (fov_x / 2).clamp(max=1.5).tan(), y / depth / (fov_y / 2).clamp(max=1.5).tan()
    is_window = kind == ERP_WINDOW
    out_x, out_y = torch.where(is_window, window_x, plane_x), torch.where(is_window, window_y, plane_y)
    inside = (out_x.abs() <= 1) & (out_y.abs() <= 1) & (is_window | (z > 0))
    return out_x, out_y, inside


def correspondences(source: Tensor, target: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return where each token of view `source` lies in view `target`, both `[6]` poses with size x size tokens.

    Returns the position `[size, size, 2]` (x, y in [-1, 1], y upwards) and the mask `[size, size]` of tokens whose
    centre has a full bilinear neighbourhood in the target, that is, lies between its outermost token centres.
    Two overlapping pinhole views are related by a homography; no row-to-row pairing of tokens is exact.
    """
    x, y, inside = project(view_rays(source, size, size), target)
    reach = 1 - 1 / size
    return torch.stack((x, y), dim=-1), inside & (x.abs() <= reach) & (y.abs() <= reach)


def kept_tokens(poses: Tensor, size: int, reduction: str) -> Tensor:
    """Return which tokens `[V, size, size]` of views at poses `[V, 6]` become language tokens.

    `none`: all. `unique`: of the views of one kind and field of view, only the one with the nearest centre keeps a
    direction, the first of two equally near; so each direction is kept once at each scale. Turning all poses together
    keeps the same tokens.
    """
    if reduction == "none":
        return torch.ones(len(poses), size, size, dtype=torch.bool, device=poses.device)
    rays, centres = view_rays(poses, size, size), view_rays(poses, 1, 1)[:, 0, 0]
    nearness = rays @ centres.T
    own = nearness.diagonal(dim1=0, dim2=3).permute(2, 0, 1)[..., None]
    order = torch.arange(len(poses), device=poses.device)
    first = order < order[:, None, None, None]
    nearer = (nearness > own + TIE) | (first & (nearness > own - TIE))
    sees = torch.stack([project(rays, pose)[2] for pose in poses], dim=-1)
    same_scale = (poses[:, None, 3:] == poses[None, :, 3:]).all(-1)[:, None, None, :] & (
        order != order[:, None, None, None]
    )
    return ~(nearer & sees & same_scale).any(-1)


@lru_cache(maxsize=64)
def _cached_grid(poses: tuple[float, ...], size: int, height: int, width: int, device: torch.device) -> Tensor:
    rays = view_rays(torch.tensor(poses, dtype=torch.float64).view(-1, POSE_SIZE), size, size)
    u, v = rays_to_pixels(rays, height, width)
    u = torch.remainder(u, width) + 1  # one wrapped column is padded on each side
    v = v.clamp(0, height - 1)
    grid = torch.stack(((2 * u + 1) / (width + 2) - 1, (2 * v + 1) / height - 1), dim=-1)
    return grid.flatten(0, 1).float().to(device)


def sample_views(panoramas: Tensor, poses: Tensor, size: int) -> Tensor:
    """Return the square views `[P, V, 3, size, size]` of panoramas `[P, 3, H, W]` (float) at poses `[V, 6]`.

    One bilinear `grid_sample` for all views; the panorama is padded by one wrapped column a side, so that a view
    across the seam equals the same view of the rolled panorama; rows beyond the outermost centres clamp.
    """
    count, _, height, width = panoramas.shape
    padded = torch.cat((panoramas[..., -1:], panoramas, panoramas[..., :1]), dim=-1)
    grid = _cached_grid(tuple(poses.double().flatten().tolist()), size, height, width, panoramas.device)
    sampled = F.grid_sample(padded, grid.expand(count, -1, -1, -1), mode="bilinear", align_corners=False)
    return sampled.unflatten(2, (len(poses), size)).transpose(1, 2)
