"""Open an image from a file, from bytes or from PIL up to its header, within limits, in few formats.

No other decoder of PIL is started, whatever the file is called. A file that cannot be used is refused in one line that
begins with its name and says what would be right.
"""

import logging
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from PIL import Image, ImageFile, UnidentifiedImageError

# PIL logs what it then raises as well; without any handler, Python would print it beside our message.
logging.getLogger("PIL").addHandler(logging.NullHandler())

Source = str | Path | bytes | bytearray | memoryview | BinaryIO | Image.Image

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF")
MPO = "MPO"  # what PIL calls a JPEG with further pictures behind the first one
MAX_PIXELS = 16384 * 8192
MAX_SIDE = 65535  # JPEG's own limit
ASPECT_TOLERANCE = 0.01
# Exceptions of PIL's plugins for damaged files: OSError and SyntaxError by contract, RuntimeError from AVIF's decoder,
# the others from the parsers.
DAMAGED = (
    OSError, SyntaxError, RuntimeError, ValueError, LookupError, ArithmeticError, TypeError, EOFError, struct.error,
    zlib.error,
)  # fmt: skip
URL = re.compile(r"([a-z][a-z0-9+.-]+:/|data:)", re.IGNORECASE)
RAW = "a RAW photograph; develop it, stitch it and save it as JPEG"
SUFFIXES = {
    ".insp": "an unstitched photograph of two fisheye lenses; stitch it in Insta360 Studio and export it as JPEG",
} | dict.fromkeys((".dng", ".gpr", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".rw2", ".orf", ".pef", ".srw"), RAW)
DNG_VERSION = 50706  # the TIFF tag
HEAD_BYTES = 512
SHOWN_CHARACTERS = 300
CONTENTS = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), text)
    for pattern, text in (
        (rb"$", "the file is empty; copy or download it again"),
        (rb"version https://git-lfs", "a git-lfs pointer in place of the image; run `git lfs pull`"),
        (rb".{4}ftyp(hei[cxms]|hev[cx]|mif1|msf1)", "HEIC (HEIF); convert it to JPEG, for example with ImageMagick"),
        (rb".{4}ftypcrx|FUJIFILM|IIU\0|IIRO|MMOR", RAW),
        (
            rb".{4}(ftyp(?!avi[fs])|moov|mdat|wide)|\x1aE\xdf\xa3|RIFF.{4}AVI |\0\0\x01\xba|FLV\x01",
            "a video; save a frame with `ffmpeg -i VIDEO -frames:v 1 FRAME.jpg`",
        ),
        (rb"v/1\x01", "OpenEXR; tone-map it to 8 bits per channel and save it as JPEG or PNG"),
        (rb"#\?(RADIANCE|RGBE)", "Radiance HDR; tone-map it to 8 bits per channel and save it as JPEG or PNG"),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL; convert it to JPEG, for example with ImageMagick"),
        (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000; convert it to JPEG, for example with ImageMagick"),
        (rb"GIF8", "GIF; convert it to PNG, for example with ImageMagick"),
        (rb"8BPS", "a Photoshop document; export it as JPEG"),
        (rb"%PDF|%!PS|\xc5\xd0\xd3\xc6", "PDF or PostScript; export the image in it as JPEG"),
        (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ", "an archive; unpack it"),
        (rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?<svg", "SVG; export it as PNG"),
        (rb"(\xef\xbb\xbf)?\s*[<{\[]", "a text or web page, as failed downloads leave behind; download it again"),
        (rb"\xff\xd8|\x89PNG|BM|II[*+]|MM\0[*+]|RIFF.{4}WEBP|.{4}ftypavi[fs]", "its header is damaged; copy it again"),
    )
)


class ImageError(ValueError):
    """An image is unreadable, truncated, too large, or no panorama."""


class Opened(NamedTuple):
    """An image up to its header, and the file that it is read from; a PIL image of the caller's has none."""

    image: Image.Image
    file: BinaryIO | None


def check_size(width: int, height: int, *, what: str = "the image") -> None:
    """Raise ImageError for a size that holds no panorama or that is over the limits."""
    if width < 2 or height < 1:
        raise ImageError(f"{what} is {width}x{height}; expected at least 2x1 pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(_too_many(f"{width}x{height}, {width * height} pixels", what))
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{what} is {width}x{height}; a side has at most {MAX_SIDE} pixels")


def is_2_to_1(width: int, height: int) -> bool:
    """Return whether a size is that of a whole equirectangular panorama, within a percent."""
    return abs(width - 2 * height) <= ASPECT_TOLERANCE * 2 * height


def _too_many(size: str, what: str = "the image") -> str:
    return (
        f"{what} has {size}; at most {MAX_PIXELS} (16384x8192) are decoded, against decompression bombs; "
        "scale it down, for example to 16384x8192"
    )


def _not_readable(why: str) -> str:
    return f"not a readable image: {why}; expected JPEG, PNG, WebP, TIFF, BMP or AVIF"


def _open_file(source: str | Path | bytes | bytearray | memoryview | BinaryIO, stack: ExitStack) -> BinaryIO:
    """Return the bytes of an image as a file; `stack` closes what is opened here."""
    match source:
        case bytes() | bytearray() | memoryview():
            return BytesIO(source)
        case str() | Path():
            return stack.enter_context(_open_path(source))
        case _:
            try:
                source.seek(0)
            except AttributeError:
                what = f"a {type(source).__name__}; expected a path, the bytes of a file, an open file or a PIL image"
                raise ImageError(what) from None
            return source


def _open_path(path: str | Path) -> BinaryIO:
    """Open a regular file; a pipe or device would be waited for, or read for ever."""
    if URL.match(str(path)):
        raise ImageError("this is a URL; download the image and give its path")
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise ImageError("no such image file") from None
    except OSError as error:
        raise ImageError(f"cannot be looked up: {error.strerror}") from None
    except ValueError as error:  # a NUL in the name
        raise ImageError(f"cannot be looked up: {error}") from None
    if not stat.S_ISREG(mode):
        raise ImageError(f"{'a folder' if stat.S_ISDIR(mode) else 'a pipe or a device'}; expected an image file")
    if path.suffix.lower() in SUFFIXES:
        raise ImageError(_not_readable(SUFFIXES[path.suffix.lower()]))
    try:
        return path.open("rb")
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from None


def _open_image(file: BinaryIO) -> Image.Image:
    """Return the image in a file up to its header, of the first of several frames."""
    file.seek(0)
    head = file.read(HEAD_BYTES)
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        pixels = re.findall(r"\d+", str(error))[0]
        raise ImageError(_too_many(f"{pixels} pixels")) from None
    except DAMAGED as error:
        known = next((text for pattern, text in CONTENTS if pattern.match(head)), None)
        unknown = "not an image file" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ImageError(_not_readable(known or unknown)) from None
    if not isinstance(image.info.get("xmp", b""), bytes):  # a TIFF tag of another type, over which PIL stumbles later
        del image.info["xmp"]
    return image


def _check_format(image: Image.Image) -> None:
    if not isinstance(image, ImageFile.ImageFile):
        return
    if image.format not in (*FORMATS, MPO):
        raise ImageError(_not_readable(f"{image.format}; convert it"))
    if image.format == "TIFF" and DNG_VERSION in image.getexif():
        raise ImageError(_not_readable(RAW))


def _name(source: Source) -> str:
    """Return what messages call an image, on one line."""
    name = "the given image"
    if isinstance(source, str | Path):
        name = str(source)
    elif isinstance(source, ImageFile.ImageFile) and source.filename:
        name = str(source.filename)
    name = name if name.isprintable() else repr(name)
    return name if len(name) <= SHOWN_CHARACTERS else "…" + name[-SHOWN_CHARACTERS:]


def _image_of(source: Source, stack: ExitStack) -> Opened:
    """Open a source up to its header; a PIL image that is not decoded yet is opened anew, to be read as its file is."""
    if isinstance(source, ImageFile.ImageFile) and source.tile and source.fp is not None and source.tell() == 0:
        _check_format(source)
        stack.callback(source.fp.seek, source.fp.tell())
        file: BinaryIO = cast(BinaryIO, source.fp)
    elif isinstance(source, Image.Image):
        return Opened(source, None)
    else:
        file = _open_file(source, stack)
    return Opened(stack.enter_context(_open_image(file)), file)


@contextmanager
def opened(source: Source) -> Iterator[Opened]:
    """Open an image up to its header and check its format and size; what is raised inside is told of this image.

    Raises:
        ImageError: the image cannot be used, with its name; PIL's exceptions for damaged files are turned into it.
    """
    size = "image"
    try:
        with warnings.catch_warnings(), ExitStack() as stack:
            # PIL warns of odd metadata and at half of its own limit. What matters here is checked here.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            image, file = _image_of(source, stack)
            check_size(*image.size)
            kind = "JPEG" if image.format == MPO else image.format or image.mode
            size = f"{kind} of {image.width}x{image.height}"
            _check_format(image)
            yield Opened(image, file)
    except ImageError as error:
        raise ImageError(f"{_name(source)}: {error}") from None
    except (*DAMAGED, Image.DecompressionBombError) as error:
        text = f"{_name(source)}: damaged or truncated {size}: {error}; copy or download it again"
        raise ImageError(text) from None
