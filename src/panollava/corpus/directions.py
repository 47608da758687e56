"""Directions and boxes in degrees as questions use them: eight sectors, sides, neighbours and whole degrees.

An item is anything with a yaw and a pitch: an object of a synthetic scene, or one that a record describes.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

SECTOR_DEG = 45.0
# An object nearer than this to the border of two sectors could honestly be assigned to either.
SECTOR_MARGIN_DEG = 4.0


class HasDirection(Protocol):
    """Anything with a direction."""

    @property
    def yaw_deg(self) -> float:
        """Return its yaw, positive to the right."""

    @property
    def pitch_deg(self) -> float:
        """Return its pitch, positive up."""


Item = TypeVar("Item", bound=HasDirection)


def sector(yaw_deg: float) -> int | None:
    """Return the sector of a yaw, one of eight (0 front, 2 right, 4 behind, 6 left); None near a border."""
    nearest = round(yaw_deg / SECTOR_DEG)
    if abs(yaw_deg / SECTOR_DEG - nearest) * SECTOR_DEG > SECTOR_DEG / 2 - SECTOR_MARGIN_DEG:
        return None
    return nearest % 8


def relative_yaw_deg(source: HasDirection, target: HasDirection) -> float:
    """Return the yaw of `target` relative to `source` in [-180, 180), positive to the right."""
    return (target.yaw_deg - source.yaw_deg + 180) % 360 - 180


def side(faced: HasDirection, other: HasDirection) -> str | None:
    """Return the side of `faced` on which the other lies, `left` or `right`; None if it is nearly ahead or behind."""
    yaw_deg = relative_yaw_deg(faced, other)
    if not 15 <= abs(yaw_deg) <= 165:
        return None
    return "right" if yaw_deg > 0 else "left"


def left_neighbour(item: Item, objects: Sequence[Item]) -> Item | None:
    """Return the next of `objects` to the left of `item`, at most 120 degrees away; None if there is none."""
    lefts = [o for o in below_60(objects) if o is not item and -120 < relative_yaw_deg(item, o) < -5]
    return max(lefts, key=lambda o: relative_yaw_deg(item, o), default=None)


def below_60(objects: Sequence[Item]) -> list[Item]:
    """Return the objects below 60 degrees of latitude: nearer to a pole, a yaw means little to a person."""
    return [o for o in objects if abs(o.pitch_deg) < 60]


def whole_box(box_deg: Sequence[float]) -> list[int]:
    """Return a box in whole degrees, as answers write it.

    No side is shorter than one degree, and one below 180, beyond which a box has no area, stays below.
    """
    yaw, pitch = (round(v) for v in box_deg[:2])
    width, height = (round(v) if v >= 180 else min(max(round(v), 1), 179) for v in box_deg[2:])
    return [(yaw + 180) % 360 - 180, pitch, width, height]
