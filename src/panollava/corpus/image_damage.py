"""Decode images, and find those whose pixels are not all there although PIL decodes them without a word.

A PNG must inflate to as many bytes as its size needs. The strips or tiles of a TIFF must cover it and lie in the file.
The scans of a JPEG must refine every coefficient to its last bit, and bytes that are put between its pixels and its end
marker must change nothing: a decoder that still waits for pixels takes them for such. Damage in the middle of a JPEG,
and of less than 16 x 16 pixels at its end, is not found.
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import SEEK_CUR, SEEK_END, BytesIO
from typing import BinaryIO

from PIL import Image, ImageChops

from panollava.corpus.image_files import MAX_PIXELS, ImageError

BAND_ROWS = 512
PIECE = 1 << 16
# PNG: samples per pixel by colour type, and (left, top, step right, step down) of Adam7's passes.
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
# TIFF: tags and their values.
WIDTH, HEIGHT, COMPRESSION, SAMPLES, PLANES = 256, 257, 259, 277, 284
STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_LENGTHS = 273, 278, 279
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_LENGTHS = 322, 323, 324, 325
UNCOMPRESSED, OLD_JPEG, SEPARATE = 1, 6, 2
EXCESS = 1024  # pixels of a tile beyond the image, or tiles beyond those needed, that are harmless
# JPEG: markers by their second byte.
MARKER = re.compile(rb"\xff([^\0\xd0-\xd7\xff])", re.DOTALL)  # neither stuffing nor a restart of the same scan
ALONE = frozenset((0x01, *range(0xD0, 0xD9)))
END_OF_IMAGE, START_OF_SCAN = 0xD9, 0xDA
PROGRESSIVE = frozenset((0xC2, 0xCA))  # Huffman or arithmetic coding
FRAMES = PROGRESSIVE | {0xC0, 0xC1, 0xC9}
MAX_SCANNED = 16 * MAX_PIXELS  # pixels of all scans together, each of which takes its time
MAX_JPEG_BYTES = 1 << 28
UNWRITTEN = {(value,) * count for value in (127, 128) for count in (1, 3, 4)}
FILLER = bytes(1 + (number * 167) % 253 for number in range(4096))  # without 0 and 255, which would mean something


def decode(image: Image.Image, file: BinaryIO) -> None:
    """Decode the pixels of an image in a file.

    Raises:
        ImageError: it would take too long.
        OSError: pixels are missing; others of PIL's exceptions for damaged files pass through.
    """
    match image.format:
        case "JPEG" | "MPO":
            position = file.seek(0, SEEK_CUR)
            file.seek(0)
            data = file.read(MAX_JPEG_BYTES)
            file.seek(position)
            scans = _scans(data)
            image.load()
            _check_jpeg(image, data, scans)
        case "PNG":
            image.load()
            if image.info.get("interlace") or _is_zero(image, image.height - 1):
                _check_png(file)
        case "TIFF":
            _check_tiff(image.getexif(), file)
            image.load()
        case _:
            image.load()


def _is_zero(image: Image.Image, row: int) -> bool:
    """Return whether a row is still as PIL allocates it."""
    return image.crop((0, row, image.width, row + 1)).getbbox(alpha_only=False) is None


def _png_bytes(header: bytes) -> int:
    """Return how many bytes the pixels of a PNG inflate to: each row has a byte for its filter."""
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:8])
    bits = header[8] * CHANNELS[header[9]]
    total = 0
    for left, top, right, down in PASSES if header[12] else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total


def _png_pieces(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Return the chunks of a PNG in order, type and a piece of the data; only those of IDAT come in several pieces."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4]), head[4:]
        if kind not in (b"IHDR", b"IDAT"):
            file.seek(length + 4, SEEK_CUR)
            continue
        while length and (piece := file.read(min(length, PIECE))):
            yield kind, piece
            length -= len(piece)
        file.seek(4, SEEK_CUR)


def _check_png(file: BinaryIO) -> None:
    inflate = zlib.decompressobj()
    expected = found = 0
    for kind, piece in _png_pieces(file):
        if kind == b"IHDR":
            expected = _png_bytes(piece)
            continue
        while piece and not inflate.eof and found < expected:
            found += len(inflate.decompress(piece, 1 << 20))
            piece = inflate.unconsumed_tail
    if found < expected:  # what the last step held back
        found += len(inflate.flush())
    if found < expected:
        raise OSError(f"it holds {found} of {expected} bytes of its pixels")


def _tags(exif: Image.Exif, *tags: int) -> tuple[int, ...]:
    """Return the numbers of the first TIFF tag that is there."""
    values = next((exif[tag] for tag in tags if tag in exif), ())
    values = values if isinstance(values, tuple) else (values,)
    if not all(isinstance(value, int) and value >= 0 for value in values):
        raise OSError(f"tag {tags[0]} is not made of whole numbers")
    return values


def _check_tiff(exif: Image.Exif, file: BinaryIO) -> None:
    width, height, compression, samples, planes = (
        (*_tags(exif, tag), 1)[0] for tag in (WIDTH, HEIGHT, COMPRESSION, SAMPLES, PLANES)
    )
    if compression == OLD_JPEG:  # it lies elsewhere
        return
    right, down = (*_tags(exif, TILE_WIDTH), width)[0], (*_tags(exif, TILE_HEIGHT, ROWS_PER_STRIP), height)[0]
    if min(right, down) < 1 or (TILE_WIDTH in exif and (right > width + EXCESS or down > height + EXCESS)):
        raise OSError(f"tiles or strips of {right}x{down} pixels in {width}x{height}")
    expected = -(-width // right) * -(-height // down) * (samples if planes == SEPARATE else 1)
    offsets, lengths = _tags(exif, TILE_OFFSETS, STRIP_OFFSETS), _tags(exif, TILE_LENGTHS, STRIP_LENGTHS)
    if not expected <= len(offsets) <= expected + EXCESS:
        raise OSError(f"{len(offsets)} tiles or strips, expected {expected}")
    size = file.seek(0, SEEK_END)
    # The decoder reads uncompressed pixels whatever their lengths say.
    inside = len(offsets) == len(lengths) and all(
        0 < length <= size - offset for offset, length in zip(offsets, lengths, strict=True)
    )
    if compression != UNCOMPRESSED and not inside:
        raise OSError("tiles or strips are not in the file")


@dataclass
class _Scans:
    """The scans of a JPEG: how many, where their data ends, and the bits that each coefficient still lacks."""

    count: int = 0
    width: int = 0
    height: int = 0
    end: int = 0
    progressive: bool = False
    missing: dict[int, list[int]] = field(default_factory=dict)

    def add_frame(self, segment: bytes, *, progressive: bool) -> None:
        """Note the size and the components of a frame header."""
        self.progressive = progressive
        self.height, self.width = int.from_bytes(segment[1:3]), int.from_bytes(segment[3:5])
        self.missing = {component: [1] * 64 for component in segment[6::3]}

    def add_scan(self, segment: bytes) -> None:
        """Note what a scan header promises."""
        self.count += 1
        if self.count * self.width * self.height > MAX_SCANNED:
            raise ImageError(f"a JPEG of {self.count} scans or more takes too long to decode at its size; save it anew")
        # Only progressive scans must say which coefficients they hold; the others hold all.
        first, last, bits = segment[-3:] if self.progressive else (0, 63, 0)
        for component in segment[1:-3:2]:
            for number in range(first, min(last, 63) + 1):
                self.missing.get(component, [0] * 64)[number] = bits & 15


def _scans(data: bytes) -> _Scans:
    """Return the scans of the first image in a JPEG file; raises ImageError for too many."""
    scans, position = _Scans(), 2
    while (match := MARKER.search(data, position)) is not None:
        marker, position = match[1][0], match.end()
        if marker == END_OF_IMAGE:
            scans.end = match.start()
            break
        if marker in ALONE:
            continue
        length = max(int.from_bytes(data[position : position + 2]), 2)
        segment = data[position + 2 : position + length]
        position += length
        if marker in FRAMES:
            scans.add_frame(segment, progressive=marker in PROGRESSIVE)
        elif marker == START_OF_SCAN and len(segment) >= 6:
            scans.add_scan(segment)
    return scans


def _check_jpeg(image: Image.Image, data: bytes, scans: _Scans) -> None:
    if any(map(any, scans.missing.values())):
        raise OSError("scans are missing")
    last = image.getpixel((image.width - 1, image.height - 1))
    # Pixels that are not there are left grey. A single scan that ends with another colour is complete.
    if not scans.end or (scans.count == 1 and (last if isinstance(last, tuple) else (last,)) not in UNWRITTEN):
        return
    filled = data[: scans.end] + FILLER + data[scans.end : scans.end + 2]
    if scans.count == 1:
        same = _same(image, _again(filled, image.size))
    else:  # at half the size the last scans still show, unlike at an eighth
        half = max(scans.width // 2, 1), max(scans.height // 2, 1)
        same = _same(_again(data, half), _again(filled, half))
    if not same:
        raise OSError("it ends before its last pixel")


def _again(data: bytes, size: tuple[int, int]) -> Image.Image:
    image = Image.open(BytesIO(data), formats=("JPEG",))
    image.draft(image.mode, size)
    return image


def _same(one: Image.Image, other: Image.Image) -> bool:
    for top in range(0, one.height, BAND_ROWS):
        box = (0, top, one.width, min(top + BAND_ROWS, one.height))
        if ImageChops.difference(one.crop(box), other.crop(box)).getbbox(alpha_only=False) is not None:
            return False
    return True
