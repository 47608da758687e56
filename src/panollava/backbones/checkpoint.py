"""Load a full checkpoint, a folder or a hub id: one that plain transformers opens, with all weights in it."""

from pathlib import Path

import torch
from transformers import AutoConfig

from panollava.backbones.adapter import ADAPTER
from panollava.backbones.families import check_language_model
from panollava.backbones.files import check_files
from panollava.backbones.loading import check_loaded, model_options, reading
from panollava.backbones.presets import hub_reachable, loading_options
from panollava.backbones.trained import PARTS
from panollava.vlm.configuration_panollava import PanoLlavaConfig
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration
from panollava.vlm.processing_panollava import PanoLlavaProcessor

# A full checkpoint holds one of each; large weights are divided among files with an index.
NEEDED = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("processor_config.json",),
    ("tokenizer.json", "tokenizer.model"),
)


def load_checkpoint(
    path: str | Path, dtype: torch.dtype | None = None
) -> tuple[PanoLlavaForConditionalGeneration, PanoLlavaProcessor]:
    """Return the model and processor of a full checkpoint, by default in the dtype that it was written in.

    Raises:
        ValueError: something else, an incomplete or damaged checkpoint, or one with a language model that would compute
            something else here than by itself; in one line that names it.
    """
    check_language_model(_check_kind(path).text_config, path)
    with reading(path):
        loaded = PanoLlavaForConditionalGeneration.from_pretrained(
            path, dtype=dtype or "auto", use_safetensors=True, **model_options(path)
        )
        processor = PanoLlavaProcessor.from_pretrained(path, **loading_options(path))
    if not processor.chat_template:
        raise ValueError(f"{path} has no chat template; a checkpoint of PanoLLaVA keeps it in chat_template.jinja")
    return check_loaded(loaded, path, exact=True), processor


def load_processor(path: str | Path) -> PanoLlavaProcessor:
    """Return the processor of a trained folder or a full checkpoint.

    Raises:
        ValueError: something else, or an incomplete or damaged folder; in one line that names it.
    """
    if (Path(path) / PARTS).is_file():
        check_files(Path(path))
    else:
        _check_kind(path)
    with reading(path):
        return PanoLlavaProcessor.from_pretrained(path, **loading_options(path))


def _check_kind(path: str | Path) -> PanoLlavaConfig:
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
    for names in NEEDED if folder.is_dir() else ():
        if not any((folder / name).is_file() for name in names):
            raise ValueError(f"{folder} has no {names[0]}; copy the folder anew")
    return config


def _check_folder(folder: Path) -> None:
    check_files(folder)
    if (folder / ADAPTER).is_file():
        raise ValueError(
            f"{folder} holds LoRA weights without {PARTS}, which would name the model below them; open that model "
            "first, then call load_lora_weights"
        )
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json; it must be a checkpoint's folder or that of a finished stage")
