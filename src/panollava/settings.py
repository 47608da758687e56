"""From the sections of params.yaml and launch.yaml to the arguments of the training stages.

The scripts of the pipeline and `panollava train` both go through here, so the same settings give the same training.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from panollava.backbones.assemble import ModelSettings
from panollava.corpus.store import open_images
from panollava.params import FinetuneLora, Launch, Model, TrainResampler, TrainVision
from panollava.training.recipe import Augmentation, Recipe, TextChat, steps_of_epochs

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def model_settings(model: Model) -> dict[str, Any]:
    """Return the dtype and the settings of a model as the training stages take them."""
    settings = {name: value for name, value in model if name not in ("dtype", "compute")}
    return {"dtype": DTYPES[model.dtype], "settings": ModelSettings(**settings)}


def recipe(
    training: TrainVision | TrainResampler | FinetuneLora, model: Model, launch: Launch, seed: int, store: Path,
    logs: Path,
) -> Recipe:  # fmt: skip
    """Return the recipe of a stage, without the settings of a language model.

    Raises:
        ValueError: a warm-up that is as long as the training.
    """
    if training.steps is None:
        assert training.epochs is not None  # one of both is given
        panoramas = len(open_images(store, "train"))
        steps = steps_of_epochs(training.epochs, panoramas, training.batch_size * training.accumulation)
        if training.warmup >= max(steps, 1):
            raise ValueError(f"warmup = {training.warmup:g} steps, but epochs = {training.epochs:g} are {steps} steps")
    else:
        steps = training.steps
    return Recipe(
        learning_rates=training.learning_rate.model_dump(),
        steps=steps,
        batch_size=training.batch_size,
        accumulation=training.accumulation,
        warmup=training.warmup,
        schedule=training.schedule,
        save_steps=launch.save_steps,
        seed=seed,
        bf16=model.compute == "bfloat16",
        workers=launch.workers,
        validate_every=training.validate_every,
        keep=training.keep,
        patience=training.patience,
        report_to=tuple(launch.report_to),
        logs=str(logs),
    )


def vision_arguments(
    training: TrainVision, model: Model, launch: Launch, seed: int, store: Path, logs: Path
) -> dict[str, Any]:
    """Return the arguments of `training.vision_stage.train_vision` that settings decide."""
    own = replace(recipe(training, model, launch, seed, store, logs), overlap=(training.loss, training.pairing))
    return {"recipe": own, "blocks": training.encoder_blocks, **model_settings(model)}


def resampler_arguments(
    training: TrainResampler | FinetuneLora, model: Model, launch: Launch, seed: int, store: Path, logs: Path
) -> dict[str, Any]:
    """Return the arguments of `training.language_stages.train_resampler` that settings decide."""
    own = replace(
        recipe(training, model, launch, seed, store, logs),
        activation_checkpointing=launch.activation_checkpointing,
        compile=launch.compile,
        load_in_4bit=training.load_in_4bit,
        augmentation=Augmentation(**training.augmentation.model_dump()),
    )
    return {"recipe": own, "records": training.records_per_panorama, **model_settings(model)}


def finetune_arguments(
    training: FinetuneLora, model: Model, launch: Launch, seed: int, store: Path, logs: Path
) -> dict[str, Any]:
    """Return the arguments of `training.language_stages.finetune_lora` that settings decide."""
    arguments = resampler_arguments(training, model, launch, seed, store, logs)
    return arguments | {
        "recipe": replace(arguments["recipe"], mask_weight=training.mask_weight),
        "lora": None if training.lora is None else training.lora.model_dump(),
        "freeze_layers": training.freeze_layers,
        "save_lora_only": training.save_lora_only,
        "text_chat": None if training.text_chat is None else TextChat(**training.text_chat.model_dump()),
    }
