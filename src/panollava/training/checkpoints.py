"""What a checkpoint of a training run holds, and which one a resumed run goes on from.

The weights are those that train, whole, however many processes hold parts of them; the rest is the trainer's own.
"""

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.trainer_utils import get_last_checkpoint

from panollava.backbones.files import FILES, damage, write_manifest
from panollava.io import naming

WEIGHTS = "trained.safetensors"


def save_weights(trained: dict[str, Tensor], folder: Path) -> None:
    """Write trained parameters into a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(trained, folder / WEIGHTS, metadata={"format": "pt"})


@torch.no_grad()
def load_weights(model: nn.Module, folder: Path) -> None:
    """Load the trained parameters of a checkpoint into a model; each process takes the part that it holds.

    Raises:
        ValueError: a parameter that the model does not have, or has in another shape.
    """
    own = dict(model.named_parameters())
    for name, value in load_file(folder / WEIGHTS).items():
        if name not in own:
            raise ValueError(f"{folder}: {name} is no parameter of this model")
        parameter = own[name]
        if parameter.shape != value.shape:
            raise ValueError(f"{folder}: {name} is {list(value.shape)}, in this model {list(parameter.shape)}")
        if isinstance(parameter, DTensor):
            value = distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
        parameter.copy_(value)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Write a checkpoint; its `files.json` comes last, so that one without it was cut off.

    Raises:
        OSError: the disk is full; the message names the checkpoint.
    """
    with naming(folder, folder):
        yield
        state = PartialState()
        state.wait_for_everyone()  # each process writes its own generators' state
        if state.is_main_process:
            write_manifest(folder)


def last_checkpoint(folder: Path) -> Path | None:
    """Return the last whole checkpoint of a folder, and print which later ones are damaged; these are removed."""
    damaged = False
    while folder.is_dir() and (found := get_last_checkpoint(str(folder))) is not None:
        path = Path(found)
        problem = damage(path, hashed_bytes=math.inf) if (path / FILES).is_file() else f"{path} was cut off"
        if problem is None:
            return path
        print(f"{problem}; this checkpoint cannot be used", flush=True)
        shutil.rmtree(path)
        damaged = True
    if damaged:
        print(f"{folder}: no whole checkpoint is left; training starts from the beginning", flush=True)
    return None
