"""What the training stages share: their folders, the recipe made of the parameters, the loss curve and the numbers."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import PartialState

from panollava.backbones.assemble import Parts
from panollava.backbones.presets import read_pointer
from panollava.io import replacing
from panollava.params import Model, Strict, Training, TrainResampler
from panollava.training.augmentation import Augmentation
from panollava.training.scratch import scratch
from panollava.training.stages import Outcome
from panollava.training.trainer import Recipe

STORE = Path("data/store")
ENCODER, LLM = Path("data/encoder.json"), Path("data/llm.json")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def parts() -> Parts:
    """Return the two backbones that this run has resolved."""
    return Parts(read_pointer(ENCODER), read_pointer(LLM))


def model_settings(model: Model) -> dict[str, Any]:
    """Return dtype and the remaining settings of the model as `assemble` takes them."""
    settings = model.model_dump(exclude={"dtype", "compute"})
    return {"dtype": DTYPES[model.dtype], "settings": settings}


def recipe(training: Training, model: Model, seed: int, overlap: tuple[str, str] | None = None) -> Recipe:
    """Return the recipe of a stage."""
    return Recipe(
        learning_rates=training.learning_rate,
        steps=training.steps,
        batch_size=training.batch_size,
        accumulation=training.accumulation,
        warmup=training.warmup,
        schedule=training.schedule,
        save_steps=training.save_steps,
        seed=seed,
        bf16=model.compute == "bfloat16",
        workers=training.workers,
        activation_checkpointing=training.activation_checkpointing,
        overlap=overlap,
    )


def language_recipe(training: TrainResampler, model: Model, seed: int) -> Recipe:
    """Return the recipe of a stage that trains on dialogues."""
    plain = recipe(training, model, seed)
    return replace(
        plain,
        compile=training.compile,
        load_in_4bit=training.load_in_4bit,
        augmentation=Augmentation(**training.augmentation.model_dump()),
    )


def run(stage: str, params: Strict, inputs: list[Path], train: Callable[[Path], Outcome]) -> None:
    """Run one training stage in its scratch folder and write its loss curve and numbers."""
    with scratch(stage, params.model_dump(mode="json"), inputs) as checkpoints:
        outcome = train(checkpoints)
        if PartialState().is_main_process:
            _report(stage, outcome)
    PartialState().destroy_process_group()


def _report(stage: str, outcome: Outcome) -> None:
    columns = ["step", "loss", "learning_rate"]
    curve = pd.DataFrame(outcome.history, columns=columns)
    folder = Path("plots") / stage
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "loss.csv") as file:
        curve.to_csv(file, index=False)
    with replacing(Path(f"metrics/{stage}.json")) as file:
        file.write((json.dumps({stage: _numbers(outcome)}, indent=2) + "\n").encode())


def _numbers(outcome: Outcome) -> dict[str, Any]:
    losses = [entry["loss"] for entry in outcome.history]
    tenth = max(len(losses) // 10, 1)
    trained = sum(outcome.trained.values())
    numbers: dict[str, Any] = {
        "trained_parameters": trained,
        "trained_share": trained / outcome.total,
        "moved": {part.strip("."): value for part, value in outcome.moved.items()},
    }
    if losses:
        numbers |= {"first_loss": sum(losses[:tenth]) / tenth, "last_loss": sum(losses[-tenth:]) / tenth}
    return numbers
