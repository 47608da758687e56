"""What an image encoder's files say before anything is computed: what is refused, with which words, and how soon."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_encoders import SETTINGS, encoder_config, write_tiny_encoder
from transformers import (
    Aimv2Config,
    Aimv2Model,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedModel,
    Siglip2Config,
    Siglip2Model,
    Tipsv2Config,
    Tipsv2Model,
)

from panollava.backbones.encoder_check import check_encoder, check_timm
from panollava.backbones.loading import load_encoder, read_vision_config
from panollava.backbones.preprocessing import Preprocessing, read_preprocessing
from panollava.backbones.presets import resolve
from panollava.vlm.vision import encode_views

TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 60,
        "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
LLAMA = TEXT | {"model_type": "llama"}
# Checkpoints that hold an image encoder beside other parts.
WHOLE: dict[str, Any] = {
    "aimv2_vision_model": lambda v: Aimv2Model(Aimv2Config(vision_config=v, text_config=TEXT, projection_dim=16)),
    "chinese_clip_vision_model": lambda v: ChineseCLIPModel(
        ChineseCLIPConfig(vision_config=v, text_config=TEXT, projection_dim=16)
    ),
    "metaclip_2_vision_model": lambda v: MetaClip2Model(
        MetaClip2Config(vision_config=v, text_config=TEXT, projection_dim=16)
    ),
    "siglip2_vision_model": lambda v: Siglip2Model(Siglip2Config(vision_config=v, text_config=TEXT)),
    "tipsv2_vision_model": lambda v: Tipsv2Model(Tipsv2Config(vision_config=v, text_config=TEXT)),
    "internvl_vision": lambda v: InternVLForConditionalGeneration(
        InternVLConfig(vision_config=v, text_config=LLAMA)
    ),
    "clip_vision_model": lambda v: LlavaForConditionalGeneration(LlavaConfig(vision_config=v, text_config=LLAMA)),
}  # fmt: skip


def images_of(folder: Path, **content: Any) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(content))


@pytest.mark.parametrize("family", SETTINGS)
def test_a_checkpoint_of_every_family_is_loaded_as_it_was_saved(family: str, tmp_path: Path) -> None:
    saved = write_tiny_encoder(family, tmp_path)
    backbone = resolve(family, str(tmp_path), feature_layer=-1)
    check_encoder(backbone)
    loaded = load_encoder(backbone, torch.float32).eval()
    assert type(loaded) is type(saved)
    for name, value in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


@pytest.mark.parametrize("family", WHOLE)
def test_the_image_half_of_a_whole_checkpoint_is_loaded(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole: PreTrainedModel = WHOLE[family](encoder_config(family).to_dict())
    whole.save_pretrained(tmp_path)
    images_of(tmp_path, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    backbone = resolve(family, str(tmp_path), feature_layer=-1)
    check_encoder(backbone)
    loaded = load_encoder(backbone, torch.float32).eval()
    assert loaded.config.model_type == family
    # In InternVL and LLaVA it is the only module of its class.
    (own,) = [module for module in whole.modules() if type(module) is type(loaded)]
    views = torch.rand(1, 1, 3, 32, 32)
    assert torch.equal(encode_views(own.eval(), views, -1), encode_views(loaded, views, -1))


@pytest.mark.parametrize(
    ("config", "preset", "message"),
    [
        ({"model_type": "llama"}, {}, "encoder mine .* of type 'llama' is not supported; use one of clip_"),
        ({"vision_config": {}}, {}, "image encoder of type None is not supported"),
        ({"model_type": ["vit"]}, {}, r"image encoder of type \['vit'\] is not supported"),
        ({"model_type": "vit", "num_hidden_layers": 3, "patch_size": 8}, {"feature_layer": -5},
         "feature layer -5 does not exist: this ViT has 4 hidden states; give a number from -4 to 3"),
        ({"model_type": "vit", "num_hidden_layers": 3, "patch_size": 8}, {"feature_layer": [-1, 4]}, "layer 4 does"),
        ({"model_type": "aimv2", "vision_config": {"image_size": 32}}, {"view_size": 48}, "AIMv2 sees images of 32"),
        ({"model_type": "clip", "vision_config": {"patch_size": 32}}, {"view_size": 100}, "give 96 or 128"),
        ({"model_type": "internvl_vision", "image_size": [32, 64]}, {}, "InternViT for images of .* views are square"),
        ({"model_type": "hiera"}, {"feature_layer": -2}, "only -1 can be read"),
        ({"model_type": "vit", "image_size": {"a": 1}}, {}, "config.json is damaged"),
        ({"model_type": "evil", "auto_map": {}}, {}, "needs Python code of its own"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_by_its_config(config: dict, preset: dict, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message) as error:
        check_encoder(resolve("mine", str(tmp_path), **preset))
    assert str(tmp_path) in str(error.value)


def test_layers_of_several_grids_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    write_tiny_encoder("convnext", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"encoder mine .*different grids"):
        check_encoder(resolve("mine", str(tmp_path), feature_layer=[-2, -1]))
    check_encoder(resolve("mine", str(tmp_path), feature_layer=-2))


def test_an_encoder_of_patches_is_checked_without_the_libraries_of_a_model(tmp_path: Path) -> None:
    write_tiny_encoder("vit", tmp_path)
    code = (
        "import sys; from panollava.backbones.encoder_check import check_encoder\n"
        "from panollava.backbones.presets import resolve\n"
        f"check_encoder(resolve('vit', {str(tmp_path)!r}, feature_layer=-2))\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


COLOURS = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}


@pytest.mark.parametrize(
    ("family", "stored", "size"),
    [
        ("vit", {"size": {"height": 96, "width": 96}}, 32),  # its positions are for 32 pixels
        ("convnext", {"size": {"shortest_edge": 96}}, 96),
        ("convnext", {"size": 96}, 96),
        (
            "resnet",
            {"size": {"shortest_edge": 96}, "do_center_crop": True, "crop_size": {"width": 64}},
            64,
        ),
        ("resnet", {"size": {"shortest_edge": 96}, "do_center_crop": False, "crop_size": {"height": 64}}, 96),
        ("siglip2_vision_model", {}, 32),
    ],
)
def test_the_images_are_those_of_the_checkpoints_own_file(family: str, stored: dict, size: int, tmp_path: Path) -> None:
    write_tiny_encoder(family, tmp_path)
    images_of(tmp_path, **COLOURS, **stored)
    backbone = resolve(family, str(tmp_path))
    config, _ = read_vision_config(backbone)
    wanted = read_preprocessing(backbone, config)
    assert wanted == Preprocessing(size, COLOURS["image_mean"], COLOURS["image_std"])
    assert read_preprocessing(replace(backbone, view_size=64), config) == replace(wanted, view_size=64)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (None, "cannot be read"),
        ({"image_std": [1, 1, 1], "size": 96}, "preprocessor_config.json: image_mean is None; expected three numbers"),
        (COLOURS | {"image_std": [1, 1]}, r"image_std is \[1, 1\]; expected three numbers"),
        (COLOURS | {"size": {"height": 64, "width": 96}}, "names no size of square images; give .* a view_size"),
        (COLOURS, "names no size of square images"),
    ],
)
def test_a_checkpoint_that_does_not_say_how_its_images_are_is_refused(
    stored: dict | None, message: str, tmp_path: Path
) -> None:
    write_tiny_encoder("resnet", tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    if stored is not None:
        images_of(tmp_path, **stored)
    with pytest.raises(ValueError, match=message):
        check_encoder(resolve("resnet", str(tmp_path)))


def test_timm_is_asked_for_by_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs timm, .* pip install 'panollava\[efficientnet\]'"):
        check_timm("resnet18")


def test_a_timm_that_cannot_be_imported_is_told_from_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("importlib.import_module", failing)
    with pytest.raises(ValueError, match=r"nms does not exist.*torchvision built for the installed torch"):
        check_timm("resnet18")


def test_a_checkpoint_still_to_be_converted_names_the_command() -> None:
    with pytest.raises(ValueError, match="no folder data/pretrained/nothing yet; `panollava convert nothing`"):
        resolve("mine", "data/pretrained/nothing")
