"""Objects on the sphere: their boxes from masks and from rotated boxes, and the questions that ask for them.

The questions are worded as those of the synthetic world, so that `tasks.answers` can read the answers. A box of 180
degrees or more is no tangent-plane rectangle and cannot be answered: it stays with the objects and is not asked for.
"""

import math
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from panollava.corpus.importers.common import Entry, Request, entry
from panollava.corpus.questions import whole_box
from panollava.corpus.wording import TEMPLATES, box_text, detection_text
from panollava.vlm.geometry import pixels_to_rays, rays_to_directions, rotation

RECENTRINGS = 4
WIDEST_DEG = 359.0
# These separate the objects of an answer in words.
RESERVED = frozenset("[];")


def upright_box(width_deg: float, height_deg: float, angle_deg: float) -> tuple[float, float]:
    """Return width and height of the smallest upright box about a box rotated in its tangent plane, in degrees.

    The extents must be below 180.
    """
    across, along = (math.tan(math.radians(extent) / 2) for extent in (width_deg, height_deg))
    cosine, sine = abs(math.cos(math.radians(angle_deg))), abs(math.sin(math.radians(angle_deg)))
    sides = across * cosine + along * sine, across * sine + along * cosine
    return math.degrees(2 * math.atan(sides[0])), math.degrees(2 * math.atan(sides[1]))


def mask_box(mask: NDArray[np.bool_]) -> list[float]:
    """Return the BFoV box in degrees about the pixels of a mask `[H, W]` that covers the sphere.

    The centre starts at the mean ray and moves to the middle of the extents; about a pole, where the yaw only turns the
    box, the box is not the smallest. Where pixels lie 90 degrees or more from the centre, no tangent plane holds them;
    the extents then are those in longitude and latitude about it, so that the width is 180 or more, and at most 359.
    """
    # Most objects are small: looking for their pixels in the whole panorama would take most of the time.
    within = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    top, left = within[0][0], within[1][0]
    found = np.nonzero(mask[top : within[0][-1] + 1, left : within[1][-1] + 1])
    rows, columns = (torch.from_numpy(index + first).double() for index, first in zip(found, (top, left), strict=True))
    rays = pixels_to_rays(columns, rows, *mask.shape)
    # A pixel covers the less of the sphere the nearer it is to a pole.
    centre = (rays * rays[:, [0, 2]].norm(dim=-1, keepdim=True)).sum(dim=0)
    for recentring in range(RECENTRINGS + 1):
        yaw, pitch = rays_to_directions(centre)
        frame = rotation(yaw, pitch, torch.zeros_like(yaw))
        x, y, z = (rays @ frame).unbind(-1)
        in_front = bool((z > 0).all())
        if recentring == RECENTRINGS or not in_front:
            break
        angles = torch.stack((torch.atan2(x, z), torch.atan2(y, z)))
        middle = (angles.amin(dim=1) + angles.amax(dim=1)) / 2
        centre = frame @ torch.cat((middle.tan(), torch.ones(1, dtype=middle.dtype)))
    vertical = torch.atan2(y, z) if in_front else y.clamp(-1, 1).asin()
    # Half a pixel on each side: the extents are those of pixels, not of their centres.
    extents = [2 * float(angle.abs().max()) + 2 * math.pi / mask.shape[1] for angle in (torch.atan2(x, z), vertical)]
    box = [float(yaw), float(pitch), *extents]
    degrees = [round(math.degrees(angle), 4) for angle in box]
    return [*degrees[:2], *(min(extent, WIDEST_DEG) for extent in degrees[2:])]


def askable(item: dict[str, Any]) -> bool:
    """Return whether an object's box can be answered: both extents below 180 degrees."""
    return max(item["box_deg"][2:]) < 180


def object_dialogues(objects: Sequence[dict[str, Any]], rng: Random) -> list[list[dict[str, Any]]]:
    """Return a detection question, a grounding question for each label that one object alone has, and `_described`.

    Raises ValueError for a label that an answer could not spell.
    """
    for item in objects:
        if RESERVED & set(item["label"]):
            raise ValueError(f"label {item['label']!r} holds one of [ ] ; which separate the objects of an answer")
    asked = [{"label": item["label"], "box_deg": item["box_deg"]} for item in objects if askable(item)]
    if not asked:
        return []
    asked.sort(key=lambda item: whole_box(item["box_deg"]))
    dialogues = [[_detection(rng.choice(TEMPLATES["en"]["detection"]), asked)]]
    counts = Counter(item["label"] for item in objects)
    for item in asked:
        if counts[item["label"]] == 1:
            question = rng.choice(TEMPLATES["en"]["grounding"]).format(object=item["label"])
            answer = box_text(whole_box(item["box_deg"]))
            dialogues.append([{"human": question, "assistant": answer, "task": "grounding", "answer": item}])
    return dialogues + _described(asked, counts, rng)


def _detection(question: str, asked: list[dict[str, Any]]) -> dict[str, Any]:
    words = detection_text([(item["label"], whole_box(item["box_deg"])) for item in asked])
    return {"human": question, "assistant": words, "task": "detection", "answer": {"objects": asked}}


def _described(asked: list[dict[str, Any]], counts: Counter[str], rng: Random) -> list[list[dict[str, Any]]]:
    """Return a question for all objects of one label, drawn from those that several but not all objects have.

    A label that an object too wide to be asked for has as well is left out: the answer would not be all of them.
    """
    askable_counts = Counter(item["label"] for item in asked)
    labels = sorted(label for label, n in askable_counts.items() if 1 < n < len(asked) and n == counts[label])
    if not labels:
        return []
    label = rng.choice(labels)
    question = rng.choice(TEMPLATES["en"]["detection_described_shape"]).format(described=label)
    found = _detection(question, [item for item in asked if item["label"] == label])
    return [[found | {"type": "detection_described"}]]


def object_entries(
    request: Request,
    where: str,
    image: str,
    objects: Sequence[dict[str, Any]],
    dropped: Counter[str],
    metadata: dict[str, Any] | None = None,
) -> list[Entry]:
    """Return the records of one image, none if no box can be asked for; objects and metadata stand with the first."""
    records = [{"conversations": turns} for turns in object_dialogues(objects, Random(f"{request.seed}/{image}"))]
    wide = sum(not askable(item) for item in objects)
    if not records:
        dropped["images without a box that can be asked for"] += 1
        return []
    if wide:
        dropped["boxes of 180 degrees or more from the questions (they stay in objects)"] += wide
    first: dict[str, Any] = records[0] | {"objects": list(objects), "metadata": metadata or {}}
    return [entry(request, where, image, fields) for fields in (first, *records[1:])]
