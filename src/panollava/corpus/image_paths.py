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
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")


def _normal(name: str) -> str:
    """Return the key of names that are equal but for their Unicode form."""
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    """Return the key of names that are equal but for case and spaces around them."""
    return _normal(name).casefold().strip()


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


def _alike(folder: Path, name: str, key: Callable[[str], str]) -> list[str]:
    return _names(str(folder), folder.stat().st_mtime_ns, key).get(key(name), [])


def _below(folder: Path, parts: tuple[str, ...], key: Callable[[str], str]) -> Path | None:
    """Return what lies at these parts below a folder, where each part may be another name of the same key."""
    path = folder
    for part in parts:
        if not path.is_dir():
            return None
        if os.path.lexists(path / part):
            path /= part
            continue
        names = _alike(path, part, key)
        if not names:
            return None
        path /= names[0]
    return path


def as_on_disk(path: Path) -> Path:
    """Return a path as the disk spells it in another Unicode form, or as it is if nothing lies there."""
    if os.path.lexists(path):
        return path
    return _below(Path(path.anchor or "."), path.relative_to(path.anchor).parts, _normal) or path


def _meant(folder: Path, image_path: str) -> str:
    """Return a hint that names the file that was probably meant, or an empty text."""
    # A Windows path also reads slashes, so its parts are right for both.
    written = PureWindowsPath(image_path.strip().rpartition("://")[2])
    parts = tuple(part for part in written.parts if part not in (written.anchor, ".."))
    tails = [parts, *(parts[start:] for start in range(-min(HINT_PARTS, len(parts)), 0))]
    for tail in filter(None, tails):
        for base in (folder, folder / "images"):
            for key in (_folded, _folded_stem):
                found = _below(base, tail, key)
                if found is not None and found.is_file():
                    return f"; did you mean {found.relative_to(folder).as_posix()!r}?"
    return ""


def _reason(file: Path) -> str:
    """Return why a path inside the dataset folder is no image file."""
    if file.is_dir():
        return "is a folder; expected an image file"
    if os.path.lexists(file):
        return "is no regular file, or a link to nothing"
    return "is missing"


def image_file(folder: Path, image_path: str) -> Path:
    """Return the image file of a record; raises ValueError if it is outside the dataset folder or missing."""
    shown = repr(image_path)
    if len(image_path) > MAX_PATH or "\0" in image_path:
        raise ValueError(f"{shorten(image_path)} is no path; expected at most {MAX_PATH} characters without U+0000")
    try:
        # A Windows path is refused on every system, so that a dataset is equally valid everywhere.
        if PurePosixPath(image_path).is_absolute() or PureWindowsPath(image_path).drive or "://" in image_path:
            what = "is a URL, and nothing is downloaded" if "://" in image_path else "is not a relative path"
            hint = _meant(folder, image_path)
            raise ValueError(f"{shown} {what}; expected a path below the dataset folder {str(folder)!r}{hint}")
        file = folder / image_path
        if not os.path.lexists(file) and ".." not in file.parts:
            file = _below(folder, PurePosixPath(image_path).parts, _normal) or file
        if not file.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{shown} leads to {str(file.resolve())!r}, outside the dataset folder {str(folder)!r}")
        if not file.is_file():
            raise ValueError(f"{shown} {_reason(file)} below {str(folder)!r}{_meant(folder, image_path)}")
    except (OSError, RuntimeError) as error:  # a name too long, or a loop of links
        raise ValueError(f"{shown} cannot be looked up: {error}") from None
    return file
