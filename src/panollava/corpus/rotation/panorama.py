"""Panoramas as a turned camera sees them, and directions and boxes in the turned panorama; degrees throughout.

A roll moves everything to the right by whole or broken pixels of the panorama; a tilt lifts what is in front and lowers
what is behind. Whole pixels move as they are, all else is sampled on the sphere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from panollava.corpus.records import BoxDeg, DirectionDeg
from panollava.vlm.geometry import directions_to_rays, erp_rays, rays_to_directions, rays_to_pixels, rotation


@dataclass(frozen=True)
class Rotation:
    """A turn of the camera: what is in front rises by `tilt_deg`, then everything goes `yaw_deg` to the right.

    Raises:
        ValueError: an angle that is not finite.
    """

    yaw_deg: float = 0.0
    tilt_deg: float = 0.0

    def __post_init__(self) -> None:
        for name, angle in (("yaw_deg", self.yaw_deg), ("tilt_deg", self.tilt_deg)):
            if not math.isfinite(angle):
                raise ValueError(f"{name} is {angle}; a panorama can only be turned by a finite angle")

    @property
    def matrix(self) -> Tensor:
        """Return the matrix `[3, 3]` (double) that takes rays to where they point in the turned panorama."""
        yaw, tilt = torch.tensor([self.yaw_deg, self.tilt_deg], dtype=torch.float64).deg2rad()
        return rotation(yaw, tilt, torch.zeros_like(yaw))

    def direction(self, yaw_deg: float, pitch_deg: float) -> DirectionDeg:
        """Return a direction in the turned panorama; a roll leaves the pitch exactly as it is."""
        if not self.tilt_deg:
            return _wrapped(yaw_deg + self.yaw_deg), pitch_deg
        yaw, pitch = torch.tensor([yaw_deg, pitch_deg], dtype=torch.float64).deg2rad()
        turned = rays_to_directions(self.matrix @ directions_to_rays(yaw, pitch))
        return _wrapped(math.degrees(turned[0])), math.degrees(turned[1])

    def box(self, box_deg: Sequence[float]) -> BoxDeg:
        """Return a box in the turned panorama: its centre turned, its extents kept.

        Exact for rolls. A tilt also turns the object about the line of sight, and how wide and high it then is depends
        on its outline, which no box knows; balls keep their extents. Of the synthetic world's objects the kept box has
        an IoU of 0.96, 0.93 and 0.84 with the exact one at tilts of 5, 10 and 30 degrees on average, and always over
        a half.
        """
        yaw, pitch, width, height = box_deg
        return (*self.direction(yaw, pitch), width, height)


def whole_pixel_yaw_deg(yaw_deg: float, width: int) -> float:
    """Return the roll nearest to `yaw_deg` that moves a panorama of that width by whole pixels."""
    return round(yaw_deg * width / 360) * 360 / width


def rotate_image(image: Image.Image, rotation: Rotation) -> Image.Image:
    """Return the turned panorama: pixels moved if these are whole, otherwise sampled bilinearly across the seam."""
    pixels = rotation.yaw_deg * image.width / 360
    if not rotation.tilt_deg and math.isclose(pixels, round(pixels), abs_tol=1e-6):
        return Image.fromarray(np.roll(np.asarray(image), round(pixels), axis=1))
    panorama = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    turned = sample_rotated(panorama.float(), rotation).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(turned.permute(1, 2, 0).contiguous().numpy())


def sample_rotated(panorama: Tensor, rotation: Rotation) -> Tensor:
    """Return a panorama `[3, H, W]` (float) turned by sampling it; rows beyond the outermost centres clamp."""
    height, width = panorama.shape[-2:]
    # The matrix is orthogonal: a product from the left by its transpose turns the rays back.
    u, v = rays_to_pixels(erp_rays(height, width, torch.float64) @ rotation.matrix, height, width)
    padded = torch.cat((panorama[..., -1:], panorama, panorama[..., :1]), dim=-1)
    grid = torch.stack(((2 * u + 3) / (width + 2) - 1, (2 * v + 1) / height - 1), dim=-1).to(panorama.dtype)
    return F.grid_sample(padded[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)[0]


def _wrapped(yaw_deg: float) -> float:
    return (yaw_deg + 180) % 360 - 180
