"""Assemble the composite model: a new resampler between two loaded backbones, and the processor of both."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from transformers import GenerationConfig, PreTrainedConfig

import panollava.auto  # noqa: F401 # models that are saved carry their own code
from panollava.backbones.families import check_family
from panollava.backbones.language import context_length
from panollava.backbones.loading import load_encoder, load_llm, load_tokenizer
from panollava.backbones.preprocessing import read_preprocessing
from panollava.backbones.presets import Backbone
from panollava.backbones.turns import ChatFormat
from panollava.vlm.configuration_panollava import PanoLlavaConfig
from panollava.vlm.encoders import native_size
from panollava.vlm.image_processing_panollava import PanoLlavaImageProcessor
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration
from panollava.vlm.processing_panollava import PanoLlavaProcessor
from panollava.vlm.views import ViewSettings


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


def load_image_processor(
    encoder: Backbone, vision_config: PreTrainedConfig, settings: ModelSettings
) -> PanoLlavaImageProcessor:
    """Return the image processor for views of an encoder's size, normalised as the encoder was trained.

    Raises:
        ValueError: the encoder's preprocessor_config.json is missing or damaged.
    """
    wanted = read_preprocessing(encoder, vision_config)
    return PanoLlavaImageProcessor(
        size={"height": wanted.view_size, "width": wanted.view_size},
        image_mean=wanted.image_mean,
        image_std=wanted.image_std,
        views=asdict(settings.views),
        tokens_per_side=settings.tokens_per_side,
    )


def vision_fields(
    encoder: Backbone, vision_config: PreTrainedConfig, image_processor: PanoLlavaImageProcessor
) -> dict[str, Any]:
    """Return what an encoder decides of the arguments of `PanoLlavaConfig`."""
    size = image_processor.size["height"]
    return {
        "vision_config": vision_config,
        "vision_feature_layer": -1 if encoder.feature_layer is None else encoder.feature_layer,
        "view_size": None if size == native_size(vision_config.to_dict()) else size,
    }


def assemble(
    parts: Parts, settings: ModelSettings, *, dtype: torch.dtype, four_bit: torch.dtype | None = None
) -> tuple[PanoLlavaForConditionalGeneration, PanoLlavaProcessor]:
    """Return a model with a new resampler between two loaded backbones, and its processor.

    Raises:
        ValueError: a backbone that is not the one its pointer names; a language model of a family that would compute
            something else here than by itself.
    """
    check_family(parts.llm)
    vision, language = load_encoder(parts.encoder, dtype), load_llm(parts.llm, dtype, four_bit=four_bit)
    processor = PanoLlavaProcessor.from_parts(
        load_image_processor(parts.encoder, vision.config, settings),
        load_tokenizer(parts.llm),
        tokens_per_side=settings.tokens_per_side,
        context_length=context_length(language.config),
    )
    config = PanoLlavaConfig(
        **vision_fields(parts.encoder, vision.config, processor.image_processor),
        text_config=language.config,
        image_token_id=processor.image_token_id,
        **settings.config_fields(),
    )
    model = PanoLlavaForConditionalGeneration.from_parts(vision, language, config)
    _end_answers(model.generation_config, processor)
    return model, processor


def _end_answers(generation: GenerationConfig, processor: PanoLlavaProcessor) -> None:
    """Let answers end at the token that the chat template writes behind them, beside those that the model names.

    A base model names the end of its documents alone, and some chat models do too.
    """
    named, end = generation.eos_token_id, ChatFormat.of(processor).end
    ends = [] if named is None else [named] if isinstance(named, int) else list(named)
    if end not in ends:
        generation.eos_token_id = [*ends, end] if ends else end
    if generation.pad_token_id is None:
        generation.pad_token_id = processor.tokenizer.pad_token_id
