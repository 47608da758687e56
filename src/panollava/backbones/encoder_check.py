"""Whether an image encoder can be used, by its small files alone: asked before anything is computed."""

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HTTPError

from panollava.backbones.presets import Backbone, hub_reachable
from panollava.io import read_json
from panollava.vlm.encoders import FAMILIES, TIMM, check_layers, check_views, family_of, vision_part


def check_encoder(encoder: Backbone) -> None:
    """Refuse an encoder that cannot be used as its preset says.

    Of an encoder whose grid follows from its stages, one without weights is asked what it makes of a view.

    Raises:
        ValueError: what `check_config` refuses; layers of several grids; no mean, deviation or size of its images.
    """
    part = check_config(encoder)
    if family_of(part["model_type"]).grid == "patches":
        return
    # Only here: they take seconds to import.
    from panollava.backbones.loading import read_vision_config
    from panollava.backbones.preprocessing import read_preprocessing
    from panollava.vlm.vision import grid_shape

    config, _ = read_vision_config(encoder)
    wanted = read_preprocessing(encoder, config)
    with named(encoder):
        grid_shape(config, wanted.view_size, -1 if encoder.feature_layer is None else encoder.feature_layer)


@contextmanager
def named(encoder: Backbone) -> Iterator[None]:
    """Put an encoder's name before what is said of it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"encoder {encoder.name} ({encoder.source}): {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"encoder {encoder.name} ({encoder.source}): config.json is damaged: {error!r}") from error


def check_config(encoder: Backbone) -> dict[str, Any]:
    """Return the image half of an encoder's config.json, after checks that take no time.

    Raises:
        ValueError: an unknown family, or one that lacks the layers or cannot see the views of its preset, with what
            would be right; timm is needed and cannot be used; the checkpoint brings code of its own.
    """
    config = _config(encoder)
    part = vision_part(config)
    if str(part.get("model_type")) not in FAMILIES and "auto_map" in config:
        raise ValueError(
            f"{encoder.source} needs Python code of its own, and code in a checkpoint is never run; choose a "
            "checkpoint of a family that transformers knows"
        )
    with named(encoder):
        check_views(part, encoder.view_size)
        check_layers(part, -1 if encoder.feature_layer is None else encoder.feature_layer)
        if part["model_type"] == TIMM:
            check_timm(part.get("architecture"))
    return part


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
