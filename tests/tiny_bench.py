"""A size of bench that takes a fraction of a second, with 36 visual tokens and weights that make tokens differ."""

import torch

from panollava.bench.sizes import Size

MICRO = Size(
    name="micro",
    device="cpu",
    dtype=torch.float32,
    vision={"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 16, "patch_size": 8},
    text={"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
          "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
          "initializer_range": 0.3},
    views={"tokens_per_side": 2, "resampler_hidden_size": 32},
    lora={"rank": 2, "alpha": 4},
    record_tokens=8, answer_tokens=4, records=3, prompt_tokens=6, new_tokens=5, asked=4, rows_at_once=2, turn_ms=0,
    matrix=64, copied_bytes=2**16,
    loss_tolerance=1e-5, gradient_tolerance=1e-3, logit_tolerance=0.0,
)  # fmt: skip
