"""PanoLLaVA: vision-language models for 360-degree equirectangular panoramas.

Importing the package registers the model with transformers, so that `AutoModelForImageTextToText` and `AutoProcessor`
load its checkpoints; what they save carries its own code and loads where this package is not installed. The high-level
API is imported once it is asked for: the stages do without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
)

from panollava.vlm.configuration_panollava import PanoLlavaConfig
from panollava.vlm.image_processing_panollava import PanoLlavaImageProcessor
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration, PanoLlavaModel
from panollava.vlm.processing_panollava import PanoLlavaProcessor

if TYPE_CHECKING:
    from panollava.chat import PanoLLaVAModel
    from panollava.finetuning import PanoDataset, PanoLLaVATrainer

AutoConfig.register(PanoLlavaConfig.model_type, PanoLlavaConfig)
AutoModel.register(PanoLlavaConfig, PanoLlavaModel)
AutoModelForImageTextToText.register(PanoLlavaConfig, PanoLlavaForConditionalGeneration)
AutoImageProcessor.register(PanoLlavaConfig, image_processor_classes={"pil": PanoLlavaImageProcessor})
AutoProcessor.register(PanoLlavaConfig, PanoLlavaProcessor)

PanoLlavaConfig.register_for_auto_class()
PanoLlavaModel.register_for_auto_class("AutoModel")
PanoLlavaForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
PanoLlavaImageProcessor.register_for_auto_class()
PanoLlavaProcessor.register_for_auto_class()

_HIGH_LEVEL = {
    "PanoDataset": "panollava.finetuning",
    "PanoLLaVAModel": "panollava.chat",
    "PanoLLaVATrainer": "panollava.finetuning",
}

__all__ = [
    "PanoDataset",
    "PanoLLaVAModel",
    "PanoLLaVATrainer",
    "PanoLlavaConfig",
    "PanoLlavaForConditionalGeneration",
    "PanoLlavaImageProcessor",
    "PanoLlavaModel",
    "PanoLlavaProcessor",
]


def __getattr__(name: str) -> Any:
    """Import a name of the high-level API (PEP 562)."""
    if name not in _HIGH_LEVEL:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return vars(import_module(_HIGH_LEVEL[name]))[name]
