"""From a preset to a backbone on this machine: a pointer that says what was chosen, and whether it is still the same.

A stand-in or a local folder is known by the hash of its files, a hub checkpoint by its commit; its weights stay in the
Hugging Face cache. The pointer is a small JSON file, so a stage depends on the backbone without copying it.
"""

import hashlib
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from pydantic import TypeAdapter, ValidationError

from panollava.hashes import file_hash
from panollava.io import write_json

Content = TypeVar("Content")

# What decides the behaviour of a checkpoint; cards and READMEs do not.
WEIGHT_FILES = ("*.safetensors", "*.bin", "*.json", "*.model", "*.jinja")
# Where `panollava convert` writes.
PRETRAINED = Path("data/pretrained")
# Seconds that the hub may take to answer, and to name a commit.
HUB_TIMEOUT = 10.0


@dataclass(frozen=True)
class Backbone:
    """A resolved preset: its name, the folder or hub id, its commit or content hash, and how it is to be read.

    `chat_template` is a name of ours or the text of a template; None stands for the checkpoint's own.
    """

    name: str
    source: str
    revision: str | None
    fingerprint: str
    feature_layer: int | list[int] | None = None
    chat_template: str | None = None
    view_size: int | None = None


def folder_fingerprint(folder: Path) -> str:
    """Return the SHA-256 of a checkpoint folder's weights, configuration and tokenizer files, by name and content."""
    digest = hashlib.sha256()
    files = sorted({file for pattern in WEIGHT_FILES for file in folder.glob(pattern)} - {folder / "card.json"})
    for file in files:
        digest.update(file.name.encode())
        digest.update(bytes.fromhex(file_hash(file)))
    return digest.hexdigest()


def resolve(
    name: str,
    source: str,
    *,
    feature_layer: int | list[int] | None = None,
    chat_template: str | None = None,
    view_size: int | None = None,
) -> Backbone:
    """Return the backbone of a preset; `source` is a folder, or a hub id if there is no such folder.

    Where the hub cannot be reached, a checkpoint in the Hugging Face cache is used, and its commit is printed.

    Raises:
        ValueError: a folder without config.json, or one still to be converted; a hub id that the hub does not know, or
            that is not cached where the hub cannot be reached.
    """
    folder = Path(source)
    extras: dict[str, Any] = {"feature_layer": feature_layer, "chat_template": chat_template, "view_size": view_size}
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"{name}: the folder {source} has no config.json; it must be a checkpoint's folder")
        return Backbone(name, source, None, folder_fingerprint(folder), **extras)
    if folder.parent == PRETRAINED:
        raise ValueError(f"{name}: there is no folder {source} yet; `panollava convert {folder.name}` writes it")
    revision = _hub_commit(name, source)
    return Backbone(name, source, revision, revision, **extras)


@cache
def hub_reachable() -> bool:
    """Return whether the hub answers, which a process asks once; False where HF_HUB_OFFLINE=1 forbids to ask.

    Where it does not, only the cache is of use: asked for a file, huggingface_hub would try again for half a minute.
    """
    if huggingface_hub.is_offline_mode():
        return False
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=HUB_TIMEOUT)
    except HTTPError:
        return False
    return True


def loading_options(source: str | Path) -> dict[str, Any]:
    """Return the options for every load of a checkpoint, a folder or a hub id.

    Code in a checkpoint is never run; without the option, transformers would ask on standard input, where a question
    may stand. What is on this machine is read without the network.
    """
    return {"trust_remote_code": False, "local_files_only": Path(source).is_dir() or not hub_reachable()}


def _hub_commit(name: str, source: str) -> str:
    """Return the commit of a hub id: the newest, or the cached one where the hub cannot be reached."""
    try:
        cached = huggingface_hub.try_to_load_from_cache(source, "config.json")
        if hub_reachable():
            return str(huggingface_hub.model_info(source, timeout=HUB_TIMEOUT).sha)
        reason = "the hub cannot be reached, and the cache does not hold it"
    except (HFValidationError, HTTPError, OSError) as error:
        if isinstance(error, HFValidationError | HfHubHTTPError):  # an answer: the cache is not asked
            cached = None
        reason = str(error).strip().splitlines()[0]
    if isinstance(cached, str):
        commit = Path(cached).parent.name
        print(f"{name}: the hub cannot be reached; {source} is taken from the cache, at commit {commit[:12]}")
        return commit
    raise ValueError(
        f"{name}: {source!r} is neither a folder nor a checkpoint available from the hub ({reason}); "
        "check the preset in params.yaml, the network and your access rights"
    )


def write_pointer(backbone: Backbone, path: Path) -> None:
    """Write a pointer file."""
    write_json(path, asdict(backbone))


def read_pointer(path: Path) -> Backbone:
    """Return the backbone of a pointer file.

    Raises:
        ValueError: the file is missing or holds something else.
    """
    return read_as(Backbone, path)


def read_as(kind: type[Content], path: Path) -> Content:
    """Return the dataclass that a JSON file of PanoLLaVA holds.

    Raises:
        ValueError: the file is missing or holds something else; in one line that names the file and the field.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes(), strict=True, extra="forbid")
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        field = f" field {where[:80]!r}:" if where else ""
        raise ValueError(f"{path}:{field} {first['msg']}; restore the file as PanoLLaVA wrote it") from error


def check_unchanged(backbone: Backbone) -> None:
    """Refuse a local checkpoint that is not the one the pointer was made for.

    Raises:
        ValueError: the folder is gone, or its content has changed.
    """
    if backbone.revision is not None:
        return
    folder = Path(backbone.source)
    if not folder.is_dir():
        raise ValueError(
            f"{backbone.name}: there is no folder {folder}, which held the backbone that was trained on; put it back, "
            "or run `panollava merge` where it is: a full checkpoint needs no other folder"
        )
    found = folder_fingerprint(folder)
    if found != backbone.fingerprint:
        raise ValueError(
            f"{backbone.name}: the checkpoint in {folder} has the hash {found[:12]}, but {backbone.fingerprint[:12]} "
            "was expected: it is another model than the one that was trained on"
        )
