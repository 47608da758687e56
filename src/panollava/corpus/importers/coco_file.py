"""The rows of a COCO file, read as leniently as its tools do: ids as numbers or texts, flags that are null.

What is wrong with an image or a category is a fault of the annotations that name it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from panollava.corpus.importers.box_units import Size
from panollava.corpus.importers.common import Request, TextOrNumber, as_text, image_name
from panollava.corpus.importers.findings import BadSample, Findings
from panollava.corpus.importers.sources import Source, fitted
from panollava.corpus.problems import shorten

# Of flags in lower case; null is none.
FLAGS = {"none": False, "": False, "0": False, "false": False, "1": True, "true": True}


def _as_flag(value: object) -> object:
    """Return a flag as public files write it: a boolean, 0 or 1 as number or text, null for false."""
    return FLAGS.get(str(as_text(value)).lower(), value)


Flag = Annotated[bool, BeforeValidator(_as_flag)]


class ImageRow(Source):
    """An image; its size is in pixels."""

    id: TextOrNumber
    file_name: str
    width: Any = None
    height: Any = None


class Category(Source):
    """A class of objects."""

    id: TextOrNumber
    name: str


class Annotation(Source):
    """One box, and whether the source marks it as ignored."""

    image_id: TextOrNumber
    category_id: TextOrNumber
    bbox: Any = None
    iscrowd: Flag = False
    ignore: Flag = False


@dataclass
class Named:
    """Images or categories by id: the name of each, and the fault of each that cannot be used."""

    what: str
    names: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, Size] = field(default_factory=dict)

    def name(self, key: str) -> str:
        """Return the name of an id; raises BadSample if there is none or it cannot be used."""
        if key in self.faults:
            raise BadSample(f"a bad {self.what}", self.faults[key])
        if key not in self.names:
            raise BadSample(f"an unknown {self.what}", f"{self.what} id {shorten(key)} is not in the file")
        return self.names[key]

    def add_fault(self, place: str, row: object, error: BadSample, findings: Findings) -> None:
        """Count a row that cannot be read, and remember its fault for the annotations of its id."""
        findings.besides[f"{self.what} rows that cannot be read"] += 1
        if isinstance(row, dict):
            self.faults[str(as_text(row.get("id")))] = f"{place}: {error}"


def place_of(row: object) -> str:
    """Return the id of a row as a message shows it."""
    name = row.get("id") if isinstance(row, dict) else None
    return "" if name is None else f" (id {shorten(name)})"


def categories_of(file: Path, rows: list[Any], findings: Findings) -> Named:
    """Return the categories; raises ValueError for two names of one id."""
    categories = Named("category")
    for number, row in enumerate(rows):
        try:
            category = fitted(Category, row)
        except BadSample as error:
            categories.add_fault(f"categories.{number}", row, error, findings)
            continue
        name = category.name.strip()
        first = categories.names.setdefault(category.id, name)
        if first != name:
            text = f"id {shorten(category.id)} is {shorten(first)} and {shorten(name)}; expected one name"
            raise ValueError(f"{file}: categories.{number}: {text}")
    return categories


def images_of(request: Request, rows: list[Any], findings: Findings) -> Named:
    """Return the images with their sizes; two names of one id are a fault of its annotations."""
    images = Named("image")
    for number, row in enumerate(rows):
        try:
            image = fitted(ImageRow, row)
            name = image_name(request.image_folder, image.file_name)
        except BadSample as error:
            images.add_fault(f"images.{number}", row, error, findings)
            continue
        first = images.names.setdefault(image.id, name)
        if first != name:
            images.faults[image.id] = f"images.{number}: id {shorten(image.id)} is {shorten(first)} and {shorten(name)}"
        stated = all(isinstance(side, int) and side > 0 for side in (image.width, image.height))
        images.sizes[image.id] = (image.width, image.height) if stated else None
    return images
