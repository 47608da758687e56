"""Angles of boxes in COCO files, and the signs that a file's boxes are in another unit than its layout's.

Four numbers are 360-Indoor's, five are PANDORA's (see `coco`). Normalised boxes and pixels look the same, but would all
be read as other places, so that a file with such boxes is refused whole.
"""

import math
from collections.abc import Sequence
from pathlib import Path

SLACK_DEG = 1e-4
LAYOUTS = {
    4: "360-Indoor's: longitude 0..360 from the left edge, 0..180 from the zenith, width, height, all in degrees",
    5: "PANDORA's: longitude -pi..pi, latitude -pi/2..pi/2, both in radians, width, height, rotation in degrees",
}
# Of a file with more boxes off the sphere than this share, the unit is wrong, not the boxes.
OFF_SPHERE = 0.05
# Whole numbers are refused unless pixels would be on the sphere with a lower probability than this.
CHANCE = 0.05
# Fractions are refused if the longitudes of that many boxes would be below the image's width so rarely.
RARE = 0.001
# Width and height of an image, None if the file does not state them.
Size = tuple[int, int] | None
Box = list[float]


def direction(bbox: Box) -> tuple[float, float]:
    """Return yaw and pitch of a box's centre in degrees of our frame, which may be off the sphere."""
    if len(bbox) == 5:
        return math.degrees(bbox[0]), math.degrees(bbox[1])
    return bbox[0] - 180, 90 - bbox[1]


def on_sphere(bbox: Box) -> bool:
    """Return whether the centre is a direction and no extent is larger than the sphere."""
    yaw, pitch = direction(bbox)
    return abs(yaw) <= 180 + SLACK_DEG and abs(pitch) <= 90 + SLACK_DEG and max(bbox[2:4]) <= 360


def _inside(bbox: Box, size: Size) -> bool:
    """Return whether a box begins inside its image, if its numbers are pixels."""
    return size is not None and 0 <= bbox[0] < size[0] and 0 <= bbox[1] < size[1]


def _may_be_pixels(boxes: Sequence[tuple[Box, Size]]) -> str | None:
    """Return the sign that boxes on the sphere may be pixels just as well, or None.

    Degrees exceed a small image, pixels of a large one exceed the sphere. Where neither happens and the numbers are
    whole, as pixels are, few boxes do not decide. Many boxes that all lie in a small image are pixels, whole or not.
    """
    sized = [(bbox, size) for bbox, size in boxes if size is not None]
    if not sized or not all(_inside(*item) for item in sized):
        return None
    whole = all(number.is_integer() for bbox, _ in sized for number in bbox)
    as_pixels = math.prod(min(1, 360 / width) * min(1, 180 / height) for _, (width, height) in sized)
    as_degrees = math.prod(min(1, width / 360) for _, (width, _) in sized)
    if as_pixels < CHANCE or not (whole or as_degrees < RARE):
        return None
    return (
        f"all {len(sized)} boxes of images of stated size begin inside their image in pixels, so they may be pixels "
        "(if they are degrees, leave width and height of the images out of the file)"
    )


def _off_sphere(boxes: Sequence[tuple[Box, Size]], four: bool) -> str | None:
    """Return the sign that boxes off the sphere are in another unit, or None if few are off."""
    off = [(bbox, size) for bbox, size in boxes if not on_sphere(bbox)]
    # Of few boxes, a single one may be a mistake, unless it lies inside its image.
    if len(off) <= OFF_SPHERE * len(boxes) or (len(off) == 1 and not _inside(*off[0])):
        return None
    unit = "pixels" if four else "degrees or pixels"
    if four and any(min(bbox[:2]) < 0 for bbox, _ in off):
        unit = "angles from the centre of the image"
    example = [round(number, 3) for number in off[0][0]]
    return f"{len(off)} of {len(boxes)} boxes, such as {example}, are off the sphere; they may be {unit}"


def _sign(boxes: Sequence[tuple[Box, Size]]) -> str | None:
    """Return the sign that the boxes are in another unit, or None."""
    four = len(boxes[0][0]) == 4
    largest = max(abs(number) for bbox, _ in boxes for number in bbox[:4])
    extent = max(number for bbox, _ in boxes for number in bbox[2:4])
    if largest <= 1:
        return "no number of any box is above 1, so the boxes seem to be normalised"
    if largest <= 2 * math.pi if four else extent <= math.pi:
        return f"no extent of any box is above {2 if four else 1} pi, so the boxes seem to be in radians"
    return _off_sphere(boxes, four) or (_may_be_pixels(boxes) if four else None)


def _width(file: Path, boxes: Sequence[tuple[Box, Size]]) -> int:
    """Return the number of numbers of a box; raises ValueError if not only single boxes have another one."""
    fours = sum(len(bbox) == 4 for bbox, _ in boxes)
    fives = len(boxes) - fours
    # Two boxes, one of each kind, do not tell which of them is odd.
    if min(fours, fives) > max(1, OFF_SPHERE * len(boxes)) or fours == fives == 1:
        raise ValueError(f"{file}: boxes of four numbers ({fours}) and of five ({fives}); expected one kind")
    return 4 if fours >= fives else 5


def check_units(file: Path, boxes: Sequence[tuple[Box, Size]]) -> int:
    """Return the number of numbers of the file's boxes; single boxes may differ.

    Raises:
        ValueError: many boxes have four numbers and many five, or there is a sign of another unit.
    """
    width = _width(file, boxes)
    alike = [(bbox, size) for bbox, size in boxes if len(bbox) == width]
    sign = _sign(alike) if alike else None
    if sign is not None:
        raise ValueError(f"{file}: {sign}. {width} numbers are read as {LAYOUTS[width]}; convert the boxes first")
    return width
