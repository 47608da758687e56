"""Shared parts of the importers: request, result, and the types that lenient readers of public files need.

An importer reads annotations only and names the images. `importers.writing` opens and checks them.
"""

import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any

from pydantic import BeforeValidator

from panollava.corpus.importers.findings import BadSample, Findings
from panollava.corpus.problems import shorten

SCHEMES = ("http://", "https://", "s3://", "gs://", "file://", "data:")


def as_text(value: object) -> object:
    """Return a number as its text: 3 and 3.0 both as "3"."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


# Public files write ids and short answers as numbers or as texts; here they are texts.
TextOrNumber = Annotated[str, BeforeValidator(as_text)]


@dataclass(frozen=True)
class Origin:
    """The source of a data set, and its licence as its publisher states it."""

    source: str
    licence: str


@dataclass(frozen=True)
class Request:
    """An import: the annotations, the folder of the images if it is another one, and the seed of all draws."""

    src: Path
    images: Path | None = None
    seed: int = 0

    @property
    def image_folder(self) -> Path:
        """Return the folder that image names are relative to: `images`, else that of the annotation file."""
        return self.images or (self.src if self.src.is_dir() else self.src.parent)

    def refuse_images(self, path: str) -> None:
        """Raise ValueError if a folder of images is given for a layout that has its images at a fixed path."""
        if self.images is not None:
            raise ValueError(f"--images {self.images}: this layout has its images at {path}; leave the option out")


@dataclass(frozen=True)
class Entry:
    """A record to be written: its place in the source, its image below the image folder, and the record's fields.

    `samples` is the number of the source's samples that it carries. `metadata[id_key]` is the id in the source, if any.
    """

    where: str
    image: str
    fields: dict[str, Any]
    samples: int = 1
    id_key: str = ""


@dataclass(frozen=True)
class Imported:
    """The records of a source in its order, their origin, the folder of their images, and what was found."""

    origin: Origin
    folder: Path
    entries: list[Entry]
    findings: Findings


def annotation_file(src: Path, *suffixes: str) -> Path:
    """Return the annotation file; raises ValueError if it is missing or has none of the suffixes."""
    expected = " or ".join(f"*{suffix}" for suffix in suffixes)
    if not src.is_file():
        raise ValueError(f"{src}: no such file; expected an annotation file {expected}")
    if src.suffix not in suffixes:
        raise ValueError(f"{src}: expected an annotation file {expected}")
    return src


def image_name(folder: Path, image: str) -> str:
    """Return the name of an image below the image folder, as the source spells it but in Unicode's composed form.

    Raises:
        BadSample: the name is a link or leads out of the folder.
    """
    kind, shown = "a bad image name", shorten(image)
    if image.lower().startswith(SCHEMES):
        raise BadSample(kind, f"image {shown} is a link; download it and name the file")
    path = PurePosixPath(unicodedata.normalize("NFC", image))
    if path.is_absolute():
        try:
            path = path.relative_to(unicodedata.normalize("NFC", folder.absolute().as_posix()))
        except ValueError:
            text = f"image {shown} is outside the image folder {folder}; name the folder that holds it with --images"
            raise BadSample(kind, text) from None
    if PureWindowsPath(image).drive or ".." in path.parts or "\0" in image or not image.strip("./ "):
        raise BadSample(kind, f"image {shown}; expected the path of a file below the image folder {folder}")
    return path.as_posix()
