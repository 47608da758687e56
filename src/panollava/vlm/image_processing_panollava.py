"""From equirectangular panoramas to the views that the image encoder sees, and the pose of each view.

Sampling is bilinear at about twice the view's resolution or less. A finer panorama is reduced first; one that is much
too fine for a pinhole view is also blurred, evenly on the sphere and hence wider along the rows near the poles. The
filters wrap around, so neither the seam nor fine texture leaves a trace in the views.
"""

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD, SizeDict
from transformers.processing_utils import ImagesKwargs

from .opencv_views import opencv_views
from .views import ERP_WINDOW, ViewSettings, blur_of_view, box_factor, sample_views, view_poses

ASPECT_TOLERANCE = 0.01
# Reduced widths are multiples of this, so that a few wrapped columns suffice at the seam.
WIDTH_STEP = 64


def views_of_panorama(panorama: Tensor, poses: Tensor, size: int, *, antialias: bool = True) -> Tensor:
    """Return the views `[V, 3, size, size]` (float) of a panorama `[3, H, W]` at poses `[V, 6]`.

    Views of one resolution are sampled together, from a panorama of about twice that resolution; without `antialias`
    from the panorama as it is.
    """
    kinds = [tuple(pose[3:].tolist()) for pose in poses]
    views = torch.empty((len(poses), 3, size, size))
    for kind in dict.fromkeys(kinds):
        members = [index for index, other in enumerate(kinds) if other == kind]
        source = _without_aliases(panorama, poses[members[0]], size) if antialias else panorama.float()
        views[members] = sample_views(source[None], poses[members], size)[0]
    return views


def _views_by(sampler: str, panorama: Tensor, poses: Tensor, size: int) -> Tensor:
    """Return what `views_of_panorama` returns, pinhole views by the sampler that is named."""
    if sampler == "torch":
        return views_of_panorama(panorama, poses, size)
    views, windows = torch.empty((len(poses), 3, size, size)), poses[:, 5] == ERP_WINDOW
    if windows.any():
        views[windows] = views_of_panorama(panorama, poses[windows], size)
    if not windows.all():
        drawn = opencv_views(np.ascontiguousarray(panorama.permute(1, 2, 0).numpy()), poses[~windows], size)
        views[~windows] = torch.from_numpy(drawn).permute(0, 3, 1, 2).float()
    return views


