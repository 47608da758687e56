"""Shared parts of the importers: request, result, and readers that report all problems of a file in one error.

An importer reads annotations only and names the images. `importers.writing` opens and checks them.
"""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from panollava.corpus.reading import read_text, shorten

SHOWN = 5
Parsed = TypeVar("Parsed")


class Source(BaseModel):
    """A part of a public file: the declared keys must be present and of their type; other keys are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


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
    """A record to be written: its location in the source, its image file, the image's name, and the record's fields."""

    where: str
    image: Path
    name: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class Imported:
    """The records of a source in its order, their origin, and the counts of what was left out by reason."""

    origin: Origin
    entries: list[Entry]
    dropped: Counter[str] = field(default_factory=Counter)


def refuse(what: str, problems: Sequence[str]) -> None:
    """Raise one ValueError that counts the problems and lists the first five; do nothing if there are none."""
    if problems:
        more = [f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise ValueError("\n".join([f"{len(problems)} {what}:", *problems[:SHOWN], *more]))


def annotation_file(src: Path, *suffixes: str) -> Path:
    """Return the annotation file; raises ValueError if it is missing or has none of the suffixes."""
    expected = " or ".join(f"*{suffix}" for suffix in suffixes)
    if not src.is_file():
        raise ValueError(f"{src}: no such file; expected an annotation file {expected}")
    if src.suffix not in suffixes:
        raise ValueError(f"{src}: expected an annotation file {expected}")
    return src


def entry(request: Request, where: str, image: str, fields: dict[str, Any]) -> Entry:
    """Return an entry about an image that the source names; an absolute path is named by its last part only."""
    path = Path(image)
    return Entry(where, request.image_folder / path, path.name if path.is_absolute() else path.as_posix(), fields)


def schema_problems(where: str, error: ValidationError) -> list[str]:
    """Return one line per error: its location, its field, the value and the remedy."""
    lines = []
    for item in error.errors(include_url=False, include_context=False):
        field_path = ".".join([where, *map(str, item["loc"])])
        value = "" if item["type"] == "missing" else f"got {shorten(item['input'])}: "
        lines.append(f"{field_path}: {value}{item['msg'].removeprefix('Value error, ')}")
    return lines


def read_json(file: Path, shape: type[Parsed]) -> Parsed:
    """Return the content of a JSON file; raises ValueError with the number of misfits and the first five."""
    try:
        return TypeAdapter(shape).validate_json(read_text(file))
    except ValidationError as error:
        refuse(f"problems in {file} (lists count from 0)", schema_problems(file.name, error))
        raise  # never reached: an error has problems


def read_jsonl(file: Path, shape: type[Parsed]) -> list[Parsed]:
    """Return the lines of a JSONL file; raises ValueError with the number of misfits and the first five."""
    adapter = TypeAdapter(shape)
    rows, problems = [], []
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line.strip():
            try:
                rows.append(adapter.validate_json(line))
            except ValidationError as error:
                problems += schema_problems(f"{file.name} line {number}", error)
    refuse(f"problems in {file}", problems)
    return rows


def read_table(file: Path, separator: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV or TSV file with a header; an empty cell is an empty text, and "None" is a word.

    Raises:
        ValueError: columns are missing, or the file is no such table.
    """
    try:
        table = pd.read_csv(io.StringIO(read_text(file)), sep=separator, dtype=str, na_filter=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{file}: not a table with columns separated by {separator!r}: {error}") from None
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ValueError(
            f"{file}: missing columns {', '.join(map(repr, missing))}; found {list(table.columns)}, "
            f"expected {list(columns)} separated by {separator!r}"
        )
    # pandas takes surplus fields at the start of every row as an index.
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError(f"{file}: the rows have more fields than the header {list(table.columns)}")
    return table.to_dict("records")
