"""Run a training stage in its scratch folder, and write its loss curve and its numbers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate import PartialState

from panollava.io import replacing, write_json
from panollava.training.fit import Outcome
from panollava.training.scratch import scratch


def run_stage(
    stage: str, settings: Any, inputs: Sequence[Path], train: Callable[[Path], Outcome], *, metrics: Path, plots: Path
) -> None:
    """Train, and write `plots`/STAGE/loss.csv and `metrics`/STAGE.json.

    `settings`, as JSON, and `inputs` decide the result, so they name the scratch folder. Launch settings do not: under
    others, a killed run continues.
    """
    with scratch(stage, settings, inputs) as checkpoints:
        outcome = train(checkpoints)
        if PartialState().is_main_process:
            write_curve(outcome, plots / stage / "loss.csv")
            write_json(metrics / f"{stage}.json", {stage: numbers(outcome)})


def write_curve(outcome: Outcome, file: Path) -> None:
    """Write the loss of each logged step; a run that was validated has its validation losses beside them."""
    columns = ["step", "loss", "learning_rate"]
    curve = pd.DataFrame(outcome.history, columns=columns)
    if outcome.validations:
        losses = {entry["step"]: entry["eval_loss"] for entry in outcome.validations}
        curve["validation_loss"] = curve["step"].map(losses)
    with replacing(file) as content:
        curve.to_csv(content, index=False)


def numbers(outcome: Outcome) -> dict[str, Any]:
    """Return the numbers of a stage: what trained, how far it moved, where the losses began and ended."""
    losses = [entry["loss"] for entry in outcome.history]
    tenth = max(len(losses) // 10, 1)
    trained = sum(outcome.trained.values())
    found: dict[str, Any] = {
        "trained_parameters": trained,
        "trained_share": trained / outcome.total,
        "moved": {part.strip("."): value for part, value in outcome.moved.items()},
    }
    if losses:
        found |= {"first_loss": sum(losses[:tenth]) / tenth, "last_loss": sum(losses[-tenth:]) / tenth}
    if outcome.validations:
        validated = [(entry["eval_loss"], int(entry["step"])) for entry in outcome.validations]
        best, step = min(validated)
        found["validation"] = {
            "first_loss": validated[0][0],
            "last_loss": validated[-1][0],
            "best_loss": best,
            "best_step": step,
            "last_step": validated[-1][1],
            "kept_step": outcome.kept_step,
        }
    return found
