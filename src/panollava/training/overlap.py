"""Overlap losses: neighbouring views see the same scenery, so their features should agree where they overlap.

Pairs are exact (each token's ray projected into the other view, read bilinearly, masked where there is none) or the
published `strip` shortcut (same row, columns shifted), which is kept for comparison. All terms are weighted with the
solid angle of the token.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from panollava.vlm.geometry import angular_distance
from panollava.vlm.views import WHOLE, correspondences, token_solid_angles, view_rays

# VICReg's weights (Bardes et al. 2022) and DenseCL's temperature (Wang et al. 2021).
INVARIANCE, VARIANCE, COVARIANCE = 25.0, 25.0, 1.0
TEMPERATURE = 0.2


@dataclass(frozen=True)
class Overlap:
    """Tokens of one view and where they lie in another: token indices `[M]`, positions `[M, 2]`, weights `[M]`."""

    source: int
    target: int
    tokens: Tensor
    positions: Tensor
    weights: Tensor


def neighbours(poses: Tensor, size: int, pairing: str) -> list[Overlap]:
    """Return the overlaps of all ordered pairs of views at `poses` `[V, 6]` whose tokens meet.

    The whole panorama is left out: it meets every view, at another scale.

    `strip` pairs what the published systems pair: the right half of a view with the left half of the next one.

    Raises:
        ValueError: no two of the views overlap, or an unknown pairing.
    """
    partial = [i for i, pose in enumerate(poses) if pose[3] < WHOLE[3]]
    if pairing == "exact":
        pairs = [(i, j) for i in partial for j in partial if i != j]
        overlaps = [_exact(poses, i, j, size) for i, j in pairs]
    elif pairing == "strip":
        ring = [i for i in partial if poses[i, 1] == 0]
        overlaps = [_strip(poses, i, j, size) for i, j in zip(ring, [*ring[1:], *ring[:1]], strict=True)]
    else:
        raise ValueError(f"pairing {pairing!r} is unknown; choose exact or strip (none trains nothing)")
    overlaps = [overlap for overlap in overlaps if len(overlap.tokens)]
    if not overlaps:
        raise ValueError(
            "no token of any view lies inside another view: the overlap loss needs overlapping views, "
            "such as e2p or anyres_e2p with stride_deg below fov_deg; set pairing: none for these views"
        )
    return overlaps


def _exact(poses: Tensor, source: int, target: int, size: int) -> Overlap:
    positions, valid = correspondences(poses[source], poses[target], size)
    tokens = valid.flatten().nonzero()[:, 0]
    weights = token_solid_angles(poses[source], size, size).flatten()[tokens]
    return Overlap(source, target, tokens, positions.flatten(0, 1)[tokens], weights)


def _strip(poses: Tensor, source: int, target: int, size: int) -> Overlap:
    half = size // 2
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(half), indexing="ij")
    tokens = (rows * size + columns + size - half).flatten()
    x = (2 * columns + 1) / size - 1
    y = 1 - (2 * rows + 1) / size
    return Overlap(source, target, tokens, torch.stack((x, y), -1).flatten(0, 1).float(), torch.ones(len(tokens)))


def read_at(features: Tensor, positions: Tensor) -> Tensor:
    """Return features `[P, M, C]` read bilinearly from maps `[P, t, t, C]` at positions `[M, 2]` (x, y up, [-1, 1])."""
    grid = torch.stack((positions[:, 0], -positions[:, 1]), dim=-1).to(features)
    sampled = F.grid_sample(
        features.permute(0, 3, 1, 2), grid.expand(len(features), 1, -1, -1), padding_mode="border", align_corners=False
    )
    return sampled[:, :, 0].transpose(1, 2)


def vicreg(features: Tensor, poses: Tensor, pairing: str) -> Tensor:
    """Return VICReg between overlapping views from trunk features `[P, V, t, t, C]` and poses `[V, 6]`.

    Invariance is the mean squared difference of paired tokens; variance and covariance keep the tokens from collapsing.
    """
    return _vicreg(*_paired(features, neighbours(poses.cpu(), features.shape[2], pairing)))


def vicreg_batchwise(features: Tensor, poses: Tensor, pairing: str) -> Tensor:
    """Return VICReg between pooled overlaps, same arguments as `vicreg`.

    Each panorama and overlap is one sample of two vectors, `pool`ed from either view, as VICReg has one of each
    augmentation of an image (Bardes et al. 2022); an overlap counts by its solid angle. What is called batchwise in
    published code takes the statistics over single tokens, of all pairs of views together; that is `vicreg`.

    Raises:
        ValueError: a single sample, which has no variance; and what `neighbours` raises.
    """
    overlaps = neighbours(poses.cpu(), features.shape[2], pairing)
    if len(overlaps) * len(features) < 2:
        raise ValueError(
            "vicreg_batchwise got one panorama with one overlap: one sample has no variance; "
            "raise batch_size, or choose views with more overlaps"
        )
    first, second = (torch.cat(side) for side in zip(*(pool(features, o) for o in overlaps), strict=True))
    weights = torch.stack([o.weights.sum() for o in overlaps]).to(features).repeat_interleave(len(features))
    return _vicreg(first, second, weights)


def pool(features: Tensor, overlap: Overlap) -> tuple[Tensor, Tensor]:
    """Return the mean over an overlap as its source and as its target see it, both `[P, C]`, by solid angle.

    Both are means over the same directions, those of the source's tokens.
    """
    weights = (overlap.weights / overlap.weights.sum()).to(features)
    own = features[:, overlap.source].flatten(1, 2)[:, overlap.tokens]
    return weights @ own, weights @ read_at(features[:, overlap.target], overlap.positions)


def _vicreg(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Return VICReg of samples `[M, C]` seen twice; the weights `[M]` are those of the invariance."""
    invariance = ((first - second).square().mean(-1) * weights).sum() / weights.sum()
    spread = sum(F.relu(1 - (x.var(0) + 1e-4).sqrt()).mean() for x in (first, second)) / 2
    covariance = sum(_off_diagonal(x) for x in (first, second)) / 2
    return INVARIANCE * invariance + VARIANCE * spread + COVARIANCE * covariance


