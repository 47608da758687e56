"""Directions and boxes out of the model's text: `35, -12`, `[35, -12, 20, 15]`, `red cube [..]; blue ball [..]`.

Degrees throughout. The structure must be exact, white space and letter case are free. What does not parse is None or
counted, never guessed at.
"""

import math
import re

from panollava.corpus.records import BoxDeg, DirectionDeg

_NUMBER = r"([+-]?[0-9]+(?:\.[0-9]+)?)"
_LIST = r"\s*,\s*".join
_DIRECTION = re.compile(_LIST([_NUMBER] * 2))
_BOX = re.compile(rf"\[\s*{_LIST([_NUMBER] * 4)}\s*\]")
# A label may be of any language, but holds neither a bracket nor the mark between two objects.
_OBJECT = re.compile(rf"([^\[\];]*[^\[\];\s])\s*({_BOX.pattern})")


def _wrapped(yaw_deg: float) -> float:
    return (yaw_deg + 180) % 360 - 180


def parse_direction(text: str) -> DirectionDeg | None:
    """Return yaw in [-180, 180) and pitch in degrees of `35, -12`, or None if the text is anything else."""
    match = _DIRECTION.fullmatch(text.strip())
    if match is None:
        return None
    yaw, pitch = (float(number) for number in match.groups())
    return (_wrapped(yaw), pitch) if math.isfinite(yaw) and abs(pitch) <= 90 else None


def parse_box(text: str) -> BoxDeg | None:
    """Return the box (yaw, pitch, width, height) in degrees of `[35, -12, 20, 15]`, or None.

    A pitch beyond the poles and an extent outside (0, 180) are no box; the yaw is wrapped to [-180, 180).
    """
    match = _BOX.fullmatch(text.strip())
    if match is None:
        return None
    yaw, pitch, width, height = (float(number) for number in match.groups())
    if not math.isfinite(yaw) or abs(pitch) > 90 or not (0 < width < 180 and 0 < height < 180):
        return None
    return _wrapped(yaw), pitch, width, height


def parse_detection(text: str) -> tuple[list[tuple[str, BoxDeg]], int]:
    """Return the (label, box) pairs of `red cube [..]; blue ball [..]`, and the number of parts that are no such pair.

    Each part between semicolons stands by itself, so one bad part does not spoil the others. A text without any part is
    one bad part; a semicolon at the end is none.
    """
    parts = text.split(";")
    objects = [found for part in parts if (found := parse_object(part)) is not None]
    return objects, max(sum(bool(part.strip()) for part in parts), 1) - len(objects)


def parse_object(part: str) -> tuple[str, BoxDeg] | None:
    """Return label and box of a part such as `red cube [35, -12, 20, 15]`, or None."""
    match = _OBJECT.fullmatch(part.strip())
    box = None if match is None else parse_box(match[2])
    return None if match is None or box is None else (match[1], box)
