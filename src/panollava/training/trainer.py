"""One trainer for all stages, on `transformers.Trainer`: what trains and how fast is data, not code.

Checkpoints hold the trained parameters alone, so they stay small beside any language model, and lie in a scratch folder
that belongs to one run of one stage: a killed stage finds them and continues to the same weights.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import save_fsdp_optimizer
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.data import Dataset
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import is_bitsandbytes_available

from panollava.backbones.trained import trained_state
from panollava.training.checkpoints import last_checkpoint, load_weights, save_weights, writing
from panollava.training.encoding import FrozenEncoder
from panollava.training.mask_loss import mask_losses
from panollava.training.overlap import OVERLAP_LOSSES
from panollava.training.processes import from_all, from_main, share_of_step
from panollava.training.recipe import Recipe
from panollava.training.trackers import finish_trackers, tracker_callbacks

WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class Validation:
    """What is validated on: draws, `batch_size` of them at a time, and the learned `tokens` of a draw on average.

    With `tokens`, the loss is the mean over all learned tokens, however many a draw has; the batch size is then 1, so
    that processes may share the draws in any way.
    """

    draws: Dataset
    batch_size: int = 1
    tokens: float | None = None


class LogWithValidation(TrainerCallback):
    """Log the training loss at each step that is validated, so that both stand in one row."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Ask for a log."""
        control.should_log |= control.should_evaluate
        return control


class Patience(EarlyStoppingCallback):
    """Stop after so many validations in a row without a better loss.

    The step that stops is not saved: a run that is killed right after it, and resumed, stops there again.
    """

    def on_evaluate(  # type: ignore[override] # transformers' own signature differs from its base class
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any, **kwargs: Any
    ) -> TrainerControl:
        """Ask for the end of training."""
        super().on_evaluate(args, state, control, metrics, **kwargs)
        control.should_save &= not control.should_training_stop
        return control


def _group(name: str, parts: Iterable[str]) -> str | None:
    return next((part for part in parts if part in name), None)


@cache
def packed_types() -> tuple[type, ...]:
    """Return the classes of parameters that hold two numbers of 4 bits in each byte."""
    return (import_module("bitsandbytes.nn").Params4bit,) if is_bitsandbytes_available() else ()


def size_of(parameter: nn.Parameter) -> int:
    """Return how many numbers a parameter holds; those of 4 bits are packed, as PEFT counts them as well."""
    packed = isinstance(parameter, packed_types())
    return 2 * parameter.element_size() * parameter.numel() if packed else parameter.numel()


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
    total = sum(map(size_of, model.parameters()))
    trained = sum(counts.values())
    lines = [f"  trains  {count:>13,}  {prefix}" for prefix, count in counts.items()]
    lines.append(f"  frozen  {total - trained:>13,}  everything else")
    return "\n".join([*lines, f"  {100 * trained / total:.2f} % of {total:,} parameters train"])


def layer_classes(model: nn.Module) -> list[str]:
    """Return the classes of a model's layers, each of which FSDP shards on its own.

    What the parts of the model name and do not hold is left out, such as layers of CLIP's text half.
    """
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    named = {name for part in parts for name in part._no_split_modules or ()}
    return sorted(named & {type(module).__name__ for module in model.modules()})


