"""From the output of any supported image encoder to its grid of patches.

Encoders differ in what they put before the patches (class token, registers); the table below is the whole difference.
"""

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

# Tokens before the first patch, by `model_type`; encoders with registers add `num_register_tokens` to it.
PREFIX_TOKENS = {
    "clip_vision_model": 1,
    "siglip_vision_model": 0,
    "dinov2": 1,
    "dinov2_with_registers": 1,
    "dinov3_vit": 1,
}
WITH_REGISTERS = ("dinov2_with_registers", "dinov3_vit")


def num_prefix_tokens(vision_config: PreTrainedConfig) -> int:
    """Return how many tokens an encoder puts before its patches.

    Raises:
        ValueError: the encoder family is not one of `PREFIX_TOKENS`.
    """
    family = vision_config.model_type
    if family not in PREFIX_TOKENS:
        raise ValueError(
            f"image encoder of type {family!r} is not supported; use one of {', '.join(PREFIX_TOKENS)} "
            "(of a full CLIP or SigLIP checkpoint take its vision_config)"
        )
    registers = vision_config.num_register_tokens if family in WITH_REGISTERS else 0
    return PREFIX_TOKENS[family] + registers


def patch_grid(hidden: Tensor, vision_config: PreTrainedConfig) -> Tensor:
    """Return the patches `[B, h, w, C]` of an encoder's hidden states `[B, T, C]` of square images.

    The side follows from T, so that encoders which interpolate their positions may see any image size.

    Raises:
        ValueError: an unknown encoder family, or a number of patches that is not a square.
    """
    prefix = num_prefix_tokens(vision_config)
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


def encode_views(tower: PreTrainedModel, pixel_values: Tensor, layer: int) -> Tensor:
    """Return the patch grids `[P, V, h, w, C]` that an encoder's hidden state `layer` has of views `[P, V, 3, S, S]`.

    Layer -1 is the last hidden state, final norm included. A frozen encoder keeps no graph and computes in its own
    precision, in training as for features that are kept and for answers.

    Raises:
        ValueError: pixel values without the panorama or the view dimension, or no such layer.
    """
    if pixel_values.ndim != 5:
        raise ValueError(f"pixel_values must be [panoramas, views, 3, size, size], not {list(pixel_values.shape)}")
    count = tower.config.num_hidden_layers + 1
    if not -count <= layer < count:
        raise ValueError(
            f"vision_feature_layer is {layer}, but this {tower.config.model_type} has {count} hidden states; give a "
            f"number from {-count} to {count - 1}"
        )
    frozen, device = is_frozen(tower), pixel_values.device.type
    alone = torch.autocast(device, enabled=False) if frozen else nullcontext()
    # Activation checkpointing makes all embeddings require gradients, even a frozen encoder's, hence the mode.
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen), alone:
        images = pixel_values.flatten(0, 1).to(tower.dtype)
        # All hidden states: asked for one alone, transformers 5.19 gives the next one, and others none.
        outputs = tower(images, output_hidden_states=layer != -1, return_dict=True)
        hidden = outputs.last_hidden_state if layer == -1 else outputs.hidden_states[layer]
    return patch_grid(hidden, tower.config).unflatten(0, pixel_values.shape[:2])
