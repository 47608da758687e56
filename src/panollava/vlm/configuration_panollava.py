"""The configuration of PanoLLaVA: an image encoder, a language model, the views between panorama and encoder, and the
resampler between encoder and language model. Angles are in degrees, as everything that a user writes.

What `save_pretrained` copies beside the weights, this module among it, runs with transformers 5.16 to 5.23."""

from dataclasses import asdict
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .encoders import check_layers, check_views, native_size
from .views import ViewSettings
from .vision import grid_shape


@strict
class PanoLlavaConfig(PreTrainedConfig):
    """Describe a PanoLLaVA model.

    Attributes:
        vision_config: the image encoder; its patch size is its own.
        text_config: the language model.
        image_token_id: id of the placeholder token; it may lie beyond the vocabulary, it is never embedded.
        vision_feature_layer: index into the encoder's hidden states; -1 is its last hidden state, final norm included.
            Of a list of them the channels are concatenated.
        view_size: S, the size of the views in pixels; null is the size that the encoder was built for.
        views: the fields of `views.ViewSettings`, those that are left out at their defaults.
        tokens_per_side: t; each view becomes t x t language tokens.
        resampler: how patches become tokens, see `resampler.py`.
        resampler_hidden_size: width of the resampler's trunk (`pooling` keeps the encoder's) and of its projection.
        resampler_layers: blocks of the perceiver; of the C-abstractor on either side of its pooling.
        position_code: what a token is told of its direction, see `resampler.position_features`.
        position_frequencies: number of frequencies in that code.
        mask_hidden_size: width in which queries and patches meet, see `mask_head.py`.

    Raises:
        ValueError: a size below one, a perceiver width that is not a multiple of 32, an image encoder that is not
            supported or cannot see such views, what `ViewSettings` refuses, or a configuration of version 0.8 or older.
    """

    model_type = "panollava"
    # Not `sub_configs_defaults`, which came with transformers 5.20.
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}  # noqa: RUF012 - the base class has it so

    vision_config: Any = None  # a configuration or its dict; always a configuration once built
    text_config: Any = None
    image_token_id: int = 32000
    tie_word_embeddings: bool = False
    vision_feature_layer: int | list[int] = -1
    view_size: int | None = None
    views: dict[str, Any] | None = None  # a dict with all fields once built
    tokens_per_side: int = 6
    resampler: Literal["mlp", "pooling", "perceiver", "c_abstractor"] = "mlp"
    resampler_hidden_size: int = 1024
    resampler_layers: int = 2
    position_code: Literal["none", "yaw", "ray"] = "ray"
    position_frequencies: int = 4
    mask_hidden_size: int = 64

    def __post_init__(self, **kwargs: Any) -> None:
        if "view_strategy" in kwargs:
            raise ValueError(
                "this configuration was written by PanoLLaVA 0.8 or older, which had view_strategy and its settings at "
                "the top level; they are fields of `views` now: train or merge the model again"
            )
        self.vision_config = _sub_config(self.vision_config, "clip_vision_model")
        self.text_config = _sub_config(self.text_config, "llama")
        super().__post_init__(**kwargs)
        check_views(self.vision_config.to_dict(), self.view_size)
        check_layers(self.vision_config.to_dict(), self.vision_feature_layer)
        if self.vision_config.model_type == "vit_mae":  # it hides patches only to learn
            self.vision_config.mask_ratio = 0.0
        self.views = asdict(ViewSettings(**(self.views or {})))
        # Tying is decided by the top-level value, while the language model's own checkpoint carries it in its config.
        self.tie_word_embeddings = self.tie_word_embeddings or self.text_config.tie_word_embeddings
        for name, value in (
            ("tokens_per_side", self.tokens_per_side),
            ("resampler_hidden_size", self.resampler_hidden_size),
            ("resampler_layers", self.resampler_layers),
            ("position_frequencies", self.position_frequencies),
            ("mask_hidden_size", self.mask_hidden_size),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.resampler == "perceiver" and self.resampler_hidden_size % 32:
            raise ValueError(
                f"resampler_hidden_size is {self.resampler_hidden_size}; a perceiver has heads of width 32 and needs "
                "a multiple of it"
            )

    @property
    def view_pixels(self) -> int:
        """Return the size S of the views in pixels.

        Raises:
            ValueError: neither the model nor its encoder says.
        """
        size = self.view_size or native_size(self.vision_config.to_dict())
        if size is None:
            raise ValueError(f"a {self.vision_config.model_type} sees images of any size; set view_size")
        return size

    @property
    def patch_side(self) -> int:
        """Return h, the patches on each side of a view."""
        return grid_shape(self.vision_config, self.view_pixels, self.vision_feature_layer)[0]

    @property
    def patch_width(self) -> int:
        """Return C, the channels of a patch."""
        return grid_shape(self.vision_config, self.view_pixels, self.vision_feature_layer)[1]

    @property
    def view_settings(self) -> ViewSettings:
        """Return the settings of the views."""
        return ViewSettings(**(self.views or {}))


def _sub_config(given: Any, family: str) -> PreTrainedConfig:
    """Return the configuration of a part, built from its dict; `family` is that of a part without `model_type`."""
    if isinstance(given, PreTrainedConfig):
        return given
    return AutoConfig.for_model(**{"model_type": family} | (given or {}))
