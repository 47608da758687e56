"""Load a full checkpoint, a folder or a hub id: one that plain transformers opens, with all weights in it."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from panollava.backbones.adapter import ADAPTER
from panollava.backbones.files import check_files
from panollava.backbones.loading import check_loaded, reading
from panollava.backbones.presets import hub_reachable, loading_options
from panollava.backbones.trained import PARTS
from panollava.vlm.configuration_panollava import PanoLlavaConfig
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration
from panollava.vlm.processing_panollava import PanoLlavaProcessor


def load_checkpoint(
    path: str | Path, dtype: torch.dtype | None = None
) -> tuple[PanoLlavaForConditionalGeneration, PanoLlavaProcessor]:
    """Return the model and processor of a full checkpoint, by default in the dtype that it was written in.

    Raises:
        ValueError: something else, or an incomplete or damaged checkpoint; in one line that names it.
    """
    _check_kind(path)
    with reading(path):
        loaded: Any = PanoLlavaForConditionalGeneration.from_pretrained(
            path, dtype=dtype or "auto", output_loading_info=True, use_safetensors=True, **loading_options(path)
        )
        processor = PanoLlavaProcessor.from_pretrained(path, **loading_options(path))
    model, info = loaded
    check_loaded(model, info["missing_keys"], path)
    return model, processor


def _check_kind(path: str | Path) -> None:
    folder = Path(path)
    if folder.is_dir():
        _check_folder(folder)
    elif folder.exists():
        raise ValueError(f"{path} is a file; expected the folder of a checkpoint or of a finished stage")
    try:
        with reading(path):
            config = AutoConfig.from_pretrained(path, **loading_options(path))
    except ValueError as error:
        if folder.is_dir() or not isinstance(error.__cause__, OSError):
            raise
        reason = str(error.__cause__).splitlines()[0] if hub_reachable() else "the hub cannot be reached"
        raise ValueError(f"{path} is neither a folder nor a checkpoint available from the hub: {reason}") from error
    if not isinstance(config, PanoLlavaConfig):
        raise ValueError(f"{path} is a checkpoint of {config.model_type!r}, not of {PanoLlavaConfig.model_type!r}")


def _check_folder(folder: Path) -> None:
    check_files(folder)
    if (folder / ADAPTER).is_file():
        raise ValueError(
            f"{folder} holds LoRA weights without {PARTS}, which would name the model below them; open that model "
            "first, then call load_lora_weights"
        )
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json; it must be a checkpoint's folder or that of a finished stage")
