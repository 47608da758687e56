"""The training stages on tiny real backbones: what moves, what is written, and that a kill changes nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_backbones
import torch
from safetensors.torch import load_file
from tiny_backbones import LORA, MODEL, write_panoramas, write_parts
from tiny_models import weights_of
from torch import Tensor
from transformers import DynamicCache, set_seed

from panollava.backbones.assemble import Parts
from panollava.backbones.trained import load_finetuned, read_parts
from panollava.corpus.store import open_images, open_split
from panollava.training import fit as fit_module
from panollava.training import language_stages, vision_stage
from panollava.training.fit import Outcome
from panollava.training.overlap import OVERLAP_LOSSES, vicreg
from panollava.training.panoramas import ImageDraws, ViewCollator
from panollava.training.recipe import Recipe
from panollava.training.scratch import scratch
from panollava.vlm.views import ViewSettings

SETTINGS: dict[str, Any] = {"dtype": torch.float32, "settings": MODEL}
LANGUAGE = replace(tiny_backbones.RECIPE, mask_weight=1.0)
RECIPE = replace(LANGUAGE, overlap=("vicreg", "exact"))
FINETUNED = ("finetune_lora", "finetune_blind")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_panoramas(tmp_path_factory.mktemp("store"), 3)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return write_parts("clip", "llama", tmp_path_factory.mktemp("backbones"))


def adapt(parts: Parts, store: Path, out: Path, recipe: Recipe = RECIPE) -> Outcome:
    return vision_stage.train_vision(
        parts.encoder, store, out, out.with_suffix(".ckpt"), recipe=recipe, blocks=1, **SETTINGS
    )


def align(parts: Parts, store: Path, previous: Path, out: Path, recipe: Recipe = LANGUAGE) -> Outcome:
    folders = (parts, store, previous, out, out.with_suffix(".ckpt"))
    return language_stages.train_resampler(*folders, recipe=recipe, records=4, **SETTINGS)


@pytest.fixture(scope="module")
def run(parts: Parts, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Run all stages once; `states` holds each stage's model before and after, as the trainer got it."""
    folder, states, fit = tmp_path_factory.mktemp("run"), [], fit_module.fit

    def watched(model: Any, *args: Any, **kwargs: Any) -> Outcome:
        before = weights_of(model)
        outcome = fit(model, *args, **kwargs)
        states.append((before, weights_of(model)))
        return outcome

    with pytest.MonkeyPatch.context() as patch:
        for module in (vision_stage, language_stages):
            patch.setattr(module, "fit", watched)
        outcomes = [adapt(parts, store, folder / "train_vision")]
        outcomes.append(align(parts, store, folder / "train_vision", folder / "train_resampler"))
        for name in FINETUNED:
            folders = (parts, store, folder / "train_resampler", folder / name, folder / f"{name}.ckpt")
            options = {"lora": LORA, "save_lora_only": name == "finetune_blind", "blind": name == "finetune_blind"}
            outcomes.append(language_stages.finetune_lora(*folders, recipe=LANGUAGE, records=4, **options, **SETTINGS))
    names = ("train_vision", "train_resampler", *FINETUNED)
    yield SimpleNamespace(
        folder=folder,
        states=dict(zip(names, states, strict=True)),
        outcomes=dict(zip(names, outcomes, strict=True)),
    )


def changed(states: tuple[dict[str, Tensor], dict[str, Tensor]]) -> set[str]:
    before, after = states
    assert before.keys() == after.keys()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def declared(state: dict[str, Tensor], *parts: str) -> set[str]:
    return {name for name in state if any(part in name for part in parts)}


# CLIP's features are read one block before the last, so block 1 of 0, 1, 2 is the last that matters.
DECLARED = {
    "train_vision": ("vision_tower.encoder.layers.1.", "resampler.trunk."),
    "train_resampler": ("model.resampler.",),
    "finetune_lora": ("model.resampler.", ".lora_", "mask_head."),
    "finetune_blind": (".lora_",),
}
# A softmax over keys does not see a bias that all keys share: its gradient is rounding noise.
UNMOVED = ("k_proj.bias",)


