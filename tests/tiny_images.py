"""Small panoramas and image files, good and bad, for the tests of images."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panollava.corpus.images import ImageError, check_image, open_panorama

ORIENTATION = 0x0112
# How a panorama is stored so that the EXIF orientation turns it upright.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def panorama(width: int = 64, height: int = 32, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(width: int, height: int) -> Image.Image:
    """Return a picture of low frequencies that is continuous across the seam."""
    yaw = np.linspace(0, 2 * np.pi, width, endpoint=False)
    rows = np.linspace(0, 1, height)[:, None]
    channels = [127 + 100 * np.sin(k * yaw + k) * (1 - rows / k) for k in (1, 2, 3)]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def exif(orientation: Any) -> Image.Exif:
    entries = Image.Exif()
    entries[ORIENTATION] = orientation
    return entries


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claimed_png(width: int, height: int, pixels: bytes = b"\0" * 100, *, interlaced: bool = False) -> bytes:
    """Return a PNG whose header claims a size, whatever its pixels are."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlaced)
    return PNG_SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def refusal(source: Path | bytes, **options: Any) -> str:
    """Return the message, one line that begins with the name, which opening and checking agree on."""
    with pytest.raises(ImageError) as error:
        check_image(source, **options)
    with pytest.raises(ImageError) as other:
        open_panorama(source, **options)
    name = source if isinstance(source, Path) else "the given image"
    assert str(error.value).startswith(f"{name}: ")
    assert str(error.value) == str(other.value)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)
