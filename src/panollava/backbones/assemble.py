"""Assemble the composite model from its parts, and store and load what training adds to them.

A trained folder holds only what was trained: `trained.safetensors` (the encoder's adapted blocks and the resampler),
the LoRA adapter if there is one, the configuration, the processor, and `parts.json`, which names the two backbones.
The backbones themselves stay where they are and are checked against their fingerprints on loading.
"""

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.image_processing_utils import BaseImageProcessor

import panollava.auto  # noqa: F401 # models that are saved carry their own code
from panollava.backbones.presets import Backbone, check_unchanged
from panollava.backbones.tokenizer import chat_template
from panollava.io import replacing
from panollava.vlm.configuration_panollava import PanoLlavaConfig
from panollava.vlm.image_processing_panollava import PanoLlavaImageProcessor
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration
from panollava.vlm.processing_panollava import PanoLlavaProcessor
from panollava.vlm.views import ViewSettings

TRAINED, PARTS = "trained.safetensors", "parts.json"
ADAPTER = "adapter_config.json"
# Code in a checkpoint is never run. Left out, transformers would ask on standard input, where a question may stand.
NO_CODE: dict[str, Any] = {"trust_remote_code": False}


@dataclass(frozen=True)
class Parts:
    """The two backbones of a model."""

    encoder: Backbone
    llm: Backbone


@dataclass(frozen=True)
class ModelSettings:
    """The fields of `PanoLlavaConfig` that neither backbone decides; see there for their meaning."""

    views: ViewSettings
    tokens_per_side: int
    resampler: Literal["mlp", "pooling", "perceiver", "c_abstractor"]
    resampler_hidden_size: int
    resampler_layers: int
    position_code: Literal["none", "yaw", "ray"]
    position_frequencies: int
    mask_hidden_size: int

    @classmethod
    def of(cls, config: PanoLlavaConfig) -> "ModelSettings":
        """Return the settings of a model's configuration."""
        return cls(
            views=config.view_settings,
            tokens_per_side=config.tokens_per_side,
            resampler=config.resampler,
            resampler_hidden_size=config.resampler_hidden_size,
            resampler_layers=config.resampler_layers,
            position_code=config.position_code,
            position_frequencies=config.position_frequencies,
            mask_hidden_size=config.mask_hidden_size,
        )

    def config_fields(self) -> dict[str, Any]:
        """Return the settings as arguments of `PanoLlavaConfig`."""
        return asdict(self)


def write_parts(parts: Parts, folder: Path) -> None:
    """Write which backbones a trained folder belongs to."""
    (folder / PARTS).write_text(json.dumps(asdict(parts), indent=2) + "\n", encoding="utf-8")


def read_parts(folder: Path) -> Parts:
    """Return the backbones that a trained folder belongs to.

    Paths are those of the working directory. Where one leads nowhere, it is tried from the folders above the trained
    one: the project's folder is among them.

    Raises:
        ValueError: the folder holds no trained PanoLLaVA.
    """
    path = folder / PARTS
    if not path.is_file():
        raise ValueError(f"{folder} has no {PARTS}: it is not a folder that a training stage of PanoLLaVA wrote")
    content = json.loads(path.read_text(encoding="utf-8"))
    encoder, llm = (_found_from(folder, Backbone(**content[name])) for name in ("encoder", "llm"))
    return Parts(encoder, llm)


def _found_from(folder: Path, backbone: Backbone) -> Backbone:
    """Return a backbone whose local path also holds in another working directory, if one above `folder` has it."""
    if backbone.revision is not None or Path(backbone.source).is_dir():
        return backbone
    places = (above / backbone.source for above in folder.resolve().parents)
    return replace(backbone, source=next((str(place) for place in places if place.is_dir()), backbone.source))


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

    Such weights are for training what stands before and beside them. What is trained says nothing of them in its
    configuration: it joins the whole weights when it is used.

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


