"""Transfer masks from a panorama to the patches of its views, and values of patches back to the panorama.

Both directions follow rays. A pixel of the panorama samples all views that see it bilinearly. Each view is weighted by
the inverse square of the solid angle of its patch there, so that fine views dominate coarse ones.
"""

from functools import lru_cache

import torch
from torch import Tensor

from panollava.vlm.geometry import erp_rays, rays_to_pixels
from panollava.vlm.views import POSE_SIZE, project, token_solid_angles, view_rays

# Each patch is sampled at 4 x 4 points. In a patch of 11 degrees, the points are less than 3 degrees apart.
SAMPLES = 4


def patch_coverage(mask: Tensor, poses: Tensor, height: int, width: int) -> Tensor:
    """Return the share of each patch that a mask `[H, W]` covers, `[V, height, width]` for views at poses `[V, 6]`."""
    return mask.flatten().float()[_pixels(_key(poses), height, width, *mask.shape)].mean(-1)


@lru_cache(maxsize=16)
def _pixels(poses: tuple[float, ...], height: int, width: int, rows: int, columns: int) -> Tensor:
    """Return the flat index of the panorama's pixel at each sample of each patch, `[V, height, width, samples]`."""
    rays = view_rays(_poses(poses), height * SAMPLES, width * SAMPLES)
    u, v = (coordinate.round().long() for coordinate in rays_to_pixels(rays, rows, columns))
    flat = v.clamp(0, rows - 1) * columns + torch.remainder(u, columns)
    cells = flat.unflatten(2, (width, SAMPLES)).unflatten(1, (height, SAMPLES))
    return cells.transpose(2, 3).flatten(3)


def splat(values: Tensor, poses: Tensor, rows: int, columns: int) -> Tensor:
    """Project values of patches `[Q, V, h, w]` of views at poses `[V, 6]` onto a panorama, `[Q, rows, columns]`.

    A pixel that no view sees gets minus infinity.
    """
    weights, seen = _weights(_key(poses), *values.shape[2:], rows, columns)
    flat = (weights @ values.flatten(1).float().cpu().T).T
    return flat.masked_fill(~seen, -torch.inf).unflatten(1, (rows, columns))


@lru_cache(maxsize=16)
def _weights(poses: tuple[float, ...], height: int, width: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Return the weight of each patch at each pixel, sparse `[pixels, patches]`, and which pixels any view sees."""
    views, rays = _poses(poses), erp_rays(rows, columns).flatten(0, 1)
    pixels, patches, shares = [], [], []
    for number, (pose, sizes) in enumerate(zip(views, token_solid_angles(views, height, width), strict=True)):
        x, y, inside = project(rays, pose)
        seen = inside.nonzero()[:, 0]
        patch, share = _bilinear(x[seen], y[seen], height, width)
        fineness = (share * sizes.flatten()[patch]).sum(-1, keepdim=True) ** -2
        pixels.append(seen[:, None].expand_as(patch))
        patches.append(patch + number * height * width)
        shares.append(share * fineness)
    index = torch.stack((torch.cat(pixels).flatten(), torch.cat(patches).flatten()))
    count = rows * columns
    total = torch.zeros(count).index_add(0, index[0], torch.cat(shares).flatten())
    value = torch.cat(shares).flatten() / total[index[0]]
    matrix = torch.sparse_coo_tensor(index, value, (count, len(views) * height * width), check_invariants=False)
    return matrix.coalesce(), total > 0


def _bilinear(x: Tensor, y: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the four patches around view positions x, y `[M]` in [-1, 1] (y upwards) and their shares, `[M, 4]`.

    Positions beyond the outermost patch centres take the outermost patches.
    """
    column = ((x + 1) * (width / 2) - 0.5).clamp(0, width - 1)
    row = ((1 - y) * (height / 2) - 0.5).clamp(0, height - 1)
    left, top = column.floor().clamp(max=max(width - 2, 0)), row.floor().clamp(max=max(height - 2, 0))
    right, low = column - left, row - top
    patches, shares = [], []
    for down, vertical in ((0, 1 - low), (1, low)):
        for across, horizontal in ((0, 1 - right), (1, right)):
            at = (top + down).clamp(max=height - 1) * width + (left + across).clamp(max=width - 1)
            patches.append(at.long())
            shares.append(vertical * horizontal)
    return torch.stack(patches, -1), torch.stack(shares, -1)


def _key(poses: Tensor) -> tuple[float, ...]:
    return tuple(poses.float().flatten().tolist())


def _poses(key: tuple[float, ...]) -> Tensor:
    return torch.tensor(key).view(-1, POSE_SIZE)
