"""Find the image file of a record, below the dataset folder.

Names are equal if their Unicode normal forms are: macOS may write a Korean name on disk otherwise than an editor in
JSON. Nothing else is guessed; a message names the file that was probably meant.
"""

import os
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

from panollava.corpus.problems import shorten

# Of all file systems in use; a longer path need not be looked up.
MAX_PATH = 4096
# A hint looks for the file under so many last parts of the path.
HINT_PARTS = 8
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".avif")


def normal(name: str) -> str:
    """Return a name in the Unicode form that stands for all of them (NFC)."""
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    """Return the key of names that are equal but for case and spaces around them."""
    return normal(name).casefold().strip()


def _folded_stem(name: str) -> str:
    """Return the key of image names that are equal but for case and suffix."""
    stem, dot, suffix = _folded(name).rpartition(".")
    return stem if dot + suffix in IMAGE_SUFFIXES else _folded(name)


@lru_cache(maxsize=64)
def _names(folder: str, changed: int, key: Callable[[str], str]) -> dict[str, list[str]]:
    """Return the names in a folder by their key; `changed` is the time of its last change, so that none is stale."""
    names: dict[str, list[str]] = {}
    for name in sorted(file.name for file in Path(folder).iterdir()):
        names.setdefault(key(name), []).append(name)
    return names


def _below(folder: Path, parts: tuple[str, ...], *keys: Callable[[str], str]) -> Path | None:
    """Return what lies at these parts below a folder, where each part may be another name of the same key.

    Of several keys, all but the first are for the last part, where the ones before find nothing.
    """
    path = folder
    for number, part in enumerate(parts, start=1):
        if os.path.lexists(path / part):
            path /= part
            continue
        if not path.is_dir():
            return None
        changed = path.stat().st_mtime_ns
        for key in keys if number == len(parts) else keys[:1]:
            names = _names(str(path), changed, key).get(key(part))
            if names:
                path /= names[0]
                break
        else:
            return None
    return path


def as_on_disk(path: Path) -> Path:
    """Return a path as the disk spells it in another Unicode form, or as it is if nothing lies there."""
    if os.path.lexists(path):
        return path
    return _below(Path(path.anchor or "."), path.relative_to(path.anchor).parts, normal) or path


def _meant(folder: Path, image_path: str) -> str:
    """Return a hint that names the file that was probably meant, or an empty text."""
    # A Windows path also reads slashes, so its parts are right for both.
    written = PureWindowsPath(image_path.strip().rpartition("://")[2])
    parts = tuple(part for part in written.parts if part not in (written.anchor, ".."))
    tails = [parts[start:] for start in range(max(0, len(parts) - HINT_PARTS), len(parts))]
    candidates = [(folder, tail) for tail in [parts, *tails]] + [(folder / "images", tail) for tail in tails[-1:]]
    for base, tail in candidates:
        found = _below(base, tail, _folded, _folded_stem)
        if found is not None and found.is_file():
            return f"; did you mean {found.relative_to(folder).as_posix()!r}?"
    return ""


def _fault(file: Path) -> str:
    """Return why a path inside the dataset folder is no image file."""
    if file.is_dir():
        return "is a folder; expected an image file"
    return "is no regular file" if os.path.lexists(file) else "is missing"


def _found(folder: Path, image_path: str) -> Path:
    """Return the image file; raises ValueError without the path and without a hint."""
    # A Windows path is refused on every system, so that a dataset is equally valid everywhere.
    if "://" in image_path:
        raise ValueError(f"is a URL, and nothing is downloaded; expected a path below {str(folder)!r}")
    if PurePosixPath(image_path).is_absolute() or PureWindowsPath(image_path).drive:
        raise ValueError(f"is not a relative path; expected one below the dataset folder {str(folder)!r}")
    file = folder / image_path
    exists = file.is_file()
    if not exists and not os.path.lexists(file) and ".." not in PurePosixPath(image_path).parts:
        file = _below(folder, PurePosixPath(image_path).parts, normal) or file
        exists = file.is_file()
    if not file.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"leads to {str(file.resolve())!r}, outside the dataset folder {str(folder)!r}")
    if not exists:
        raise ValueError(f"{_fault(file)} below {str(folder)!r}")
    return file


def image_file(folder: Path, image_path: str, *, hint: bool = True) -> Path:
    """Return the image file of a record; without `hint`, the error does not look for the file that was meant.

    Raises:
        ValueError: the path leads out of the dataset folder, or to no file.
    """
    if len(image_path) > MAX_PATH or "\0" in image_path:
        raise ValueError(f"{shorten(image_path)} is no path; expected at most {MAX_PATH} characters without U+0000")
    try:
        try:
            return _found(folder, image_path)
        except ValueError as error:
            raise ValueError(f"{image_path!r} {error}{_meant(folder, image_path) if hint else ''}") from None
    except (OSError, RuntimeError) as error:  # a name too long, or a loop of links
        raise ValueError(f"{image_path!r} cannot be looked up: {error}") from None
