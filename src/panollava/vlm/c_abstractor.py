"""The C-abstractor of Honeybee (Cha et al. 2024): convolutions on the patch grid, pooling to cells, convolutions again.

The blocks are RegNet's (Radosavovic et al. 2020), depthwise and with squeeze-excitation. Grids stay channels-last, so a
1 x 1 convolution is a linear layer. Honeybee adds a learnt position to each patch; ours has its ray in the projection.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_panollava import PanoLlavaConfig
from .trunks import ScaledLinear, Whitening, pool_grid

SQUEEZE = 4


class DepthwiseConv(nn.Conv2d):
    """A 3 x 3 convolution of each channel by itself; the grid keeps its size."""

    def __init__(self, width: int):
        super().__init__(width, width, kernel_size=3, padding=1, groups=width, bias=False)

    def reset_parameters(self) -> None:
        """Draw the weights anew; weights that a checkpoint has just filled stay."""
        init.normal_(self.weight, std=1 / 3)

    def forward(self, grid: Tensor) -> Tensor:
        """Map `[n, h, w, E]` to `[n, h, w, E]`."""
        return super().forward(grid.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class LastNorm(nn.LayerNorm):
    """The norm that ends a residual branch: it starts at zero, and the block with it as the SiLU of its shortcut."""

    def reset_parameters(self) -> None:
        """Return to zero; weights that a checkpoint has just filled stay."""
        init.zeros_(self.weight)
        init.zeros_(self.bias)


class RegNetBlock(nn.Module):
    """Mix channels, neighbours, and, by how much each channel counts, the whole view; add it to the grid."""

    def __init__(self, width: int):
        super().__init__()
        self.expand, self.contract = ScaledLinear(width, width), ScaledLinear(width, width)
        self.neighbours = DepthwiseConv(width)
        self.norm_expand, self.norm_neighbours = nn.LayerNorm(width), nn.LayerNorm(width)
        self.squeeze = ScaledLinear(width, max(width // SQUEEZE, 1))
        self.excite = ScaledLinear(max(width // SQUEEZE, 1), width)
        self.norm_out = LastNorm(width)

    def forward(self, grid: Tensor) -> Tensor:
        """Map `[n, h, w, E]` to `[n, h, w, E]`."""
        inner = F.silu(self.norm_expand(self.expand(grid)))
        inner = F.silu(self.norm_neighbours(self.neighbours(inner)))
        seen = inner.mean((1, 2), keepdim=True)
        inner = inner * self.excite(F.silu(self.squeeze(seen))).sigmoid()
        return F.silu(grid + self.norm_out(self.contract(inner)))


class CAbstractorTrunk(nn.Module):
    """Blocks at the resolution of the patches, the mean of each cell, blocks at the resolution of the cells.

    Views do not mix. A new one has only its shortcuts, so a token starts as the mean of its cell's patches, through the
    blocks' SiLUs.
    """

    def __init__(self, width: int, config: PanoLlavaConfig):
        super().__init__()
        self.side, self.out_width = config.tokens_per_side, config.resampler_hidden_size
        self.whiten = Whitening(width)
        self.embed = ScaledLinear(width, self.out_width)
        self.fine, self.coarse = (
            nn.Sequential(*(RegNetBlock(self.out_width) for _ in range(config.resampler_layers))) for _ in range(2)
        )
        self.norm_out = nn.LayerNorm(self.out_width)

    def forward(self, grid: Tensor) -> Tensor:
        """Map `[..., h, w, C]` to `[..., t, t, C']`."""
        lead, (height, width) = grid.shape[:-3], grid.shape[-3:-1]
        grid = self.fine(self.embed(self.whiten(grid)).reshape(-1, height, width, self.out_width))
        cells = self.coarse(pool_grid(grid, self.side))
        return self.norm_out(cells).reshape(*lead, self.side, self.side, self.out_width)
