"""Write files and folders whole or not at all: what is there already stays until its replacement is complete."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` only once it is complete; on any error `path` stays as it was.

    Raises:
        OSError: the disk is full; the message names `path`.
    """
    # The process id keeps two runs at once from writing into one file; the later one wins as a whole.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(error.errno, f"{os.strerror(error.errno)}; nothing was written", str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, making its folder where there is none.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write((json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def check_vacant(out: Path) -> None:
    """Refuse to write a new folder where something is already.

    Raises:
        ValueError: `out` exists and is not an empty folder.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder; choose another name or remove it first")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a folder to write into that becomes `out` once it is complete; on any error nothing is left of it.

    Raises:
        ValueError: `out` exists and is not an empty folder.
    """
    check_vacant(out)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.replace(out)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)
