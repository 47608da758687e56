"""Tiny configurations of every encoder and language-model family that the model supports."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    SiglipVisionConfig,
)

from panollava.vlm.views import ViewSettings, view_poses

VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
DINO = {key: value for key, value in VISION.items() if key != "intermediate_size"} | {"mlp_ratio": 2}
TEXT = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
VISION_CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "clip": lambda: CLIPVisionConfig(**VISION),
    "siglip": lambda: SiglipVisionConfig(**VISION),
    "dinov2": lambda: Dinov2Config(**DINO),
    "dinov2_registers": lambda: Dinov2WithRegistersConfig(**DINO, num_register_tokens=3),
}
TEXT_CONFIGS: dict[str, Callable[..., PreTrainedConfig]] = {
    "llama": lambda **changes: LlamaConfig(**(TEXT | changes)),
    "mistral": lambda **changes: MistralConfig(**(TEXT | changes), sliding_window=None),
}


def poses_of(
    strategy: str = "anyres_e2p", *, view_size: int | None = None, tokens_per_side: int | None = None, **settings: Any
) -> Tensor:
    """Return the poses `[V, 6]` of a view strategy with settings, at their defaults where they are left out."""
    return view_poses(ViewSettings(strategy, **settings), view_size=view_size, tokens_per_side=tokens_per_side)
