"""The three training stages and the blind twin: what each builds, trains and writes. Plain values in, folders out.

Every stage writes a folder that the next one reads: `trained.safetensors` with all that has been trained so far (but
for adapters), `parts.json`, the configuration and the processor.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState
from peft import get_peft_model
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, set_seed

from panollava.attention.compiling import compile_layers
from panollava.attention.packing import PACKED_ATTENTION
from panollava.backbones.assemble import (
    Parts,
    assemble,
    load_encoder,
    load_finetuned,
    load_image_processor,
    load_trained,
    trained_state,
    whole,
    write_parts,
    write_trained,
)
from panollava.backbones.presets import Backbone
from panollava.corpus.store import open_split
from panollava.training.data import Collator, Draws, StoredPanoramas, ViewCollator
from panollava.training.features import frozen_features
from panollava.training.lora import lora_config
from panollava.training.processes import check_launch, divided
from panollava.training.trainer import PanoTrainer, Recipe, set_trainable, size_of, trainable_table
from panollava.vlm.configuration_panollava import PanoLlavaConfig
from panollava.vlm.image_processing_panollava import PanoLlavaImageProcessor
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration
from panollava.vlm.processing_panollava import PanoLlavaProcessor
from panollava.vlm.resampler import build_trunk
from panollava.vlm.views import VIEW_SETTINGS
from panollava.vlm.vision import encode_views

RESAMPLER, LORA, MASK_HEAD = "model.resampler.", ".lora_", "mask_head."
# What is in no checkpoint of a backbone: folders hold it whether it has been trained or not.
NEW = (RESAMPLER, MASK_HEAD)
# Some ten thousand patches at least, for the covariance of a few hundred channels.
WHITENED_PANORAMAS, WHITENED_AT_ONCE = 64, 8


@dataclass(frozen=True)
class Outcome:
    """What a stage reports: its logged losses, the trained parameters by group, and how far each group moved."""

    history: list[dict[str, float]]
    trained: dict[str, int]
    total: int
    moved: dict[str, float]


class _Trunk(nn.Module):
    def __init__(self, config: PanoLlavaConfig) -> None:
        super().__init__()
        self.trunk = build_trunk(config)


class _Half(nn.Module):
    """The half of the model in front of the language model, under the names that it has in the whole."""

    def __init__(self, encoder: PreTrainedModel, config: PanoLlavaConfig) -> None:
        super().__init__()
        self.layer = config.vision_feature_layer
        self.vision_tower, self.resampler = encoder, _Trunk(config)

    def encode_views(self, pixel_values: Tensor) -> Tensor:
        """Return patch grids `[P, V, h, w, C]` of views `[P, V, 3, S, S]`."""
        return encode_views(self.vision_tower, pixel_values, self.layer)


class VisionStage(nn.Module):
    """Encoder and resampler trunk, without any language model."""

    def __init__(self, encoder: PreTrainedModel, config: PanoLlavaConfig) -> None:
        super().__init__()
        self.model = _Half(encoder, config)

    def forward(self, pixel_values: Tensor, view_poses: Tensor) -> Tensor:
        """Return trunk features `[P, V, t, t, C']`."""
        return self.model.resampler.trunk(self.model.encode_views(pixel_values))


def last_blocks(encoder: PreTrainedModel, count: int, layer: int) -> list[str]:
    """Return the name parts of the last `count` blocks that hidden state `layer` still depends on.

    Raises:
        ValueError: the encoder has fewer blocks.
    """
    lists = [(name, module) for name, module in encoder.named_modules() if isinstance(module, nn.ModuleList)]
    name, blocks = max(lists, key=lambda item: len(item[1]))
    used = len(blocks) + layer + 1 if layer < 0 else layer
    if count > used:
        raise ValueError(f"encoder_blocks is {count}, but the encoder has {used} blocks up to its feature layer")
    return [f"model.vision_tower.{name}.{index}." for index in range(used - count, used)]


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


def _fit(model: Any, recipe: Recipe, checkpoints: Path, *, draws: Dataset, collator: Any) -> Outcome:
    counts = set_trainable(model, recipe.learning_rates)
    PartialState().print(trainable_table(model, counts), flush=True)
    before = _snapshot(model)
    history = PanoTrainer(model, recipe, checkpoints, draws=draws, collator=collator).run()
    total = sum(map(size_of, model.parameters()))
    return Outcome(history, counts, total, _moved(model, before, counts))


def _draws(store: Path, recipe: Recipe, records: int, **options: Any) -> Draws:
    panoramas = StoredPanoramas(open_split(store, "train"), **options)
    return Draws(panoramas, seed=recipe.seed, count=recipe.draws, records=records, augmentation=recipe.augmentation)


def _fit_language(
    model: PanoLlavaForConditionalGeneration, adapted: Any, recipe: Recipe, checkpoints: Path, *,
    draws: Draws, collator: Collator,
) -> Outcome:  # fmt: skip
    """Fit a model, or its `adapted` self, on dialogues; compile its layers where the recipe says so."""
    if recipe.compile:
        compile_layers(model.model.language_model.layers)
    return _fit(adapted, recipe, checkpoints, draws=draws, collator=collator)


def _draws_of_features(
    model: PanoLlavaForConditionalGeneration, processor: PanoLlavaProcessor, store: Path, recipe: Recipe, records: int
) -> Draws:
    """Return draws for stages behind the frozen encoder: with its features, where keeping them pays.

    Tilted panoramas have other features each time.
    """
    model.model.vision_tower.requires_grad_(False).to(PartialState().device)
    model.train()  # a frozen encoder has no dropout
    if recipe.augmentation.tilt_deg:
        return _draws(store, recipe, records)
    grids = frozen_features(model, processor.image_processor, open_split(store, "train"), uses=recipe.draws)
    return _draws(store, recipe, records, grids=grids)


def _fit_whitening(model: VisionStage, image_processor: PanoLlavaImageProcessor, split: datasets.Dataset) -> None:
    """Fit the trunk's whitening to what the encoder makes of the first panoramas of a split."""
    half, device, patches = model.model, PartialState().device, []
    half.vision_tower.to(device).eval()
    for start in range(0, min(len(split), WHITENED_PANORAMAS), WHITENED_AT_ONCE):
        images = [split[i]["image"] for i in range(start, min(len(split), start + WHITENED_AT_ONCE))]
        pixels = image_processor(images, return_tensors="pt")["pixel_values"].to(device)
        with torch.no_grad():
            patches.append(half.encode_views(pixels).flatten(0, -2).cpu())
    half.resampler.trunk.whiten.fit(torch.cat(patches))


