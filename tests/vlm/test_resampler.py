"""The resampler: which patches reach which token, what a token is told of its direction, and how large it starts."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tiny_configs import poses_of

from panollava import PanoLlavaConfig, PanoLlavaForConditionalGeneration
from panollava.vlm.c_abstractor import LastNorm
from panollava.vlm.geometry import directions_to_rays
from panollava.vlm.perceiver import PerceiverBlock
from panollava.vlm.resampler import Resampler, build_trunk, position_features
from panollava.vlm.trunks import Whitening, pool_grid

KINDS = ("mlp", "pooling", "perceiver", "c_abstractor")
Config = Callable[..., PanoLlavaConfig]


def awaken(trunk: torch.nn.Module) -> None:
    """Let the branches of a new trunk add a little: as drawn, they leave the means of its cells alone."""
    for module in trunk.modules():
        if isinstance(module, PerceiverBlock):
            torch.nn.init.normal_(module.out.weight)
        elif isinstance(module, LastNorm):
            torch.nn.init.constant_(module.weight, 0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("patches", [4, 5])
def test_a_token_depends_on_the_patches_of_its_cell(make_config: Config, kind: str, patches: int) -> None:
    trunk = build_trunk(make_config(resampler=kind)).eval()
    awaken(trunk)
    grid = torch.randn(2, 3, patches, patches, 32)
    changed = grid.clone()
    changed[1, 2, patches - 1, 0] += torch.randn(32)  # the lower left patch of one view
    with torch.no_grad():
        moved = (trunk(changed) - trunk(grid)).abs().amax(-1)
    assert moved.shape == (2, 3, 2, 2)
    assert moved[1, 2].argmax() == 2  # row 1, column 0
    assert moved[1, 2, 1, 0] > 0
    moved[1, 2] = 0
    assert moved.max() == 0  # views do not mix
    if kind in ("mlp", "pooling"):
        assert (trunk(changed) - trunk(grid))[1, 2, 0].abs().max() == 0


def test_the_mlp_concatenates_whole_neighbourhoods(make_config: Config) -> None:
    trunk = build_trunk(make_config(resampler="mlp"))
    grid = torch.randn(1, 1, 4, 4, 32)
    cell = trunk.whiten(grid)[0, 0, 0:2, 2:4].flatten()  # row 0, column 1
    assert torch.allclose(trunk(grid)[0, 0, 0, 1], trunk.linear(trunk.norm(cell)), atol=1e-6)


def correlated(count: int, width: int = 32) -> torch.Tensor:
    """Return patches as encoders give them: a large common part, a few loud directions, and quiet ones."""
    loudness = torch.logspace(0, -2, width)
    return 3 * torch.randn(width) + torch.randn(count, width) * loudness @ torch.randn(width, width)


def test_whitened_patches_have_no_mean_and_no_correlations() -> None:
    patches = correlated(20_000)
    whiten = Whitening(32)
    assert torch.allclose(whiten(patches), F.layer_norm(patches, (32,)), atol=1e-6)  # the identity before it is fitted
    whiten.fit(patches)
    white = whiten(patches).detach()
    before = F.layer_norm(patches, (32,))
    assert white.mean(0).abs().max() < 1e-3 < 0.1 < before.mean(0).abs().max()
    assert white.square().mean() == pytest.approx(1, abs=1e-3)

    def conditions(values: torch.Tensor) -> float:
        variances = torch.linalg.eigvalsh(values.T.cov().double())[1:]  # a normalised patch has one direction less
        return float(variances[-1] / variances[-8])

    assert conditions(white) < 1.3 < 5 < conditions(before)


def test_whitening_does_not_blow_up_what_is_noise() -> None:
    patches = torch.cat((torch.randn(5000, 4), 1e-4 * torch.randn(5000, 28)), dim=1)
    whiten = Whitening(32)
    whiten.fit(patches)
    variances = torch.linalg.eigvalsh(whiten(patches).T.cov())
    assert variances[:28].max() < 1e-3 * variances[28:].min()
    assert torch.isfinite(whiten.weight).all()


def test_whitening_knows_the_statistics_again(make_config: Config) -> None:
    trunk, other = build_trunk(make_config()), build_trunk(make_config())
    trunk.whiten.fit(correlated(2000))
    other.load_state_dict(trunk.state_dict())
    patches = torch.randn(1, 1, 4, 4, 32)
    assert torch.equal(trunk(patches), other(patches))


def test_a_new_perceiver_reads_the_means_of_its_cells(make_config: Config) -> None:
    trunk = build_trunk(make_config(resampler="perceiver"))
    grid = torch.randn(1, 1, 4, 4, 32)
    with torch.no_grad():
        means = pool_grid(trunk.embed(trunk.whiten(grid)), 2) + trunk.latents
        assert torch.allclose(trunk(grid), trunk.norm_out(means), atol=1e-5)


def test_a_new_c_abstractor_reads_the_means_of_its_cells(make_config: Config) -> None:
    trunk = build_trunk(make_config(resampler="c_abstractor", resampler_layers=2))
    grid = torch.randn(1, 1, 4, 4, 32)
    with torch.no_grad():
        patches = F.silu(F.silu(trunk.embed(trunk.whiten(grid))))
        means = F.silu(F.silu(pool_grid(patches, 2)))
        assert torch.allclose(trunk(grid), trunk.norm_out(means), atol=1e-5)


def test_a_c_abstractor_looks_around_and_at_the_view_as_a_whole(make_config: Config) -> None:
    (block,) = build_trunk(make_config(resampler="c_abstractor")).fine
    torch.nn.init.ones_(block.norm_out.weight)
    grid = torch.randn(1, 9, 9, 32)
    changed = grid.clone()
    changed[0, 4, 4] += torch.randn(32)
    with torch.no_grad():
        squeezed = (block(changed) - block(grid))[0].abs().amax(-1)
        torch.nn.init.zeros_(block.excite.weight)  # every channel counts half, whatever the view shows
        local = (block(changed) - block(grid))[0].abs().amax(-1)
    assert (squeezed > 0).all()
    assert local[3:6, 3:6].min() > 0
    local[3:6, 3:6] = 0
    assert local.max() == 0


def test_pooling_averages_cells_and_refuses_more_cells_than_patches() -> None:
    grid = torch.randn(3, 6, 6, 5)
    assert torch.allclose(pool_grid(grid, 3)[:, 1, 2], grid[:, 2:4, 4:6].mean((1, 2)), atol=1e-6)
    with pytest.raises(ValueError, match="6 x 6 patches cannot be pooled to 7 x 7"):
        pool_grid(grid, 7)


@pytest.mark.parametrize("kind", KINDS)
def test_the_trunk_knows_nothing_of_the_language_model(make_config: Config, kind: str) -> None:
    small, large = (
        Resampler(make_config(resampler=kind, text={"hidden_size": size, "num_attention_heads": 4}))
        for size in (32, 64)
    )
    large.trunk.load_state_dict(small.trunk.state_dict())
    names = {name.split(".")[0] for name, _ in small.named_parameters()}
    assert names == {"trunk", "projection"}
    grids, poses = torch.randn(2, 5, 4, 4, 32), poses_of("anyres_e2p", stride_deg=90).expand(2, -1, -1)
    assert torch.equal(small.trunk(grids), large.trunk(grids))
    assert large(grids, poses).shape == (2, 20, 64)
    assert torch.equal(small(grids, poses), small.project(small.trunk(grids), poses))


@pytest.mark.parametrize("code", ["yaw", "ray"])
def test_position_codes_have_no_seam(code: str) -> None:
    pitch, angles = torch.tensor([0.3, 0.3]), torch.tensor([0.1, 0.1])
    rays = directions_to_rays(torch.tensor([-math.pi, math.pi]), pitch)
    left, right = position_features(code, rays, angles, 4)
    assert torch.allclose(left, right, atol=1e-5)
    # Just beside the seam the code is just as close, and elsewhere directions are told apart.
    beside, far = position_features(code, directions_to_rays(torch.tensor([math.pi - 1e-3, 1.0]), pitch), angles, 4)
    assert (beside - left).norm() < 0.1 < (far - left).norm()


def test_the_ray_code_tells_every_direction_apart() -> None:
    rays = F.normalize(torch.randn(300, 3), dim=-1)
    codes = position_features("ray", rays, torch.ones(300), 4)
    assert (torch.cdist(codes, codes) + torch.eye(300) * 9 > torch.cdist(rays, rays) * 0.99).all()
    assert position_features("none", rays, torch.ones(300), 4).shape == (300, 0)


def test_tokens_run_over_views_rows_and_columns(make_config: Config) -> None:
    resampler = Resampler(make_config())
    features, poses = torch.randn(1, 5, 2, 2, 32), poses_of("anyres_e2p", stride_deg=90)[None]
    tokens = resampler.project(features, poses)
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = resampler.project(features[:, order], poses[:, order])
    assert torch.allclose(permuted, tokens.unflatten(1, (5, 4))[:, order].flatten(1, 2), atol=1e-6)
    alone = resampler.project(features[:, 1:2], poses[:, 1:2])
    assert torch.allclose(alone[0], tokens[0, 4:8], atol=1e-6)


def test_rays_stay_exact_under_mixed_precision(make_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    resampler = Resampler(make_config())
    features, poses = torch.randn(1, 5, 2, 2, 32), poses_of("anyres_e2p", stride_deg=90)[None]
    seen = []
    monkeypatch.setattr(
        "panollava.vlm.resampler.position_features",
        lambda *arguments: seen.append(arguments[1]) or position_features(*arguments),
    )
    resampler.project(features, poses)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        resampler.project(features, poses)
    assert seen[1].dtype == torch.float32
    assert torch.equal(*seen)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", ["none", "yaw", "ray"])
def test_new_tokens_are_as_large_as_word_embeddings(
    make_model: Callable[..., PanoLlavaForConditionalGeneration], kind: str, code: str
) -> None:
    model = make_model(resampler=kind, position_code=code, resampler_hidden_size=128)
    with torch.no_grad():
        tokens = torch.cat(model.get_image_features(torch.randn(4, 5, 3, 32, 32)).pooler_output)
    ratio = tokens.square().mean().sqrt() / model.get_input_embeddings().weight.square().mean().sqrt()
    assert 0.5 < ratio < 2


def test_impossible_sizes_are_refused(make_config: Config) -> None:
    with pytest.raises(ValueError, match="tokens_per_side is 0"):
        make_config(tokens_per_side=0)
    with pytest.raises(ValueError, match="resampler_hidden_size is 40"):
        make_config(resampler="perceiver", resampler_hidden_size=40)
