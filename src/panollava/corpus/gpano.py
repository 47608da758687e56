"""Google's GPano metadata in XMP: where a cropped panorama lies on the sphere, its projection and the camera's pose.

https://developers.google.com/streetview/spherical-metadata; sizes in pixels, angles in degrees. The heading is ignored,
since yaw counts from the image's centre. A tilt of up to `MAX_TILT_DEG` is left in the pixels, a larger one refused.
"""

import re
from dataclasses import dataclass
from typing import Any
from xml.parsers import expat

from panollava.corpus.image_files import ImageError, check_size, is_2_to_1

NAMESPACE = "http://ns.google.com/photos/1.0/panorama/"
FULL = ("FullPanoWidthPixels", "FullPanoHeightPixels")
CROP = (
    "CroppedAreaImageWidthPixels",
    "CroppedAreaImageHeightPixels",
    "CroppedAreaLeftPixels",
    "CroppedAreaTopPixels",
)
TILT = ("PosePitchDegrees", "PoseRollDegrees")
PROJECTION = "ProjectionType"
KNOWN = {*FULL, *CROP, *TILT, PROJECTION}
MAX_TILT_DEG = 5
MAX_VALUE_CHARACTERS = 100
MAX_DEPTH = 100
NUMBER = re.compile(r"[+-]?[0-9]{1,9}(\.[0-9]{0,20})?([eE][+-]?[0-9]{1,2})?")
REMEDY = "correct the metadata, or remove it with `exiftool -XMP-GPano:all= FILE`"


@dataclass(frozen=True)
class Placement:
    """Where an image lies on the sphere: sizes are (width, height), the corner is its left upper one, in pixels."""

    canvas: tuple[int, int]
    corner: tuple[int, int]
    size: tuple[int, int]

    @property
    def whole(self) -> bool:
        """Return whether the image covers the whole canvas."""
        return self.canvas == self.size


class _Reader:
    """Collect the known GPano values of an XMP packet, attributes and elements alike, without building a tree."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.element: str | None = None
        self.text = ""
        self.depth = 0
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.parser.StartDoctypeDeclHandler = self._doctype

    def _add(self, qualified: str, value: str) -> None:
        namespace, _, name = qualified.rpartition(" ")
        if namespace != NAMESPACE or name not in KNOWN:
            return
        value = value.strip()
        if len(value) > MAX_VALUE_CHARACTERS:
            raise ImageError(f"GPano {name} has more than {MAX_VALUE_CHARACTERS} characters; {REMEDY}")
        if self.values.setdefault(name, value) != value:
            raise ImageError(f"GPano {name} is both {self.values[name]!r} and {value!r}; {REMEDY}")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ImageError(f"XMP with GPano data has elements {self.depth} deep; {REMEDY}")
        self.element, self.text = name, ""
        for attribute, value in attributes.items():
            self._add(attribute, value)

    def _end(self, name: str) -> None:
        self.depth -= 1
        if name == self.element:  # it holds text alone
            self._add(name, self.text)
        self.element = None

    def _characters(self, data: str) -> None:
        if self.element is not None and len(self.text) <= MAX_VALUE_CHARACTERS:
            self.text += data

    def _doctype(self, *_: Any) -> None:
        raise ImageError(f"XMP with GPano data has a document type, which XMP never has; {REMEDY}")


def read_gpano(xmp: bytes) -> dict[str, str]:
    """Return the GPano values of an XMP packet by name; other XMP is not even parsed.

    Raises:
        ImageError: XMP that mentions GPano and is broken, or says a value twice, differently.
    """
    if not any(NAMESPACE.encode(encoding) in xmp for encoding in ("utf-8", "utf-16-le", "utf-16-be")):
        return {}
    reader = _Reader()
    try:
        reader.parser.Parse(xmp, True)
    except (expat.ExpatError, LookupError) as error:
        # Padding after the end of the root element hinders nobody.
        if reader.depth or not reader.values:
            raise ImageError(f"XMP with GPano data is broken: {error}; {REMEDY}") from None
    return reader.values


def _number(values: dict[str, str], name: str) -> float:
    if not NUMBER.fullmatch(values[name]):
        raise ImageError(f"GPano {name} is {values[name]!r}, expected a number; {REMEDY}")
    return float(values[name])


def _pixels(values: dict[str, str], name: str) -> int:
    number = _number(values, name)
    if number != int(number):
        raise ImageError(f"GPano {name} is {values[name]!r}, expected whole pixels; {REMEDY}")
    return int(number)


def _check_view(values: dict[str, str]) -> None:
    """Raise ImageError for another projection than equirectangular, and for a camera that was tilted."""
    projection = values.get(PROJECTION, "equirectangular")
    if projection.lower() != "equirectangular":
        raise ImageError(
            f"GPano {PROJECTION} is {projection!r}; convert the image to an equirectangular one, "
            "for example with Hugin or ffmpeg's v360 filter"
        )
    for name in TILT:
        if name in values and not abs(_number(values, name)) <= MAX_TILT_DEG:
            raise ImageError(
                f"GPano {name} is {values[name]}: the camera was tilted, by more than {MAX_TILT_DEG} degrees; level "
                "the panorama (stitching software or ffmpeg's v360 filter), then set its GPano pose to 0, "
                "`exiftool -PosePitchDegrees=0 -PoseRollDegrees=0 FILE`"
            )


def placement(values: dict[str, str], size: tuple[int, int]) -> Placement | None:
    """Return the place of an upright image of `size` (width, height) by its GPano values; None where they give none.

    An image that was scaled since its metadata was written is placed on a canvas that is scaled alike.

    Raises:
        ImageError: another projection, a tilted camera, sizes that contradict each other, a canvas that is too large.
    """
    _check_view(values)
    sizes = {name: _pixels(values, name) for name in (*FULL, *CROP) if name in values}
    if not sizes:
        return None
    if set(sizes) == set(FULL):
        sizes |= dict(zip(CROP, (*sizes.values(), 0, 0), strict=True))
    if missing := [name for name in (*FULL, *CROP) if name not in sizes]:
        raise ImageError(f"GPano has no {', '.join(missing)} beside {', '.join(sizes)}; {REMEDY}")
    full_width, full_height, width, height, left, top = (sizes[name] for name in (*FULL, *CROP))
    canvas, crop = f"{full_width}x{full_height}", f"{width}x{height} at ({left}, {top})"
    if min(full_width, full_height) < 1 or not is_2_to_1(full_width, full_height):
        raise ImageError(f"GPano's full panorama is {canvas}, expected 2:1; {REMEDY}")
    if min(width, height) < 1 or min(left, top) < 0 or left + width > full_width or top + height > full_height:
        raise ImageError(f"GPano's crop {crop} is not inside its full panorama {canvas}; {REMEDY}")
    # Rounded by scaling, either side may be off by a pixel.
    if abs(size[0] * height - size[1] * width) > max(width, height):
        raise ImageError(
            f"the image is {size[0]}x{size[1]}, but GPano's crop is {crop}; the image was cut since; {REMEDY}"
        )
    scaled = round(full_width * size[0] / width), round(full_height * size[1] / height)
    check_size(*scaled, what="GPano's full panorama")
    corner = round(left * size[0] / width), round(top * size[1] / height)
    return Placement(scaled, (min(corner[0], scaled[0] - size[0]), min(corner[1], scaled[1] - size[1])), size)
