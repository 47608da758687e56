"""Tiny configurations of every family of image encoders in the table, for views of 32 pixels (Hiera: 64)."""

from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

VIT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32,
       "patch_size": 8}  # fmt: skip
DINO = VIT | {"mlp_ratio": 2}
STAGES: dict[str, Any] = {"hidden_sizes": [8, 16, 32], "depths": [1, 2, 1]}
WINDOWS = {"embed_dim": 16, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4, "image_size": 32, "patch_size": 4}
SETTINGS: dict[str, dict[str, Any]] = {
    "clip_vision_model": VIT,
    "siglip_vision_model": VIT,
    "siglip2_vision_model": VIT | {"num_patches": 16},
    "dinov2": DINO,
    "dinov2_with_registers": DINO | {"num_register_tokens": 3},
    "dinov3_vit": VIT | {"num_register_tokens": 4},
    "vit": VIT,
    "deit": VIT,
    "beit": VIT | {"use_relative_position_bias": True},
    "vit_mae": VIT,
    "vit_msn": VIT,
    "ijepa": VIT,
    "aimv2_vision_model": VIT,
    "mlcd_vision_model": VIT,
    "chinese_clip_vision_model": VIT,
    "metaclip_2_vision_model": VIT,
    "altclip_vision_model": VIT,
    "internvl_vision": VIT | {"image_size": [32, 32], "patch_size": [8, 8]},
    "tipsv2_vision_model": DINO,
    "swin": WINDOWS,
    "swinv2": WINDOWS,
    "hiera": {
        "embed_dim": 16,
        "image_size": [64, 64],
        "depths": [1, 2, 1],
        "num_heads": [1, 2, 4],
        "num_query_pool": 2,
    },
    "convnext": STAGES | {"num_stages": 3},
    "convnextv2": STAGES | {"num_stages": 3},
    "dinov3_convnext": {"hidden_sizes": [8, 16, 32, 32], "depths": [1, 1, 1, 1]},
    "resnet": STAGES | {"embedding_size": 8, "layer_type": "basic"},
    "regnet": STAGES | {"embedding_size": 8, "groups_width": 4},
    "bit": STAGES | {"embedding_size": 8, "num_groups": 4},
    "efficientnet": {
        "width_coefficient": 0.25,
        "depth_coefficient": 0.25,
        "depth_divisor": 4,
        "hidden_dim": 320,
        "initializer_range": 0.5,
    },
}


def encoder_config(family: str) -> PreTrainedConfig:
    """Return the tiny configuration of a family."""
    return CONFIG_MAPPING[family](**SETTINGS[family])
