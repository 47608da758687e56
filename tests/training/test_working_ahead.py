"""On a GPU, Python works ahead in training: between one log and the next, nothing waits for what the GPU computes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_backbones import MODEL, write_panoramas, write_parts
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import panollava.training.stages as stages
from panollava.backbones.assemble import Parts
from panollava.training.augmentation import Augmentation
from panollava.training.trainer import PanoTrainer, Recipe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="a CPU is not waited for")

RECIPE = Recipe(
    learning_rates={"vision_tower": 1e-3, "resampler": 1e-2, "lora": 1e-2, "mask_head": 1e-2},
    steps=5,
    batch_size=2,
    accumulation=2,
    warmup=0.0,
    schedule="cosine",
    save_steps=100,
    seed=0,
    bf16=True,
    mask_weight=1.0,
)
SETTINGS: dict[str, Any] = {"dtype": torch.bfloat16, "settings": MODEL}
LORA = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["q_proj", "v_proj", "down_proj"]}


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
    stages.train_vision(parts.encoder, store, vision, folder / "ckpt", recipe=recipe, blocks=1, **SETTINGS)
    return parts, store, vision


def test_the_resampler_stage_does_not_wait(
    watched: NoWaiting, trained: tuple[Parts, Path, Path], tmp_path: Path
) -> None:
    folders = (*trained, tmp_path / "out", tmp_path / "ckpt")
    stages.train_resampler(*folders, recipe=replace(RECIPE, mask_weight=0.0), records=4, **SETTINGS)
    assert watched.steps == 3


@pytest.mark.parametrize("change", [{}, {"augmentation": Augmentation(tilt_deg=5.0)}, {"compile": True}])
def test_finetuning_does_not_wait(
    watched: NoWaiting, trained: tuple[Parts, Path, Path], tmp_path: Path, change: dict[str, Any]
) -> None:
    parts, store, vision = trained
    recipe = replace(RECIPE, **change)
    stages.train_resampler(
        parts, store, vision, tmp_path / "aligned", tmp_path / "a.ckpt", recipe=replace(RECIPE, steps=1), records=4,
        **SETTINGS,
    )  # fmt: skip
    watched.steps = 0
    folders = (parts, store, tmp_path / "aligned", tmp_path / "out", tmp_path / "ckpt")
    stages.finetune_lora(*folders, recipe=recipe, records=4, lora=LORA, save_lora_only=False, blind=False, **SETTINGS)
    assert watched.steps == 3