def train_vision(
    encoder: Backbone, store: Path, out: Path, checkpoints: Path, *, recipe: Recipe, blocks: int, dtype: torch.dtype,
    settings: dict[str, Any],
) -> Outcome:  # fmt: skip
    """Adapt the encoder's last blocks and the resampler's trunk with the overlap loss; no language model is involved.

    The trunk's whitening is fitted to the encoder first. With the pairing `none` nothing trains after that.
    """
    check_launch()
    set_seed(recipe.seed)
    tower = load_encoder(encoder, dtype)
    layer = -1 if encoder.feature_layer is None else encoder.feature_layer
    config = PanoLlavaConfig(vision_config=tower.config, vision_feature_layer=layer, **settings)
    model = VisionStage(tower, config)
    image_processor = load_image_processor(encoder, tower.config.image_size, **{k: settings[k] for k in VIEW_SETTINGS})
    _fit_whitening(model, image_processor, open_split(store, "train"))
    parts = last_blocks(tower, blocks, layer)
    rates = dict.fromkeys(parts, recipe.learning_rates["vision_tower"])
    rates[f"{RESAMPLER}trunk."] = recipe.learning_rates["resampler"]
    recipe = replace(recipe, learning_rates=rates)
    if recipe.overlap is not None and recipe.overlap[1] == "none":
        counts = set_trainable(model, rates)
        outcome = Outcome([], counts, sum(p.numel() for p in model.parameters()), dict.fromkeys(counts, 0.0))
    else:
        collator = ViewCollator(image_processor)
        outcome = _fit(model, recipe, checkpoints, draws=_draws(store, recipe, 0), collator=collator)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    state = trained_state(model, names)
    if PartialState().is_main_process:
        write_trained(state, out)
    return outcome


