"""Tiny random backbones written to folders, in the layout that a hub checkpoint has, and a tiny store of panoramas."""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SiglipConfig,
    SiglipModel,
)

from panollava.backbones.assemble import Parts
from panollava.backbones.presets import Backbone, resolve
from panollava.backbones.standins.described_scenes import describe_scene
from panollava.backbones.tokenizer import train_tokenizer
from panollava.corpus.store import write_store
from panollava.corpus.world_records import world_row
from panollava.training.trainer import Recipe

CONTEXT = 2048
SIZE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
VISION = SIZE | {"intermediate_size": 48, "image_size": 32, "patch_size": 8}
ENCODER_TEXT = SIZE | {"num_hidden_layers": 1, "intermediate_size": 48, "vocab_size": 60, "max_position_embeddings": 16}
LLM = {
    **SIZE,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 64,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": True,
}
MEANS = {"clip": [0.48, 0.46, 0.41], "dinov2": [0.485, 0.456, 0.406], "siglip": [0.5, 0.5, 0.5]}
ENCODERS: dict[str, Callable[[], PreTrainedModel]] = {
    "clip": lambda: CLIPModel(CLIPConfig(vision_config=VISION, text_config=ENCODER_TEXT, projection_dim=16)),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**SIZE, mlp_ratio=2, image_size=32, patch_size=8)),
    "siglip": lambda: SiglipModel(SiglipConfig(vision_config=VISION, text_config=ENCODER_TEXT)),
}
LLMS: dict[str, Callable[[int], PreTrainedModel]] = {
    "llama": lambda words: LlamaForCausalLM(LlamaConfig(**LLM, vocab_size=words)),
    "vicuna": lambda words: LlamaForCausalLM(LlamaConfig(**LLM, vocab_size=words)),
    "mistral": lambda words: MistralForCausalLM(MistralConfig(**LLM, vocab_size=words, sliding_window=48)),
}
FEATURE_LAYERS = {"clip": -2, "dinov2": -1, "siglip": -1}
RECIPE = Recipe(
    learning_rates={"vision_tower": 1e-3, "resampler": 1e-2, "lora": 1e-2, "mask_head": 1e-2},
    steps=3,
    batch_size=2,
    accumulation=1,
    warmup=0.0,
    schedule="cosine",
    save_steps=2,
    seed=0,
    bf16=False,
)
LORA = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["q_proj", "v_proj", "down_proj"]}
MODEL: dict[str, Any] = {
    "view_strategy": "e2p",
    "fov_deg": 90,
    "stride_deg": 60,
    "pitches_deg": [0],
    "roll_deg": 0,
    "token_budget": None,
    "panorama_height": None,
    "tokens_per_side": 4,
    "token_reduction": "none",
    "resampler": "mlp",
    "resampler_hidden_size": 32,
    "resampler_layers": 1,
    "position_code": "ray",
    "position_frequencies": 2,
}


@lru_cache
def tiny_tokenizer(family: str) -> PreTrainedTokenizerBase:
    """Return a tokenizer trained on described scenes, with the chat template of a preset; do not change it."""
    scenes = [describe_scene(0, index, text_share=1.0) for index in range(30)]
    texts = [text for s in scenes for text in (s.text, *(part for d in s.dialogues for turn in d for part in turn))]
    return train_tokenizer(texts, family, vocabulary=420)


def write_encoder(family: str, folder: Path, *, seed: int = 0) -> Backbone:
    """Write a full encoder checkpoint, text half included where the family has one, and return its backbone."""
    torch.manual_seed(seed)
    ENCODERS[family]().save_pretrained(folder)
    settings = {"image_mean": MEANS[family], "image_std": [0.26, 0.25, 0.24], "size": {"shortest_edge": 32}}
    content = {"image_processor_type": "CLIPImageProcessor", "do_center_crop": True} | settings
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return resolve(family, str(folder), feature_layer=FEATURE_LAYERS[family])


def write_llm(family: str, folder: Path, *, seed: int = 0) -> Backbone:
    """Write a language model with a tokenizer that has no chat template of its own, and return its backbone."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer(family)
    LLMS[family](len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink()
    return resolve(family, str(folder), chat_template=family)


def write_parts(encoder: str, llm: str, folder: Path) -> Parts:
    """Write both backbones below a folder."""
    return Parts(write_encoder(encoder, folder / encoder), write_llm(llm, folder / llm))


def write_panoramas(folder: Path, count: int, *, split: str = "train") -> Path:
    """Write a store of `count` panoramas of 128 x 64 pixels from the synthetic world."""
    rows = (world_row(index, seed=0, split=split, height=64, korean_share=0.3) for index in range(count))
    write_store(folder, split, rows, jpeg_quality=90)
    return folder
