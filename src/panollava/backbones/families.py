"""Whether a language model's family can be used, found out once for each configuration and remembered.

`probe.py` finds it out on a tiny model and needs seconds and PyTorch; what is remembered needs neither. The memory
belongs to one configuration, the versions of the libraries, and the code of PanoLLaVA that is tried.
"""

import hashlib
import json
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from safetensors import SafetensorError, safe_open

from panollava.backbones.presets import Backbone, loading_options
from panollava.io import read_json
from panollava.remembered import recall, remember

LIBRARIES = ("torch", "transformers")
# What this process has found out; those that open many models need not read it again.
FOUND: dict[str, dict[str, str | None]] = {}
# What of PanoLLaVA decides the outcome, below the package's folder.
TRIED = (
    "vlm", "attention", "inference", "backbones/language.py", "backbones/shrinking.py", "backbones/trial.py",
    "backbones/probe.py",
)  # fmt: skip


def check_family(llm: Backbone) -> None:
    """Refuse a language model that would compute something else inside PanoLLaVA than by itself.

    Raises:
        ValueError: with the family, the number that differs and the reason; a config.json that is damaged, or that the
            hub does not give.
    """
    path = config_file(llm)
    content = read_json(path)
    check_embeddings(path.parent, content)

    def config() -> Any:
        with _module("loading").reading(llm.source):
            return _module("language").language_config(llm)

    _check(f"{llm.name}: {llm.source}", content.get("model_type"), content, config)


def check_language_model(config: Any, source: str | Path) -> None:
    """Refuse a checkpoint with the configuration of such a language model.

    Raises:
        ValueError: with the family, the number that differs and the reason.
    """
    _check(f"the language model of {source}", config.model_type, config.to_dict(), lambda: config)


def _module(name: str) -> Any:
    """Return a module that brings PyTorch along, which what is remembered can do without.

    By its name: a stage that only refuses depends on none of the code that is tried.
    """
    return import_module(f"panollava.backbones.{name}")


def _check(name: str, family: Any, content: dict[str, Any], config: Callable[[], Any]) -> None:
    known = json.dumps(content, sort_keys=True, default=str) + _versions()
    found: Any = FOUND.get(known) or recall("families", known)
    if found is None:
        found = {"differs": _module("probe").differing(config())}
        remember("families", known, found)
    FOUND[known] = found
    if found["differs"]:
        raise ValueError(
            f"{name} is of the family {family!r}, which PanoLLaVA cannot use: {found['differs']}; docs/models.md lists "
            "families that it can"
        )


def check_embeddings(folder: Path, content: dict[str, Any]) -> None:
    """Refuse weights in a folder whose token embeddings are not those of its config.json, as of another size of model.

    Raises:
        ValueError: with the file, the shape there, and the one by the configuration.
    """
    language = content.get("text_config") or content
    wanted = [language.get("vocab_size"), language.get("hidden_size")]
    for path in sorted(folder.glob("*.safetensors")) if None not in wanted else ():
        for name, shape in shapes(path).items():
            if name.endswith("embed_tokens.weight") and shape != wanted:
                raise ValueError(
                    f"{path}: {name} has shape {shape}, but {wanted} by config.json; these are files of two checkpoints"
                )


def shapes(path: Path) -> dict[str, list[int]]:
    """Return the shapes of the tensors in a file of safetensors; none of another file, which loading refuses."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 # not a mapping
    except (SafetensorError, OSError):
        return {}


def config_file(llm: Backbone) -> Path:
    """Return the config.json of a backbone, fetched from the hub if need be.

    Raises:
        ValueError: the hub does not give it.
    """
    path = Path(llm.source) / "config.json"
    if llm.revision is not None:
        offline = loading_options(llm.source)["local_files_only"]
        try:
            path = Path(
                huggingface_hub.hf_hub_download(
                    llm.source, "config.json", revision=llm.revision, local_files_only=offline
                )
            )
        except (HfHubHTTPError, HTTPError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"{llm.name}: config.json of {llm.source} cannot be had ({reason})") from error
    return path


@cache
def _versions() -> str:
    """Return the versions of the libraries, and the hash of the code that is tried."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for part in TRIED:
        for file in sorted((package / part).glob("*.py")) or [package / part]:
            digest.update(file.read_bytes())
    return " ".join([*(f"{name} {version(name)}" for name in LIBRARIES), digest.hexdigest()])
