"""Write a new folder as a whole: it appears when it is complete, or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_vacant(out: Path) -> None:
    """Refuse to write where something is already; raises ValueError."""
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
