"""Panoramic detection in COCO's JSON, degrees or radians: 360-Indoor (boxes of four numbers) and PANDORA (five).

360-Indoor: [0..360 from the left edge, 0..180 from the zenith, width, height], as read by panorama_coco/datasets and
utils/spherical.py of https://github.com/longlong-yu/official-panorama-coco; the authors' own files were not seen.
PANDORA: [longitude, latitude (radians, up positive), width, height, rotation (degrees)], as in PRDA/ of
https://github.com/tdsuper/SphericalObjectDetection. A rotated box becomes the smallest upright box around it.
"""

import math
from collections import Counter, defaultdict
from typing import Annotated, Any

from pydantic import Field

from panollava.corpus.importers.box_geometry import upright_box
from panollava.corpus.importers.common import (
    Entry,
    Imported,
    Origin,
    Request,
    Source,
    annotation_file,
    read_json,
    refuse,
)
from panollava.corpus.importers.object_questions import object_entries

INDOOR = Origin(
    "360-Indoor (Chou et al., WACV 2020), https://aliensunmin.github.io/project/360-dataset/",
    "not stated in the public sources read; the data comes by request form",
)
PANDORA = Origin(
    "PANDORA (Xu et al., ECCV 2022), https://github.com/tdsuper/SphericalObjectDetection",
    "not stated in the repository",
)
SLACK_DEG = 1e-4
Flag = bool | int


class ImageRow(Source):
    """An image."""

    id: int
    file_name: str


class Category(Source):
    """A class of objects."""

    id: int
    name: str


class Annotation(Source):
    """One box, and whether the source marks it as ignored."""

    image_id: int
    category_id: int
    bbox: Annotated[list[float], Field(min_length=4, max_length=5)]
    iscrowd: Flag = False
    ignore: Flag = False


class Coco(Source):
    """A COCO file."""

    images: list[ImageRow]
    annotations: list[Annotation]
    categories: list[Category]


def _degrees(bbox: list[float]) -> list[float]:
    """Return [yaw, pitch, width, height], or [.., angle], in degrees of our frame.

    Raises:
        ValueError: the centre is off the sphere, so the file has another layout. A wrong width or height does not
            raise: it is only a wrong box.
    """
    if len(bbox) == 5:
        yaw, pitch, layout = math.degrees(bbox[0]), math.degrees(bbox[1]), "PANDORA's (radians, radians, degrees ...)"
    else:
        yaw, pitch, layout = bbox[0] - 180, 90 - bbox[1], "360-Indoor's (0..360, 0..180, width, height, all degrees)"
    if not (abs(yaw) <= 180 + SLACK_DEG and abs(pitch) <= 90 + SLACK_DEG):
        raise ValueError(f"bbox {bbox} has its centre off the sphere; {len(bbox)} numbers are read as {layout}")
    return [min(max(yaw, -180.0), 180.0), min(max(pitch, -90.0), 90.0), *bbox[2:]]


def _fault(item: Annotation) -> str | None:
    """Return the reason for leaving an annotation out, or None."""
    if item.iscrowd or item.ignore:
        return "annotations marked iscrowd or ignore"
    if not all(0 < extent < 360 for extent in item.bbox[2:4]):
        return "annotations without an extent in (0, 360) degrees"
    return None


def _object(label: str, box: list[float]) -> dict[str, Any]:
    extents = box[2:4]
    # A box of 180 degrees or more has no tangent plane to be rotated in; no question asks for it.
    if len(box) == 5 and max(extents) < 180:
        extents = list(upright_box(*box[2:]))
    return {"label": label, "box_deg": [*box[:2], *extents]}


def _checked(coco: Coco) -> tuple[dict[int, str], list[str]]:
    """Return the names of the categories, and the contradictions between the parts of the file."""
    names = {row.id: row.name.strip() for row in coco.categories}
    images = Counter(row.id for row in coco.images)
    problems = [f"image id {number} occurs {count} times" for number, count in images.items() if count > 1]
    for number, item in enumerate(coco.annotations):
        if item.image_id not in images or item.category_id not in names:
            problems.append(
                f"annotations.{number}: image_id {item.image_id} or category_id {item.category_id} is not in the file"
            )
    sizes = Counter(len(item.bbox) for item in coco.annotations)
    if len(sizes) > 1:
        problems.append(f"boxes of four numbers ({sizes[4]}) and of five ({sizes[5]}); expected one kind")
    return names, problems


def _boxes(coco: Coco, dropped: Counter[str]) -> tuple[dict[int, list[tuple[Annotation, list[float]]]], list[str]]:
    """Return the annotations of each image with their boxes in degrees, and the problems of the others."""
    boxes: dict[int, list[tuple[Annotation, list[float]]]] = defaultdict(list)
    problems = []
    for number, item in enumerate(coco.annotations):
        fault = _fault(item)
        try:
            box = _degrees(item.bbox)
        except ValueError as error:
            problems.append(f"annotations.{number}: {error}")
            continue
        if fault is None:
            boxes[item.image_id].append((item, box))
        else:
            dropped[fault] += 1
    return boxes, problems


def read(request: Request) -> Imported:
    """Return a detection record per image, and a grounding record per label that occurs once in it.

    PANDORA's rotated boxes as published stay in `metadata.rotated_boxes_deg`.
    """
    file = annotation_file(request.src, ".json")
    coco = read_json(file, Coco)
    names, problems = _checked(coco)
    dropped: Counter[str] = Counter()
    boxes, misplaced = _boxes(coco, dropped)
    refuse(f"problems in {file} (lists count from 0)", problems + misplaced)
    entries: list[Entry] = []
    for row in coco.images:
        objects = [_object(names[item.category_id], box) for item, box in boxes[row.id]]
        # As published except for the unit, in the order of the objects.
        rotated = [box for _, box in boxes[row.id] if len(box) == 5]
        metadata = {"rotated_boxes_deg": rotated} if rotated else {}
        entries += object_entries(request, f"{file.name} image {row.id}", row.file_name, objects, dropped, metadata)
    rotated_boxes = any(len(item.bbox) == 5 for item in coco.annotations)
    return Imported(PANDORA if rotated_boxes else INDOOR, entries, dropped)
