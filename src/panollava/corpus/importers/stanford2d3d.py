"""Stanford 2D-3D-S: panoramas with a label per pixel, as objects with masks and the boxes around them.

Layout as in https://github.com/alexsax/2D-3D-Semantics (README and assets/, read): area_*/pano/rgb/*_rgb.png beside
area_*/pano/semantic/*_semantic.png, whose colour is a base-256 index into assets/semantic_labels.json; #0D0D0D is
missing data. A label reads class_instance_roomType_room_area. SRC is the folder with assets/ and the areas. Unlabelled
pixels (class <UNK>, missing data) are no object. Each instance is one object, labelled with its class.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from panollava.corpus.images import open_panorama
from panollava.corpus.importers.box_geometry import mask_box
from panollava.corpus.importers.common import Entry, Imported, Origin, Request, read_json, refuse
from panollava.corpus.importers.object_questions import object_entries
from panollava.corpus.masks import encoded

ORIGIN = Origin(
    "Stanford 2D-3D-Semantics (Armeni et al., arXiv 1702.01105), https://github.com/alexsax/2D-3D-Semantics",
    "by the licence agreement that its download form shows; the repository's own licence covers its software only",
)
LABELS = "assets/semantic_labels.json"
MISSING = 0x0D0D0D
UNKNOWN = "<UNK>"


def _labels(root: Path) -> list[str]:
    """Return the class of each index; raises ValueError for labels without five parts."""
    file = root / LABELS
    if not file.is_file():
        raise ValueError(f"{file}: no such file; SRC is the folder that holds assets/ and area_*/pano/")
    labels = read_json(file, list[str])
    problems = [f"label {number}: {label!r}" for number, label in enumerate(labels) if len(label.split("_")) != 5]
    refuse(f"labels of {file} are not class_instance_roomType_room_area", problems)
    return [label.split("_")[0] for label in labels]


def _pairs(root: Path) -> list[tuple[Path, Path]]:
    """Return the picture and the label image of each panorama; raises ValueError for one without the other."""
    pictures = {f.name.removesuffix("_rgb.png"): f for f in sorted(root.glob("area_*/pano/rgb/*_rgb.png"))}
    labels = {f.name.removesuffix("_semantic.png"): f for f in root.glob("area_*/pano/semantic/*_semantic.png")}
    problems = [f"{pictures[name]} has no semantic image" for name in pictures if name not in labels]
    problems += [f"{labels[name]} has no picture" for name in sorted(labels) if name not in pictures]
    refuse(f"images below {root} have no counterpart", problems)
    if not pictures:
        raise ValueError(f"{root}: no panorama; expected area_*/pano/rgb/*_rgb.png")
    return [(file, labels[name]) for name, file in pictures.items()]


def _objects(file: Path, picture: Path, classes: list[str], dropped: Counter[str]) -> list[dict[str, Any]]:
    """Return the objects of one semantic image; raises ValueError for a bad image or size or an unknown index."""
    semantic, size = open_panorama(file), open_panorama(picture).size
    if semantic.size != size:
        raise ValueError(f"{file}: {semantic.size} pixels, the picture has {size}; expected the same size")
    red, green, blue = (np.asarray(semantic)[..., channel].astype(np.int32) for channel in range(3))
    # Column by column, the order of COCO's run lengths.
    indices = np.asfortranarray(red << 16 | green << 8 | blue)
    objects = []
    for index in np.unique(indices).tolist():
        if index != MISSING and index >= len(classes):
            raise ValueError(f"{file}: index {index} has no label; {LABELS} has {len(classes)}")
        if index == MISSING or classes[index] == UNKNOWN:
            dropped["pixels without a label"] += int((indices == index).sum())
            continue
        mask = indices == index
        objects.append({"label": classes[index], "box_deg": mask_box(mask), "mask": encoded(mask)})
    return objects


def read(request: Request) -> Imported:
    """Return each panorama's objects, a detection question, and grounding questions for labels that occur once."""
    request.refuse_images("area_*/pano/rgb")
    classes, pairs = _labels(request.src), _pairs(request.src)
    entries: list[Entry] = []
    problems: list[str] = []
    dropped: Counter[str] = Counter()
    for picture, semantic in tqdm(pairs, desc="labels", disable=None):
        try:
            objects = _objects(semantic, picture, classes, dropped)
        except ValueError as error:
            problems.append(str(error))
            continue
        name = picture.relative_to(request.src).as_posix()
        entries += object_entries(request, name, name, objects, dropped)
    refuse(f"of {len(pairs)} panoramas cannot be read", problems)
    return Imported(ORIGIN, entries, dropped)
