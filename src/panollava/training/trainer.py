"""One trainer for all stages, on `transformers.Trainer`: what trains and how fast is data, not code.

Checkpoints hold the trained parameters alone, so they stay small beside any language model, and lie in a scratch folder
that belongs to one run of one stage: a killed stage finds them and continues to the same weights.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from panollava.training.overlap import OVERLAP_LOSSES

WEIGHTS = "trained.safetensors"
# Written last by the trainer: a checkpoint without it was cut off while being written.
COMPLETE = "trainer_state.json"


@dataclass(frozen=True)
class Recipe:
    """What a stage trains and how: learning rates by a part of the parameters' names, then the usual numbers.

    `overlap` is (loss, pairing) for the stage that trains on views alone.
    """

    learning_rates: Mapping[str, float]
    steps: int
    batch_size: int
    accumulation: int
    warmup: float
    schedule: str
    save_steps: int
    seed: int
    bf16: bool
    workers: int = 0
    activation_checkpointing: bool = False
    overlap: tuple[str, str] | None = None


def _group(name: str, parts: Iterable[str]) -> str | None:
    return next((part for part in parts if part in name), None)


def set_trainable(model: nn.Module, parts: Iterable[str]) -> dict[str, int]:
    """Let exactly the parameters whose names contain one of `parts` require gradients; return their number by part.

    Raises:
        ValueError: a part that no parameter's name contains.
    """
    counts = dict.fromkeys(parts, 0)
    for name, parameter in model.named_parameters():
        part = _group(name, counts)
        parameter.requires_grad_(part is not None)
        if part is not None:
            counts[part] += parameter.numel()
    for part, count in counts.items():
        if count == 0:
            raise ValueError(f"no parameter of the model has {part!r} in its name; nothing would train there")
    return counts


def trainable_table(model: nn.Module, counts: Mapping[str, int]) -> str:
    """Return what trains, what is frozen, and the trainable share, as lines to print."""
    total = sum(p.numel() for p in model.parameters())
    trained = sum(counts.values())
    lines = [f"  trains  {count:>13,}  {prefix}" for prefix, count in counts.items()]
    lines.append(f"  frozen  {total - trained:>13,}  everything else")
    return "\n".join([*lines, f"  {100 * trained / total:.2f} % of {total:,} parameters train"])


class PanoTrainer(Trainer):
    """A trainer with a learning rate for each group, small checkpoints, and the overlap loss where a recipe has one."""

    def __init__(
        self, model: Any, recipe: Recipe, folder: Path, *, draws: Dataset, collator: Callable[[Any], dict[str, Tensor]]
    ) -> None:
        self.recipe = recipe
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=recipe.steps,
            per_device_train_batch_size=recipe.batch_size,
            gradient_accumulation_steps=recipe.accumulation,
            warmup_steps=recipe.warmup,
            lr_scheduler_type=recipe.schedule,
            weight_decay=0.0,
            max_grad_norm=1.0,
            adam_beta2=0.98,
            bf16=recipe.bf16,
            use_cpu=not torch.cuda.is_available(),
            seed=recipe.seed,
            data_seed=recipe.seed,
            save_steps=recipe.save_steps,
            save_total_limit=2,
            logging_steps=max(recipe.steps // 100, 1),
            dataloader_num_workers=recipe.workers,
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
            activation_checkpointing=recipe.activation_checkpointing,
            report_to="none",
        )
        # Several GPUs need one process each (accelerate launch); a packed batch cannot be scattered by DataParallel.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        super().__init__(model, arguments, data_collator=collator, train_dataset=draws)
        self.can_return_loss = True

    def compute_loss(  # type: ignore[override] # whatever else the trainer passes goes on to its own loss
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Return the answers' loss, or the overlap loss where the recipe asks for it."""
        if self.recipe.overlap is None:
            return super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        loss, pairing = self.recipe.overlap
        # The model itself is called, not a part of it: mixed precision and gradient exchange hang on its forward.
        features = model(**inputs)
        # The features are compared as they are used: a bf16 variance would be too coarse for the hinge at one.
        return OVERLAP_LOSSES[loss](features.float(), inputs["view_poses"][0], pairing)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build AdamW with one group for each learning rate of the recipe."""
        if self.optimizer is None:
            trained: Any = self.model
            named = [(n, p) for n, p in trained.named_parameters() if p.requires_grad]
            groups = [
                {"params": [p for n, p in named if _group(n, self.recipe.learning_rates) == part], "lr": rate}
                for part, rate in self.recipe.learning_rates.items()
            ]
            cls, options = self.get_optimizer_cls_and_kwargs(self.args, trained)
            self.optimizer = cls(groups, **options)
        return self.optimizer

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        model: Any = self.model
        state = state_dict or model.state_dict()
        names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        trained = {n: v.detach().cpu().contiguous() for n, v in state.items() if n in names}
        save_file(trained, folder / WEIGHTS, metadata={"format": "pt"})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        state = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        target: Any = model or self.model
        unexpected = target.load_state_dict(state, strict=False).unexpected_keys
        if unexpected:
            raise ValueError(f"{resume_from_checkpoint}: {unexpected[0]} is no parameter of this model")

    def run(self) -> list[dict[str, float]]:
        """Train, from the last complete checkpoint if there is one, and return the logged losses of all steps."""
        last = last_checkpoint(Path(str(self.args.output_dir)))
        if last is not None:
            print(f"resuming from {last}", flush=True)
        self.train(resume_from_checkpoint=None if last is None else str(last))
        return [entry for entry in self.state.log_history if "loss" in entry]


def last_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint of a folder that was written completely; cut-off ones are removed."""
    while folder.is_dir() and (found := get_last_checkpoint(str(folder))) is not None:
        path = Path(found)
        if (path / COMPLETE).is_file() and _is_json(path / COMPLETE):
            return path
        for file in sorted(path.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        path.rmdir()
    return None


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return False
    return True
