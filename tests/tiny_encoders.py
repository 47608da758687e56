"""Tiny configurations of every family of image encoders in the table, for views of 32 pixels (Hiera: 64)."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel

from panollava.vlm.encoders import native_size
from panollava.vlm.vision import build_tower

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
# Families that end with a norm of each patch; others norm the class token alone, the mean of all patches, or nothing.
FINAL_NORM = (
    "siglip_vision_model", "siglip2_vision_model", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit", "deit",
    "vit_mae", "vit_msn", "ijepa", "aimv2_vision_model", "tipsv2_vision_model", "swin", "swinv2", "dinov3_convnext",
)  # fmt: skip


def encoder_config(family: str) -> PreTrainedConfig:
    """Return the tiny configuration of a family."""
    return CONFIG_MAPPING[family](**SETTINGS[family])


def write_tiny_encoder(family: str, folder: Path) -> PreTrainedModel:
    """Write a random encoder of a family in the layout of a hub checkpoint, and return it."""
    torch.manual_seed(0)
    tower = build_tower(encoder_config(family))
    tower.save_pretrained(folder)
    size = native_size(tower.config.to_dict()) or 64
    content = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2] * 3, "size": {"height": size, "width": size}}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return tower