def _write(
    model: PanoLlavaForConditionalGeneration, processor: PanoLlavaProcessor, parts: Parts, names: set[str], out: Path
) -> None:
    state = trained_state(model, names)
    if PartialState().is_main_process:
        write_trained(state, out)
        write_parts(parts, out)
        model.config.save_pretrained(out)
        processor.save_pretrained(out)


def _write_adapter(adapted: Any, out: Path) -> None:
    state = trained_state(adapted, {name for name, _ in adapted.named_parameters() if LORA in name})
    if PartialState().is_main_process:
        adapted.save_pretrained(str(out), state_dict=state)


def _assembled(
    parts: Parts, previous: Path, recipe: Recipe, dtype: torch.dtype, settings: dict[str, Any]
) -> tuple[PanoLlavaForConditionalGeneration, PanoLlavaProcessor, set[str]]:
    """Return model and processor with what the previous stage trained, and the names of what folders hold of it."""
    check_launch()
    set_seed(recipe.seed)
    if recipe.load_in_4bit and divided():
        raise ValueError("load_in_4bit is true, but FSDP cannot divide such weights; set it to false under FSDP")
    compute = torch.bfloat16 if recipe.bf16 else torch.float32
    model, processor = assemble(parts, dtype=dtype, four_bit=compute if recipe.load_in_4bit else None, **settings)
    model.model.language_model.set_attn_implementation(PACKED_ATTENTION)
    names = set(load_trained(model, previous))
    return model, processor, names | {n for n, _ in model.named_parameters() if n.startswith(NEW)}


def train_resampler(
    parts: Parts, store: Path, previous: Path, out: Path, checkpoints: Path, *, recipe: Recipe, records: int,
    dtype: torch.dtype, settings: dict[str, Any],
) -> Outcome:  # fmt: skip
    """Align the resampler with the frozen language model; its projection is born here."""
    model, processor, names = _assembled(parts, previous, recipe, dtype, settings)
    recipe = replace(recipe, learning_rates={RESAMPLER: recipe.learning_rates["resampler"]})
    draws = _draws_of_features(model, processor, store, recipe, records)
    outcome = _fit_language(model, model, recipe, checkpoints, draws=draws, collator=Collator(processor))
    _write(model, processor, parts, names, out)
    return outcome


def finetune_lora(
    parts: Parts, store: Path, previous: Path, out: Path, checkpoints: Path, *, recipe: Recipe, records: int,
    lora: dict[str, Any], save_lora_only: bool, dtype: torch.dtype, settings: dict[str, Any], blind: bool = False,
) -> Outcome:  # fmt: skip
    """Train LoRA adapters, the resampler and the mask head; the blind twin takes the same steps with adapters alone."""
    model, processor, names = _assembled(parts, previous, recipe, dtype, settings)
    if blind:
        draws = _draws(store, recipe, records, images=False)
    else:
        draws = _draws_of_features(model, processor, store, recipe, records)
    adapted: Any = get_peft_model(model, lora_config(**lora))
    rates = {LORA: recipe.learning_rates["lora"]}
    if blind:
        collator = Collator(processor, blind=True)
    else:
        rates |= {RESAMPLER: recipe.learning_rates["resampler"], MASK_HEAD: recipe.learning_rates["mask_head"]}
        vision = model.config.vision_config
        collator = Collator(processor, patches=vision.image_size // vision.patch_size)
    recipe = replace(recipe, learning_rates=rates)
    outcome = _fit_language(model, adapted, recipe, checkpoints, draws=draws, collator=collator)
    _write(model, processor, parts, names, out)
    _write_adapter(adapted, out)
    if not save_lora_only and PartialState().is_main_process:
        merged, _ = load_finetuned(out)  # from the files: the trained model's weights may lie on many processes
        merged.save_pretrained(out / "merged")
        processor.save_pretrained(out / "merged")
    return outcome
