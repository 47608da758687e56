"""The stages train_resampler and finetune_lora, and the latter's blind twin. Plain values in, folders out.

Every stage writes a folder that the next one reads: `trained.safetensors` with all that has been trained so far (but
for adapters), `parts.json`, the configuration and the processor. Finetuned without adapters, the language model's
trained weights are among it.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import get_peft_model
from torch import Tensor
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
from panollava.training.language_parts import trained_parts, without_adapters
from panollava.training.lengths import Context, check_store
from panollava.training.lora import lora_config, lora_targets
from panollava.training.processes import check_launch, divided
from panollava.training.recipe import Recipe, TextChat
from panollava.training.text_chat import open_texts
from panollava.training.trainer import Validation
from panollava.vlm.labels import IGNORE
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration
from panollava.vlm.processing_panollava import PanoLlavaProcessor

LORA, MASK_HEAD = ".lora_", "mask_head."


@dataclass(frozen=True)
class _Data:
    """What a stage trains on and what it validates on, if it does, with the collator for both."""

    draws: Draws
    collator: Collator
    validation: Validation | None


def _draws(
    processor: PanoLlavaProcessor, store: Path, recipe: Recipe, records: int, collator: Collator, **options: Any
) -> _Data:
    draws = Draws(
        StoredPanoramas(open_split(store, "train"), **options),
        seed=recipe.seed,
        count=recipe.draws,
        records=records,
        augmentation=recipe.augmentation,
        holds=Context(processor).holds,
    )
    return _Data(draws, collator, None)


def _validated(data: _Data, store: Path, recipe: Recipe, **options: Any) -> _Data:
    """Return data with the validation split: each panorama once, as it is, with no more records than in training."""
    split = open_split(store, "validation")
    settings: dict[str, Any] = {"seed": recipe.seed, "count": len(split), "records": data.draws.records}
    words = Draws(StoredPanoramas(split, images=False), **settings)
    rows = (data.collator.packed(words[index].records).labels for index in range(len(split)))
    tokens = sum(label != IGNORE for row in rows for label in row)
    draws = Draws(StoredPanoramas(split, **options), **settings)
    return replace(data, validation=Validation(draws, tokens=tokens / len(split)))


def _without_images(
    processor: PanoLlavaProcessor, store: Path, recipe: Recipe, records: int, collator: Collator
) -> _Data:
    data = _draws(processor, store, recipe, records, collator, images=False)
    return data if recipe.validate_every is None else _validated(data, store, recipe, images=False)


def _with_features(
    model: PanoLlavaForConditionalGeneration, processor: PanoLlavaProcessor, store: Path, recipe: Recipe, records: int,
    collator: Collator,
) -> _Data:  # fmt: skip
    """Return the data for stages behind the frozen encoder: with its features, where keeping them pays.

    Tilted panoramas have other features each time.
    """
    model.model.vision_tower.requires_grad_(False).to(PartialState().device)
    model.train()  # a frozen encoder has no dropout

    def grids(split: str, uses: int) -> Tensor | None:
        return frozen_features(model, processor.image_processor, open_images(store, split), uses=uses)

    features = None if recipe.augmentation.tilt_deg else grids("train", recipe.draws)
    data = _draws(processor, store, recipe, records, collator, grids=features)
    if recipe.validate_every is None:
        return data
    times = recipe.steps // recipe.validate_every + 1
    uses = times * len(open_images(store, "validation"))
    return _validated(data, store, recipe, grids=grids("validation", uses))


def _fit_language(
    model: PanoLlavaForConditionalGeneration, adapted: Any, recipe: Recipe, checkpoints: Path, data: _Data
) -> Outcome:
    """Fit a model, or its `adapted` self, on dialogues; compile its layers where the recipe says so."""
    if recipe.compile:
        compile_layers(model.model.language_model.layers)
    return fit(adapted, recipe, checkpoints, draws=data.draws, collator=data.collator, validation=data.validation)


def _write(
    model: PanoLlavaForConditionalGeneration, processor: PanoLlavaProcessor, parts: Parts, names: set[str], out: Path,
    dtype: torch.dtype, adapted: Any = None,
) -> None:  # fmt: skip
    """Write a trained folder in a dtype, with the adapter of the `adapted` model if there is one."""
    state = {name: value.to(dtype) for name, value in trained_state(model, names).items()}
    adapter = {}
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
    data = _with_features(model, processor, store, recipe, records, Collator(processor))
    outcome = _fit_language(model, model, recipe, checkpoints, data)
    _write(model, processor, parts, names, out, dtype)
    return outcome


def finetune_lora(
    parts: Parts, store: Path, previous: Path, out: Path, checkpoints: Path, *, recipe: Recipe, records: int,
    lora: dict[str, Any] | None, save_lora_only: bool, dtype: torch.dtype, settings: ModelSettings, blind: bool = False,
    freeze_layers: int = 0, text_chat: TextChat | None = None,
) -> Outcome:  # fmt: skip
    """Train the language model, by LoRA adapters or, without `lora`, itself; beside it the resampler and the mask head.

    The first `freeze_layers` layers stay as they are (`training.language_parts`). The blind twin takes the same steps
    with the language model alone. A share of the dialogues may be `text_chat`, about no panorama.
    """
    model, processor, names = _assembled(parts, store, previous, recipe, dtype, settings)
    texts = open_texts(text_chat, processor, recipe.seed)
    if lora is not None:
        lora = lora | {"targets": lora_targets(model, lora["targets"])}
    if blind:
        data = _without_images(processor, store, recipe, records, Collator(processor, blind=True))
    else:
        collator = Collator(processor, patches=model.config.patch_side)
        data = _with_features(model, processor, store, recipe, records, collator)
    data.draws.texts = texts
    adapted, rates = _language_that_trains(model, recipe, lora, freeze_layers)
    if lora is None:
        names |= {name for name, _ in model.named_parameters() if any(part in name for part in rates)}
    if not blind:
        rates |= {RESAMPLER: recipe.learning_rates["resampler"], MASK_HEAD: recipe.learning_rates["mask_head"]}
    recipe = replace(recipe, learning_rates=rates)
    outcome = _fit_language(model, adapted, recipe, checkpoints, data)
    _write(model, processor, parts, names, out, dtype, None if lora is None else adapted)
    if not save_lora_only and PartialState().is_main_process:
        merged, _ = load_finetuned(out)  # from the files: the trained model's weights may lie on many processes
        with new_checkpoint(out / "merged") as folder:
            merged.save_pretrained(folder)
            processor.save_pretrained(folder)
    return outcome


def _language_that_trains(
    model: PanoLlavaForConditionalGeneration, recipe: Recipe, lora: dict[str, Any] | None, freeze_layers: int
) -> tuple[Any, dict[str, float]]:
    """Return the model, with adapters if it gets some, and the learning rate of each part of the language model."""
    if lora is None:
        if recipe.load_in_4bit:
            raise ValueError("load_in_4bit is true, but weights of 4 bits cannot train; set it to false, or give lora")
        return model, dict.fromkeys(trained_parts(model, freeze_layers), recipe.learning_rates["language_model"])
    config = lora_config(**lora)
    config.exclude_modules = without_adapters(model, freeze_layers)
    return get_peft_model(model, config), {LORA: recipe.learning_rates["lora"]}