@pytest.mark.parametrize("stage", DECLARED)
def test_exactly_the_declared_parameters_change(run: SimpleNamespace, stage: str) -> None:
    before, _ = run.states[stage]
    wanted = declared(before, *DECLARED[stage])
    assert wanted
    found = changed(run.states[stage])
    assert found <= wanted
    assert {name for name in wanted - found if not name.endswith(UNMOVED)} == set()


@pytest.mark.parametrize("stage", DECLARED)
def test_the_outcome_counts_what_trained_and_how_far_it_moved(run: SimpleNamespace, stage: str) -> None:
    outcome, (before, _) = run.outcomes[stage], run.states[stage]
    wanted = declared(before, *DECLARED[stage])
    assert sum(outcome.trained.values()) == sum(before[name].numel() for name in wanted)
    assert outcome.moved.keys() == outcome.trained.keys()
    assert all(value > 0 for value in outcome.moved.values())
    assert [entry["step"] for entry in outcome.history] == [1, 2, 3]
    assert all(0 < entry["loss"] < 1000 for entry in outcome.history)


def test_every_stage_starts_where_the_one_before_ended(run: SimpleNamespace) -> None:
    def same(old: dict[str, Tensor], new: dict[str, Tensor], part: str) -> bool:
        names = declared(old, part)
        new = {name.removeprefix("base_model.model."): value for name, value in new.items()}
        return bool(names) and all(torch.equal(old[name], new[name]) for name in names)

    vision, resampler = run.states["train_vision"][1], run.states["train_resampler"]
    assert same(vision, resampler[0], "vision_tower.")
    assert same(vision, resampler[0], "resampler.trunk.")
    for stage in FINETUNED:
        assert same(resampler[1], run.states[stage][0], "vision_tower.")
        assert same(resampler[1], run.states[stage][0], "resampler.")


def test_the_folders_hold_what_was_trained_and_nothing_of_the_backbones(run: SimpleNamespace) -> None:
    keys = {stage: set(load_file(run.folder / stage / "trained.safetensors")) for stage in run.states}
    before, _ = run.states["train_vision"]
    assert keys["train_vision"] == declared(before, *DECLARED["train_vision"])
    everything = declared(
        run.states["train_resampler"][0], DECLARED["train_vision"][0], "model.resampler.", "mask_head."
    )
    assert keys["train_resampler"] == keys["finetune_lora"] == keys["finetune_blind"] == everything


def test_a_finetuned_folder_loads_as_the_model_that_was_trained(
    run: SimpleNamespace, parts: Parts, store: Path
) -> None:
    assert read_parts(run.folder / "finetune_lora") == parts
    trained = {k.removeprefix("base_model.model."): v for k, v in run.states["finetune_lora"][1].items()}
    adapters, processor = load_finetuned(run.folder / "finetune_lora", merge=False)
    found = weights_of(adapters)
    assert {name for name in trained if ".lora_" in name} == {name for name in found if ".lora_" in name}
    for name, value in trained.items():
        if "lm_head" not in name:  # tied to the embeddings
            assert torch.equal(found[name], value), name
    merged, _ = load_finetuned(run.folder / "finetune_lora")
    assert not any(".lora_" in name for name in merged.state_dict())
    image = open_split(store, "train")[0]["image"]
    inputs = processor(images=[image], text=["<pano>\nIs there a cube?"], return_tensors="pt")
    with torch.no_grad():
        one, other = merged(**inputs).logits, adapters(**inputs).logits
    assert torch.allclose(one, other, atol=1e-4)
    whole = type(merged).from_pretrained(run.folder / "finetune_lora" / "merged").eval()
    with torch.no_grad():
        assert torch.allclose(whole(**inputs).logits, one, atol=1e-4)
    assert not (run.folder / "finetune_blind" / "merged").exists()


