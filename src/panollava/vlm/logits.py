"""Logits as each family of language models makes them: some scale or cap what comes out of the head.

A family that is not named here has plain logits. Whether that is true of a checkpoint's family is tried before it is
used, see `backbones/probe.py` of PanoLLaVA.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def _multiplied(config: Any, logits: Tensor) -> Tensor:
    return logits * config.logit_scale


def _divided(config: Any, logits: Tensor) -> Tensor:
    return logits / config.logits_scaling


def _capped(config: Any, logits: Tensor) -> Tensor:
    cap = config.final_logit_softcapping
    return logits if cap is None else (logits / cap).tanh() * cap


# By the model type of the language model's configuration.
SCALED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "cohere": _multiplied,
    "cohere2": _multiplied,
    "cohere2_moe": _multiplied,
    "gemma2": _capped,
    "gemma3_text": _capped,
    "gemma4_text": _capped,
    "gemma4_unified_text": _capped,
    "granite": _divided,
    "granite_swa": _divided,
    "granitemoe": _divided,
    "granitemoe_swa": _divided,
    "granitemoeshared": _divided,
    "hyperclovax": lambda config, logits: logits * config.logits_scaling,
    "minicpm3": _divided,
    "nanochat": _capped,
    "vaultgemma": _capped,
}
# Families whose head has a bias.
BIASED: dict[str, Callable[[Any], bool]] = {
    "ernie4_5_moe": lambda config: config.use_bias,
    "codegen": lambda config: True,
    "gptj": lambda config: True,
    "phi": lambda config: True,
    "phimoe": lambda config: config.lm_head_bias,
}


def new_head(config: Any) -> nn.Linear:
    """Return the head of a language model's configuration, from hidden states `[..., D]` to the vocabulary."""
    biased = config.model_type in BIASED and BIASED[config.model_type](config)
    return nn.Linear(config.hidden_size, config.vocab_size, bias=biased)


def scaled_logits(config: Any, logits: Tensor) -> Tensor:
    """Return the logits of a language model from what its head returns, both `[..., vocabulary]`."""
    return SCALED[config.model_type](config, logits) if config.model_type in SCALED else logits
