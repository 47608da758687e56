"""The overlap losses on features whose truth is known: each token carries its own direction on the sphere."""

import math

import pytest
import torch
from tiny_configs import poses_of
from torch import Tensor

from panollava.training.overlap import (
    COVARIANCE,
    INVARIANCE,
    OVERLAP_LOSSES,
    TEMPERATURE,
    VARIANCE,
    Overlap,
    densecl,
    neighbours,
    pool,
    read_at,
    vicreg,
    vicreg_batchwise,
)
from panollava.vlm.views import PINHOLE, project, token_solid_angles, view_rays

SIZE = 16


@pytest.fixture
def ring() -> Tensor:
    return poses_of("anyres_e2p", fov_deg=90, stride_deg=45)


def field(poses: Tensor, *, panoramas: int = 2, width: int = 48, size: int = SIZE) -> Tensor:
    """Return smooth features `[P, V, size, size, width]` that depend on panorama and direction alone."""
    generator = torch.Generator().manual_seed(0)
    waves = 6 * torch.randn(panoramas, 3, width, generator=generator)
    return torch.einsum("vhwi,pic->pvhwc", view_rays(poses, size, size), waves).sin()


def pair(overlaps: list[Overlap], source: int, target: int) -> Overlap:
    return next(o for o in overlaps if (o.source, o.target) == (source, target))


def true_places(poses: Tensor, overlap: Overlap) -> tuple[Tensor, Tensor]:
    rays = view_rays(poses[overlap.source], SIZE, SIZE).flatten(0, 1)[overlap.tokens]
    x, y, inside = project(rays, poses[overlap.target])
    return torch.stack((x, y), dim=-1), inside


def invariance(features: Tensor, overlaps: list[Overlap]) -> float:
    """Return the mean squared distance of paired tokens, weighted as the overlaps say."""
    total = weight = 0.0
    for overlap in overlaps:
        own = features[:, overlap.source].flatten(1, 2)[:, overlap.tokens]
        other = read_at(features[:, overlap.target], overlap.positions)
        total += float(((own - other).square().sum(-1).mean(0) * overlap.weights).sum())
        weight += float(overlap.weights.sum())
    return total / weight


def test_exact_pairs_show_the_same_direction_and_strip_pairs_do_not(ring: Tensor) -> None:
    rays = view_rays(ring, SIZE, SIZE)[None]
    exact, strip = (invariance(rays, neighbours(ring, SIZE, pairing)) for pairing in ("exact", "strip"))
    assert exact < 1e-5
    assert strip > 0.01
    assert vicreg(rays, ring, "exact") < vicreg(rays, ring, "strip")


def test_the_strip_is_right_for_one_token_in_sixteen(ring: Tensor) -> None:
    overlap = pair(neighbours(ring, SIZE, "strip"), 1, 2)
    assert len(overlap.tokens) == SIZE * SIZE // 2
    places, inside = true_places(ring, overlap)
    off = (places - overlap.positions) * SIZE / 2
    assert (off.abs() <= 0.5).all(-1).float().mean() == pytest.approx(0.0625)
    assert off.norm(dim=-1).mean() == pytest.approx(1.29, abs=0.01)
    assert inside.sum() == 120  # of the 256 tokens of a view, 120 lie in the next one


def test_exact_pairs_are_all_there_are(ring: Tensor) -> None:
    overlaps = neighbours(ring, SIZE, "exact")
    found = {(o.source, o.target) for o in overlaps}
    assert found == {(1 + i, 1 + (i + step) % 8) for i in range(8) for step in (1, -1)}  # the whole panorama is not one
    reach = 1 - 1 / SIZE
    for overlap in overlaps:
        places, inside = true_places(ring, overlap)
        assert torch.allclose(places, overlap.positions, atol=1e-6)
        assert inside.all()
        every = torch.arange(SIZE * SIZE)
        others = Overlap(overlap.source, overlap.target, every, overlap.positions, overlap.weights)
        all_places, all_inside = true_places(ring, others)
        assert (all_inside & (all_places.abs() <= reach).all(-1)).nonzero()[:, 0].tolist() == overlap.tokens.tolist()
        solid = token_solid_angles(ring[overlap.source], SIZE, SIZE).flatten()[overlap.tokens]
        assert torch.equal(overlap.weights, solid)


def test_pairs_are_symmetric(ring: Tensor) -> None:
    overlaps = neighbours(ring, SIZE, "exact")
    for overlap in overlaps:
        back = pair(overlaps, overlap.target, overlap.source)
        assert len(back.tokens) == len(overlap.tokens)
        assert back.weights.sum() == pytest.approx(float(overlap.weights.sum()), rel=1e-4)