KILLED = replace(LANGUAGE, steps=7, save_steps=3, batch_size=1, accumulation=2)
# The child takes five steps' worth of draws and then waits to be killed.
CHILD = """
import sys, time
from pathlib import Path
from panollava.training.dialogues import Draws
import test_stages

draw = Draws.__getitem__
Draws.__getitem__ = lambda self, index: draw(self, index) if index < 10 else time.sleep(600)
test_stages.finetune_in_scratch(*map(Path, sys.argv[1:]))
"""


def finetune_in_scratch(store: Path, previous: Path, out: Path) -> None:
    """Finetune as the stage does, with dropout, so that the random state matters as well."""
    with scratch("finetune_lora", {"seed": 0}, [store, previous]) as checkpoints:
        options = {"lora": LORA | {"dropout": 0.3}, "save_lora_only": True}
        folders = (read_parts(previous), store, previous, out, checkpoints)
        language_stages.finetune_lora(*folders, recipe=KILLED, records=4, **options, **SETTINGS)


def test_a_killed_run_continues_to_the_weights_of_an_uninterrupted_one(
    run: SimpleNamespace, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    previous = run.folder / "train_resampler"
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "whole"))
    finetune_in_scratch(store, previous, tmp_path / "wanted")

    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "killed"))
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    here = Path(__file__).resolve()
    path = os.pathsep.join(str(folder) for folder in (here.parents[2] / "src", here.parents[1], here.parent))
    monkeypatch.setenv("PYTHONPATH", path)
    arguments = [str(folder) for folder in (store, previous, tmp_path / "found")]
    with (tmp_path / "log").open("w") as log:
        child = subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stdout=log, stderr=log)
        try:
            while not list(tmp_path.glob("killed/.scratch/finetune_lora/*/checkpoint-3/files.json")):
                assert child.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.02)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
    assert not (tmp_path / "found").exists()
    capsys.readouterr()
    finetune_in_scratch(store, previous, tmp_path / "found")
    assert "resuming from" in capsys.readouterr().out
    for file in ("trained.safetensors", "adapter_model.safetensors"):
        wanted, found = load_file(tmp_path / "wanted" / file), load_file(tmp_path / "found" / file)
        assert wanted.keys() == found.keys()
        assert all(torch.equal(found[name], value) for name, value in wanted.items())
    # Both runs have removed their checkpoints.
    assert not list(tmp_path.glob("*/.scratch/finetune_lora/*/*"))


