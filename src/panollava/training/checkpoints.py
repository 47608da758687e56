"""What a checkpoint of a training run holds, and which one a resumed run goes on from.

The weights are those that train, whole, however many processes hold parts of them; the rest is the trainer's own.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.trainer_utils import get_last_checkpoint

WEIGHTS = "trained.safetensors"
# Written last by the trainer: a checkpoint without it was cut off while being written.
COMPLETE = "trainer_state.json"


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


def last_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint of a folder that was written completely; cut-off ones are removed."""
    while folder.is_dir() and (found := get_last_checkpoint(str(folder))) is not None:
        path = Path(found)
        if (path / COMPLETE).is_file() and _is_json(path / COMPLETE):
            return path
        for file in sorted(path.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        path.rmdir()
    return None


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return False
    return True
