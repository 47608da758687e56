"""Patch grids: each patch is where its pixels are, for every family in the table, at any layer and size of views."""

import pytest
import torch
from tiny_configs import VISION_CONFIGS
from tiny_encoders import FINAL_NORM, SETTINGS, encoder_config
from torch import Tensor
from transformers import LlamaConfig, PreTrainedModel

from panollava.vlm.configuration_panollava import PanoLlavaConfig
from panollava.vlm.encoders import FAMILIES, TIMM, native_size, vision_part
from panollava.vlm.vision import blocks_up_to, build_tower, encode_views, grid_shape, num_prefix_tokens, patch_grid

PREFIX = {"clip_vision_model": 1, "dinov2": 1, "dinov2_with_registers": 4, "dinov3_vit": 5, "vit": 1, "deit": 2,
          "beit": 1, "vit_mae": 1, "vit_msn": 1, "mlcd_vision_model": 1, "chinese_clip_vision_model": 1,
          "metaclip_2_vision_model": 1, "altclip_vision_model": 1, "internvl_vision": 1, "tipsv2_vision_model": 2,
          "dinov3_convnext": 1}  # fmt: skip
ANY_SIZE = 96


def tiny_tower(family: str) -> tuple[PreTrainedModel, int]:
    """Return a random encoder in the form that a model has it in, and the size of its views."""
    torch.manual_seed(0)
    tower = build_tower(encoder_config(family)).eval()
    size = native_size(tower.config.to_dict()) or ANY_SIZE
    PanoLlavaConfig(vision_config=tower.config, view_size=size)
    return tower, size


