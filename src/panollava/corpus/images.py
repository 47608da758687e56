"""Open equirectangular photographs safely and resize them to the working size with the seam intact.

An image covers the whole sphere: 2:1, columns wrap, rows clamp. Every format that PIL reads is accepted with 8 bits per
channel. Error messages name the file, the sizes and what would be right.
"""

import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import ExifTags, Image, ImageOps

MAX_PIXELS = 16384 * 8192
ASPECT_TOLERANCE = 0.01
BAND_ROWS = 512
LANCZOS_RADIUS = 3
# Exceptions of PIL's plugins for damaged files: OSError and SyntaxError by contract, the others from their parsers.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error)


class ImageError(ValueError):
    """An image file is unreadable, truncated, too large, or no panorama."""


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image up to its header; refuse decompression bombs before a pixel is decoded."""
    try:
        with warnings.catch_warnings():
            # PIL warns at half of its own limit. The limit here is MAX_PIXELS, checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such image file") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: decompression bomb; at most {MAX_PIXELS} pixels (16384x8192): {error}") from None
    except DAMAGED as error:
        raise ImageError(f"{path}: not a readable image: {error}") from None
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(
                f"{path}: decompression bomb; {image.width}x{image.height} is {image.width * image.height} pixels, "
                f"at most {MAX_PIXELS} (16384x8192)"
            )
        yield image


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height after applying the EXIF orientation."""
    width, height = image.size
    swapped = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (height, width) if swapped else (width, height)


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image file after its EXIF orientation, from the header; raises ImageError."""
    with _opened(path) as image:
        width, height = _upright_size(image)
    return height, width


def _check_shape(path: Path, image: Image.Image, *, allow_any_aspect: bool) -> None:
    width, height = _upright_size(image)
    if not allow_any_aspect and abs(width - 2 * height) > ASPECT_TOLERANCE * 2 * height:
        raise ImageError(
            f"{path}: {width}x{height} is {width / height:.3f}:1, not 2:1; an equirectangular panorama of this width "
            f"has {round(width / 2)} rows"
        )
    if image.mode.startswith(("I", "F")):
        raise ImageError(f"{path}: pixel mode {image.mode!r}; expected 8 bits per channel, such as RGB or greyscale")


def _draft(image: Image.Image, working_height: int) -> None:
    """Let the JPEG decoder halve the image up to three times, but not below twice the working height.

    The factor divides both sides, so that the last column ends exactly at the seam. Other formats ignore it.
    """
    for factor in (8, 4, 2):
        width, height = image.width // factor, image.height // factor
        exact = (width * factor, height * factor) == image.size
        if exact and min(height, width // 2) >= 2 * working_height:
            image.draft("RGB", (width, height))
            return


def open_panorama(path: Path, *, allow_any_aspect: bool = False, working_height: int | None = None) -> Image.Image:
    """Return an equirectangular image as RGB, with its EXIF orientation applied.

    With `working_height`, a large JPEG is decoded no finer than `to_working_size` needs for that height. With
    `allow_any_aspect`, an image that is not 2:1 is assumed to cover the whole sphere. Raises ImageError.
    """
    with _opened(path) as image:
        try:
            _check_shape(path, image, allow_any_aspect=allow_any_aspect)
            if working_height is not None:
                _draft(image, working_height)
            image.load()
            # In place, and converted only if needed: either copy would take 134 MB for an 8192x4096 image.
            ImageOps.exif_transpose(image, in_place=True)
            return image if image.mode == "RGB" else image.convert("RGB")
        except ImageError:
            raise
        except DAMAGED as error:
            size = f"{image.width}x{image.height}"
            raise ImageError(f"{path}: damaged or truncated {image.format} of {size}: {error}") from None


def check_image(path: Path, *, allow_any_aspect: bool = False) -> None:
    """Raise ImageError unless the file can be decoded to its end and is a panorama."""
    # Even the coarsest decoding reads the whole file, and so finds a truncated one.
    open_panorama(path, allow_any_aspect=allow_any_aspect, working_height=1)


def _wrap_columns(image: Image.Image, columns: int) -> Image.Image:
    wrapped = Image.new(image.mode, (image.width + 2 * columns, image.height))
    wrapped.paste(image.crop((image.width - columns, 0, image.width, image.height)), (0, 0))
    wrapped.paste(image, (columns, 0))
    wrapped.paste(image.crop((0, 0, columns, image.height)), (columns + image.width, 0))
    return wrapped


def to_working_size(image: Image.Image, height: int) -> Image.Image:
    """Return the image at 2 `height` x `height`, or at the largest 2:1 size that needs no upsampling.

    A Lanczos filter that continues across the seam downsamples. Columns are filtered first, in bands of rows, so that
    the memory stays near that of the image itself.
    """
    height = min(height, image.height, image.width // 2)
    if image.size == (2 * height, height):
        return image
    columns = min(math.ceil(LANCZOS_RADIUS * image.width / (2 * height)) + 1, image.width)
    narrow = Image.new(image.mode, (2 * height, image.height))
    for top in range(0, image.height, BAND_ROWS):
        rows = min(BAND_ROWS, image.height - top)
        band = _wrap_columns(image.crop((0, top, image.width, top + rows)), columns)
        inside = (columns, 0, columns + image.width, rows)
        narrow.paste(band.resize((2 * height, rows), Image.Resampling.LANCZOS, box=inside), (0, top))
    return narrow.resize((2 * height, height), Image.Resampling.LANCZOS)
