"""Fit a model by a recipe: what trains, the training itself, and what a stage reports of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import Tensor, nn
from torch.utils.data import Dataset

from panollava.backbones.trained import whole
from panollava.training.recipe import Recipe
from panollava.training.trainer import PanoTrainer, set_trainable, size_of, trainable_table

RESAMPLER = "model.resampler."


@dataclass(frozen=True)
class Outcome:
    """What a stage reports: its logged losses, the trained parameters by group, and how far each group moved."""

    history: list[dict[str, float]]
    trained: dict[str, int]
    total: int
    moved: dict[str, float]


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().cpu().clone() for n, p in model.named_parameters() if p.requires_grad}


def _moved(model: nn.Module, before: dict[str, Tensor], parts: dict[str, int]) -> dict[str, float]:
    """Return by how much each group moved, relative to its norm before (LoRA starts at zero: its norm afterwards)."""
    moved = {}
    for part in parts:
        change = start = 0.0
        for name, parameter in model.named_parameters():
            if name in before and part in name:
                change += float((whole(parameter) - before[name]).float().square().sum())
                start += float(before[name].float().square().sum())
        moved[part] = (change / max(start, 1e-12)) ** 0.5
    return moved


def fit(model: Any, recipe: Recipe, checkpoints: Path, *, draws: Dataset, collator: Any) -> Outcome:
    """Train the parameters that the recipe's learning rates name, and return what happened."""
    counts = set_trainable(model, recipe.learning_rates)
    PartialState().print(trainable_table(model, counts), flush=True)
    before = _snapshot(model)
    history = PanoTrainer(model, recipe, checkpoints, draws=draws, collator=collator).run()
    total = sum(map(size_of, model.parameters()))
    return Outcome(history, counts, total, _moved(model, before, counts))
