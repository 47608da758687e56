"""Python works ahead of a GPU in training: between one log and the next, nothing asks for what the GPU computes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_backbones
import torch
from tiny_backbones import LORA, MODEL, write_panoramas, write_parts
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.func import functional_call
from torch.utils._pytree import tree_map_only
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from panollava import PanoLlavaForConditionalGeneration
from panollava.attention.plan import use_plans
from panollava.backbones.assemble import Parts, assemble
from panollava.corpus.store import open_split
from panollava.training import language_stages, vision_stage
from panollava.training.dialogues import Collator, Draws, StoredPanoramas
from panollava.training.encoding import FrozenEncoder
from panollava.training.mask_loss import mask_losses
from panollava.training.recipe import Augmentation
from panollava.training.trainer import PanoTrainer

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="a CPU is not waited for")

RECIPE = replace(tiny_backbones.RECIPE, steps=5, accumulation=2, save_steps=100, bf16=True, mask_weight=1.0)
SETTINGS: dict[str, Any] = {"dtype": torch.bfloat16, "settings": MODEL}


def batch_and_model(folder: Path, *, blind: bool) -> tuple[dict[str, Any], PanoLlavaForConditionalGeneration]:
    """Return a batch of two panoramas with masks behind a frozen encoder, or a blind one, and the model in training."""
    parts, store = write_parts("clip", "llama", folder / "parts"), write_panoramas(folder / "store", 3)
    model, processor = assemble(parts, MODEL, dtype=torch.float32)
    use_plans(model.model.language_model)
    model.model.vision_tower.requires_grad_(False)
    draws = Draws(StoredPanoramas(open_split(store, "train")), seed=0, count=2, records=12)
    batch = Collator(processor, blind=blind, patches=4)([draws[0], draws[1]])
    encoder = FrozenEncoder.of(model)
    assert encoder is not None
    return encoder.with_grids(batch), model.train()


def step_without_values(model: PanoLlavaForConditionalGeneration, batch: dict[str, Any]) -> int:
    """Return how many tensors get gradients in a step on tensors that have shapes alone; to ask for a value fails."""
    mode = FakeTensorMode()
    held = {name: mode.from_tensor(own) for name, own in (*model.named_parameters(), *model.named_buffers())}
    shapes: Any = tree_map_only(torch.Tensor, mode.from_tensor, batch)
    shapes["plan"] = batch["plan"]._with_tensors(mode.from_tensor)
    targets = shapes.pop("mask_targets", None)
    with mode:
        output = functional_call(model, held, kwargs=shapes)
        loss = output.loss
        if targets is not None:
            loss = loss + mask_losses(output.mask_logits, targets, shapes["view_poses"][0]).sum()
        loss.backward()
    return sum(own.grad is not None for own in held.values())


@pytest.mark.parametrize("blind", [False, True])
def test_a_step_needs_no_value_from_the_device(tmp_path: Path, *, blind: bool) -> None:
    """Also of a row that is longer than the context."""
    batch, model = batch_and_model(tmp_path, blind=blind)
    model.config.text_config.max_position_embeddings = batch["plan"].span
    assert batch["input_ids"].shape[1] > batch["plan"].span
    assert step_without_values(model, batch) >= 20


@pytest.mark.parametrize("given", ["needed", "placeholders"])
def test_what_a_batch_does_not_say_is_asked_of_the_device(tmp_path: Path, given: str) -> None:
    batch, model = batch_and_model(tmp_path, blind=False)
    change = {"placeholders": None} if given == "placeholders" else {"plan": replace(batch["plan"], needed=None)}
    with pytest.raises((DynamicOutputShapeException, DataDependentOutputException)):
        step_without_values(model, batch | change)


class NoWaiting(TrainerCallback):
    """From the second log on, a wait for the GPU is an error until the step has ended."""

    steps = 0

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if 2 <= state.global_step < state.max_steps:
            torch.cuda.set_sync_debug_mode("error")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.steps += torch.cuda.get_sync_debug_mode() == 2
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[NoWaiting]:
    """A trainer that must not wait."""
    callback, run = NoWaiting(), PanoTrainer.run

    def run_watched(trainer: PanoTrainer) -> Any:
        trainer.add_callback(callback)
        return run(trainer)

    monkeypatch.setattr(PanoTrainer, "run", run_watched)
    yield callback
    torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Parts, Path, Path]:
    """Backbones, panoramas, and a vision stage's model."""
    folder = tmp_path_factory.mktemp("trained")
    parts, store = write_parts("clip", "llama", folder / "parts"), write_panoramas(folder / "store", 3)
    recipe, vision = replace(RECIPE, steps=1, overlap=("vicreg", "exact")), folder / "vision"
    vision_stage.train_vision(parts.encoder, store, vision, folder / "ckpt", recipe=recipe, blocks=1, **SETTINGS)
    return parts, store, vision


@on_a_gpu
def test_the_resampler_stage_does_not_wait(
    watched: NoWaiting, trained: tuple[Parts, Path, Path], tmp_path: Path
) -> None:
    folders = (*trained, tmp_path / "out", tmp_path / "ckpt")
    language_stages.train_resampler(*folders, recipe=replace(RECIPE, mask_weight=0.0), records=4, **SETTINGS)
    assert watched.steps == 3


@on_a_gpu
@pytest.mark.parametrize("change", [{}, {"augmentation": Augmentation(tilt_deg=5.0)}, {"compile": True}])
def test_finetuning_does_not_wait(
    watched: NoWaiting, trained: tuple[Parts, Path, Path], tmp_path: Path, change: dict[str, Any]
) -> None:
    parts, store, vision = trained
    recipe = replace(RECIPE, **change)
    language_stages.train_resampler(
        parts, store, vision, tmp_path / "aligned", tmp_path / "a.ckpt", recipe=replace(RECIPE, steps=1), records=4,
        **SETTINGS,
    )  # fmt: skip
    watched.steps = 0
    folders = (parts, store, tmp_path / "aligned", tmp_path / "out", tmp_path / "ckpt")
    language_stages.finetune_lora(
        *folders, recipe=recipe, records=4, lora=LORA, save_lora_only=False, blind=False, **SETTINGS
    )
    assert watched.steps == 3