def _paired(features: Tensor, overlaps: list[Overlap]) -> tuple[Tensor, Tensor, Tensor]:
    """Return paired tokens `[M, C]` twice and their weights `[M]`, over all panoramas and overlaps."""
    first, second, weights = [], [], []
    for overlap in overlaps:
        first.append(features[:, overlap.source].flatten(1, 2)[:, overlap.tokens].flatten(0, 1))
        second.append(read_at(features[:, overlap.target], overlap.positions).flatten(0, 1))
        weights.append(overlap.weights.to(features).repeat(len(features)))
    return torch.cat(first), torch.cat(second), torch.cat(weights)


def _off_diagonal(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    covariance = centred.T @ centred / max(len(x) - 1, 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / x.shape[1]


def densecl(features: Tensor, poses: Tensor, pairing: str) -> Tensor:
    """Return DenseCL's InfoNCE between overlapping views, same arguments as `vicreg`.

    Negatives are the tokens of the target view of all panoramas, but for those of the same panorama within one token of
    the true place, which would be false ones.
    """
    size = features.shape[2]
    unit = F.normalize(features, dim=-1)
    losses, weights = [], []
    for overlap in neighbours(poses.cpu(), size, pairing):
        query = unit[:, overlap.source].flatten(1, 2)[:, overlap.tokens]
        positive = F.normalize(read_at(features[:, overlap.target], overlap.positions), dim=-1)
        keys = unit[:, overlap.target].flatten(1, 2)
        near = _near(poses, overlap, size).to(query.device)
        logits = torch.einsum("pmc,qkc->pmqk", query, keys)
        same = torch.eye(len(query), dtype=torch.bool, device=query.device)[:, None, :, None]
        logits = logits.masked_fill(same & near[None, :, None], -torch.inf).flatten(2)
        scores = torch.cat(((query * positive).sum(-1, keepdim=True), logits), dim=-1) / TEMPERATURE
        losses.append(-F.log_softmax(scores, dim=-1)[..., 0].flatten())
        weights.append(overlap.weights.to(query).repeat(len(query)))
    loss, weight = torch.cat(losses), torch.cat(weights)
    return (loss * weight).sum() / weight.sum()


def _near(poses: Tensor, overlap: Overlap, size: int) -> Tensor:
    """Return which target tokens `[M, t t]` lie within one token of each source token's direction."""
    poses = poses.cpu()
    rays = view_rays(poses[overlap.source], size, size).flatten(0, 1)[overlap.tokens]
    targets = view_rays(poses[overlap.target], size, size).flatten(0, 1)
    spacing = token_solid_angles(poses[overlap.target], size, size).flatten().sqrt()
    return angular_distance(rays[:, None], targets[None]) <= spacing


OVERLAP_LOSSES = {"vicreg": vicreg, "vicreg_batchwise": vicreg_batchwise, "densecl": densecl}
