"""The perceiver: latents read the patches of their view by attention.

Each latent has a place, that of its cell, and what it reads fades with the distance from there.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_panollava import PanoLlavaConfig
from .trunks import ScaledLinear, Whitening, pool_grid

HEAD_WIDTH = 32


class PerceiverBlock(nn.Module):
    """Let the latents of a view read the patches of the same view, nearby patches first.

    What is read is added to the latents; at the start it is nothing, so that training begins from their cells' means.
    """

    def __init__(self, width: int):
        super().__init__()
        self.heads = width // HEAD_WIDTH
        self.norm_latents, self.norm_patches = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = ScaledLinear(width, width), ScaledLinear(width, 2 * width)
        self.out = ScaledLinear(width, width, scale=0.0)
        self.norm_mlp = nn.LayerNorm(width)
        self.expand, self.contract = ScaledLinear(width, 2 * width), ScaledLinear(2 * width, width, scale=0.0)
        self.locality = nn.Parameter(torch.ones(self.heads))

    def forward(self, latents: Tensor, patches: Tensor, distance: Tensor) -> Tensor:
        """Update latents `[B, L, E]` from patches `[B, T, E]`; `distance` `[L, T]` is squared, in cells."""
        query = self.query(self.norm_latents(latents)).unflatten(-1, (self.heads, HEAD_WIDTH)).transpose(1, 2)
        key_value = self.key_value(self.norm_patches(patches)).unflatten(-1, (2, self.heads, HEAD_WIDTH))
        key, value = key_value.transpose(1, 3).unbind(2)
        bias = (-self.locality[:, None, None] * distance).to(query.dtype)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None])
        latents = latents + self.out(read.transpose(1, 2).flatten(2))
        return latents + self.contract(F.gelu(self.expand(self.norm_mlp(latents))))


class PerceiverTrunk(nn.Module):
    """Read each view with t x t latents, anchored to its cells: they start from the cell's mean patch and look nearby.

    How far a head looks is learnt (`locality`); only the patches of the latent's own view are seen.
    """

    def __init__(self, width: int, config: PanoLlavaConfig):
        super().__init__()
        self.side, self.out_width = config.tokens_per_side, config.resampler_hidden_size
        self.whiten = Whitening(width)
        self.embed = ScaledLinear(width, self.out_width)
        self.latents = nn.Parameter(torch.empty(self.side, self.side, self.out_width))
        self.blocks = nn.ModuleList(PerceiverBlock(self.out_width) for _ in range(config.resampler_layers))
        self.norm_out = nn.LayerNorm(self.out_width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the latents anew; latents that a checkpoint has just filled stay."""
        init.normal_(self.latents, std=0.1)

    def forward(self, grid: Tensor) -> Tensor:
        """Map `[..., h, w, C]` to `[..., t, t, C']`."""
        lead, (height, width) = grid.shape[:-3], grid.shape[-3:-1]
        grid = self.embed(self.whiten(grid)).reshape(-1, height, width, self.out_width)
        latents = (pool_grid(grid, self.side) + self.latents).flatten(1, 2)
        distance = _squared_distance(self.side, height, width, device=grid.device)
        for block in self.blocks:
            latents = block(latents, grid.flatten(1, 2), distance)
        return self.norm_out(latents).reshape(*lead, self.side, self.side, self.out_width)


def _squared_distance(side: int, height: int, width: int, *, device: torch.device) -> Tensor:
    """Return the squared distance of each cell's centre from each patch's, `[side^2, height width]`, in cells."""
    cell = torch.arange(side, device=device) + 0.5
    rows = (torch.arange(height, device=device) + 0.5) * (side / height)
    columns = (torch.arange(width, device=device) + 0.5) * (side / width)
    vertical = (cell[:, None] - rows).square()[:, None, :, None]
    horizontal = (cell[:, None] - columns).square()[None, :, None, :]
    return (vertical + horizontal).flatten(2).flatten(0, 1)
