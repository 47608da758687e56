"""Load the two backbones of a model: the image half of an encoder, a language model and its tokenizer.

A local backbone must be the one that its pointer names. Code that a checkpoint brings along is never run.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from panollava.backbones.presets import Backbone, check_unchanged
from panollava.backbones.tokenizer import chat_template

# Code in a checkpoint is never run. Left out, transformers would ask on standard input, where a question may stand.
NO_CODE: dict[str, Any] = {"trust_remote_code": False}


@contextmanager
def without_code(source: str | Path) -> Iterator[None]:
    """Refuse a checkpoint that loads by its own code only; transformers' message would advise an option of its own.

    Raises:
        ValueError: with the checkpoint and what would be right.
    """
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"{source} needs Python code of its own, and code in a checkpoint is never run; choose a checkpoint of a "
            "family that transformers knows"
        ) from error


def load_encoder(encoder: Backbone, dtype: torch.dtype) -> PreTrainedModel:
    """Return the image half of an encoder checkpoint; full CLIP and SigLIP checkpoints hold a text half as well."""
    check_unchanged(encoder)
    options: dict[str, Any] = {"revision": encoder.revision, **NO_CODE}
    with without_code(encoder.source):
        config = AutoConfig.from_pretrained(encoder.source, **options)
    vision_config = config.vision_config if "vision_config" in config.sub_configs else config
    return AutoModel.from_pretrained(encoder.source, config=vision_config, dtype=dtype, **options)


def four_bit_config(compute: torch.dtype) -> BitsAndBytesConfig:
    """Return how 4-bit weights are held, as QLoRA does (Dettmers et al., 2023): NF4, the scales quantised once more.

    Raises:
        ValueError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("weights of 4 bits need bitsandbytes; pip install 'panollava[gpu]' brings it")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def load_llm(llm: Backbone, dtype: torch.dtype, *, four_bit: torch.dtype | None = None) -> PreTrainedModel:
    """Return a language model; with `four_bit`, its layers' weights are held in 4 bits and compute in that dtype.

    Such weights are for training what stands before and beside them. The configuration does not mention the 4 bits,
    for a trained folder is used with the whole weights.

    Raises:
        ValueError: a changed checkpoint; bitsandbytes is not installed.
    """
    check_unchanged(llm)
    options: dict[str, Any] = {"revision": llm.revision, "dtype": dtype, **NO_CODE}
    if four_bit is not None:
        options["quantization_config"] = four_bit_config(four_bit)
    with without_code(llm.source):
        model = AutoModelForCausalLM.from_pretrained(llm.source, **options)
    if four_bit is not None:
        del model.config.quantization_config
    return model


def load_tokenizer(llm: Backbone) -> PreTrainedTokenizerBase:
    """Return a language model's tokenizer with the chat template of its preset."""
    with without_code(llm.source):
        tokenizer = AutoTokenizer.from_pretrained(llm.source, revision=llm.revision, **NO_CODE)
    if llm.chat_template is not None:
        tokenizer.chat_template = chat_template(llm.chat_template)
    return tokenizer
