"""The resampler: patch grids of views become language tokens that know where on the sphere they look.

Two separable halves. The trunk works at encoder width and turns `[..., h, w, C]` patches into `[..., t, t, C']`; it
knows nothing of the language model. The projection appends the position code of each token's ray and maps to width D.
Rays follow from the poses of the views in each forward pass, in float32, so training and generation cannot differ.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_panollava import PanoLlavaConfig
from .geometry import rays_to_directions
from .views import kept_tokens, token_solid_angles, view_rays

HEAD_WIDTH = 32
# Directions of less than this share of the largest variance are not blown up to full size: they are noise.
WHITENING_FLOOR = 0.01
# E[gelu(x)^2] for standard normal x: keeps the scale of what follows a GELU.
GELU_POWER = 0.4252


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
            "lower tokens_per_side, or feed views of the size that vision_config names"
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
        patches = config.vision_config.image_size // config.vision_config.patch_size
        self.block = max(patches // self.side, 1)
        self.whiten = Whitening(width)
        self.norm = nn.LayerNorm(self.block**2 * width)
        self.linear = ScaledLinear(self.block**2 * width, self.out_width)

    def forward(self, grid: Tensor) -> Tensor:
        """Map `[..., h, w, C]` to `[..., t, t, C']`."""
        grid = pool_grid(self.whiten(grid), self.side * self.block)
        cells = grid.unflatten(-2, (self.side, self.block)).unflatten(-4, (self.side, self.block))
        return self.linear(self.norm(cells.transpose(-4, -3).flatten(-3)))


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


Trunk = PoolingTrunk | MLPTrunk | PerceiverTrunk
TRUNKS: dict[str, type[Trunk]] = {"mlp": MLPTrunk, "pooling": PoolingTrunk, "perceiver": PerceiverTrunk}


def build_trunk(config: PanoLlavaConfig) -> Trunk:
    """Return the trunk of a configuration; nothing in it depends on the language model."""
    return TRUNKS[config.resampler](config.vision_config.hidden_size, config)


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
        self.reduction = config.token_reduction
        self.trunk = build_trunk(config)
        self.projection = Projection(self.trunk.out_width, config)

    def project(self, features: Tensor, poses: Tensor) -> Tensor:
        """Return language tokens `[P, N, D]` of trunk features `[P, V, t, t, C']` seen at `poses` `[P, V, 6]`.

        The tokens of a panorama run over views, then rows, then columns: N = V t t of them, or those that the token
        reduction keeps of the first panorama's poses.
        """
        side = features.shape[-2]
        # Mixed precision would compute the rays in half precision, a degree off.
        with torch.autocast(poses.device.type, enabled=False):
            poses = poses.float()
            rays, solid_angles = view_rays(poses, side, side), token_solid_angles(poses, side, side)
            code = position_features(self.code, rays, solid_angles, self.frequencies)
        tokens = torch.cat((features, code.to(features)), dim=-1).flatten(1, 3)
        if self.reduction != "none":  # choosing makes a GPU wait
            tokens = tokens[:, kept_tokens(poses[0], side, self.reduction).flatten()]
        return self.projection(tokens)

    def forward(self, grids: Tensor, poses: Tensor) -> Tensor:
        """Return language tokens `[P, N, D]` of patch grids `[P, V, h, w, C]` seen at `poses` `[P, V, 6]`."""
        return self.project(self.trunk(grids), poses)
