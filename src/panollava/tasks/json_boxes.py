"""Boxes that answers write as JSON: `{"bbox": [35, -12, 20, 15]}`, a list of such objects, or one below a name.

Python's spelling with single quotes and a code fence are read too. Numbers are degrees: yaw, pitch, width, height.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

BOX = ("yaw", "pitch", "width", "height")
_BOX_KEYS = ("box_deg", "bbox", "bbox_2d", "box", "bfov")
_LABEL_KEYS = ("label", "name", "category", "class")
_LIST_KEYS = ("objects", "detections")
# A label, None where there is none, and the numbers of its box.
Labelled = tuple[str | None, tuple[float, ...]]


def json_boxes(text: str) -> list[Labelled] | None:
    """Return the labels and boxes of a text that is JSON; None if it is not, or if any object has no box."""
    items = _items(_json(text))
    if items is None:
        return None
    boxes = [(_label(item), box) for item in items if (box := _box(item)) is not None]
    return boxes if len(boxes) == len(items) else None


def finite(numbers: Sequence[float]) -> tuple[float, ...] | None:
    """Return numbers as they are, or None if one of them is infinite or no number."""
    return tuple(numbers) if all(map(math.isfinite, numbers)) else None


def _json(text: str) -> Any:
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].strip().removeprefix("json").strip()
    if text[:1] not in ("[", "{"):
        return None
    try:
        return json.loads(text if '"' in text else text.replace("'", '"'))
    except (ValueError, RecursionError):
        return None


def _items(value: Any) -> list[dict[str, Any]] | None:
    if isinstance(value, dict):
        lists = [value[key] for key in _LIST_KEYS if key in value]
        value = lists[0] if lists else [value]
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return None
    return value


def _box(item: dict[str, Any]) -> tuple[float, ...] | None:
    listed = [item[key] for key in _BOX_KEYS if key in item]
    if len(listed) > 1:
        return None
    known = {name.removesuffix("_deg"): value for name, value in item.items()}
    numbers: Any = listed[0] if listed else [known.get(name) for name in BOX]
    if not isinstance(numbers, list) or len(numbers) != len(BOX) or any(type(n) not in (int, float) for n in numbers):
        return None
    try:
        return finite([float(number) for number in numbers])
    except OverflowError:  # a whole number too large for a float
        return None


def _label(item: dict[str, Any]) -> str | None:
    labels = [item[key] for key in _LABEL_KEYS if key in item]
    return labels[0].strip() or None if len(labels) == 1 and isinstance(labels[0], str) else None
