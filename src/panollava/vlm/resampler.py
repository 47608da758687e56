"""The resampler: patch grids of views become language tokens that know where on the sphere they look.

Two separable halves. The trunk works at encoder width and turns `[..., h, w, C]` patches into `[..., t, t, C']`; it
knows nothing of the language model. The projection appends the position code of each token's ray and maps to width D.
Rays follow from the poses of the views in each forward pass, in float32, so training and generation cannot differ.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .c_abstractor import CAbstractorTrunk
from .configuration_panollava import PanoLlavaConfig
from .geometry import rays_to_directions
from .perceiver import PerceiverTrunk
from .trunks import MLPTrunk, PoolingTrunk, ScaledLinear
from .views import token_solid_angles, view_rays

# E[gelu(x)^2] for standard normal x: keeps the scale of what follows a GELU.
GELU_POWER = 0.4252

Trunk = PoolingTrunk | MLPTrunk | PerceiverTrunk | CAbstractorTrunk
TRUNKS: dict[str, type[Trunk]] = {
    "mlp": MLPTrunk, "pooling": PoolingTrunk, "perceiver": PerceiverTrunk, "c_abstractor": CAbstractorTrunk
}  # fmt: skip


def build_trunk(config: PanoLlavaConfig) -> Trunk:
    """Return the trunk of a configuration; nothing in it depends on the language model."""
    return TRUNKS[config.resampler](config.patch_width, config)


def position_width(config: PanoLlavaConfig) -> int:
    """Return the number of features that `position_features` gives each token."""
    return {"none": 0, "yaw": 2 * config.position_frequencies + 1, "ray": 6 * config.position_frequencies + 4}[
        config.position_code
    ]


def position_features(code: str, rays: Tensor, solid_angles: Tensor, frequencies: int) -> Tensor:
    """Return the position code `[..., K]` of tokens with unit rays `[..., 3]` and solid angles `[...]` (steradians).

    `none` has no features. `yaw`: sine and cosine of k yaw, k = 1..frequencies. `ray`: the ray, and sine and cosine of
    2^j pi/2 times each of its components, j = 0..frequencies-1. Both end with the logarithm of the solid angle and are
    functions of the direction alone, hence without a break at the seam.
    """
    if code == "none":
        return rays.new_zeros((*rays.shape[:-1], 0))
    if code == "yaw":
        order = torch.arange(1, frequencies + 1, dtype=rays.dtype, device=rays.device)
        angles = rays_to_directions(rays)[0][..., None] * order
        parts = [angles.sin(), angles.cos()]
    else:
        scale = 2.0 ** torch.arange(frequencies, dtype=rays.dtype, device=rays.device) * (math.pi / 2)
        angles = (rays[..., None] * scale).flatten(-2)
        parts = [rays, angles.sin(), angles.cos()]
    return torch.cat((*parts, solid_angles.log()[..., None]), dim=-1)


class Projection(nn.Module):
    """Map trunk features and position features to the language model's width."""

    def __init__(self, width: int, config: PanoLlavaConfig):
        super().__init__()
        self.expand = ScaledLinear(width + position_width(config), config.resampler_hidden_size)
        # New tokens start at the size of the language model's own embeddings.
        scale = config.text_config.initializer_range / math.sqrt(GELU_POWER)
        self.contract = ScaledLinear(config.resampler_hidden_size, config.text_config.hidden_size, scale=scale)

    def forward(self, features: Tensor) -> Tensor:
        """Map `[..., C' + K]` to `[..., D]`."""
        return self.contract(F.gelu(self.expand(features)))


class Resampler(nn.Module):
    """Trunk and projection of a configuration, in that order."""

    def __init__(self, config: PanoLlavaConfig):
        super().__init__()
        self.code, self.frequencies = config.position_code, config.position_frequencies
        self.trunk = build_trunk(config)
        self.projection = Projection(self.trunk.out_width, config)

    def project(self, features: Tensor, poses: Tensor) -> Tensor:
        """Return language tokens `[P, N, D]` of trunk features `[P, V, t, t, C']` seen at `poses` `[P, V, 6]`.

        The N = V t t tokens of a panorama run over views, then rows, then columns.
        """
        side = features.shape[-2]
        # Mixed precision would compute the rays in half precision, a degree off.
        with torch.autocast(poses.device.type, enabled=False):
            poses = poses.float()
            rays, solid_angles = view_rays(poses, side, side), token_solid_angles(poses, side, side)
            code = position_features(self.code, rays, solid_angles, self.frequencies)
        return self.projection(torch.cat((features, code.to(features)), dim=-1).flatten(1, 3))

    def forward(self, grids: Tensor, poses: Tensor) -> Tensor:
        """Return language tokens `[P, N, D]` of patch grids `[P, V, h, w, C]` seen at `poses` `[P, V, 6]`."""
        return self.project(self.trunk(grids), poses)
