"""PanoLLaVA: vision-language models for 360-degree equirectangular panoramas.

A name is imported once it is asked for, and registers the model with transformers then (`vlm/auto.py`): what does
without a model, a stage of the pipeline or the command line's help, does not wait seconds for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from panollava.chat import PanoLLaVAModel
    from panollava.finetuning import PanoDataset, PanoLLaVATrainer
    from panollava.vlm.configuration_panollava import PanoLlavaConfig
    from panollava.vlm.image_processing_panollava import PanoLlavaImageProcessor
    from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration, PanoLlavaModel
    from panollava.vlm.processing_panollava import PanoLlavaProcessor

_MODULES = {
    "PanoDataset": "panollava.finetuning",
    "PanoLLaVAModel": "panollava.chat",
    "PanoLLaVATrainer": "panollava.finetuning",
    "PanoLlavaConfig": "panollava.vlm.configuration_panollava",
    "PanoLlavaForConditionalGeneration": "panollava.vlm.modeling_panollava",
    "PanoLlavaImageProcessor": "panollava.vlm.image_processing_panollava",
    "PanoLlavaModel": "panollava.vlm.modeling_panollava",
    "PanoLlavaProcessor": "panollava.vlm.processing_panollava",
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
    """Import a public name (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module("panollava.auto")
    return vars(import_module(_MODULES[name]))[name]
