"""Trained folders: what training adds to the two backbones, written and loaded.

A trained folder holds only what was trained: `trained.safetensors` (the encoder's adapted blocks and the resampler),
the LoRA adapter if there is one, the configuration, the processor, `parts.json`, which names the two backbones, and
`files.json`, which lists them all. The backbones themselves stay where they are and are checked against their
fingerprints on loading.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from panollava.backbones.adapter import ADAPTER, ADAPTER_WEIGHTS, check_adapter
from panollava.backbones.assemble import ModelSettings, Parts, assemble
from panollava.backbones.files import FILES, check_files, load_weights
from panollava.backbones.loading import reading
from panollava.backbones.presets import Backbone, loading_options, read_as
from panollava.io import replacing, write_json
from panollava.vlm.configuration_panollava import PanoLlavaConfig
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration
from panollava.vlm.processing_panollava import PanoLlavaProcessor

TRAINED, PARTS = "trained.safetensors", "parts.json"
# The parts of the model that no backbone brings: folders hold them whether they have been trained or not.
NEW = ("model.resampler.", "mask_head.")
# What PEFT puts between a layer's name and those of its own weights.
ADAPTED = ".base_layer."


def write_parts(parts: Parts, folder: Path) -> None:
    """Write which backbones a trained folder belongs to."""
    write_json(folder / PARTS, asdict(parts))


def read_parts(folder: Path) -> Parts:
    """Return the backbones that a trained folder belongs to.

    Paths are those of the working directory. Where one leads nowhere, it is tried from the folders above the trained
    one: the project's folder is among them.

    Raises:
        ValueError: the folder holds no trained PanoLLaVA, or a damaged file in place of `parts.json`.
    """
    path = folder / PARTS
    if not path.is_file():
        raise ValueError(f"{folder} has no {PARTS}: it is not a folder that a training stage of PanoLLaVA wrote")
    parts = read_as(Parts, path)
    return Parts(_found_from(folder, parts.encoder), _found_from(folder, parts.llm))


def read_config(folder: Path) -> PanoLlavaConfig:
    """Return the configuration in a trained folder.

    Raises:
        ValueError: config.json is missing or damaged.
    """
    with reading(folder / "config.json"):
        return PanoLlavaConfig.from_pretrained(folder, **loading_options(folder))


def check_trained(folder: Path) -> None:
    """Refuse a trained folder that is not whole.

    Version 0.9 and before wrote no `files.json`; there, a model card says that an adapter belongs to the folder.

    Raises:
        ValueError: with the first file that is missing or damaged.
    """
    check_files(folder)
    adapted = (folder / ADAPTER).is_file() or (folder / ADAPTER_WEIGHTS).is_file()
    if not adapted and not (folder / FILES).is_file() and (folder / "README.md").is_file():
        adapted = b"\nlibrary_name: " in (folder / "README.md").read_bytes()
    wanted = (PARTS, "config.json", TRAINED, *((ADAPTER, ADAPTER_WEIGHTS) if adapted else ()))
    for name in wanted:
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing; copy the folder anew")


def _found_from(folder: Path, backbone: Backbone) -> Backbone:
    """Return a backbone whose local path also holds in another working directory, if one above `folder` has it."""
    if backbone.revision is not None or Path(backbone.source).is_dir():
        return backbone
    places = (above / backbone.source for above in folder.resolve().parents)
    return replace(backbone, source=next((str(place) for place in places if place.is_dir()), backbone.source))


def whole(value: Tensor) -> Tensor:
    """Return a tensor on the CPU, put together where processes hold parts of it; all of them must ask for it."""
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()


def trained_state(model: nn.Module, names: set[str]) -> dict[str, Tensor]:
    """Return the named parameters of a model, whole, contiguous and on the CPU.

    A layer with an adapter has its own weights below another name, which counts as the plain one.
    """
    plain = {name.replace(ADAPTED, "."): value for name, value in model.state_dict().items()}
    state = {name: value for name, value in plain.items() if name in names}
    return {name: whole(value).contiguous() for name, value in state.items()}


def write_trained(state: dict[str, Tensor], folder: Path) -> None:
    """Write trained parameters to a folder, in place of what was there only when complete."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / TRAINED) as file:
        file.write(save(state, metadata={"format": "pt"}))


def load_trained(model: nn.Module, folder: Path) -> list[str]:
    """Load the trained parameters of a folder into a model and return their names.

    Raises:
        ValueError: a parameter that the model does not have, or has in another shape; a damaged file.
    """
    check_files(folder)
    return _load_state(model, folder)


def _load_state(model: nn.Module, folder: Path) -> list[str]:
    state, own = load_weights(folder / TRAINED), model.state_dict()
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
        ValueError: not a trained folder, or backbones other than those it was trained on; a file that is missing,
            damaged or of another model.
    """
    parts = read_parts(folder)
    check_trained(folder)
    config = read_config(folder)
    # A configuration read from a file may hold its dtype by name.
    stored = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    model, processor = assemble(parts, ModelSettings.of(config), dtype=dtype or stored)
    names = set(_load_state(model, folder))
    for name, _ in model.named_parameters():
        if name.startswith(NEW) and name not in names:
            raise ValueError(f"{folder / TRAINED} has no weights for {name}; the file is incomplete")
    if (folder / ADAPTER).is_file():
        check_adapter(model, folder)
        with reading(folder / ADAPTER_WEIGHTS):
            adapted: Any = PeftModel.from_pretrained(model, folder)
        model = adapted.merge_and_unload() if merge else adapted.get_base_model()
    return model.eval(), processor
