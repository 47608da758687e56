"""Panoramic detection in COCO's JSON, degrees or radians: 360-Indoor (boxes of four numbers) and PANDORA (five).

360-Indoor: [0..360 from the left edge, 0..180 from the zenith, width, height], as read by panorama_coco/datasets and
utils/spherical.py of https://github.com/longlong-yu/official-panorama-coco; the authors' own files were not seen.
PANDORA: [longitude, latitude (radians, up positive), width, height, rotation (degrees)], as in PRDA/ of
https://github.com/tdsuper/SphericalObjectDetection. A rotated box becomes the smallest upright box around it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panollava.corpus.importers.box_geometry import upright_box
from panollava.corpus.importers.box_units import Box, Size, check_units, direction, on_sphere
from panollava.corpus.importers.coco_file import Annotation, Named, categories_of, images_of, place_of
from panollava.corpus.importers.common import Entry, Imported, Origin, Request, annotation_file
from panollava.corpus.importers.findings import BadSample, Findings
from panollava.corpus.importers.object_questions import check_label, object_entries
from panollava.corpus.importers.sources import fitted, read_object
from panollava.corpus.problems import shorten

INDOOR = Origin(
    "360-Indoor (Chou et al., WACV 2020), https://aliensunmin.github.io/project/360-dataset/",
    "not stated in the public sources read; the data comes by request form",
)
PANDORA = Origin(
    "PANDORA (Xu et al., ECCV 2022), https://github.com/tdsuper/SphericalObjectDetection",
    "not stated in the repository",
)


@dataclass(frozen=True)
class Found:
    """An annotation with a box: its place, the name and the size of its image, its label, and the box as published."""

    where: str
    image: str
    size: Size
    label: str
    bbox: Box


def _found(row: object, where: str, images: Named, categories: Named, findings: Findings) -> Found | None:
    """Return an annotation with its box, None if it is left out; raises BadSample."""
    item = fitted(Annotation, row)
    if item.iscrowd or item.ignore:
        findings.leave_out(where, "marked iscrowd or ignore")
        return None
    if item.bbox is None or item.bbox == []:
        findings.leave_out(where, "without a box")
        return None
    image, label = images.name(item.image_id), check_label(categories.name(item.category_id))
    numbers = item.bbox if isinstance(item.bbox, list) else []
    if len(numbers) not in (4, 5) or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        raise BadSample("a bad bbox", f"bbox {shorten(item.bbox)}; expected four or five numbers")
    return Found(where, image, images.sizes[item.image_id], label, [float(number) for number in numbers])


def _box(item: Found, width: int, findings: Findings) -> Box | None:
    """Return [yaw, pitch, width, height], or [.., angle], in degrees of our frame, None if the box is left out.

    Raises:
        BadSample: the box has another number of numbers than the others, or is off the sphere.
    """
    if len(item.bbox) != width:
        text = f"bbox {shorten(item.bbox)} has {len(item.bbox)} numbers, the others have {width}"
        raise BadSample("a bad bbox", text)
    if not on_sphere(item.bbox):
        raise BadSample("a box off the sphere", f"bbox {shorten(item.bbox)} is off the sphere")
    if not all(0 < extent < 360 for extent in item.bbox[2:4]):
        findings.leave_out(item.where, "without an extent in (0, 360) degrees")
        return None
    yaw, pitch = direction(item.bbox)
    return [min(max(yaw, -180.0), 180.0), min(max(pitch, -90.0), 90.0), *item.bbox[2:]]


def _object(label: str, box: Box) -> dict[str, Any]:
    extents = box[2:4]
    # A box of 180 degrees or more has no tangent plane to be rotated in; no question asks for it.
    if len(box) == 5 and max(extents) < 180:
        extents = list(upright_box(*box[2:]))
    return {"label": label, "box_deg": [*box[:2], *extents]}


def _annotations(
    file: Path, rows: list[Any], images: Named, categories: Named, findings: Findings
) -> list[tuple[Found, Box]]:
    """Return the annotations with their boxes in degrees; raises ValueError for boxes in another unit."""
    found: list[Found] = []
    for number, row in enumerate(rows):
        findings.read += 1
        where = f"{file.name} annotations.{number}{place_of(row)}"
        try:
            item = _found(row, where, images, categories, findings)
        except BadSample as error:
            findings.reject(where, error)
            continue
        found += [item] if item is not None else []
    width = check_units(file, [(item.bbox, item.size) for item in found])
    boxes = []
    for item in found:
        try:
            box = _box(item, width, findings)
        except BadSample as error:
            findings.reject(item.where, error)
            continue
        boxes += [(item, box)] if box is not None else []
    return boxes


def read(request: Request) -> Imported:
    """Return a detection record per image, and a grounding record per label that occurs once in it.

    PANDORA's rotated boxes as published stay in `metadata.rotated_boxes_deg`.
    """
    file = annotation_file(request.src, ".json")
    content: dict[str, Any] = read_object(file, "images", "annotations", "categories")
    findings = Findings("annotations")
    categories = categories_of(file, content["categories"], findings)
    images = images_of(request, content["images"], findings)
    boxes = _annotations(file, content["annotations"], images, categories, findings)
    # Two ids may name one file: a question asks for all objects of the image.
    of_image: dict[str, list[tuple[Found, Box]]] = {name: [] for name in images.names.values()}
    for item, box in boxes:
        of_image[item.image].append((item, box))
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
