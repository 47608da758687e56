"""From the output of any supported image encoder to its grid of patches.

What encoders differ in is the table of `encoders.py`; this module builds and reads them by it. A feature map
`[C, h, w]` is a grid of patches already.
"""

import json
import math
import re
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import (
    AltCLIPVisionModel,
    AutoConfig,
    AutoModel,
    MetaClip2VisionModel,
    PreTrainedConfig,
    PreTrainedModel,
)

from .encoders import TIMM, family_of, layers_of

# Image halves that transformers' automatic class does not know.
TOWERS: dict[str, type[PreTrainedModel]] = {
    "altclip_vision_model": AltCLIPVisionModel,
    "metaclip_2_vision_model": MetaClip2VisionModel,
}
# Its tokens stand window by window; only the last of the maps that it also gives is in the order of the image.
WINDOW_ORDER = "hiera"


def tower_class(vision_config: PreTrainedConfig) -> Any:
    """Return the class that loads an encoder's checkpoint with `from_pretrained`."""
    return TOWERS.get(vision_config.model_type, AutoModel)


def build_tower(vision_config: PreTrainedConfig) -> PreTrainedModel:
    """Return a new encoder of a configuration."""
    kind = TOWERS.get(vision_config.model_type)
    return AutoModel.from_config(vision_config) if kind is None else kind._from_config(vision_config)


def num_prefix_tokens(vision_config: PreTrainedConfig, tokens: int) -> int:
    """Return how many of an encoder's `tokens` for a square image stand before its patches.

    Raises:
        ValueError: the encoder family is not in the table.
    """
    family = family_of(vision_config.model_type)
    if family.prefix is None:  # timm: what is left of the largest square
        return tokens - math.isqrt(tokens) ** 2
    return family.prefix + (vision_config.num_register_tokens if family.registers else 0)


def patch_grid(hidden: Tensor, vision_config: PreTrainedConfig) -> Tensor:
    """Return the patches `[B, h, w, C]` of an encoder's hidden states of square images.

    Hidden states are tokens `[B, T, C]` or maps, `[B, C, h, w]` or `[B, h, w, C]`. The side follows from them, so that
    encoders which interpolate their positions may see any image size.

    Raises:
        ValueError: an unknown encoder family, no single grid, or a number of patches that is not a square.
    """
    if not isinstance(hidden, Tensor) or hidden.ndim not in (3, 4):
        raise ValueError(f"{vision_config.model_type} gives no single grid of patches")
    if hidden.ndim == 4:
        channels_last = hidden.shape[1] == hidden.shape[2] != hidden.shape[3]
        return hidden if channels_last else hidden.permute(0, 2, 3, 1)
    prefix = num_prefix_tokens(vision_config, hidden.shape[1])
    patches = hidden.shape[1] - prefix
    side = math.isqrt(max(patches, 0))
    if side == 0 or side * side != patches:
        raise ValueError(
            f"{vision_config.model_type} gave {hidden.shape[1]} tokens, {prefix} of them before the patches; "
            f"the remaining {patches} do not form a square grid"
        )
    return hidden[:, prefix:].unflatten(1, (side, side))


def is_frozen(module: nn.Module) -> bool:
    """Return whether no parameter of a module requires a gradient."""
    return not any(parameter.requires_grad for parameter in module.parameters())


def keep_statistics(tower: nn.Module) -> None:
    """Switch the batch norms of an encoder to the statistics of the images that it learned from, also in training.

    A few views of a few panoramas are no sample, and nothing that is trained in this project holds new statistics.
    """
    for module in tower.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def encode_views(tower: PreTrainedModel, pixel_values: Tensor, layer: int | Sequence[int]) -> Tensor:
    """Return the patch grids `[P, V, h, w, C]` that an encoder's hidden state `layer` has of views `[P, V, 3, S, S]`.

    Layer -1 is the last hidden state, final norm included. Of several layers the channels are concatenated, in the
    order of the layers. A frozen encoder keeps no graph and computes in its own precision, in training as for features
    that are kept and for answers.

    Raises:
        ValueError: pixel values without the panorama or the view dimension, no such layer, or layers of several grids.
    """
    if pixel_values.ndim != 5:
        raise ValueError(f"pixel_values must be [panoramas, views, 3, size, size], not {list(pixel_values.shape)}")
    layers = layers_of(layer)
    frozen, device = is_frozen(tower), pixel_values.device.type
    alone = torch.autocast(device, enabled=False) if frozen else nullcontext()
    # Activation checkpointing makes all embeddings require gradients, even a frozen encoder's, hence the mode.
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen), alone:
        images = pixel_values.flatten(0, 1).to(tower.dtype)
        # All hidden states: asked for one alone, transformers 5.19 gives the next one, and others none.
        states = any(index != -1 for index in layers) or tower.config.model_type == WINDOW_ORDER
        outputs = tower(**_inputs(tower.config, images), output_hidden_states=states, return_dict=True)
        found = [_hidden_state(outputs, index, tower.config) for index in layers]
    grids = [patch_grid(hidden, tower.config) for hidden in found]
    if len({grid.shape[1:3] for grid in grids}) > 1:
        sides = ", ".join(f"{index}: {grid.shape[1]} a side" for index, grid in zip(layers, grids, strict=True))
        raise ValueError(
            f"layers of this {tower.config.model_type} have different grids ({sides}); give feature layers of one grid"
        )
    grid = grids[0] if len(grids) == 1 else torch.cat(grids, dim=-1)
    return grid.unflatten(0, pixel_values.shape[:2])


