"""The whole path with other encoders: feature maps, batch norms, several layers. Training, answers, masks, exports."""

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_backbones
import torch
from safetensors.torch import load_file
from tiny_backbones import LORA, MODEL, write_llm, write_panoramas
from tiny_encoders import write_tiny_encoder
from tiny_models import weights_of

from panollava import PanoLLaVAModel
from panollava.backbones.assemble import Parts, assemble
from panollava.backbones.encoder_check import check_encoder
from panollava.backbones.loading import load_encoder
from panollava.backbones.presets import resolve
from panollava.backbones.trained import load_finetuned
from panollava.corpus.store import open_split, panorama_records
from panollava.inference.engine import Engine
from panollava.tasks.evaluation import answer_with_images
from panollava.tasks.questions import panorama_questions
from panollava.training import features, fit, language_stages, vision_stage

SETTINGS: dict[str, Any] = {"dtype": torch.float32, "settings": MODEL}
LANGUAGE = replace(tiny_backbones.RECIPE, mask_weight=1.0)
# The encoder, its feature layer and the size of its views; then the grid of a view, its channels, and what trains.
CASES: dict[str, tuple[int | list[int], int | None, int, int, str]] = {
    "convnext": (-2, None, 8, 16, "encoder.stages.1.layers.1."),
    "resnet": (-1, 96, 6, 32, "encoder.stages.2.layers.0."),
    "swin": (-1, None, 4, 32, "encoder.layers.1.blocks.1."),
    "vit": ([-3, -2], 48, 6, 64, "layers.1."),
}


