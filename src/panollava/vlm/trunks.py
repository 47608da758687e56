"""The parts of which trunks are made, and the two trunks without attention or convolutions: pooling and MLP.

A trunk turns patch grids `[..., h, w, C]` into `[..., t, t, C']`, each view on its own. Weights start so that unit mean
square in gives unit mean square out.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_panollava import PanoLlavaConfig

# Directions of less than this share of the largest variance are not blown up to full size: they are noise.
WHITENING_FLOOR = 0.01


class ScaledLinear(nn.Linear):
    """A linear layer whose outputs have root mean square `scale` at the start, given inputs of unit mean square."""

    scale: float = 1.0

    def __init__(self, in_features: int, out_features: int, *, scale: float = 1.0):
        super().__init__(in_features, out_features)
        self.scale = scale
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew; weights that a checkpoint has just filled stay."""
        init.normal_(self.weight, std=self.scale / math.sqrt(self.in_features))
        init.zeros_(self.bias)


class Whitening(nn.Linear):
    """Normalise each patch over its channels, then remove the mean and the correlations that patches have.

    Half of a patch's power is what all patches share, and most of the rest is the scenery; the directions that name an
    object are small ones. Whitened, all start alike, and a language model finds them in a fraction of the steps. The
    identity until it is fitted.
    """

    def __init__(self, width: int):
        super().__init__(width, width)

    def reset_parameters(self) -> None:
        """Return to the identity; weights that a checkpoint has just filled stay."""
        init.eye_(self.weight)
        init.zeros_(self.bias)

    @torch.no_grad()
    def fit(self, patches: Tensor) -> None:
        """Take over the statistics of patches `[..., C]`: zero-phase whitening (Bell and Sejnowski, 1997)."""
        normed = F.layer_norm(patches.flatten(0, -2).double(), self.weight.shape[:1])
        mean = normed.mean(0)
        centred = normed - mean
        variances, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
        matrix = axes @ (variances + WHITENING_FLOOR * variances[-1]).rsqrt().diag() @ axes.T
        matrix /= (centred @ matrix).square().mean().sqrt()
        self.weight.copy_(matrix)
        self.bias.copy_(-matrix @ mean)

    def forward(self, patches: Tensor) -> Tensor:
        """Map `[..., C]` to `[..., C]`."""
        return super().forward(F.layer_norm(patches, self.weight.shape[:1]))


def pool_grid(grid: Tensor, side: int) -> Tensor:
    """Average patch grids `[..., h, w, C]` over `side` x `side` cells.

    Raises:
        ValueError: the grid has fewer patches a side than cells.
    """
    height, width = grid.shape[-3:-1]
    if min(height, width) < side:
        raise ValueError(
            f"a view of {height} x {width} patches cannot be pooled to {side} x {side} cells; "
            "lower tokens_per_side, or feed views of the size that the model is for"
        )
    if (height, width) == (side, side):
        return grid
    lead = grid.shape[:-3]
    pooled = F.adaptive_avg_pool2d(grid.reshape(-1, *grid.shape[-3:]).permute(0, 3, 1, 2), side)
    return pooled.permute(0, 2, 3, 1).reshape(*lead, side, side, grid.shape[-1])


class PoolingTrunk(nn.Module):
    """Average the patches of each cell; the width stays C."""

    def __init__(self, width: int, config: PanoLlavaConfig):
        super().__init__()
        self.side, self.out_width = config.tokens_per_side, width
        self.whiten = Whitening(width)
        self.norm = nn.LayerNorm(width)

    def forward(self, grid: Tensor) -> Tensor:
        """Map `[..., h, w, C]` to `[..., t, t, C]`."""
        return self.norm(pool_grid(self.whiten(grid), self.side))


class MLPTrunk(nn.Module):
    """Concatenate the n x n patches of each cell and mix them linearly.

    n is how often t fits into the encoder's own grid side h; a remainder (h = 7 or 37, say) is averaged away first, by
    pooling the grid to n t patches a side.
    """

    def __init__(self, width: int, config: PanoLlavaConfig):
        super().__init__()
        self.side, self.out_width = config.tokens_per_side, config.resampler_hidden_size
        self.block = max(config.patch_side // self.side, 1)
        self.whiten = Whitening(width)
        self.norm = nn.LayerNorm(self.block**2 * width)
        self.linear = ScaledLinear(self.block**2 * width, self.out_width)

    def forward(self, grid: Tensor) -> Tensor:
        """Map `[..., h, w, C]` to `[..., t, t, C']`."""
        grid = pool_grid(self.whiten(grid), self.side * self.block)
        cells = grid.unflatten(-2, (self.side, self.block)).unflatten(-4, (self.side, self.block))
        return self.linear(self.norm(cells.transpose(-4, -3).flatten(-3)))
