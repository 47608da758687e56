"""The language model of a checkpoint, which may lie inside one of another kind, and how far its context reaches.

`INSIDE` holds for every checkpoint: one that is a language model alone has none of these names.
"""

from typing import Any

import transformers
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    PreTrainedConfig,
)

from panollava.backbones.presets import Backbone, loading_options

# Halves of vision-language models by the family that they are without images: on text alone, their rotary positions in
# three dimensions are those of one.
PLAIN = {
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
}
MULTIMODAL_ROTARY = ("mrope_section", "mrope_interleaved")
# Where a vision-language checkpoint keeps its language model, and what that is called in one of its own.
INSIDE = {
    r"^(model\.)?language_model\.lm_head\.": "lm_head.",
    r"^(model\.)?language_model\.model\.": "model.",
    r"^model\.language_model\.": "model.",
}


def language_config(llm: Backbone) -> PreTrainedConfig:
    """Return the configuration of a checkpoint's language model, which may be the text half of a larger one.

    Raises:
        ValueError: the checkpoint holds none, or one of a family that transformers does not know.
    """
    options: dict[str, Any] = {"revision": llm.revision, **loading_options(llm.source)}
    content, _ = PreTrainedConfig.get_config_dict(llm.source, **options)
    if (family := content.get("model_type")) not in CONFIG_MAPPING and "auto_map" not in content:
        raise ValueError(f"transformers {transformers.__version__} knows no family {family!r}")
    config = AutoConfig.from_pretrained(llm.source, **options)
    if "text_config" in config.sub_configs:
        # Whether head and embeddings are one is said at the top.
        tied, config = config.tie_word_embeddings, plain(config.text_config)
        config.tie_word_embeddings = tied
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"the family {config.model_type!r} has no language model that writes text")
    return config


def plain(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the configuration of a text half as that of the family that it is without images."""
    if config.model_type not in PLAIN:
        return config
    values: dict[str, Any] = {name: value for name, value in config.to_dict().items() if name != "model_type"}
    rotary = {name: value for name, value in values["rope_parameters"].items() if name not in MULTIMODAL_ROTARY}
    return CONFIG_MAPPING[PLAIN[config.model_type]](**values | {"rope_parameters": rotary})


def context_length(config: Any) -> int:
    """Return how many tokens a language model may read.

    With rotary frequencies for long texts, all of a text changes where it becomes long: records of one row, and a
    prefix that was computed before, would no longer be what they are alone. The context ends there.
    """
    length: int = config.max_position_embeddings
    match config.to_dict():
        case {"rope_parameters": dict(rotary)}:
            # One set of frequencies, or one for each kind of layer.
            for one in [rotary, *(value for value in rotary.values() if isinstance(value, dict))]:
                if one.get("rope_type") == "longrope":
                    length = min(length, one["original_max_position_embeddings"])
    return length
