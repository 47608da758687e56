"""The files of a checkpoint's folder: which belong to it, and whether each is what its name says.

`files.json` lists every other file of a folder that PanoLLaVA writes, with its size and its SHA-256. Documents (*.md)
may be changed and are not listed. Folders without it, by other tools or older versions, are checked by the form of each
file alone.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from panollava.hashes import file_hash
from panollava.io import PREFIX, left_over, new_folder, read_json, replacing_folder, write_json

FILES = "files.json"
# Larger files are known by their sizes on loading; `panollava validate` reads all of them.
HASHED_BYTES = 2**30
# Of these a checkpoint may hold any; whatever else they hold, it is an object.
OBJECTS = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "adapter_config.json",
)  # fmt: skip
INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs"
NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ZIP, PICKLE = b"PK\x03\x04", b"\x80"


@contextmanager
def new_checkpoint(out: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a folder to write into that becomes `out`, with its `files.json`, once it is complete.

    With `replace` it takes the place of what is there.

    Raises:
        ValueError: `out` exists and is not an empty folder.
        OSError: the disk is full, or `out` cannot be written; the message names `out`.
    """
    with replacing_folder(out) if replace else new_folder(out, last="config.json") as folder:
        yield folder
        write_manifest(folder)


def write_manifest(folder: Path) -> None:
    """List the files of a folder in its `files.json`; nothing may be written after it."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and _listed(file.relative_to(folder))]
    content = {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": file_hash(file)} for file in files
    }
    write_json(folder / FILES, content)


def _listed(name: Path) -> bool:
    return name.suffix != ".md" and name.name != FILES and not name.parts[0].startswith(PREFIX)


def damage(folder: Path, *, hashed_bytes: float = HASHED_BYTES) -> str | None:
    """Return what is wrong with the first file that is not as `files.json` lists it, or None; it must be there."""
    try:
        listed = read_json(folder / FILES)
    except ValueError as error:
        return str(error)
    if not listed:
        return f"{folder / FILES} lists no file"
    for name, entry in listed.items():
        match entry:
            case {"bytes": int(size), "sha256": str(digest)} if _inside(name):
                if problem := _difference(folder / name, size, digest, hashed_bytes):
                    return problem
            case _:
                return f"{folder / FILES}: {name[:80]!r} is no file of this folder with its size and hash"
    return None


def _inside(name: str) -> bool:
    return name.isprintable() and not name.startswith("/") and ".." not in name


def _difference(path: Path, size: int, digest: str, hashed_bytes: float) -> str | None:
    if not path.is_file():
        return f"{path} is missing"
    if (found := path.stat().st_size) != size:
        return _pointer(path) or f"{path} has {found} bytes instead of {size}"
    if size <= hashed_bytes and file_hash(path) != digest:
        return f"{path} has another content (SHA-256) than was written"
    return None


def _pointer(path: Path) -> str | None:
    with path.open("rb") as file:
        pointer = file.read(len(POINTER)) == POINTER
    return f"{path} is the git-lfs pointer of a file; `git lfs pull` fetches it" if pointer else None


def check_files(folder: Path, *, hashed_bytes: float = HASHED_BYTES) -> None:
    """Refuse a folder of which a file is missing, damaged, or not what its name says.

    Raises:
        ValueError: with the first such file.
    """
    if left_over(folder):
        raise ValueError(f"{folder} is incomplete: it is being written, or the process was killed; write it anew")
    if (folder / FILES).is_file() and (problem := damage(folder, hashed_bytes=hashed_bytes)):
        raise ValueError(f"{problem}; copy the folder anew, or remove {FILES} if you changed it on purpose")
    for name in OBJECTS:
        if (folder / name).is_file():
            if problem := _pointer(folder / name):
                raise ValueError(problem)
            read_json(folder / name)
    for path in sorted(folder.glob("*.safetensors")):
        check_weights(path)
    for path in sorted(file for pattern in ("*.bin", "*.model", "*.jinja") for file in folder.glob(pattern)):
        if problem := _pointer(path):
            raise ValueError(problem)
    if (index := folder / INDEX).is_file():
        check_index(index)


def check_index(path: Path) -> None:
    """Refuse the index of weights that are divided among files, if one of these is missing.

    Raises:
        ValueError: with the file.
    """
    match read_json(path):
        case {"weight_map": dict(places)} if all(isinstance(name, str) and _inside(name) for name in places.values()):
            for name in sorted(set(places.values())):
                check_weights(path.parent / name)
        case _:
            raise ValueError(f"{path} has no weight_map, which names the file of each tensor")


def check_weights(path: Path) -> None:
    """Refuse what is no complete file of safetensors; only its head is read.

    Raises:
        ValueError: with what it is instead.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    if problem := _pointer(path):
        raise ValueError(problem)
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        with path.open("rb") as file:
            pickled = file.read(len(ZIP)).startswith((ZIP, PICKLE))
        reason = "a pickle, which is never loaded under this name" if pickled else str(error)
        raise ValueError(f"{path} is no complete file of safetensors: {reason}") from error


def check_finite(weights: Iterable[tuple[str, Tensor]], source: str | Path) -> None:
    """Refuse weights that hold NaN or infinity.

    Raises:
        ValueError: with the first such tensor.
    """
    for name, value in weights:
        # The extremes are NaN where any number is; they are found as fast as memory is read.
        if value.dtype in NUMBERS and value.numel() and not all(end.isfinite() for end in value.detach().aminmax()):
            raise ValueError(f"{source}: {name} holds NaN or infinity; the weights are damaged or diverged in training")


def load_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of safetensors.

    Raises:
        ValueError: the file is missing, damaged or something else, or holds NaN or infinity.
    """
    check_weights(path)
    state = load_file(path)
    check_finite(state.items(), path)
    return state
