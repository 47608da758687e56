"""Stanford 2D-3D-S: panoramas with a label per pixel, as objects with masks and the boxes around them.

Layout as in https://github.com/alexsax/2D-3D-Semantics (README and assets/, read): area_*/pano/rgb/*_rgb.png beside
area_*/pano/semantic/*_semantic.png, whose colour is a base-256 index into assets/semantic_labels.json; #0D0D0D is
missing data. A label reads class_instance_roomType_room_area. SRC is the folder with assets/ and the areas. Unlabelled
pixels (class <UNK>, missing data) are no object. Each instance is one object, labelled with its class.
"""

from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from panollava.corpus.images import ImageError, open_panorama
from panollava.corpus.importers.box_geometry import mask_box
from panollava.corpus.importers.common import Entry, Imported, Origin, Request
from panollava.corpus.importers.findings import BadSample, Findings, refuse
from panollava.corpus.importers.object_questions import check_label, object_entries
from panollava.corpus.importers.sources import read_document
from panollava.corpus.masks import encoded
from panollava.corpus.problems import shorten

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
    labels = read_document(file)
    if not isinstance(labels, list):
        raise ValueError(f"{file}: found {shorten(labels)}; expected a list of labels")
    problems = [
        f"label {number}: {shorten(label)}"
        for number, label in enumerate(labels)
        if not isinstance(label, str) or len(label.split("_")) != 5
    ]
    refuse(f"labels of {file} are not class_instance_roomType_room_area", problems)
    return [label.split("_")[0] for label in labels]


def _pairs(root: Path, findings: Findings) -> list[tuple[Path, Path]]:
    """Return the picture and the label image of each panorama; one without the other is bad."""
    pictures = {f.name.removesuffix("_rgb.png"): f for f in sorted(root.glob("area_*/pano/rgb/*_rgb.png"))}
    labels = {f.name.removesuffix("_semantic.png"): f for f in root.glob("area_*/pano/semantic/*_semantic.png")}
    if not pictures:
        raise ValueError(f"{root}: no panorama; expected area_*/pano/rgb/*_rgb.png")
    findings.read += len(pictures.keys() | labels.keys())
    for name in sorted(pictures.keys() ^ labels.keys()):
        file, missing = (pictures[name], "semantic image") if name in pictures else (labels[name], "picture")
        findings.reject(str(file), BadSample(f"no {missing}", f"has no {missing}; expected both"))
    return [(file, labels[name]) for name, file in pictures.items() if name in labels]


def _objects(file: Path, picture: Path, classes: list[str], findings: Findings) -> list[dict[str, Any]]:
    """Return the objects of one semantic image; raises BadSample for a bad image or size or an unknown index."""
    try:
        semantic, size = open_panorama(file), open_panorama(picture).size
    except ImageError as error:
        raise BadSample("a bad image", str(error)) from None
    if semantic.size != size:
        text = f"{file.name} has {semantic.size} pixels, the picture {size}; expected the same size"
        raise BadSample("images of two sizes", text)
    red, green, blue = (np.asarray(semantic)[..., channel].astype(np.int32) for channel in range(3))
    # Column by column, the order of COCO's run lengths.
    indices = np.asfortranarray(red << 16 | green << 8 | blue)
    objects = []
    unlabelled = 0
    for index in np.unique(indices).tolist():
        if index != MISSING and index >= len(classes):
            text = f"{file.name}: index {index} has no label; {LABELS} has {len(classes)}"
            raise BadSample("an unknown label", text)
        if index == MISSING or classes[index] == UNKNOWN:
            unlabelled += int((indices == index).sum())
            continue
        mask = indices == index
        label = check_label(classes[index])
        objects.append({"label": label, "box_deg": mask_box(mask), "mask": encoded(mask)})
    findings.besides["pixels without a label"] += unlabelled
    return objects


def read(request: Request) -> Imported:
    """Return each panorama's objects, a detection question, and grounding questions for labels that occur once."""
    request.refuse_images("area_*/pano/rgb")
    findings = Findings("panoramas")
    classes, pairs = _labels(request.src), _pairs(request.src, findings)
    entries: list[Entry] = []
    for picture, semantic in tqdm(pairs, desc="labels", disable=None):
        name = picture.relative_to(request.src).as_posix()
        try:
            objects = _objects(semantic, picture, classes, findings)
        except BadSample as error:
            findings.reject(name, error)
            continue
        entries += object_entries(request, name, name, objects, findings)
    return Imported(ORIGIN, request.image_folder, entries, findings)
