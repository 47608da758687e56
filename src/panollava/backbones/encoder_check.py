"""Whether an image encoder can be used, by its config.json alone: asked before anything is computed."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HTTPError

from panollava.backbones.presets import Backbone, hub_reachable
from panollava.io import read_json
from panollava.vlm.encoders import TIMM, check_layers, check_views, vision_part


def check_encoder(encoder: Backbone) -> None:
    """Refuse an encoder that is of no known family, or that does not have the layers or the views of its preset.

    Raises:
        ValueError: with the family, and what would be right; timm is needed and cannot be used.
    """
    part = vision_part(_config(encoder))
    try:
        check_views(part, encoder.view_size)
        check_layers(part, -1 if encoder.feature_layer is None else encoder.feature_layer)
        if part["model_type"] == TIMM:
            check_timm(part.get("architecture"))
    except ValueError as error:
        raise ValueError(f"encoder {encoder.name} ({encoder.source}): {error}") from error


def check_timm(architecture: Any) -> None:
    """Refuse an architecture of timm where timm cannot be used, or does not know it.

    Raises:
        ValueError: with what to install.
    """
    if importlib.util.find_spec("timm") is None:
        raise ValueError("it needs timm, which is not installed; pip install 'panollava[efficientnet]' brings it")
    try:
        timm = importlib.import_module("timm")
    except (ImportError, RuntimeError, OSError) as error:
        raise ValueError(
            f"it needs timm, which cannot be imported ({' '.join(str(error).split())[:200]}); timm needs a torchvision "
            "built for the installed torch: install both from the same index"
        ) from error
    if architecture not in timm.list_models():
        raise ValueError(f"timm {timm.__version__} has no architecture {architecture!r}; install a newer timm")


def _config(encoder: Backbone) -> dict[str, Any]:
    folder = Path(encoder.source)
    if encoder.revision is None:
        return read_json(folder / "config.json")
    try:
        path = huggingface_hub.hf_hub_download(
            encoder.source, "config.json", revision=encoder.revision, local_files_only=not hub_reachable()
        )
    except (HTTPError, OSError) as error:
        raise ValueError(f"encoder {encoder.name}: config.json of {encoder.source} cannot be had: {error}") from error
    return read_json(Path(path))
