"""Registers the model with transformers, once imported: its Auto classes load checkpoints of PanoLLaVA from then on.

And what they save carries its own code, so that it loads where this package is not installed.
"""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor

from panollava.vlm.configuration_panollava import PanoLlavaConfig
from panollava.vlm.image_processing_panollava import PanoLlavaImageProcessor
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration, PanoLlavaModel
from panollava.vlm.processing_panollava import PanoLlavaProcessor

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
