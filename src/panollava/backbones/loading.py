"""Load the two backbones of a model: the image half of an encoder, a language model and its tokenizer.

A local backbone must be the one that its pointer names. Code that a checkpoint brings along is never run.
"""

import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from panollava.backbones.encoder_check import check_config
from panollava.backbones.files import check_files, check_finite
from panollava.backbones.language import INSIDE, language_config
from panollava.backbones.presets import Backbone, check_unchanged, loading_options
from panollava.backbones.templates import SHIPPED, template_of
from panollava.vlm.encoders import OF_A_LLM, TIMM, family_of
from panollava.vlm.vision import tower_class

# Characters of another library's message that are shown.
REASON = 300


@contextmanager
def quiet() -> Iterator[None]:
    """Let transformers and PyTorch report nothing but errors."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def reading(source: str | Path) -> Iterator[None]:
    """Say in one line what is wrong with a checkpoint that a library cannot read, or that loads by its own code only.

    What the library itself reports is not shown: tables of weights that are not used, and warnings. What matters of it
    is refused by `check_loaded`.

    Raises:
        ValueError: with the checkpoint and what would be right.
    """
    try:
        with quiet():
            yield
    # On files that hold something else than they should, libraries raise whatever comes; tokenizers bare exceptions.
    except Exception as error:
        # Its message would advise an option of transformers.
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"{source} needs Python code of its own, and code in a checkpoint is never run; choose a checkpoint of "
                "a family that transformers knows"
            ) from error
        reason = " ".join(str(error).split())[:REASON]
        raise ValueError(f"{source} cannot be read: {type(error).__name__}: {reason}") from error


def model_options(source: str | Path) -> dict[str, Any]:
    """Return the options with which `from_pretrained` returns a model and what it found missing or misshapen."""
    options = loading_options(source)
    telling = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    # The automatic classes look for adapters by options of their own.
    return options | telling | {"adapter_kwargs": {"local_files_only": options["local_files_only"]}}


def check_loaded(loaded: Any, source: str | Path, *, exact: bool = False) -> Any:
    """Return the model that was loaded; refuse one of which the checkpoint lacks weights, or has such of another shape.

    With `exact` the checkpoint holds nothing else. `loaded` comes from `from_pretrained` with `model_options`.

    Raises:
        ValueError: with the first such tensor, or the first one that holds NaN or infinity.
    """
    model, info = loaded
    for name, found, wanted in sorted(info["mismatched_keys"], key=str):
        raise ValueError(f"{source}: {name} has shape {list(found)}, but {list(wanted)} by its config.json")
    # What is built on top of an encoder's last layer, for tasks of its own, is not used here.
    lacking = sorted(name for name in info["missing_keys"] if not {"pooler", "head"} & set(name.split(".")))
    if lacking:
        raise ValueError(f"{source} has no weights for {_first(lacking)}; the checkpoint is incomplete")
    if exact and info["unexpected_keys"]:
        raise ValueError(f"{source} has weights that are not of this model: {_first(sorted(info['unexpected_keys']))}")
    check_finite(model.named_parameters(), source)
    return model


def _first(names: Sequence[str]) -> str:
    return f"{names[0]} (and {len(names) - 1} others)" if names[1:] else names[0]


def _check(backbone: Backbone) -> None:
    check_unchanged(backbone)
    if backbone.revision is None:
        check_files(Path(backbone.source))


def read_vision_config(encoder: Backbone) -> tuple[PreTrainedConfig, str | None]:
    """Return the configuration of an encoder, and the `model_type` of the composite checkpoint that it is a part of.

    Raises:
        ValueError: config.json is missing or damaged.
    """
    with reading(encoder.source):
        config = AutoConfig.from_pretrained(
            encoder.source, revision=encoder.revision, **loading_options(encoder.source)
        )
        if "vision_config" in config.sub_configs:
            return config.vision_config, config.model_type
        if config.model_type == TIMM and config.model_args:  # newer ones say twice how many classes there are
            config.model_args = {name: value for name, value in config.model_args.items() if name != "num_classes"}
        return config, None


def load_encoder(encoder: Backbone, dtype: torch.dtype) -> PreTrainedModel:
    """Return the image half of an encoder checkpoint; full CLIP and SigLIP checkpoints hold a text half as well.

    Raises:
        ValueError: a changed, incomplete or damaged checkpoint, or one that is no image encoder of a known family.
    """
    _check(encoder)
    check_config(encoder)
    vision_config, composite = read_vision_config(encoder)
    with reading(encoder.source):
        options: dict[str, Any] = {"revision": encoder.revision, "config": vision_config, "dtype": dtype}
        family = family_of(vision_config.model_type)
        inside = family.inside if composite == family.composite else OF_A_LLM
        if composite is not None and inside is not None:
            options["key_mapping"] = {inside: ""}
        loaded = tower_class(vision_config).from_pretrained(encoder.source, **options, **model_options(encoder.source))
    return check_loaded(loaded, encoder.source)


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
    """Return a language model, also one that lies inside a vision-language model.

    With `four_bit`, its layers' weights are held in 4 bits and compute in that dtype. Such weights are for training
    what stands before and beside them. The configuration does not mention the 4 bits, for a trained folder is used with
    the whole weights.

    Raises:
        ValueError: a changed, incomplete or damaged checkpoint; bitsandbytes is not installed.
    """
    _check(llm)
    options = {"revision": llm.revision, "dtype": dtype, **model_options(llm.source)}
    if four_bit is not None:
        options["quantization_config"] = four_bit_config(four_bit)
    with reading(llm.source):
        options |= {"config": language_config(llm), "key_mapping": INSIDE}
        loaded = AutoModelForCausalLM.from_pretrained(llm.source, **options)
    model = check_loaded(loaded, llm.source)
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        # Some checkpoints hold a head of their own beside a configuration that would share the embeddings.
        model.config.tie_word_embeddings = False
    if four_bit is not None:
        del model.config.quantization_config
    return model


# One of these is a tokenizer's vocabulary.
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


def load_tokenizer(llm: Backbone) -> PreTrainedTokenizerBase:
    """Return a language model's tokenizer with the chat template of its preset.

    Raises:
        ValueError: no tokenizer files, damaged ones, or no chat template where the preset leaves it to the model.
    """
    folder = Path(llm.source)
    if folder.is_dir() and not any((folder / name).is_file() for name in VOCABULARIES):
        raise ValueError(
            f"{llm.name}: {folder} has no tokenizer, neither {VOCABULARIES[0]} nor {VOCABULARIES[1]}; copy the files "
            "of the model's tokenizer there"
        )
    with reading(llm.source):
        tokenizer = AutoTokenizer.from_pretrained(llm.source, revision=llm.revision, **loading_options(llm.source))
    if llm.chat_template is not None:
        tokenizer.chat_template = template_of(llm.chat_template)
    elif isinstance(tokenizer.chat_template, dict):  # several, by what they are for
        tokenizer.chat_template = tokenizer.chat_template.get("default")
    if not tokenizer.chat_template:
        raise ValueError(
            f"{llm.name}: {llm.source} has no chat template, as a base model has none; name one of ours as "
            f"chat_template of its preset ({', '.join(SHIPPED)}), or a .jinja file"
        )
    return tokenizer
