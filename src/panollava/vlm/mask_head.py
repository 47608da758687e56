"""The mask head: from the token that asks for an object to a score for each patch of the encoder.

What the language model holds at the last token of a question becomes a query; each unmerged patch, whitened and told
its direction like a visual token, becomes a key. Their product says whether the patch shows what was asked for.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_panollava import PanoLlavaConfig
from .resampler import ScaledLinear, position_features, position_width
from .views import token_solid_angles, view_rays

# The probability of a patch at the start: few patches show the object, and a head that says "all" learns late.
FIRST_SHARE = 0.02


class MaskHead(nn.Module):
    """Score patches for queries."""

    def __init__(self, config: PanoLlavaConfig):
        super().__init__()
        width, patch_width = config.mask_hidden_size, config.patch_width
        self.code, self.frequencies = config.position_code, config.position_frequencies
        self.norm = nn.LayerNorm(config.text_config.hidden_size)
        self.query = ScaledLinear(config.text_config.hidden_size, width)
        self.expand = ScaledLinear(patch_width + position_width(config), width)
        self.key = ScaledLinear(width, width)

    def forward(self, queries: Tensor, patches: Tensor, poses: Tensor) -> Tensor:
        """Return scores `[Q, V, h, w]` (logits) of whitened patches `[Q, V, h, w, C]` at `poses` `[Q, V, 6]`.

        `queries` `[Q, D]` are hidden states of the language model.
        """
        height, width = patches.shape[2:4]
        with torch.autocast(poses.device.type, enabled=False):
            poses = poses.float()
            rays, sizes = view_rays(poses, height, width), token_solid_angles(poses, height, width)
            code = position_features(self.code, rays, sizes, self.frequencies)
        keys = self.key(F.gelu(self.expand(torch.cat((patches, code.to(patches)), dim=-1))))
        query = self.query(self.norm(queries))
        scores = torch.einsum("qe,qvhwe->qvhw", query, keys) / math.sqrt(keys.shape[-1])
        return scores.float() + math.log(FIRST_SHARE / (1 - FIRST_SHARE))
