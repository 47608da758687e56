"""Finetuning without adapters and with frozen layers: what moves and is written; that it loads, merges and resumes."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_backbones
import torch
from safetensors.torch import load_file
from test_stages import changed, declared
from tiny_backbones import LORA, MODEL, write_panoramas, write_parts
from tiny_models import weights_of, write_dataset
from torch import Tensor, nn

from panollava import PanoDataset, PanoLLaVAModel, PanoLLaVATrainer
from panollava.backbones.assemble import assemble
from panollava.backbones.trained import load_finetuned, read_parts
from panollava.cli import main
from panollava.corpus.store import open_split
from panollava.training import fit as fit_module
from panollava.training import language_stages, vision_stage
from panollava.training.fit import Outcome, in_float32
from panollava.training.language_parts import trained_parts
from panollava.training.trainer import PanoTrainer

SETTINGS: dict[str, Any] = {"dtype": torch.float32, "settings": MODEL}
RATES = {"vision_tower": 1e-3, "resampler": 1e-2, "lora": 1e-2, "language_model": 1e-3, "mask_head": 1e-2}
RECIPE = replace(tiny_backbones.RECIPE, mask_weight=1.0, learning_rates=RATES)
LANGUAGE, FIRST, SECOND = (f"model.language_model.{name}" for name in ("", "layers.0.", "layers.1."))
BESIDE = ("model.resampler.", "mask_head.")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Return the store and the folder of an aligned resampler."""
    folder = tmp_path_factory.mktemp("full")
    parts, store = write_parts("clip", "llama", folder), write_panoramas(folder / "store", 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        own = replace(RECIPE, overlap=("vicreg", "exact"), steps=1)
        vision_stage.train_vision(
            parts.encoder, store, folder / "vision", folder / "c", recipe=own, blocks=1, **SETTINGS
        )
        language_stages.train_resampler(
            parts, store, folder / "vision", folder / "resampler", folder / "d", recipe=RECIPE, records=4, **SETTINGS
        )
    return SimpleNamespace(store=store, parts=parts, previous=folder / "resampler")


def finetune(base: SimpleNamespace, out: Path, **options: Any) -> tuple[Outcome, tuple[dict, dict]]:
    """Return what a finetuning reports, and its model's weights before and after it."""
    states: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    fit = fit_module.fit

    def watched(model: Any, *args: Any, **kwargs: Any) -> Outcome:
        before = weights_of(model)
        outcome = fit(model, *args, **kwargs)
        states.append((before, weights_of(model)))
        return outcome

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(out.parent))
        patch.setattr(language_stages, "fit", watched)
        settings = {"recipe": RECIPE, "records": 4, "lora": None, "save_lora_only": True} | SETTINGS | options
        folders = (base.parts, base.store, base.previous, out, out.with_suffix(".ckpt"))
        outcome = language_stages.finetune_lora(*folders, **settings)
    return outcome, states[0]


def as_loaded(state: dict[str, Tensor], folder: Path) -> None:
    """Assert that a folder loads as the model that was trained."""
    found = weights_of(load_finetuned(folder, merge=False)[0])
    for name, value in state.items():
        assert torch.equal(found[name.removeprefix("base_model.model.")], value), name


def test_without_adapters_the_whole_language_model_trains(base: SimpleNamespace, tmp_path: Path) -> None:
    outcome, states = finetune(base, tmp_path / "out")
    names = declared(states[0], LANGUAGE, "lm_head.", *BESIDE)
    assert changed(states) == names  # lm_head is tied to the embeddings
    assert outcome.trained.keys() == {LANGUAGE, *BESIDE}
    assert outcome.moved[LANGUAGE] > 0
    written = set(load_file(tmp_path / "out/trained.safetensors"))
    assert names - {"lm_head.weight"} <= written
    assert not list((tmp_path / "out").glob("adapter*"))
    as_loaded(states[1], tmp_path / "out")