def load_image_processor(encoder: Backbone, view_size: int, settings: ModelSettings) -> PanoLlavaImageProcessor:
    """Return the image processor for views of an encoder's size, normalised as the encoder was trained."""
    stored, _ = BaseImageProcessor.get_image_processor_dict(encoder.source, revision=encoder.revision)
    return PanoLlavaImageProcessor(
        size={"height": view_size, "width": view_size},
        image_mean=stored["image_mean"],
        image_std=stored["image_std"],
        views=asdict(settings.views),
        tokens_per_side=settings.tokens_per_side,
    )


def assemble(
    parts: Parts, settings: ModelSettings, *, dtype: torch.dtype, four_bit: torch.dtype | None = None
) -> tuple[PanoLlavaForConditionalGeneration, PanoLlavaProcessor]:
    """Return a model with a new resampler between two loaded backbones, and its processor.

    Raises:
        ValueError: a backbone that is not the one its pointer names.
    """
    vision, language = load_encoder(parts.encoder, dtype), load_llm(parts.llm, dtype, four_bit=four_bit)
    processor = PanoLlavaProcessor.from_parts(
        load_image_processor(parts.encoder, vision.config.image_size, settings),
        load_tokenizer(parts.llm),
        tokens_per_side=settings.tokens_per_side,
        context_length=language.config.max_position_embeddings,
    )
    layer = -1 if parts.encoder.feature_layer is None else parts.encoder.feature_layer
    config = PanoLlavaConfig(
        vision_config=vision.config,
        text_config=language.config,
        image_token_id=processor.image_token_id,
        vision_feature_layer=layer,
        **settings.config_fields(),
    )
    model = PanoLlavaForConditionalGeneration.from_parts(vision, language, config)
    return model, processor


def whole(value: Tensor) -> Tensor:
    """Return a tensor on the CPU, put together where processes hold parts of it; all of them must ask for it."""
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()


def trained_state(model: nn.Module, names: set[str]) -> dict[str, Tensor]:
    """Return the named parameters of a model, whole, contiguous and on the CPU."""
    state = {name: value for name, value in model.state_dict().items() if name in names}
    return {name: whole(value).contiguous() for name, value in state.items()}


def write_trained(state: dict[str, Tensor], folder: Path) -> None:
    """Write trained parameters to a folder, in place of what was there only when complete."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / TRAINED) as file:
        file.write(save(state, metadata={"format": "pt"}))


def load_trained(model: nn.Module, folder: Path) -> list[str]:
    """Load the trained parameters of a folder into a model and return their names.

    Raises:
        ValueError: a parameter that the model does not have, or has in another shape.
    """
    state, own = load_file(folder / TRAINED), model.state_dict()
    for name, value in state.items():
        if name not in own or own[name].shape != value.shape:
            found = "no such parameter" if name not in own else f"shape {list(own[name].shape)}"
            raise ValueError(
                f"{folder / TRAINED}: {name} has shape {list(value.shape)}, the model has {found}; "
                "it was trained with another encoder, language model or resampler"
            )
    model.load_state_dict(state, strict=False)
    return sorted(state)


def load_finetuned(
    folder: Path, *, merge: bool = True, dtype: torch.dtype | None = None
) -> tuple[PanoLlavaForConditionalGeneration, PanoLlavaProcessor]:
    """Return the model and processor of a trained folder, in evaluation mode.

    With `merge`, LoRA is merged into the language model's weights; without, the adapters stay injected.

    Raises:
        ValueError: not a trained folder, or backbones other than those it was trained on.
    """
    parts = read_parts(folder)
    config = PanoLlavaConfig.from_pretrained(folder)
    # A configuration read from a file may hold its dtype by name.
    stored = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    model, processor = assemble(parts, ModelSettings.of(config), dtype=dtype or stored)
    load_trained(model, folder)
    if (folder / ADAPTER).is_file():
        adapted: Any = PeftModel.from_pretrained(model, folder)
        model = adapted.merge_and_unload() if merge else adapted.get_base_model()
    return model.eval(), processor