class PanoTrainer(Trainer):
    """A trainer with a learning rate for each group, small checkpoints, and the overlap loss where a recipe has one."""

    def __init__(
        self,
        model: Any,
        recipe: Recipe,
        folder: Path,
        *,
        draws: Dataset,
        collator: Callable[[Any], dict[str, Tensor]],
        validation: Validation | None = None,
    ) -> None:
        self.recipe, self.encoder, self.validation = recipe, FrozenEncoder.of(model), validation
        self.started, self.waited = time.perf_counter(), 0.0
        batch_size, accumulation = share_of_step(
            recipe.batch_size,
            recipe.accumulation,
            PartialState().num_processes,
            whole_batches=recipe.overlap is not None,
        )
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=recipe.steps,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            warmup_steps=recipe.warmup,
            lr_scheduler_type=recipe.schedule,
            weight_decay=WEIGHT_DECAY,
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
            # Python works ahead of a GPU, which is asked for nothing between one log and the next.
            accelerator_config={"non_blocking": torch.cuda.is_available()},
            logging_nan_inf_filter=False,
            activation_checkpointing=recipe.activation_checkpointing,
            ddp_find_unused_parameters=False,
            report_to="none",
            run_name=folder.parent.name,
            **_validation_arguments(recipe, validation),
        )
        # Set here, for the arguments would ask that `save_steps` be a multiple of `validate_every`.
        arguments.load_best_model_at_end = recipe.keep == "best"
        arguments.mixed_precision = "bf16" if recipe.bf16 else "no"  # whatever the launch or its user prefers
        # Several GPUs need one process each (accelerate launch); a packed batch cannot be scattered by DataParallel.
        arguments._n_gpu = min(arguments.n_gpu, 1)  # private: there is no public switch for it
        super().__init__(
            model,
            arguments,
            data_collator=collator,
            train_dataset=draws,
            eval_dataset=None if validation is None else validation.draws,
            callbacks=self._callbacks(folder),
        )
        self.can_return_loss = True
        if self.is_fsdp_enabled:
            plugin = self.accelerator.state.fsdp_plugin
            plugin.transformer_cls_names_to_wrap = layer_classes(model)
            # FSDP's own mixed precision rounds all inputs, the poses of views too; autocast below does not.
            plugin.mixed_precision_policy = MixedPrecisionPolicy()

    def _callbacks(self, folder: Path) -> list[TrainerCallback]:
        callbacks: list[TrainerCallback] = []
        if self.validation is not None:
            callbacks.append(LogWithValidation())
        if self.recipe.patience is not None:
            callbacks.append(Patience(self.recipe.patience))
        return callbacks + tracker_callbacks(self.recipe.report_to, Path(self.recipe.logs) / folder.name)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return a batch on the device, with the features of a frozen encoder in place of views."""
        batch = super()._prepare_inputs(inputs)
        # FSDP gathers an encoder's weights in the model's own forward alone.
        return batch if self.is_fsdp_enabled or self.encoder is None else self.encoder.with_grids(batch)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return nothing: nobody asks for the operations of a step, and to count them walks twice through a model."""
        return 0

    def compute_loss(  # type: ignore[override] # whatever else the trainer passes goes on to its own loss
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Return the answers' loss, or the overlap loss where the recipe asks for it."""
        if self.validation is not None and self.validation.tokens is not None and not model.training:
            # The mean over the draws is then one over all tokens. What processes share counts in all of them.
            items = self.validation.tokens * self.accelerator.num_processes
            kwargs["num_items_in_batch"] = torch.tensor(items, device=self.args.device)
        if "mask_targets" in inputs:
            return self._with_masks(model, inputs, return_outputs, **kwargs)
        if self.recipe.overlap is None:
            return super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        loss, pairing = self.recipe.overlap
        # The model itself is called, not a part of it: mixed precision and gradient exchange hang on its forward.
        features = model(**inputs)
        # The features are compared as they are used: a bf16 variance would be too coarse for the hinge at one. Variance
        # and covariance are those of the whole batch, wherever its panoramas are.
        value = OVERLAP_LOSSES[loss](from_all(features.float()), inputs["view_poses"][0], pairing)
        return (value, {"features": features}) if return_outputs else value

    def _with_masks(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool, **kwargs: Any) -> Any:
        """Return the answers' loss, with the gradients of the masks' as well, a mean over the panoramas of the step.

        The value stays that of the answers, so that it compares with a training that draws no masks.
        """
        targets = inputs.pop("mask_targets")
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        masks = mask_losses(outputs.mask_logits, targets, inputs["view_poses"][0]).sum()
        # What each process and each batch adds is summed up; gradients of processes are averaged.
        panoramas = self.recipe.step_panoramas / self.accelerator.num_processes
        drawn = self.recipe.mask_weight * masks / panoramas
        loss = loss + drawn - drawn.detach()
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Return the validation loss; the random numbers of training are those that it would have had without."""
        with torch.random.fork_rng():
            return super().evaluate(*args, **kwargs)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        best = super()._determine_best_metric(metrics, trial)
        self.control.should_save |= best and self.recipe.keep == "best"
        return best

    def _load_best_model(self) -> None:
        model: Any = self.model
        load_weights(model, Path(str(self.state.best_model_checkpoint)))

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager:
        """Return the context of mixed precision; only under FSDP does accelerate not put it around the model itself."""
        if self.is_fsdp_enabled and self.recipe.bf16:
            return torch.autocast(self.args.device.type, dtype=torch.bfloat16)
        return super().autocast_smart_context_manager(cache_enabled)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Return the batches of a step, and count how long it took until they were there."""
        start = time.perf_counter()
        samples = super().get_batch_samples(*args, **kwargs)
        self.waited += time.perf_counter() - start
        return samples

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build AdamW with one group for each learning rate of the recipe."""
        if self.optimizer is None:
            trained: Any = self.model
            named = [(n, p) for n, p in trained.named_parameters() if p.requires_grad]
            groups = [
                {"params": [p for n, p in named if _group(n, self.recipe.learning_rates) == part], "lr": rate}
                for part, rate in self.recipe.learning_rates.items()
            ]
            for group in groups:  # the optimizer's own default would stand beside what the arguments say
                group["weight_decay"] = self.args.weight_decay
            cls, options = self.get_optimizer_cls_and_kwargs(self.args, trained)
            self.optimizer = cls(groups, **options)
        return self.optimizer

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log numbers, with the seconds since the training began and those of them spent waiting for data."""
        taken = {"seconds": time.perf_counter() - self.started, "waited": self.waited}
        super().log(logs | taken, *args, **kwargs)

    def _save_checkpoint(self, *args: Any) -> None:
        with writing(Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"):
            super()._save_checkpoint(*args)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the trained parameters."""
        model: Any = self.model
        trained = trained_state(model, {name for name, value in model.named_parameters() if value.requires_grad})
        if self.args.should_save:
            save_weights(trained, Path(output_dir or str(self.args.output_dir)))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # As the trainer does, but for the model, which it would write whole, frozen weights included.
        accelerator, scheduler = self.accelerator, self.lr_scheduler
        save_fsdp_optimizer(accelerator.state.fsdp_plugin, accelerator, self.optimizer, self.model, output_dir)
        if self.args.should_save and scheduler is not None:
            torch.save(scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # The main process marks the checkpoint as complete next: it must be so on all processes.
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        target: Any = model or self.model
        load_weights(target, Path(resume_from_checkpoint))

    def run(self) -> list[dict[str, float]]:
        """Train, from the last complete checkpoint if there is one, and return the logged losses of all steps.

        Prints which checkpoints are damaged, the share of the time in which it waited for data, and the most memory of
        a GPU that tensors took on the main process.

        Raises:
            ValueError: the best weights are to be kept, and no validation loss was a number.
        """
        last = from_main(lambda: last_checkpoint(Path(str(self.args.output_dir))))
        if last is not None:
            PartialState().print(f"resuming from {last}", flush=True)
        self.started = time.perf_counter()
        self.train(resume_from_checkpoint=None if last is None else str(last))
        finish_trackers(self.recipe.report_to)
        if self.encoder is not None:
            self.encoder.graphs.clear()
        seconds = time.perf_counter() - self.started
        taken = [f"{seconds:.0f} s, {100 * self.waited / seconds:.1f} % of it waiting for data"]
        if torch.cuda.is_available():
            taken.append(f"at most {torch.cuda.max_memory_allocated() / 1e9:.1f} GB of GPU memory")
        PartialState().print("; ".join(taken), flush=True)
        if self.recipe.keep == "best" and self.state.best_model_checkpoint is None:
            raise ValueError("no validation loss was a number, so no weights are the best; lower the learning rate")
        return [entry for entry in self.state.log_history if "loss" in entry]

    @property
    def validations(self) -> list[dict[str, float]]:
        """Return the steps that were validated, each with its `eval_loss`."""
        return [entry for entry in self.state.log_history if "eval_loss" in entry]

    @property
    def kept_step(self) -> int:
        """Return the step whose weights were kept."""
        best = self.recipe.keep == "best" and self.state.best_global_step is not None
        return int(self.state.best_global_step or 0) if best else self.state.global_step


def _validation_arguments(recipe: Recipe, validation: Validation | None) -> dict[str, Any]:
    """Return the arguments of training that validates now and then."""
    if validation is None:
        return {}
    size = 1
    if validation.tokens is None:
        size, _ = share_of_step(validation.batch_size, 1, PartialState().num_processes, whole_batches=True)
    return {
        "eval_strategy": "steps",
        "eval_steps": recipe.validate_every,
        "per_device_eval_batch_size": size,
        "prediction_loss_only": True,
        "label_names": [],  # every batch has a loss, by whatever names it comes
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        # How long patience has lasted.
        "restore_callback_states_from_checkpoint": True,
    }