@pytest.mark.parametrize("blind", [False, True])
def test_frozen_layers_and_the_embeddings_before_them_stay(base: SimpleNamespace, tmp_path: Path, blind: bool) -> None:
    _, states = finetune(base, tmp_path / "out", freeze_layers=1, blind=blind)
    beside = () if blind else BESIDE
    assert changed(states) == declared(states[0], SECOND, f"{LANGUAGE}norm.", *beside)
    written = set(load_file(tmp_path / "out/trained.safetensors"))
    assert not declared(dict.fromkeys(written), FIRST, "embed_tokens")
    as_loaded(states[1], tmp_path / "out")


def test_frozen_layers_get_no_adapters(base: SimpleNamespace, tmp_path: Path) -> None:
    _, states = finetune(base, tmp_path / "out", lora=LORA, freeze_layers=1)
    adapters = declared(states[0], ".lora_")
    assert adapters
    assert adapters == declared(dict.fromkeys(adapters), SECOND)
    assert adapters <= changed(states)
    as_loaded(states[1], tmp_path / "out")


def test_a_head_of_its_own_trains_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tiny_backbones.LLM, "tie_word_embeddings", False)
    model, _ = assemble(write_parts("clip", "llama", tmp_path), MODEL, dtype=torch.float32)
    assert trained_parts(model, 0) == [LANGUAGE, "lm_head."]
    assert trained_parts(model, 1) == [SECOND, f"{LANGUAGE}norm.", "lm_head."]


@pytest.mark.parametrize("lora", [None, LORA])
def test_at_least_one_layer_trains(base: SimpleNamespace, tmp_path: Path, lora: dict[str, Any] | None) -> None:
    with pytest.raises(ValueError, match=r"freeze_layers is 2, but the language model has 2 layers.* set it to 1"):
        finetune(base, tmp_path / "out", lora=lora, freeze_layers=2)


def test_weights_of_four_bits_do_not_train(base: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weights of 4 bits cannot train"):
        language_stages._language_that_trains(
            load_finetuned(base.previous)[0], replace(RECIPE, load_in_4bit=True), None, 0
        )


def test_a_killed_run_continues_to_the_same_weights(
    base: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, steps=4, save_steps=2)
    _, states = finetune(base, tmp_path / "whole", recipe=recipe)
    training_step = PanoTrainer.training_step

    class KilledError(Exception):
        pass

    def until_killed(self: PanoTrainer, *args: Any, **kwargs: Any) -> Tensor:
        if self.state.global_step == 3:
            raise KilledError
        return training_step(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(PanoTrainer, "training_step", until_killed)
        finetune(base, tmp_path / "out", recipe=recipe)
    _, resumed = finetune(base, tmp_path / "out", recipe=recipe)
    assert all(torch.equal(resumed[1][name], value) for name, value in states[1].items())


def test_the_command_merges_it_and_it_trains_further(
    base: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    finetune(base, tmp_path / "out", save_lora_only=False)
    assert main(["merge", str(tmp_path / "out"), str(tmp_path / "merged")]) == 0
    capsys.readouterr()
    model, processor = load_finetuned(tmp_path / "out")
    inputs = processor(
        images=[open_split(base.store, "train")[0]["image"]], text=["<pano>\nWhat is it?"], return_tensors="pt"
    )
    for folder in (tmp_path / "merged", tmp_path / "out/merged"):
        whole = type(model).from_pretrained(folder).eval()
        with torch.no_grad():
            assert torch.allclose(whole(**inputs).logits, model(**inputs).logits, atol=1e-4)
    further = PanoLLaVAModel.from_pretrained(tmp_path / "out")
    data = PanoDataset(write_dataset(tmp_path / "data", 1), image_height=64)
    PanoLLaVATrainer(model=further, train_dataset=data, output_dir=tmp_path / "further", steps=1, rank=2).train()
    before, after = (load_file(tmp_path / name / "trained.safetensors") for name in ("out", "further"))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], before[name]) for name in declared(before, LANGUAGE))
    assert read_parts(tmp_path / "further") == base.parts


