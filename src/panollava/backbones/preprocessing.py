"""How an encoder's checkpoint wants its images: the mean, the standard deviation and the size, from its own files."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from transformers import PreTrainedConfig
from transformers.image_processing_utils import BaseImageProcessor

from panollava.backbones.loading import reading
from panollava.backbones.presets import Backbone, loading_options
from panollava.vlm.encoders import TIMM, native_size


@dataclass(frozen=True)
class Preprocessing:
    """The size of an encoder's views in pixels, and the mean and standard deviation of each colour."""

    view_size: int
    image_mean: list[float]
    image_std: list[float]


def read_preprocessing(encoder: Backbone, vision_config: PreTrainedConfig) -> Preprocessing:
    """Return how the images of a checkpoint are prepared; the views' size is that of the preset if it has one.

    timm keeps all of it in config.json, everyone else the colours in preprocessor_config.json. An encoder that sees
    images of any size is given those of that file.

    Raises:
        ValueError: the file is missing or damaged, or lacks one of the three.
    """
    if vision_config.model_type == TIMM:
        own, name = vision_config.pretrained_cfg, "pretrained_cfg of config.json"
        stored = {f"image_{key}": own[key] for key in ("mean", "std") if key in own}
    else:
        name = "preprocessor_config.json"
        with reading(encoder.source):
            stored, _ = BaseImageProcessor.get_image_processor_dict(
                encoder.source, revision=encoder.revision, **loading_options(encoder.source)
            )
    with reading(encoder.source):
        mean, std = (_colours(stored.get(key), f"{name}: {key}") for key in ("image_mean", "image_std"))
        size = encoder.view_size or native_size(vision_config.to_dict()) or _size(stored)
        if size is None:
            raise ValueError(f"{name} names no size of square images; give the encoder's preset a view_size")
    return Preprocessing(size, mean, std)


def _colours(value: Any, name: str) -> list[float]:
    if not (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(isinstance(each, int | float) and isfinite(each) for each in value)
    ):
        raise ValueError(f"{name} is {value}; expected three numbers")
    return list(value)


def _size(stored: Mapping[str, Any]) -> int | None:
    """Return the size of the images that an image processor makes, if it is one number."""
    cropped = stored.get("do_center_crop") and stored.get("crop_size") is not None
    size = stored.get("crop_size" if cropped else "size")
    sides = set(size.values()) if isinstance(size, Mapping) else {size}
    found = sides.pop() if len(sides) == 1 else None
    return found if isinstance(found, int) else None
