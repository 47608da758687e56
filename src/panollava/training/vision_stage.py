"""The stage train_vision: adapt the encoder's last blocks and the resampler's trunk, without any language model.

It reads images alone: no record, no question. It writes `trained.safetensors` into a folder that the next stage reads.
"""

from dataclasses import replace
from pathlib import Path
from typing import Self

import datasets
import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel, set_seed

from panollava.backbones.assemble import ModelSettings, load_image_processor, vision_fields
from panollava.backbones.files import new_checkpoint
from panollava.backbones.loading import load_encoder
from panollava.backbones.presets import Backbone
from panollava.backbones.trained import trained_state, write_trained
from panollava.corpus.store import open_images
from panollava.training.fit import RESAMPLER, Outcome, fit
from panollava.training.panoramas import ImageDraws, ViewCollator, views_of
from panollava.training.processes import check_launch
from panollava.training.recipe import Recipe
from panollava.training.trainer import Validation, set_trainable
from panollava.vlm.configuration_panollava import PanoLlavaConfig
from panollava.vlm.image_processing_panollava import PanoLlavaImageProcessor
from panollava.vlm.resampler import build_trunk
from panollava.vlm.vision import blocks_up_to, encode_views, keep_statistics

# Some ten thousand patches at least, for the covariance of a few hundred channels.
WHITENED_PANORAMAS, WHITENED_AT_ONCE = 64, 8


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

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode; batch norms keep the statistics of the images that the encoder learned from."""
        super().train(mode)
        keep_statistics(self.model.vision_tower)
        return self

    def forward(self, pixel_values: Tensor, view_poses: Tensor) -> Tensor:
        """Return trunk features `[P, V, t, t, C']`."""
        return self.model.resampler.trunk(self.model.encode_views(pixel_values))


def last_blocks(encoder: PreTrainedModel, count: int, layer: int | list[int]) -> list[str]:
    """Return the name parts of the last `count` blocks that hidden state `layer` still depends on; none for 0.

    Raises:
        ValueError: the encoder has fewer blocks.
    """
    used = blocks_up_to(encoder, layer)
    if count > len(used):
        raise ValueError(f"encoder_blocks is {count}, but the encoder has {len(used)} blocks up to its feature layer")
    return [f"model.vision_tower.{name}." for name in used[len(used) - count :]]


def _norms_in_float32(encoder: PreTrainedModel) -> None:
    """Hold an encoder's norms in float32: what trains before them is, and a CPU's norms take no wider input."""
    for module in encoder.modules():
        if isinstance(module, nn.LayerNorm | _BatchNorm):
            module.float()


def _validation(store: Path, recipe: Recipe) -> Validation:
    """Return the images of the validation split in whole batches, the last of which begins again with the first."""
    images, size = open_images(store, "validation"), recipe.batch_size
    count = -(-len(images) // size) * size
    return Validation(ImageDraws(images, seed=recipe.seed, count=count), size)


def _fit_whitening(model: VisionStage, image_processor: PanoLlavaImageProcessor, split: datasets.Dataset) -> None:
    """Fit the trunk's whitening to what the encoder makes of the first panoramas of a split."""
    half, device, patches = model.model, PartialState().device, []
    half.vision_tower.to(device).eval()
    for start in range(0, min(len(split), WHITENED_PANORAMAS), WHITENED_AT_ONCE):
        images = [split[i]["image"] for i in range(start, min(len(split), start + WHITENED_AT_ONCE))]
        pixels = views_of(image_processor, images)["pixel_values"].to(device)
        with torch.no_grad():
            patches.append(half.encode_views(pixels).flatten(0, -2).cpu())
    half.resampler.trunk.whiten.fit(torch.cat(patches))


def train_vision(
    encoder: Backbone, store: Path, out: Path, checkpoints: Path, *, recipe: Recipe, blocks: int, dtype: torch.dtype,
    settings: ModelSettings,
) -> Outcome:  # fmt: skip
    """Adapt the encoder's last blocks and the resampler's trunk with the overlap loss; no language model is involved.

    The trunk's whitening is fitted to the encoder first. With the pairing `none` nothing trains after that.
    """
    check_launch()
    set_seed(recipe.seed)
    tower = load_encoder(encoder, dtype)
    image_processor = load_image_processor(encoder, tower.config, settings)
    fields = vision_fields(encoder, tower.config, image_processor)
    config = PanoLlavaConfig(**fields, **settings.config_fields())
    model, images = VisionStage(tower, config), open_images(store, "train")
    _fit_whitening(model, image_processor, images)
    parts = last_blocks(tower, blocks, config.vision_feature_layer)
    rates = dict.fromkeys(parts, recipe.learning_rates["vision_tower"])
    rates[f"{RESAMPLER}trunk."] = recipe.learning_rates["resampler"]
    recipe = replace(recipe, learning_rates=rates)
    if recipe.overlap is not None and recipe.overlap[1] == "none":
        counts = set_trainable(model, rates)
        outcome = Outcome([], counts, sum(p.numel() for p in model.parameters()), dict.fromkeys(counts, 0.0))
    else:
        draws = ImageDraws(images, seed=recipe.seed, count=recipe.draws)
        validation = None if recipe.validate_every is None else _validation(store, recipe)
        collator = ViewCollator(image_processor)
        if recipe.bf16:
            _norms_in_float32(tower)
        outcome = fit(model, recipe, checkpoints, draws=draws, collator=collator, validation=validation)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    state = {name: value.to(dtype) for name, value in trained_state(model, names).items()}
    if PartialState().is_main_process:
        with new_checkpoint(out, replace=True) as folder:
            write_trained(state, folder)
    return outcome