def test_training_keeps_no_keys_and_values(
    run: SimpleNamespace, parts: Parts, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(DynamicCache, "update", lambda *args, **kwargs: kept.append(args))
    align(parts, store, run.folder / "train_vision", tmp_path / "out", replace(LANGUAGE, steps=1))
    assert not kept


def test_accumulated_panoramas_equal_one_large_batch(
    run: SimpleNamespace, parts: Parts, store: Path, tmp_path: Path
) -> None:
    folders = (parts, store, run.folder / "train_vision")
    recipes = {
        "large": replace(LANGUAGE, batch_size=4, accumulation=1),
        "small": replace(LANGUAGE, batch_size=2, accumulation=2),
    }
    large, small = (align(*folders, tmp_path / name, recipe).history for name, recipe in recipes.items())
    for one, other in zip(large, small, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-2)


def test_accumulated_overlap_losses_are_averaged(parts: Parts, store: Path, tmp_path: Path) -> None:
    first = adapt(parts, store, tmp_path / "out", replace(RECIPE, steps=1, batch_size=1, accumulation=2)).history[0]
    losses = []
    for index in range(2):
        set_seed(RECIPE.seed)
        drawn = ImageDraws(open_images(store, "train"), seed=RECIPE.seed, count=2)[index]
        model, views = drawn_stage(parts, store)
        device = next(model.parameters()).device  # a GPU where there is one: the whitening was fitted on it
        batch = {name: value.to(device) for name, value in ViewCollator(views)([drawn]).items()}
        losses.append(float(vicreg(model.to(device).train()(**batch), batch["view_poses"][0], "exact").detach()))
    assert losses[0] != losses[1]
    assert first["loss"] == pytest.approx(sum(losses) / 2, rel=1e-3)


def drawn_stage(parts: Parts, store: Path) -> tuple[vision_stage.VisionStage, Any]:
    """Return the module that train_vision trains, as it is drawn and fitted, and its image processor."""
    tower = vision_stage.load_encoder(parts.encoder, torch.float32)
    config = vision_stage.PanoLlavaConfig(vision_config=tower.config, vision_feature_layer=-2, **MODEL.config_fields())
    model = vision_stage.VisionStage(tower, config)
    image_processor = vision_stage.load_image_processor(parts.encoder, tower.config, MODEL)
    vision_stage._fit_whitening(model, image_processor, open_images(store, "train"))
    return model, image_processor


def test_mixed_precision_reaches_the_overlap_stage(
    parts: Parts, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    build = vision_stage.build_trunk

    def hooked(config: Any) -> torch.nn.Module:
        trunk = build(config)
        trunk.linear.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
        return trunk

    monkeypatch.setattr(vision_stage, "build_trunk", hooked)
    adapt(parts, store, tmp_path / "out", replace(RECIPE, steps=1, bf16=True))
    assert seen == [torch.bfloat16]


def test_without_pairing_the_trunk_is_written_as_it_is_drawn_and_fitted(
    parts: Parts, store: Path, tmp_path: Path
) -> None:
    outcome = adapt(parts, store, tmp_path / "none", replace(RECIPE, overlap=("vicreg", "none")))
    assert outcome.history == []
    assert set(outcome.moved.values()) == {0.0}
    written = load_file(tmp_path / "none" / "trained.safetensors")
    set_seed(RECIPE.seed)
    model, _ = drawn_stage(parts, store)
    drawn = weights_of(model)
    assert set(written) == declared(drawn, *DECLARED["train_vision"])
    assert all(torch.equal(drawn[name], value) for name, value in written.items())
    for loss in OVERLAP_LOSSES:
        trained = adapt(parts, store, tmp_path / loss, replace(RECIPE, steps=2, overlap=(loss, "exact")))
        assert trained.trained == outcome.trained
        assert min(trained.moved.values()) > 0


def test_views_without_overlap_stop_the_overlap_stage(parts: Parts, store: Path, tmp_path: Path) -> None:
    cube = {"dtype": torch.float32, "settings": replace(MODEL, views=ViewSettings("cubemap"))}
    options = {"recipe": RECIPE, "blocks": 1, **cube}
    with pytest.raises(ValueError, match="needs overlapping views"):
        vision_stage.train_vision(parts.encoder, store, tmp_path / "out", tmp_path / "checkpoints", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("layer", "used"), [(-1, [1, 2]), (-2, [0, 1]), (2, [0, 1])])
def test_only_blocks_that_the_features_depend_on_train(parts: Parts, layer: int, used: list[int]) -> None:
    tower = vision_stage.load_encoder(parts.encoder, torch.float32)
    names = vision_stage.last_blocks(tower, 2, layer)
    assert names == [f"model.vision_tower.encoder.layers.{index}." for index in used]
    with pytest.raises(ValueError, match="encoder_blocks is 4, but the encoder has"):
        vision_stage.last_blocks(tower, 4, layer)


def test_adapters_go_to_the_language_model_alone(run: SimpleNamespace) -> None:
    before, _ = run.states["finetune_lora"]
    adapters = {name for name in before if ".lora_" in name}
    assert all("model.language_model.layers." in name for name in adapters)
    assert {name.split(".lora_")[0].rsplit(".", 1)[1] for name in adapters} == set(LORA["targets"])


def test_a_folder_of_another_resampler_is_refused(
    run: SimpleNamespace, parts: Parts, store: Path, tmp_path: Path
) -> None:
    wide = {**SETTINGS, "settings": replace(MODEL, resampler_hidden_size=64)}
    folders = (parts, store, run.folder / "train_vision", tmp_path / "out", tmp_path / "checkpoints")
    message = (
        r"train_vision/trained.safetensors: model.resampler.trunk.* has shape .*, the model has shape \[64.*another"
    )
    with pytest.raises(ValueError, match=message):
        language_stages.train_resampler(*folders, recipe=LANGUAGE, records=4, **wide)
    assert not (tmp_path / "out").exists()