def _without_aliases(panorama: Tensor, pose: Tensor, size: int) -> Tensor:
    """Return a panorama `[3, H, W]` as float from which a view can be sampled without aliasing."""
    height, width = panorama.shape[-2:]
    factor = 1 if pose[5] == ERP_WINDOW else box_factor(pose, size, height, width)
    if factor == 1:
        return reduce_panorama(panorama, *_working_size(panorama.shape[-2:], pose, size))
    return blur_panorama(_boxed(panorama, factor), blur_of_view(pose, size, height // factor))


def _boxed(panorama: Tensor, factor: int) -> Tensor:
    """Return the means of the `factor` x `factor` boxes of a panorama; one channel at a time, to save memory."""
    return torch.cat([F.avg_pool2d(channel[None].float(), factor) for channel in panorama])


def blur_panorama(panorama: Tensor, sigma: float) -> Tensor:
    """Return a panorama `[3, H, W]` (float) blurred with a Gaussian of `sigma` pixels of latitude, even on the sphere.

    A row at latitude p is blurred by sigma / cos(p) pixels: exactly, by its Fourier series, which knows no seam.
    """
    height, width = panorama.shape[-2:]
    latitude = (0.5 - (torch.arange(height) + 0.5) / height) * math.pi
    order = torch.fft.rfftfreq(width)
    passed = torch.exp(-2 * (math.pi * sigma * order / latitude.cos()[:, None]) ** 2)
    rows = torch.fft.irfft(torch.fft.rfft(panorama) * passed, n=width)
    reach = math.ceil(4 * sigma)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    padded = F.pad(rows[:, None], (0, 0, reach, reach), mode="replicate")
    return F.conv2d(padded, (weights / weights.sum()).view(1, 1, -1, 1))[:, 0]


def _working_size(shape: torch.Size, pose: Tensor, size: int) -> tuple[int, int]:
    """Return the height and width of the panorama from which a view is sampled: at most twice the view's resolution."""
    fov_x, fov_y, kind = (float(value) for value in pose[3:])
    if kind == ERP_WINDOW:
        per_radian_x, per_radian_y = size / fov_x, size / fov_y
    else:
        per_radian_x, per_radian_y = (size / (2 * math.tan(fov / 2)) for fov in (fov_x, fov_y))
    height, width = math.ceil(2 * math.pi * per_radian_y), math.ceil(4 * math.pi * per_radian_x)
    return min(height, shape[0]), min(-(-width // WIDTH_STEP) * WIDTH_STEP, shape[1])


def reduce_panorama(panorama: Tensor, height: int, width: int) -> Tensor:
    """Return a panorama `[3, H, W]` as float `[3, height, width]`, anti-aliased, with exact wrap-around.

    Whole output columns are padded on both sides, as many as make a whole number of source columns. One channel at a
    time, so that 8192 x 4096 pixels stay far below a gigabyte.
    """
    source_height, source_width = panorama.shape[-2:]
    if (height, width) == (source_height, source_width):
        return panorama.float()
    shared = math.gcd(source_width, width)
    source_pad, pad = source_width // shared, width // shared
    reduced = []
    for channel in panorama:
        wrapped = torch.cat((channel[:, -source_pad:], channel, channel[:, :source_pad]), dim=1)[None, None].float()
        smaller = F.interpolate(wrapped, size=(height, width + 2 * pad), mode="bilinear", antialias=True)
        reduced.append(smaller[0, 0, :, pad : pad + width])
    return torch.stack(reduced)


class PanoLlavaImagesKwargs(ImagesKwargs, total=False):
    """Settings of the image processor beyond the usual ones."""

    views: dict[str, Any]
    tokens_per_side: int | None


class PanoLlavaImageProcessor(PilBackend):
    """Turn 2:1 panoramas into `pixel_values` `[P, V, 3, S, S]` and `view_poses` `[P, V, 6]` (float32, radians).

    `size` is the view size S; `image_mean` and `image_std` must be those of the image encoder. `views` holds fields of
    `ViewSettings`, those that are left out at their defaults; `tokens_per_side` matters to the strategy `adaptive`
    alone. Images may be PIL, numpy or torch, of different sizes; arrays hold values from 0 to 255 unless
    `do_rescale=False`.
    """

    valid_kwargs = PanoLlavaImagesKwargs
    model_input_names = ["pixel_values", "view_poses"]  # noqa: RUF012
    size = {"height": 224, "width": 224}  # noqa: RUF012
    image_mean = IMAGENET_STANDARD_MEAN
    image_std = IMAGENET_STANDARD_STD
    do_convert_rgb = True
    do_rescale = True
    do_normalize = True
    views = asdict(ViewSettings())
    tokens_per_side = None

    def __init__(self, **kwargs: Any) -> None:
        """Take the settings that `PanoLlavaImagesKwargs` names."""
        super().__init__(**kwargs)

    def poses(self) -> Tensor:
        """Return the poses `[V, 6]` of the views of a panorama."""
        return view_poses(
            ViewSettings(**self.views), view_size=self.size["height"], tokens_per_side=self.tokens_per_side
        )

    def _preprocess(  # type: ignore[override] # only the settings that matter here, by name
        self,
        images: list[np.ndarray],
        *,
        size: SizeDict,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: tuple[float, ...],
        image_std: tuple[float, ...],
        views: dict[str, Any],
        tokens_per_side: int | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        if size.height is None or size.height != size.width:
            raise ValueError(f"views are square, but size is {size.height} x {size.width}")
        settings = ViewSettings(**views)
        poses = view_poses(settings, view_size=size.height, tokens_per_side=tokens_per_side)
        panoramas = [_checked_panorama(image, index) for index, image in enumerate(images)]
        pixels = torch.stack([_views_by(settings.sampler, panorama, poses, size.height) for panorama in panoramas])
        if do_rescale:
            pixels *= rescale_factor
        if do_normalize:
            pixels = (pixels - torch.tensor(image_mean).view(3, 1, 1)) / torch.tensor(image_std).view(3, 1, 1)
        data = {"pixel_values": pixels, "view_poses": poses.repeat(len(images), 1, 1)}
        return BatchFeature(data, tensor_type=return_tensors)


def _checked_panorama(image: np.ndarray, index: int) -> Tensor:
    """Return an image `[3, H, W]` as a tensor after checking that it is a panorama in colour."""
    channels, height, width = image.shape
    if abs(width / height - 2) > 2 * ASPECT_TOLERANCE:
        raise ValueError(
            f"image {index} is {width} x {height} pixels; an equirectangular panorama is twice as wide as high"
        )
    if channels not in (1, 3):
        raise ValueError(f"image {index} has {channels} channels; pass an RGB image")
    return torch.from_numpy(np.ascontiguousarray(image)).expand(3, height, width)