def test_views_above_each_other_overlap_too() -> None:
    fov = math.radians(90)
    poses = torch.tensor([[0.3, pitch, 0.0, fov, fov, PINHOLE] for pitch in (0.0, 0.6)])
    overlaps = neighbours(poses, SIZE, "exact")
    assert {(o.source, o.target) for o in overlaps} == {(0, 1), (1, 0)}
    assert invariance(view_rays(poses, SIZE, SIZE)[None], overlaps) < 1e-5


def test_reading_a_map_at_its_own_centres_returns_it() -> None:
    features = torch.randn(2, 5, 5, 3)
    centre = (torch.arange(5) + 0.5) * 2 / 5 - 1
    positions = torch.stack((centre.repeat(5), -centre.repeat_interleave(5)), dim=-1)
    assert torch.allclose(read_at(features, positions), features.flatten(1, 2), atol=1e-6)
    between = torch.tensor([[float(centre[1] + centre[2]) / 2, float(-centre[3])]])
    assert torch.allclose(read_at(features, between)[:, 0], features[:, 3, 1:3].mean(1), atol=1e-6)


@pytest.mark.parametrize("loss", OVERLAP_LOSSES.values(), ids=OVERLAP_LOSSES)
def test_matching_features_have_the_lowest_loss(ring: Tensor, loss) -> None:
    features = 3 * field(ring)  # pooled, they still have the variance that VICReg asks for; noise need not bring it
    noise = torch.randn_like(features)
    losses = [float(loss(features + amount * noise, ring, "exact")) for amount in (0.0, 0.9, 3.0)]
    # Features of another direction, each as good as the true ones in itself.
    elsewhere = features.clone()
    elsewhere[:, 2::2] = elsewhere[:, 2::2].flip(-2)
    assert losses[0] < losses[1] < losses[2]
    assert losses[0] < float(loss(elsewhere, ring, "exact"))
    assert float(loss(features, ring, "exact")) < float(loss(features, ring, "strip"))


def test_collapse_does_not_pay(ring: Tensor) -> None:
    features = field(ring)
    for loss in OVERLAP_LOSSES.values():
        assert loss(features, ring, "exact") < loss(torch.ones_like(features), ring, "exact")


@pytest.mark.parametrize("loss", OVERLAP_LOSSES.values(), ids=OVERLAP_LOSSES)
@pytest.mark.parametrize("pairing", ["exact", "strip"])
def test_gradients_reach_both_sides_and_are_finite(ring: Tensor, loss, pairing: str) -> None:
    features = field(ring, size=4).requires_grad_()
    loss(features, ring, pairing).backward()
    assert torch.isfinite(features.grad).all()
    assert (features.grad[:, 1:].flatten(2).abs().amax(-1) > 0).all()
    assert (features.grad[:, 0] == 0).all()  # the whole panorama is no pinhole view


def test_pooling_is_the_mean_over_the_overlap_on_the_sphere(ring: Tensor) -> None:
    overlap = pair(neighbours(ring, SIZE, "exact"), 1, 2)
    # Rays that are uniform on the sphere, and of these the ones in a token of the overlap.
    rays = torch.nn.functional.normalize(torch.randn(1_000_000, 3), dim=-1)
    x, y, inside = project(rays, ring[1])
    x, y, rays = x[inside], y[inside], rays[inside]
    token = ((1 - y) * SIZE / 2).long() * SIZE + ((x + 1) * SIZE / 2).long()
    true = rays[torch.isin(token, overlap.tokens)].mean(0)
    own, other = pool(view_rays(ring, SIZE, SIZE)[None], overlap)
    assert torch.allclose(own[0], true, atol=5e-3)
    assert torch.allclose(other[0], true, atol=5e-3)
    flat = view_rays(ring[1], SIZE, SIZE).flatten(0, 1)[overlap.tokens].mean(0)
    assert (flat - true).norm() > 0.05


@pytest.mark.parametrize("pairing", ["exact", "strip"])
@pytest.mark.parametrize("panoramas", [1, 3])
def test_batchwise_statistics_run_over_panoramas_and_overlaps(ring: Tensor, panoramas: int, pairing: str) -> None:
    ring = torch.cat((ring, poses_of("e2p", fov_deg=70, stride_deg=60)))  # overlaps of unequal size
    features = torch.randn(panoramas, len(ring), 4, 4, 5)
    overlaps = neighbours(ring, 4, pairing)
    samples = [[pool(features, o)[side][p] for p in range(panoramas) for o in overlaps] for side in (0, 1)]
    weights = torch.stack([o.weights.sum() for _ in range(panoramas) for o in overlaps])
    first, second = (torch.stack(side) for side in samples)
    invariance = (weights[:, None] * (first - second) ** 2).sum() / weights.sum() / 5
    hinges, products = [], []
    for side in (first, second):
        covariance = side.T.cov()
        hinges += [max(0.0, 1 - math.sqrt(float(variance) + 1e-4)) for variance in covariance.diagonal()]
        products.append(float((covariance - covariance.diag().diag()).square().sum()) / 5)
    expected = INVARIANCE * float(invariance) + VARIANCE * sum(hinges) / 10 + COVARIANCE * sum(products) / 2
    assert float(vicreg_batchwise(features, ring, pairing)) == pytest.approx(expected, rel=1e-4)
    assert float(vicreg_batchwise(features.flip(0), ring, pairing)) == pytest.approx(expected, rel=1e-4)