@torch.no_grad()
def misplaced(tower: PreTrainedModel, size: int, layer: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return which cells of the image change another patch most; strided convolutions may move it by one."""
    views = torch.rand(1, 4, 3, size, size) / 9
    grid = encode_views(tower, views, layer)
    side, wrong = grid.shape[2], []
    step, slack = size // side, 1 if FAMILIES[tower.config.model_type].grid == "stages" else 0
    for row, column in ((0, side - 1), (side - 1, 0), (1, side // 2)):
        changed = views.clone()
        changed[..., row * step : (row + 1) * step, column * step : (column + 1) * step] = 3 * torch.rand(3, step, step)
        moved = (encode_views(tower, changed, layer) - grid).square().sum((0, 1, -1))
        found = divmod(int(moved.argmax()), side)
        if max(abs(found[0] - row), abs(found[1] - column)) > slack:
            wrong.append(((row, column), found))
    return wrong


def test_the_tests_cover_every_family_of_the_table() -> None:
    assert set(SETTINGS) == set(FAMILIES) - {TIMM}


@pytest.mark.parametrize("family", SETTINGS)
def test_a_patch_is_where_its_pixels_are(family: str) -> None:
    tower, size = tiny_tower(family)
    for layer in (-1,) if FAMILIES[family].layers == "last" else (-2, -1):
        assert misplaced(tower, size, layer) == []


@pytest.mark.parametrize("family", [name for name in SETTINGS if FAMILIES[name].resizes != "never"])
def test_a_patch_is_where_its_pixels_are_in_views_of_another_size(family: str) -> None:
    tower, size = tiny_tower(family)
    assert misplaced(tower, size + 32, -1) == []
    assert (
        encode_views(tower, torch.rand(1, 1, 3, size + 32, size + 32), -1).shape[2]
        > grid_shape(tower.config, size, -1)[0]
    )


@pytest.mark.parametrize("family", SETTINGS)
def test_the_shape_of_the_grid_is_known_before_there_is_one(family: str) -> None:
    tower, size = tiny_tower(family)
    before = torch.get_rng_state()
    for layer in (-1, [-1, -1], 0):
        if FAMILIES[family].layers == "last" and layer == 0:
            continue
        grid = encode_views(tower, torch.rand(1, 2, 3, size, size), layer)
        state = torch.get_rng_state()
        assert grid_shape(tower.config, size, layer) == grid.shape[-2:]
        assert torch.equal(torch.get_rng_state(), state), "looking must not draw"
    torch.set_rng_state(before)


@pytest.mark.parametrize("family", SETTINGS)
def test_tokens_before_the_patches_do_not_see_the_image(family: str) -> None:
    tower, size = tiny_tower(family)
    assert num_prefix_tokens(tower.config, 0) == PREFIX.get(family, 0)
    if FAMILIES[family].grid == "stages":
        return
    seen: list[Tensor] = []
    first = tower.get_submodule(blocks_up_to(tower, -1)[0])
    first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    for _ in range(2):
        encode_views(tower, torch.rand(1, 1, 3, size, size), -1)
    same = (seen[0] == seen[1]).all(-1)[0]
    assert same.tolist() == [index < PREFIX.get(family, 0) for index in range(len(same))]


@pytest.mark.parametrize("family", FINAL_NORM)
def test_the_last_layer_includes_the_final_norm(family: str) -> None:
    tower, size = tiny_tower(family)
    grid = encode_views(tower, 9 * torch.rand(1, 1, 3, size, size), -1)
    torch.testing.assert_close(grid.square().mean(-1), torch.ones(grid.shape[:-1]), atol=0.02, rtol=0)


@pytest.mark.parametrize("family", SETTINGS)
def test_features_need_exactly_the_blocks_up_to_their_layer(family: str) -> None:
    tower, size = tiny_tower(family)
    for layer in (-1,) if FAMILIES[family].layers == "last" else (-2, -1):
        needed = blocks_up_to(tower, layer)
        tower.zero_grad()
        encode_views(tower, torch.rand(1, 1, 3, size, size), layer).square().sum().backward()
        learned = [
            name
            for name in blocks_up_to(tower, -1)
            if any(p.grad is not None and p.grad.any() for p in tower.get_submodule(name).parameters())
        ]
        assert learned == needed


@pytest.mark.parametrize("family", ["clip_vision_model", "swin", "vit_mae"])
def test_channels_of_several_layers_stand_side_by_side(family: str) -> None:
    tower, size = tiny_tower(family)
    views = torch.rand(2, 1, 3, size, size)
    both = encode_views(tower, views, [-2, -1])
    assert torch.equal(both, torch.cat([encode_views(tower, views, layer) for layer in (-2, -1)], dim=-1))


def test_layers_of_several_grids_are_refused() -> None:
    tower, size = tiny_tower("convnext")
    with pytest.raises(ValueError, match=r"convnext have different grids \(-2: 12 a side, -1: 6 a side\)"):
        encode_views(tower, torch.rand(1, 1, 3, size, size), [-2, -1])


def test_unknown_encoders_and_odd_token_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="'llama' is not supported"):
        num_prefix_tokens(LlamaConfig(), 17)
    with pytest.raises(ValueError, match=r"17 tokens.*remaining 17"):
        patch_grid(torch.zeros(1, 17, 8), VISION_CONFIGS["siglip"]())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "aimv2_vision_model", "view_size": 64}, "this AIMv2 sees images of 32 x 32 pixels only"),
        ({"family": "hiera", "vision_feature_layer": -2}, "feature layer -2 of a Hiera is not in the order"),
        ({"family": "vit", "view_size": 30}, "view_size is 30, but patches of this ViT have 8 pixels; give 24 or 32"),
        ({"family": "vit", "vision_feature_layer": [-1, 7]}, "feature layer 7 does not exist: this ViT has 4 hidden"),
        ({"family": "vit", "vision_feature_layer": []}, "the list of feature layers is empty"),
    ],
)
def test_what_an_encoder_cannot_do_is_refused_by_its_configuration(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PanoLlavaConfig(vision_config=encoder_config(changes.pop("family")), **changes)


def test_an_encoder_of_any_size_needs_one() -> None:
    config = PanoLlavaConfig(vision_config=encoder_config("resnet"))
    with pytest.raises(ValueError, match="a resnet sees images of any size; set view_size"):
        _ = config.view_pixels
    assert PanoLlavaConfig(vision_config=encoder_config("resnet"), view_size=64).patch_side == 4


def test_the_image_half_of_a_file_is_known_by_its_type_or_that_of_the_whole() -> None:
    assert vision_part({"model_type": "clip", "vision_config": {"patch_size": 8}})["model_type"] == "clip_vision_model"
    inner = {"model_type": "llava", "vision_config": {"model_type": "siglip_vision_model"}}
    assert vision_part(inner)["model_type"] == "siglip_vision_model"
    assert vision_part({"vision_config": {"patch_size": 8}})["model_type"] is None
    assert vision_part({"architecture": "resnet18", "pretrained_cfg": {}})["model_type"] == TIMM


@pytest.mark.parametrize("layer", [-4, 3, 9])
def test_a_hidden_state_that_the_encoder_does_not_have_is_refused(layer: int) -> None:
    tower = build_tower(VISION_CONFIGS["clip"]())
    with pytest.raises(ValueError, match=f"is {layer}, but this clip_vision_model has 3 hidden states"):
        encode_views(tower, torch.rand(1, 1, 3, 32, 32), layer)
