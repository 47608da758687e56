"""Fit a model by a recipe: what trains, the training itself, and what a stage reports of it."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset

from panollava.backbones.trained import whole
from panollava.training.recipe import Recipe
from panollava.training.trainer import PanoTrainer, Validation, set_trainable, size_of, trainable_table

RESAMPLER = "model.resampler."


@dataclass(frozen=True)
class Outcome:
    """What a stage reports: its logged losses, the trained parameters by group, and how far each group moved.

    And the losses of the validation split, if it was validated, with the step whose weights were kept.
    """

    history: list[dict[str, float]]
    trained: dict[str, int]
    total: int
    moved: dict[str, float]
    validations: list[dict[str, float]] = field(default_factory=list)
    kept_step: int = 0


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Hold what trains in float32: to a bfloat16 weight, most of a small learning rate's steps add nothing.

    For mixed precision, which casts in each product. Weights that are whole get their dtype back at the end.
    """
    dtypes = {n: p.dtype for n, p in model.named_parameters() if p.requires_grad and p.dtype != torch.float32}
    for name in dtypes:
        parameter = model.get_parameter(name)
        parameter.data = parameter.data.float()
    yield
    for name, parameter in model.named_parameters():
        if name in dtypes and not isinstance(parameter, DTensor):
            parameter.data = parameter.data.to(dtypes[name])


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


def fit(
    model: Any, recipe: Recipe, checkpoints: Path, *, draws: Dataset, collator: Any,
    validation: Validation | None = None,
) -> Outcome:  # fmt: skip
    """Train the parameters that the recipe's learning rates name, and return what happened."""
    counts = set_trainable(model, recipe.learning_rates)
    PartialState().print(trainable_table(model, counts), flush=True)
    with in_float32(model) if recipe.bf16 else nullcontext():
        before = _snapshot(model)
        trainer = PanoTrainer(model, recipe, checkpoints, draws=draws, collator=collator, validation=validation)
        history = trainer.run()
        moved = _moved(model, before, counts)
    total = sum(map(size_of, model.parameters()))
    return Outcome(history, counts, total, moved, trainer.validations, trainer.kept_step)
