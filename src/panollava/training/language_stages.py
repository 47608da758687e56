"""The stages train_resampler and finetune_lora, and the latter's blind twin. Plain values in, folders out.

Every stage writes a folder that the next one reads: `trained.safetensors` with all that has been trained so far (but
for adapters), `parts.json`, the configuration and the processor.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import get_peft_model
from transformers import set_seed

from panollava.attention.compiling import compile_layers
from panollava.attention.plan import use_plans
from panollava.backbones.assemble import ModelSettings, Parts, assemble
from panollava.backbones.files import new_checkpoint
from panollava.backbones.trained import NEW, load_finetuned, load_trained, trained_state, write_parts, write_trained
from panollava.corpus.store import open_images, open_split
from panollava.training.dialogues import Collator, Draws, StoredPanoramas
from panollava.training.features import frozen_features
from panollava.training.fit import RESAMPLER, Outcome, fit
from panollava.training.lengths import Context, check_store
from panollava.training.lora import lora_config
from panollava.training.processes import check_launch, divided
from panollava.training.recipe import Recipe
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration
from panollava.vlm.processing_panollava import PanoLlavaProcessor

LORA, MASK_HEAD = ".lora_", "mask_head."


def _draws(processor: PanoLlavaProcessor, store: Path, recipe: Recipe, records: int, **options: Any) -> Draws:
    return Draws(
        StoredPanoramas(open_split(store, "train"), **options),
        seed=recipe.seed,
        count=recipe.draws,
        records=records,
        augmentation=recipe.augmentation,
        holds=Context(processor).holds,
    )


def _fit_language(
    model: PanoLlavaForConditionalGeneration, adapted: Any, recipe: Recipe, checkpoints: Path, *,
    draws: Draws, collator: Collator,
) -> Outcome:  # fmt: skip
    """Fit a model, or its `adapted` self, on dialogues; compile its layers where the recipe says so."""
    if recipe.compile:
        compile_layers(model.model.language_model.layers)
    return fit(adapted, recipe, checkpoints, draws=draws, collator=collator)


def _draws_of_features(
    model: PanoLlavaForConditionalGeneration, processor: PanoLlavaProcessor, store: Path, recipe: Recipe, records: int
) -> Draws:
    """Return draws for stages behind the frozen encoder: with its features, where keeping them pays.

    Tilted panoramas have other features each time.
    """
    model.model.vision_tower.requires_grad_(False).to(PartialState().device)
    model.train()  # a frozen encoder has no dropout
    if recipe.augmentation.tilt_deg:
        return _draws(processor, store, recipe, records)
    grids = frozen_features(model, processor.image_processor, open_images(store, "train"), uses=recipe.draws)
    return _draws(processor, store, recipe, records, grids=grids)


def _write(
    model: PanoLlavaForConditionalGeneration, processor: PanoLlavaProcessor, parts: Parts, names: set[str], out: Path,
    adapted: Any = None,
) -> None:  # fmt: skip
    """Write a trained folder, with the adapter of the `adapted` model if there is one."""
    state, adapter = trained_state(model, names), {}
    if adapted is not None:
        adapter = trained_state(adapted, {name for name, _ in adapted.named_parameters() if LORA in name})
    if not PartialState().is_main_process:
        return
    with new_checkpoint(out, replace=True) as folder:
        write_trained(state, folder)
        write_parts(parts, folder)
        model.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        if adapted is not None:
            adapted.save_pretrained(str(folder), state_dict=adapter)


def _assembled(
    parts: Parts, store: Path, previous: Path, recipe: Recipe, dtype: torch.dtype, settings: ModelSettings
) -> tuple[PanoLlavaForConditionalGeneration, PanoLlavaProcessor, set[str]]:
    """Return model and processor with what the previous stage trained, and the names of what folders hold of it.

    Nothing is computed before all records of the store have been checked against the language model's context.
    """
    check_launch()
    set_seed(recipe.seed)
    if recipe.load_in_4bit and divided():
        raise ValueError("load_in_4bit is true, but FSDP cannot divide such weights; set it to false under FSDP")
    compute = torch.bfloat16 if recipe.bf16 else torch.float32
    model, processor = assemble(parts, settings, dtype=dtype, four_bit=compute if recipe.load_in_4bit else None)
    check_store(processor, store)
    use_plans(model.model.language_model)
    names = set(load_trained(model, previous))
    return model, processor, names | {n for n, _ in model.named_parameters() if n.startswith(NEW)}


def train_resampler(
    parts: Parts, store: Path, previous: Path, out: Path, checkpoints: Path, *, recipe: Recipe, records: int,
    dtype: torch.dtype, settings: ModelSettings,
) -> Outcome:  # fmt: skip
    """Align the resampler with the frozen language model; its projection is born here."""
    model, processor, names = _assembled(parts, store, previous, recipe, dtype, settings)
    recipe = replace(recipe, learning_rates={RESAMPLER: recipe.learning_rates["resampler"]})
    draws = _draws_of_features(model, processor, store, recipe, records)
    outcome = _fit_language(model, model, recipe, checkpoints, draws=draws, collator=Collator(processor))
    _write(model, processor, parts, names, out)
    return outcome


def finetune_lora(
    parts: Parts, store: Path, previous: Path, out: Path, checkpoints: Path, *, recipe: Recipe, records: int,
    lora: dict[str, Any], save_lora_only: bool, dtype: torch.dtype, settings: ModelSettings, blind: bool = False,
) -> Outcome:  # fmt: skip
    """Train LoRA adapters, the resampler and the mask head; the blind twin takes the same steps with adapters alone."""
    model, processor, names = _assembled(parts, store, previous, recipe, dtype, settings)
    if blind:
        draws = _draws(processor, store, recipe, records, images=False)
    else:
        draws = _draws_of_features(model, processor, store, recipe, records)
    adapted: Any = get_peft_model(model, lora_config(**lora))
    rates = {LORA: recipe.learning_rates["lora"]}
    if blind:
        collator = Collator(processor, blind=True)
    else:
        rates |= {RESAMPLER: recipe.learning_rates["resampler"], MASK_HEAD: recipe.learning_rates["mask_head"]}
        collator = Collator(processor, patches=model.config.patch_side)
    recipe = replace(recipe, learning_rates=rates)
    outcome = _fit_language(model, adapted, recipe, checkpoints, draws=draws, collator=collator)
    _write(model, processor, parts, names, out, adapted)
    if not save_lora_only and PartialState().is_main_process:
        merged, _ = load_finetuned(out)  # from the files: the trained model's weights may lie on many processes
        with new_checkpoint(out / "merged") as folder:
            merged.save_pretrained(folder)
            processor.save_pretrained(folder)
    return outcome
