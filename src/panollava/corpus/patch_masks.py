"""Masks between a panorama and the patches of its views: how much of each patch a mask covers, and the way back.

Both ways follow rays. On the way back every pixel of the panorama reads, bilinearly, the views that see it; a view
counts with the inverse square of the solid angle of its patch there, so that fine views decide where there are any.
"""

from functools import lru_cache

import torch
from torch import Tensor

from panollava.vlm.geometry import erp_rays, rays_to_pixels
from panollava.vlm.views import POSE_SIZE, project, token_solid_angles, view_rays

# A patch is looked at in 4 x 4 places: of a patch of 11 degrees each stands for less than 3.
PLACES = 4


def patch_coverage(mask: Tensor, poses: Tensor, height: int, width: int) -> Tensor:
    """Return which share of each of `height` x `width` patches a mask `[H, W]` covers, `[V, height, width]`."""
    return mask.flatten().float()[_pixels(_key(poses), height, width, *mask.shape)].mean(-1)


@lru_cache(maxsize=16)
def _pixels(poses: tuple[float, ...], height: int, width: int, rows: int, columns: int) -> Tensor:
    """Return the flat index of the panorama's pixel at each place of each patch, `[V, height, width, places]`."""
    rays = view_rays(_poses(poses), height * PLACES, width * PLACES)
    u, v = (position.round().long() for position in rays_to_pixels(rays, rows, columns))
    flat = v.clamp(0, rows - 1) * columns + torch.remainder(u, columns)
    cells = flat.unflatten(2, (width, PLACES)).unflatten(1, (height, PLACES))
    return cells.transpose(2, 3).flatten(3)


def splat(values: Tensor, poses: Tensor, rows: int, columns: int) -> Tensor:
    """Return values of patches `[Q, V, h, w]` seen at poses `[V, 6]` on a panorama, `[Q, rows, columns]`.

    A pixel that no view sees gets minus infinity.
    """
    weights, seen = _weights(_key(poses), *values.shape[2:], rows, columns)
    flat = (weights @ values.flatten(1).float().cpu().T).T
    return flat.masked_fill(~seen, -torch.inf).unflatten(1, (rows, columns))


@lru_cache(maxsize=16)
def _weights(poses: tuple[float, ...], height: int, width: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Return how much each patch counts at each pixel, sparse `[pixels, patches]`, and which pixels are seen."""
    views, rays = _poses(poses), erp_rays(rows, columns).flatten(0, 1)
    pixels, patches, shares = [], [], []
    for number, (pose, sizes) in enumerate(zip(views, token_solid_angles(views, height, width), strict=True)):
        x, y, inside = project(rays, pose)
        seen = inside.nonzero()[:, 0]
        place, share = _bilinear(x[seen], y[seen], height, width)
        fine = (share * sizes.flatten()[place]).sum(-1, keepdim=True) ** -2
        pixels.append(seen[:, None].expand_as(place))
        patches.append(place + number * height * width)
        shares.append(share * fine)
    index = torch.stack((torch.cat(pixels).flatten(), torch.cat(patches).flatten()))
    count = rows * columns
    total = torch.zeros(count).index_add(0, index[0], torch.cat(shares).flatten())
    value = torch.cat(shares).flatten() / total[index[0]]
    matrix = torch.sparse_coo_tensor(index, value, (count, len(views) * height * width), check_invariants=False)
    return matrix.coalesce(), total > 0


def _bilinear(x: Tensor, y: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the four patches around view positions x, y `[M]` in [-1, 1] (y upwards) and their shares, `[M, 4]`.

    Beyond the outermost centres the outermost patches count.
    """
    column = ((x + 1) * (width / 2) - 0.5).clamp(0, width - 1)
    row = ((1 - y) * (height / 2) - 0.5).clamp(0, height - 1)
    left, top = column.floor().clamp(max=max(width - 2, 0)), row.floor().clamp(max=max(height - 2, 0))
    right, low = column - left, row - top
    places, shares = [], []
    for down, vertical in ((0, 1 - low), (1, low)):
        for across, horizontal in ((0, 1 - right), (1, right)):
            at = (top + down).clamp(max=height - 1) * width + (left + across).clamp(max=width - 1)
            places.append(at.long())
            shares.append(vertical * horizontal)
    return torch.stack(places, -1), torch.stack(shares, -1)


def _key(poses: Tensor) -> tuple[float, ...]:
    return tuple(poses.float().flatten().tolist())


def _poses(key: tuple[float, ...]) -> Tensor:
    return torch.tensor(key).view(-1, POSE_SIZE)
