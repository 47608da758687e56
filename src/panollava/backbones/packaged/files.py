"""Find the file that a package carries, without importing the package."""

import importlib.util
from pathlib import Path


def packaged_file(package: str, name: str, *, install: str) -> Path:
    """Return the path of a package's file; the package itself is not imported, nor what it would import.

    Raises:
        ValueError: the package is not installed, or lacks the file; with how to `install` it.
    """
    found = importlib.util.find_spec(package)
    for folder in (found and found.submodule_search_locations) or ():
        if (file := Path(folder) / name).is_file():
            return file
    raise ValueError(f"this needs the file {name} of the package {package.replace('_', '-')}; {install}")
