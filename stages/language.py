"""Shared by the stages that train on dialogues: the two backbones and the recipe with a language model."""

from dataclasses import replace
from pathlib import Path

from panollava.backbones.assemble import Parts
from panollava.backbones.presets import read_pointer
from panollava.params import Launch, Model, TrainResampler
from panollava.training.augmentation import Augmentation
from panollava.training.trainer import Recipe
from stages.training import ENCODER, recipe

LLM = Path("data/llm.json")


def parts() -> Parts:
    """Return the two backbones that this run has resolved."""
    return Parts(read_pointer(ENCODER), read_pointer(LLM))


def language_recipe(training: TrainResampler, model: Model, launch: Launch, seed: int) -> Recipe:
    """Return the recipe of a stage that trains on dialogues."""
    return replace(
        recipe(training, model, launch, seed),
        activation_checkpointing=launch.activation_checkpointing,
        compile=launch.compile,
        load_in_4bit=training.load_in_4bit,
        augmentation=Augmentation(**training.augmentation.model_dump()),
    )
