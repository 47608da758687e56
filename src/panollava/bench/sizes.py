"""The sizes of the models that are timed, and what each is asked to do. Weights are random: only the shapes matter."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import MistralConfig, SiglipVisionConfig

from panollava.vlm.configuration_panollava import PanoLlavaConfig


@dataclass(frozen=True)
class Size:
    """One size of model and work, the same for both sides.

    vision, text: fields of the encoder's and the language model's configuration.
    views: fields of `PanoLlavaConfig` that decide the views, their t x t tokens and the resampler.
    lora: fields of `lora_config`.
    record_tokens, answer_tokens: of a question with its answer in training, and of the answer at its end.
    records: questions of one panorama in a training step (K).
    prompt_tokens, new_tokens, asked: tokens of a question, of its answer, and how many are asked at once.
    rows_at_once: how many sequences the peer trains in one forward pass; the rest follows by accumulation.
    turn_ms: how long a side trains in its turn, at least one step; steps follow each other without a pause.
    matrix, copied_bytes: what this machine's limits are measured on.
    loss_tolerance, gradient_tolerance: how far two sides may differ, relative to the loss and the norm of a gradient.
    logit_tolerance: how far from the best a token may be, in standard deviations of the logits.
    """

    name: str
    device: str
    dtype: torch.dtype
    vision: dict[str, Any]
    text: dict[str, Any]
    views: dict[str, Any]
    lora: dict[str, int]
    record_tokens: int
    answer_tokens: int
    records: int
    prompt_tokens: int
    new_tokens: int
    asked: int
    rows_at_once: int
    turn_ms: float
    matrix: int
    copied_bytes: int
    loss_tolerance: float
    gradient_tolerance: float
    logit_tolerance: float

    def config(self) -> PanoLlavaConfig:
        """Return the configuration of our side; the placeholder is the last token of the vocabulary."""
        text = MistralConfig(**self.text, sliding_window=None, attention_dropout=0.0)
        vision = SiglipVisionConfig(**self.vision)
        return PanoLlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_id=text.vocab_size - 1,
            vision_feature_layer=-2,
            dtype=self.dtype,
            **self.views,
        )


TINY = Size(
    name="tiny",
    device="cpu",
    dtype=torch.float32,
    vision={"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 2,
            "image_size": 64, "patch_size": 8},
    text={"vocab_size": 4096, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4,
          "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
          "initializer_range": 0.08},
    views={"tokens_per_side": 8, "resampler_hidden_size": 128},
    lora={"rank": 8, "alpha": 16},
    record_tokens=32, answer_tokens=16, records=8, prompt_tokens=32, new_tokens=32, asked=16, rows_at_once=8,
    turn_ms=0, matrix=1024, copied_bytes=2**28,
    loss_tolerance=1e-5, gradient_tolerance=1e-3, logit_tolerance=0.0,
)  # fmt: skip
# SigLIP-B/16-224 and Mistral-7B (without the sliding window of its first version, which no sequence here would reach).
LARGE = Size(
    name="7b",
    device="cuda",
    dtype=torch.bfloat16,
    vision={"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "image_size": 224, "patch_size": 16},
    text={"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
          "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192},
    views={"tokens_per_side": 14, "resampler_hidden_size": 2048, "position_frequencies": 6},
    lora={"rank": 32, "alpha": 64},
    record_tokens=64, answer_tokens=32, records=8, prompt_tokens=64, new_tokens=32, asked=16, rows_at_once=1,
    turn_ms=1000, matrix=8192, copied_bytes=2**32,
    # What bfloat16 does to 32 layers: gradients 0.07 apart between two right sides of a narrower model, and of random
    # weights a token of ours up to 0.16 deviations behind the best.
    loss_tolerance=2e-2, gradient_tolerance=0.15, logit_tolerance=0.3,
)  # fmt: skip
SIZES = {size.name: size for size in (TINY, LARGE)}