def test_mixed_precision_trains_float32_weights_and_writes_the_model_s_dtype(
    base: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.dtype]] = []
    training_step = PanoTrainer.training_step

    def noting(self: PanoTrainer, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        seen.append({name: p.dtype for name, p in model.named_parameters()})
        return training_step(self, model, *args, **kwargs)

    monkeypatch.setattr(PanoTrainer, "training_step", noting)
    rates = RATES | {"language_model": 1e-5}
    recipe = replace(RECIPE, bf16=True, learning_rates=rates, steps=2)
    outcome, states = finetune(base, tmp_path / "out", recipe=recipe, freeze_layers=1, dtype=torch.bfloat16)
    for name, dtype in seen[0].items():
        trains = bool(declared({name: None}, SECOND, f"{LANGUAGE}norm.", *BESIDE))
        assert dtype == (torch.float32 if trains else torch.bfloat16), name
    # So small a step would have left nearly every bfloat16 weight where it was.
    assert outcome.moved[SECOND] == pytest.approx(2e-5 / 0.02, rel=0.9)
    assert {value.dtype for value in states[1].values()} == {torch.bfloat16}
    assert {value.dtype for value in load_file(tmp_path / "out/trained.safetensors").values()} == {torch.bfloat16}
    as_loaded(states[1], tmp_path / "out")


def test_adapters_on_top_of_a_trained_language_model_keep_it(base: SimpleNamespace, tmp_path: Path) -> None:
    finetune(base, tmp_path / "full")
    on_top = SimpleNamespace(store=base.store, parts=base.parts, previous=tmp_path / "full")
    _, states = finetune(on_top, tmp_path / "lora", lora=LORA)
    full, both = (load_file(tmp_path / name / "trained.safetensors") for name in ("full", "lora"))
    assert full.keys() == both.keys()
    assert all(torch.equal(both[name], full[name]) for name in declared(full, LANGUAGE))
    found = weights_of(load_finetuned(tmp_path / "lora", merge=False)[0])
    for name, value in states[1].items():
        assert torch.equal(found[name.removeprefix("base_model.model.")], value), name


@pytest.mark.parametrize("encoder", ["clip", "dinov2"])
def test_every_stage_trains_bfloat16_backbones_in_mixed_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    parts, store = write_parts(encoder, "mistral", tmp_path), write_panoramas(tmp_path / "store", 2)
    small, rates = {"dtype": torch.bfloat16, "settings": MODEL}, RATES | {"vision_tower": 1e-5}
    recipe = replace(RECIPE, bf16=True, steps=1, learning_rates=rates)
    outcome = vision_stage.train_vision(
        parts.encoder, store, tmp_path / "vision", tmp_path / "c1", blocks=1,
        recipe=replace(recipe, overlap=("vicreg", "exact")), **small,
    )  # fmt: skip
    # A bfloat16 weight would not have moved at all by so little.
    assert all(0 < moved < 0.1 for moved in outcome.moved.values())
    folders = (parts, store, tmp_path / "vision", tmp_path / "resampler", tmp_path / "c2")
    language_stages.train_resampler(*folders, recipe=recipe, records=4, **small)
    folders = (parts, store, tmp_path / "resampler", tmp_path / "full", tmp_path / "c3")
    outcome = language_stages.finetune_lora(*folders, recipe=recipe, records=4, lora=None, save_lora_only=True, **small)
    assert all(moved > 0 for moved in outcome.moved.values())
    for stage in ("vision", "resampler", "full"):
        assert {value.dtype for value in load_file(tmp_path / stage / "trained.safetensors").values()} == {
            torch.bfloat16
        }


def test_weights_get_their_dtype_back() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).bfloat16()
    model[0].requires_grad_(False)
    with in_float32(model):
        assert [p.dtype for p in model.parameters()] == [torch.bfloat16] * 2 + [torch.float32] * 2
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