def test_views_that_agree_in_the_mean_are_invariant_batchwise_and_not_token_by_token(ring: Tensor) -> None:
    features = torch.randn(4, 1, 6, 6, 3).repeat(1, 2, 1, 1, 1)
    for overlap in neighbours(ring[[1, 1]], 6, "exact"):
        assert torch.allclose(*pool(features, overlap), atol=1e-6)
    # A token's mirror image weighs as much, so the mean stays when one of two views of one direction is mirrored.
    poses = torch.cat((ring[1:2], poses_of("e2p", fov_deg=60, stride_deg=360)))
    mirrored = torch.stack((features[:, 0], features[:, 1].flip(-2)), dim=1)
    pooled, single = (
        float(loss(mirrored, poses, "exact") - loss(features, poses, "exact")) for loss in (vicreg_batchwise, vicreg)
    )
    assert abs(pooled) < 1e-4
    assert single > 1


def test_collapsed_overlaps_are_punished(ring: Tensor) -> None:
    # Every panorama and direction alike: nothing but the hinge is left, at its highest.
    constant = torch.randn(7).expand(3, len(ring), 4, 4, 7)
    assert float(vicreg_batchwise(constant, ring, "exact")) == pytest.approx(VARIANCE * (1 - 1e-2), rel=1e-4)
    # All channels alike: the hinge is content, the covariance is not.
    apart = 10 * torch.randn(3, len(ring), 4, 4, 7)
    alike = apart[..., :1].expand_as(apart)
    assert vicreg_batchwise(alike, ring, "exact") > vicreg_batchwise(apart, ring, "exact")


def test_one_panorama_with_one_overlap_is_refused(ring: Tensor) -> None:
    with pytest.raises(ValueError, match="one panorama with one overlap: one sample has no variance; raise batch_size"):
        vicreg_batchwise(torch.randn(1, 1, 4, 4, 5), ring[1:2], "strip")


def test_neighbours_of_the_true_place_are_no_negatives() -> None:
    # Two views of one direction: the true place of every token is itself. Features are alike nowhere else, so a token's
    # loss only counts its negatives: the tokens farther away than a token is wide.
    fov, size = math.radians(90), 3
    poses = torch.tensor([[0.0, 0.0, 0.0, fov, fov, PINHOLE]] * 2)
    features = torch.eye(size * size).view(1, 1, size, size, -1).repeat(1, 2, 1, 1, 1)
    rays = view_rays(poses[0], size, size).flatten(0, 1).tolist()
    solid = token_solid_angles(poses[0], size, size).flatten().tolist()
    losses, weights = [], []
    for token in neighbours(poses, size, "exact")[0].tokens.tolist():
        dots = [sum(a * b for a, b in zip(rays[token], other, strict=True)) for other in rays]
        negatives = sum(math.acos(min(1.0, dot)) > math.sqrt(width) for dot, width in zip(dots, solid, strict=True))
        assert 0 < negatives < size * size
        losses.append(solid[token] * math.log1p(negatives * math.exp(-1 / TEMPERATURE)))
        weights.append(solid[token])
    assert float(densecl(features, poses, "exact")) == pytest.approx(sum(losses) / sum(weights), rel=1e-4)


@pytest.mark.parametrize(("strategy", "stride_deg"), [("cubemap", 90), ("resize", 90), ("e2p", 120)])
def test_views_without_overlap_are_refused(strategy: str, stride_deg: float) -> None:
    poses = poses_of(strategy, fov_deg=90, stride_deg=stride_deg)
    with pytest.raises(ValueError, match=r"needs overlapping views.*pairing: none"):
        densecl(torch.randn(1, len(poses), 4, 4, 8), poses, "exact")


def test_unknown_pairing_is_refused(ring: Tensor) -> None:
    with pytest.raises(ValueError, match="pairing 'homography' is unknown; choose exact or strip"):
        neighbours(ring, SIZE, "homography")
