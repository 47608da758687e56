"""Shared by all training stages: folders, the recipe of the parameters, the loss curve and the numbers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import PartialState

from panollava.io import replacing
from panollava.params import Launch, Model, Strict, Training
from panollava.training.scratch import scratch
from panollava.training.stages import Outcome
from panollava.training.trainer import Recipe

STORE = Path("data/store")
ENCODER = Path("data/encoder.json")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def model_settings(model: Model) -> dict[str, Any]:
    """Return the dtype and the settings of a model by the names that its configuration gives them."""
    settings = model.model_dump(exclude={"dtype", "compute", "views"})
    return {"dtype": DTYPES[model.dtype], "settings": settings | {"views": model.views}}


def recipe(
    training: Training, model: Model, launch: Launch, seed: int, overlap: tuple[str, str] | None = None
) -> Recipe:
    """Return the recipe of a stage, without the settings of a language model."""
    return Recipe(
        learning_rates=training.learning_rate,
        steps=training.steps,
        batch_size=training.batch_size,
        accumulation=training.accumulation,
        warmup=training.warmup,
        schedule=training.schedule,
        save_steps=launch.save_steps,
        seed=seed,
        bf16=model.compute == "bfloat16",
        workers=launch.workers,
        overlap=overlap,
    )


def run(stage: str, params: Strict, inputs: list[Path], train: Callable[[Path], Outcome]) -> None:
    """Run one training stage in its scratch folder; write its loss curve and numbers.

    `params` and `inputs` decide the result, so they name the folder. Launch settings do not: under others, a killed run
    continues.
    """
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