def _inputs(config: PreTrainedConfig, images: Tensor) -> dict[str, Any]:
    """Return the arguments with which an encoder sees all of the images `[B, 3, S, S]` as they are."""
    family, size = config.model_type, images.shape[-1]
    inputs: dict[str, Any] = {"pixel_values": images}
    if family_of(family).resizes == "asked":
        native = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
        inputs |= {} if size == native else {"interpolate_pos_encoding": True}
    if family == "vit_mae":  # by this noise the patches would be drawn that are kept: all, in their order
        count = (size // config.patch_size) ** 2
        inputs["noise"] = torch.arange(count, device=images.device).expand(len(images), -1)
    elif family == "siglip2_vision_model":
        side, patch = size // config.patch_size, config.patch_size
        cells = images.unflatten(-1, (side, patch)).unflatten(-3, (side, patch))  # [B, 3, h, p, w, p]
        inputs["pixel_values"] = cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        inputs["pixel_attention_mask"] = None  # all patches are there
        # On the CPU: the encoder asks for the numbers, for which a GPU would have to be waited for.
        inputs["spatial_shapes"] = torch.full((len(images), 2), side, device="cpu")
    elif family == TIMM:
        inputs["do_pooling"] = False
    return inputs


def _hidden_state(outputs: Any, layer: int, config: PreTrainedConfig) -> Tensor:
    if config.model_type == WINDOW_ORDER:
        hidden_states = outputs.reshaped_hidden_states
    elif layer == -1:
        return outputs.last_hidden_state
    else:
        hidden_states = outputs.hidden_states
    count = len(hidden_states)
    if not -count <= layer < count:
        raise ValueError(
            f"vision_feature_layer is {layer}, but this {config.model_type} has {count} hidden states; give a "
            f"number from {-count} to {count - 1}"
        )
    return hidden_states[layer]


def grid_shape(vision_config: PreTrainedConfig, view_size: int, layer: int | Sequence[int]) -> tuple[int, int]:
    """Return the side h of the patch grid of a view of `view_size` pixels, and its channels C.

    Of a feature map they are found by building the encoder without weights and letting it see one view.

    Raises:
        ValueError: an unknown encoder family, no such layer, or layers of several grids.
    """
    if family_of(vision_config.model_type).grid == "patches":
        patch = vision_config.patch_size
        patch = patch if isinstance(patch, int) else patch[0]
        return view_size // patch, vision_config.hidden_size * len(layers_of(layer))
    return _seen_shape(vision_config.to_json_string(), view_size, tuple(layers_of(layer)))


def described(vision_config: PreTrainedConfig, view_size: int, layer: int | Sequence[int]) -> str:
    """Return an encoder's family and size in words."""
    family = vision_config.model_type
    if family_of(family).grid == "patches":
        return f"{family}, {vision_config.num_hidden_layers} layers of {vision_config.hidden_size}"
    side, width = grid_shape(vision_config, view_size, layer)
    name = vision_config.architecture if family == TIMM else family
    return f"{name}, {side} x {side} patches of {width}"


@lru_cache(maxsize=16)
def _seen_shape(config: str, view_size: int, layers: tuple[int, ...]) -> tuple[int, int]:
    with torch.device("meta"):
        tower = build_tower(AutoConfig.for_model(**json.loads(config))).eval()
        grid = encode_views(tower, torch.zeros(1, 1, 3, view_size, view_size), layers)
    return grid.shape[-2], grid.shape[-1]


def blocks_up_to(tower: PreTrainedModel, layer: int | Sequence[int]) -> list[str]:
    """Return the names of an encoder's blocks that its hidden state `layer` depends on, in order.

    Raises:
        ValueError: an encoder of timm whose blocks go by names that are not known here.
    """
    family = family_of(tower.config.model_type)
    if tower.config.model_type == TIMM:
        names, ends = _timm_blocks(tower)
    elif family.blocks is None:
        lists = [(name, module) for name, module in tower.named_modules() if isinstance(module, nn.ModuleList)]
        name, blocks = max(lists, key=lambda item: len(item[1]))
        names, ends = [f"{name}.{index}" for index in range(len(blocks))], list(range(len(blocks) + 1))
    else:
        matches = [found for name, _ in tower.named_modules() if (found := re.fullmatch(family.blocks, name))]
        names, stages = [found[0] for found in matches], [int(found[1]) for found in matches]
        ends = [sum(stage < end for stage in stages) for end in range(max(stages) + 2)]
    used = max(len(names) if index == -1 else ends[index] for index in layers_of(layer))
    return names[:used]


# Names of blocks in timm: blocks.3, blocks.3.1, stages.2.blocks.0, layer3.0, s2.b1, features.denseblock1.denselayer2
TIMM_BLOCK = re.compile(
    r"timm_model\.((stages|layers|blocks|features|network)\.(denseblock)?\d+|(layer|s|serial_blocks)\d+)"
    r"(\.(blocks\.)?(b|denselayer)?\d+)?"
)


def _timm_blocks(tower: Any) -> tuple[list[str], list[int]]:
    """Return the blocks of an encoder of timm, and how many of them each of its hidden states depends on."""
    found = [name for name, _ in tower.named_modules() if TIMM_BLOCK.fullmatch(name)]
    names = [name for name in found if not any(other.startswith(f"{name}.") for other in found)]
    if not names:
        raise ValueError(
            f"the blocks of timm's {tower.config.architecture} are not known by name, so their last ones cannot be "
            "trained; choose another architecture"
        )
    ends = []
    for stage in tower.timm_model.feature_info:
        module = f"timm_model.{stage['module']}"
        inside = [index for index, name in enumerate(names) if name == module or name.startswith(f"{module}.")]
        ends.append(max(inside) + 1 if inside else 0)
    return names, ends
