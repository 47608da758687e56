"""Panoramic detection in COCO's JSON, degrees or radians: 360-Indoor (boxes of four numbers) and PANDORA (five).

360-Indoor: [0..360 from the left edge, 0..180 from the zenith, width, height], as read by panorama_coco/datasets and
utils/spherical.py of https://github.com/longlong-yu/official-panorama-coco; the authors' own files were not seen.
PANDORA: [longitude, latitude (radians, up positive), width, height, rotation (degrees)], as in PRDA/ of
https://github.com/tdsuper/SphericalObjectDetection. A rotated box becomes the smallest upright box around it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from panollava.corpus.importers.box_geometry import upright_box
from panollava.corpus.importers.box_units import Box, Size, check_units, direction, on_sphere
from panollava.corpus.importers.common import (
    Entry,
    Imported,
    Origin,
    Request,
    TextOrNumber,
    annotation_file,
    as_text,
    image_name,
)
from panollava.corpus.importers.findings import BadSample, Findings
from panollava.corpus.importers.object_questions import check_label, object_entries
from panollava.corpus.importers.sources import Source, fitted, read_object
from panollava.corpus.problems import shorten

INDOOR = Origin(
    "360-Indoor (Chou et al., WACV 2020), https://aliensunmin.github.io/project/360-dataset/",
    "not stated in the public sources read; the data comes by request form",
)
PANDORA = Origin(
    "PANDORA (Xu et al., ECCV 2022), https://github.com/tdsuper/SphericalObjectDetection",
    "not stated in the repository",
)
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
class Images:
    """The images of a file by id: name and size of each, and the fault of each that cannot be used."""

    names: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, Size] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """An annotation with a box: its place, image id, label and box as published."""

    where: str
    image: str
    label: str
    bbox: Box


def _place(row: object) -> str:
    name = row.get("id") if isinstance(row, dict) else None
    return "" if name is None else f" (id {shorten(name)})"


def _categories(file: Path, rows: list[Any]) -> dict[str, str]:
    """Return the name of each category id; raises ValueError for two names of one id."""
    names: dict[str, str] = {}
    for number, row in enumerate(rows):
        where = f"{file}: categories.{number}{_place(row)}"
        try:
            category = fitted(Category, row)
        except BadSample as error:
            raise ValueError(f"{where}: {error}") from None
        name = category.name.strip()
        if names.setdefault(category.id, name) != name:
            text = f"id {shorten(category.id)} is {shorten(names[category.id])} and {shorten(name)}; expected one name"
            raise ValueError(f"{where}: {text}")
    return names


def _images(request: Request, rows: list[Any], findings: Findings) -> Images:
    """Return the images; what is wrong with one is a fault of its annotations."""
    images = Images()
    for number, row in enumerate(rows):
        try:
            image = fitted(ImageRow, row)
            name = image_name(request.image_folder, image.file_name)
        except BadSample as error:
            findings.besides["images that cannot be read"] += 1
            if isinstance(row, dict):
                images.faults[str(as_text(row.get("id")))] = f"images.{number}: {error}"
            continue
        first = images.names.setdefault(image.id, name)
        if first != name:
            images.faults[image.id] = f"images.{number}: id {shorten(image.id)} is {shorten(first)} and {shorten(name)}"
        stated = all(isinstance(side, int) and side > 0 for side in (image.width, image.height))
        images.sizes[image.id] = (image.width, image.height) if stated else None
    return images


def _found(row: object, where: str, images: Images, names: dict[str, str], findings: Findings) -> Found | None:
    """Return an annotation with its box, None if it is left out; raises BadSample."""
    item = fitted(Annotation, row)
    if item.iscrowd or item.ignore:
        findings.leave_out(where, "marked iscrowd or ignore")
        return None
    if item.bbox is None or item.bbox == []:
        findings.leave_out(where, "without a box")
        return None
    if item.image_id in images.faults:
        raise BadSample("an image that cannot be used", images.faults[item.image_id])
    if item.image_id not in images.names:
        raise BadSample("an unknown image", f"image_id {shorten(item.image_id)} is not among the images of the file")
    if item.category_id not in names:
        text = f"category_id {shorten(item.category_id)} is not among the categories of the file"
        raise BadSample("an unknown category", text)
    label = check_label(names[item.category_id])
    numbers = item.bbox if isinstance(item.bbox, list) else []
    if len(numbers) not in (4, 5) or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        raise BadSample("a bad bbox", f"bbox {shorten(item.bbox)}; expected four or five numbers")
    bbox = [float(number) for number in numbers]
    if not all(0 < extent < 360 for extent in bbox[2:4]):
        findings.leave_out(where, "without an extent in (0, 360) degrees")
        return None
    return Found(where, item.image_id, label, bbox)


def _box(bbox: Box) -> Box:
    """Return [yaw, pitch, width, height], or [.., angle], in degrees of our frame; raises BadSample off the sphere."""
    if not on_sphere(bbox):
        raise BadSample("a box off the sphere", f"bbox {shorten(bbox)} has its centre off the sphere")
    yaw, pitch = direction(bbox)
    return [min(max(yaw, -180.0), 180.0), min(max(pitch, -90.0), 90.0), *bbox[2:]]


def _object(label: str, box: Box) -> dict[str, Any]:
    extents = box[2:4]
    # A box of 180 degrees or more has no tangent plane to be rotated in; no question asks for it.
    if len(box) == 5 and max(extents) < 180:
        extents = list(upright_box(*box[2:]))
    return {"label": label, "box_deg": [*box[:2], *extents]}


def _annotations(
    file: Path, rows: list[Any], images: Images, names: dict[str, str], findings: Findings
) -> list[tuple[Found, Box]]:
    """Return the annotations with their boxes in degrees; raises ValueError for boxes in another unit."""
    found: list[Found] = []
    for number, row in enumerate(rows):
        findings.read += 1
        where = f"{file.name} annotations.{number}{_place(row)}"
        try:
            item = _found(row, where, images, names, findings)
        except BadSample as error:
            findings.reject(where, error)
            continue
        found += [item] if item is not None else []
    check_units(file, [(item.bbox, images.sizes[item.image]) for item in found])
    boxes = []
    for item in found:
        try:
            boxes.append((item, _box(item.bbox)))
        except BadSample as error:
            findings.reject(item.where, error)
    return boxes


def read(request: Request) -> Imported:
    """Return a detection record per image, and a grounding record per label that occurs once in it.

    PANDORA's rotated boxes as published stay in `metadata.rotated_boxes_deg`.
    """
    file = annotation_file(request.src, ".json")
    content: dict[str, Any] = read_object(file, "images", "annotations", "categories")
    findings = Findings("annotations")
    names = _categories(file, content["categories"])
    images = _images(request, content["images"], findings)
    boxes = _annotations(file, content["annotations"], images, names, findings)
    # Two ids may name one file: a question asks for all objects of the image.
    of_image: dict[str, list[tuple[Found, Box]]] = {name: [] for name in images.names.values()}
    for item, box in boxes:
        of_image[images.names[item.image]].append((item, box))
    entries: list[Entry] = []
    for name, items in of_image.items():
        objects = [_object(item.label, box) for item, box in items]
        # As published except for the unit, in the order of the objects.
        rotated = [box for _, box in items if len(box) == 5]
        metadata = {"rotated_boxes_deg": rotated} if rotated else {}
        where = f"{file.name} image {shorten(name)}"
        entries += object_entries(request, where, name, objects, findings, metadata, samples=len(objects))
    rotated_boxes = any(len(box) == 5 for _, box in boxes)
    return Imported(PANDORA if rotated_boxes else INDOOR, request.image_folder, entries, findings)
