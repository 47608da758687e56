"""Upright BFoV boxes around other shapes on the sphere: around rotated boxes and around masks; degrees."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from panollava.vlm.geometry import pixels_to_rays, rays_to_directions, rotation

RECENTRINGS = 4
WIDEST_DEG = 359.0


def upright_box(width_deg: float, height_deg: float, angle_deg: float) -> tuple[float, float]:
    """Return width and height of the smallest upright box around a box rotated in its tangent plane, in degrees.

    The extents must be below 180.
    """
    across, along = (math.tan(math.radians(extent) / 2) for extent in (width_deg, height_deg))
    cosine, sine = abs(math.cos(math.radians(angle_deg))), abs(math.sin(math.radians(angle_deg)))
    sides = across * cosine + along * sine, across * sine + along * cosine
    return math.degrees(2 * math.atan(sides[0])), math.degrees(2 * math.atan(sides[1]))


def mask_box(mask: NDArray[np.bool_]) -> list[float]:
    """Return the BFoV box in degrees around the pixels of a mask `[H, W]` that covers the sphere.

    The centre starts at the mean ray and moves to the middle of the extents. Around a pole, where the yaw only rotates
    the box, the box is not the smallest. If pixels lie 90 degrees or more from the centre, no tangent plane holds them.
    The extents are then those in longitude and latitude, so that the width is at least 180 and at most 359.
    """
    # Most objects are small: searching the whole panorama for their pixels would take most of the time.
    within = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    top, left = within[0][0], within[1][0]
    found = np.nonzero(mask[top : within[0][-1] + 1, left : within[1][-1] + 1])
    rows, columns = (torch.from_numpy(index + first).double() for index, first in zip(found, (top, left), strict=True))
    rays = pixels_to_rays(columns, rows, *mask.shape)
    # Weighted by solid angle: a pixel covers less of the sphere the nearer it is to a pole.
    centre = (rays * rays[:, [0, 2]].norm(dim=-1, keepdim=True)).sum(dim=0)
    for recentring in range(RECENTRINGS + 1):
        yaw, pitch = rays_to_directions(centre)
        frame = rotation(yaw, pitch, torch.zeros_like(yaw))
        x, y, z = (rays @ frame).unbind(-1)
        in_front = bool((z > 0).all())
        if recentring == RECENTRINGS or not in_front:
            break
        angles = torch.stack((torch.atan2(x, z), torch.atan2(y, z)))
        middle = (angles.amin(dim=1) + angles.amax(dim=1)) / 2
        centre = frame @ torch.cat((middle.tan(), torch.ones(1, dtype=middle.dtype)))
    vertical = torch.atan2(y, z) if in_front else y.clamp(-1, 1).asin()
    # Half a pixel on each side: the extents reach to the pixels' edges, not to their centres.
    extents = [2 * float(angle.abs().max()) + 2 * math.pi / mask.shape[1] for angle in (torch.atan2(x, z), vertical)]
    box = [float(yaw), float(pitch), *extents]
    degrees = [round(math.degrees(angle), 4) for angle in box]
    return [*degrees[:2], *(min(extent, WIDEST_DEG) for extent in degrees[2:])]
