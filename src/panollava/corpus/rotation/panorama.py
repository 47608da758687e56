"""Rotate panoramas, directions and boxes by a yaw and a tilt; degrees throughout.

A yaw moves everything to the right. A tilt lifts the front of the panorama and lowers its back. A yaw of whole pixels
only moves columns; any other rotation samples the panorama on the sphere.
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
    """A rotation of the panorama: the front rises by `tilt_deg`, then everything moves `yaw_deg` to the right.

    Raises:
        ValueError: an angle is not finite.
    """

    yaw_deg: float = 0.0
    tilt_deg: float = 0.0

    def __post_init__(self) -> None:
        for name, angle in (("yaw_deg", self.yaw_deg), ("tilt_deg", self.tilt_deg)):
            if not math.isfinite(angle):
                raise ValueError(f"{name} is {angle}; a panorama can only be rotated by a finite angle")

    @property
    def matrix(self) -> Tensor:
        """Return the matrix `[3, 3]` (float64) that maps a ray `[3]` to its ray in the rotated panorama."""
        yaw, tilt = torch.tensor([self.yaw_deg, self.tilt_deg], dtype=torch.float64).deg2rad()
        return rotation(yaw, tilt, torch.zeros_like(yaw))

    def direction(self, yaw_deg: float, pitch_deg: float) -> DirectionDeg:
        """Return a direction in the rotated panorama; a yaw alone leaves the pitch exactly as it is."""
        if not self.tilt_deg:
            return _wrapped(yaw_deg + self.yaw_deg), pitch_deg
        yaw, pitch = torch.tensor([yaw_deg, pitch_deg], dtype=torch.float64).deg2rad()
        rotated = rays_to_directions(self.matrix @ directions_to_rays(yaw, pitch))
        return _wrapped(math.degrees(rotated[0])), math.degrees(rotated[1])

    def box(self, box_deg: Sequence[float]) -> BoxDeg:
        """Return a box in the rotated panorama: its centre rotated, its extents kept.

        This is exact for a yaw. A tilt also rotates the object about the line of sight, and its new extents depend on
        its outline, unknown from a box; only balls keep their extents. For the synthetic world's objects, the
        returned box has a mean IoU with the exact one of 0.96, 0.93 and 0.84 at tilts of 5, 10 and 30 degrees, and
        never less than a half.
        """
        yaw, pitch, width, height = box_deg
        return (*self.direction(yaw, pitch), width, height)


def whole_pixel_yaw_deg(yaw_deg: float, width: int) -> float:
    """Return the yaw nearest to `yaw_deg` that moves a panorama of that width by whole pixels."""
    return round(yaw_deg * width / 360) * 360 / width


def rotate_image(image: Image.Image, rotation: Rotation) -> Image.Image:
    """Return the rotated panorama: columns moved for a yaw of whole pixels, otherwise sampled bilinearly."""
    pixels = rotation.yaw_deg * image.width / 360
    if not rotation.tilt_deg and math.isclose(pixels, round(pixels), abs_tol=1e-6):
        return Image.fromarray(np.roll(np.asarray(image), round(pixels), axis=1))
    panorama = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    rotated = sample_rotated(panorama.float(), rotation).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(rotated.permute(1, 2, 0).contiguous().numpy())


def sample_rotated(panorama: Tensor, rotation: Rotation) -> Tensor:
    """Return a panorama `[3, H, W]` (float) rotated by bilinear sampling; columns wrap at the seam, rows clamp."""
    height, width = panorama.shape[-2:]
    # The matrix is orthogonal: rays times the matrix are rotated by its inverse.
    u, v = rays_to_pixels(erp_rays(height, width, torch.float64) @ rotation.matrix, height, width)
    padded = torch.cat((panorama[..., -1:], panorama, panorama[..., :1]), dim=-1)
    grid = torch.stack(((2 * u + 3) / (width + 2) - 1, (2 * v + 1) / height - 1), dim=-1).to(panorama.dtype)
    return F.grid_sample(padded[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)[0]


def _wrapped(yaw_deg: float) -> float:
    return (yaw_deg + 180) % 360 - 180