@pytest.fixture(scope="module", params=CASES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Run all stages behind one encoder; `tower` is the encoder as train_vision left it."""
    family, folder = request.param, tmp_path_factory.mktemp(request.param)
    layer, view_size, *_ = CASES[family]
    write_tiny_encoder(family, folder / "encoder")
    encoder = resolve(family, str(folder / "encoder"), feature_layer=layer, view_size=view_size)
    check_encoder(encoder)
    parts, store = Parts(encoder, write_llm("llama", folder / "llm")), write_panoramas(folder / "store", 3)
    towers = []

    def watched(model: Any, *args: Any, **kwargs: Any) -> fit.Outcome:
        outcome = fit.fit(model, *args, **kwargs)
        towers.append(weights_of(model.model.vision_tower))
        return outcome

    def out(name: str) -> tuple[Path, Path]:
        return folder / name, folder / f"{name}.ckpt"

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.setattr(vision_stage, "fit", watched)
        overlap = replace(LANGUAGE, overlap=("vicreg", "exact"))
        seen = vision_stage.train_vision(encoder, store, *out("train_vision"), recipe=overlap, blocks=1, **SETTINGS)
        options = {"recipe": LANGUAGE, "records": 4, **SETTINGS}
        language_stages.train_resampler(parts, store, folder / "train_vision", *out("train_resampler"), **options)
        language_stages.finetune_lora(
            parts, store, folder / "train_resampler", *out("finetune_lora"), lora=LORA, save_lora_only=False, **options
        )
    return SimpleNamespace(family=family, folder=folder, parts=parts, store=store, seen=seen, tower=towers[0])


def test_the_last_block_and_the_trunk_learn_from_overlaps(run: SimpleNamespace) -> None:
    *_, block = CASES[run.family]
    part = f"model.vision_tower.{block}"
    assert run.seen.moved.keys() == {part, "model.resampler.trunk."}
    assert min(run.seen.moved.values()) > 0
    before = weights_of(load_encoder(run.parts.encoder, torch.float32))
    changed = {name for name, value in before.items() if not torch.equal(value, run.tower[name])}
    assert changed and all(name.startswith(block) for name in changed)
    assert not any("running_" in name for name in changed), "statistics of batch norms are not in the folder"
    written = load_file(run.folder / "train_vision" / "trained.safetensors")
    assert {name for name in written if "vision_tower" in name} >= {f"model.vision_tower.{name}" for name in changed}


def test_the_trained_encoder_is_the_one_that_answers(run: SimpleNamespace) -> None:
    _, _, side, width, _ = CASES[run.family]
    model, processor = load_finetuned(run.folder / "finetune_lora")
    found = weights_of(model.model.vision_tower)
    assert all(torch.equal(value, found[name]) for name, value in run.tower.items())
    assert (model.config.patch_side, model.config.patch_width) == (side, width)
    split = open_split(run.store, "train")
    kept = features.frozen_features(model, processor.image_processor, split, uses=3)
    assert kept is not None and kept.shape == (3, 6, side, side, width)
    inputs = processor(images=[split[0]["image"]], text=["<pano>\nIs there a cube?"], return_tensors="pt")
    texts = {name: value for name, value in inputs.items() if name != "pixel_values"}
    with torch.no_grad():
        assert torch.allclose(model(**texts, patch_grids=kept[:1]).logits, model(**inputs).logits, atol=1e-5)


def test_questions_are_answered_with_masks(run: SimpleNamespace) -> None:
    engine = Engine(*load_finetuned(run.folder / "finetune_lora"))
    split = open_split(run.store, "train")
    asked = [panorama_questions(row["image_id"], panorama_records(row)) for row in split]
    constant = torch.zeros(32, 64, dtype=torch.bool)
    said = answer_with_images(engine, split, asked, shuffled=1, batch_size=2, seed=0, constant=constant)
    assert len(said) >= sum(map(len, asked))
    masked = sum(question.mask is not None for own in asked for question in own)
    assert masked and sum(one.mask_iou is not None for one in said) >= masked


def test_an_export_is_the_model_that_was_trained(run: SimpleNamespace) -> None:
    model, processor = load_finetuned(run.folder / "finetune_lora")
    whole = PanoLLaVAModel.from_pretrained(run.folder / "finetune_lora" / "merged")
    assert asdict(whole.model.config.view_settings) == asdict(model.config.view_settings)
    image = open_split(run.store, "train")[0]["image"]
    inputs = processor(images=[image], text=["<pano>\nIs there a cube?"], return_tensors="pt")
    again = whole.processor(images=[image], text=["<pano>\nIs there a cube?"], return_tensors="pt")
    assert torch.equal(inputs["pixel_values"], again["pixel_values"])
    with torch.no_grad():
        assert torch.allclose(whole.model(**again).logits, model(**inputs).logits, atol=1e-4)
    assert whole.segment(image, "Give the box of the red cube.").shape == image.size[::-1]


@pytest.mark.parametrize("family", ["swin", "resnet", "clip_vision_model"])
def test_activation_checkpointing_changes_no_loss_behind_any_encoder(family: str, tmp_path: Path) -> None:
    """The embeddings of a Swin return a tuple, and a ResNet has none."""
    write_tiny_encoder(family, tmp_path / "encoder")
    encoder = resolve(family, str(tmp_path / "encoder"), feature_layer=-1)
    model, processor = assemble(Parts(encoder, write_llm("llama", tmp_path / "llm")), **SETTINGS)
    model.model.vision_tower.requires_grad_(False)
    image = open_split(write_panoramas(tmp_path / "store", 1), "train")[0]["image"]
    inputs = processor(images=[image], text=["<pano>\nIs there a cube?"], return_tensors="pt")
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == model.config.image_token_id, -100)
    found = []
    for switch in (model.activation_checkpointing_disable, model.activation_checkpointing_enable):
        switch()
        model.train().zero_grad()
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        found.append((loss.item(), model.model.resampler.trunk.linear.weight.grad.clone()))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1])


@pytest.mark.parametrize("family", ["resnet", "convnext"])
def test_feature_maps_learn_from_overlaps_in_half_precision(family: str, tmp_path: Path) -> None:
    write_tiny_encoder(family, tmp_path / "encoder")
    encoder = resolve(family, str(tmp_path / "encoder"), feature_layer=-1)
    folders = (encoder, write_panoramas(tmp_path / "store", 3), tmp_path / "out", tmp_path / "ckpt")
    recipe = replace(LANGUAGE, overlap=("vicreg", "exact"), bf16=True)
    outcome = vision_stage.train_vision(*folders, recipe=recipe, blocks=1, dtype=torch.bfloat16, settings=MODEL)
    assert all(0 < entry["loss"] < 1000 for entry in outcome.history)
    assert min(outcome.moved.values()) > 0
