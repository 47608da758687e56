"""Images: one way in for every source, upright RGB, and a working size that keeps the seam intact."""

import io
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from tiny_images import ORIENTATION, STORED, exif, panorama, refusal, saved, smooth

from panollava.corpus import images
from panollava.corpus.images import ImageError, check_image, image_size, open_panorama, to_working_size

FORMATS = {"JPEG": {}, "PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "BMP": {}, "AVIF": {}}
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
DEEP = ("I", "F", "I;16", "I;16B")


def of_mode(mode: str) -> Image.Image:
    """Return a panorama in a mode, with an alpha channel that is not constant where the mode has one."""
    image, grey = panorama(), panorama(seed=1).convert("L")
    if mode.startswith("I;16"):
        return Image.frombytes(mode, image.size, bytes(range(256)) * 16)
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
    if mode in ("La", "RGBa"):
        return of_mode(mode.upper()).convert(mode)
    if mode in ("LA", "RGBA"):
        image = image.convert(mode)
        image.putalpha(grey)
        return image
    return image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)


def outcome(source: Any) -> bytes | str:
    try:
        return open_panorama(source).tobytes()
    except ImageError as error:
        return str(error).partition(": ")[2]


def outcomes(path: Path) -> set[bytes | str]:
    """Return the pixels or the refusals of every way in, which must be one."""
    loaded, read = Image.open(path), Image.open(io.BytesIO(path.read_bytes()))
    loaded.load() if loaded.format != "TIFF" else read.load()
    sources = (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), Image.open(path), loaded, read)
    return {outcome(source) for source in sources}


def writable(image: Image.Image, path: Path, kind: str) -> bool:
    try:
        image.save(path, format=kind, **FORMATS[kind])
    except (OSError, ValueError):
        return False
    return True


@pytest.mark.parametrize("mode", MODES + DEEP)
def test_every_mode_in_every_format_has_the_same_pixels_by_every_way_in(tmp_path: Path, mode: str) -> None:
    image, path = of_mode(mode), tmp_path / "a"
    for kind in FORMATS:
        if not writable(image, path, kind):
            continue
        (found,) = outcomes(path)
        with Image.open(path) as stored:
            if stored.mode == mode and kind not in ("JPEG", "AVIF"):
                assert found == outcome(image)
            assert ("expected 8 bits per channel" in str(found)) == stored.mode.startswith(("I", "F"))
    if mode not in DEEP:
        assert isinstance(outcome(image), bytes)


@pytest.mark.parametrize("mode", DEEP)
def test_more_bits_than_8_are_refused_everywhere(mode: str) -> None:
    with pytest.raises(ImageError, match=r"pixel mode '.*'; expected 8 bits .* scale them to 8"):
        open_panorama(of_mode(mode))


def test_transparency_is_ignored() -> None:
    opaque, hidden = panorama(), panorama().convert("RGBA")
    hidden.putalpha(0)
    assert open_panorama(hidden).tobytes() == open_panorama(saved(hidden, "PNG")).tobytes() == opaque.tobytes()
    palette = opaque.convert("P")
    palette.info["transparency"] = bytes(256)
    assert open_panorama(palette).tobytes() == open_panorama(saved(palette, "PNG")).tobytes()
    assert open_panorama(palette).tobytes() == opaque.convert("P").convert("RGB").tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_orientation_is_applied_once_by_every_way_in(tmp_path: Path, kind: str, mode: str) -> None:
    original, path = smooth(64, 32).convert(mode), tmp_path / "a"
    for orientation in range(10):
        stored = original.transpose(STORED[orientation]) if orientation in STORED else original
        stored.save(path, format=kind, exif=exif(orientation), **FORMATS[kind])
        (found,) = outcomes(path)
        assert isinstance(found, bytes)
        difference = np.frombuffer(found, np.uint8).astype(int) - np.asarray(original.convert("RGB")).ravel()
        assert np.abs(difference).max() < (40 if kind in ("JPEG", "AVIF") else 1)
        assert image_size(path) == (32, 64)
        opened = open_panorama(path)
        assert open_panorama(opened).tobytes() == opened.tobytes()


def test_metadata_behind_the_pixels_of_a_png_counts() -> None:
    original = panorama()
    data = saved(original.transpose(STORED[6]), "PNG", exif=exif(6))
    start = data.index(b"eXIf") - 4
    size = int.from_bytes(data[start : start + 4]) + 12
    moved = data[:start] + data[start + size : -12] + data[start : start + size] + data[-12:]
    assert open_panorama(moved).tobytes() == original.tobytes()
    assert image_size(moved) == (32, 64)


def test_the_given_image_stays_as_it_is() -> None:
    data = saved(panorama().transpose(STORED[6]).convert("RGBA"), "PNG", exif=exif(6))
    image = Image.open(io.BytesIO(data))
    before = Image.open(io.BytesIO(data))
    open_panorama(image, working_height=4)
    assert (image.size, image.mode, image.info) == (before.size, before.mode, before.info)
    assert image.tobytes() == before.tobytes()
    assert image.getexif()[ORIENTATION] == 6


def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
    return struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")[:4]


def with_exif(data: bytes) -> bytes:
    """Return a JPEG that is upside down, with any bytes as its EXIF."""
    jpeg, segment = saved(smooth(64, 32).transpose(STORED[3]), "JPEG", quality=95), b"Exif\0\0" + data
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def directory(*entries: bytes) -> bytes:
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


TURNED = entry(ORIENTATION, 3, 1, b"\x03")


@pytest.mark.filterwarnings("ignore::UserWarning")  # of PIL's own `open`
@pytest.mark.parametrize(
    ("data", "turned"),
    [
        (directory(TURNED), True),
        (directory(TURNED, entry(0x0112 + 1, 0, 1, b"")), True),  # no such type
        (directory(TURNED, entry(0x011A, 5, 2, b"\xf0\0\0\0")), True),  # two rationals, outside the data
        (directory(TURNED, entry(0x8769, 2, 4, b"abc")), True),  # text as the offset of a directory
        (directory(TURNED, entry(0x8769, 4, 1, b"\xff\xff\xff\xff")), True),
        (directory(TURNED, entry(0x8825, 1, 4, b"\1\2\3\4")), True),
        (directory(TURNED, entry(0x02BC, 1, 4, b"<x:x")), True),
        (directory(TURNED, entry(0x010E, 2, 4, "한".encode())), True),
        (directory(entry(ORIENTATION, 3, 1, b"\0")), False),
        (directory(entry(ORIENTATION, 3, 1, b"\x63")), False),
        (directory(entry(ORIENTATION, 2, 4, b"abc")), False),
        (directory(entry(ORIENTATION, 7, 4, b"\3\0\0\0")), False),
        (directory(entry(ORIENTATION, 11, 1, b"\0\0\x40\x40")), False),  # 3.0
        (directory(entry(ORIENTATION, 5, 1, b"\xff\0\0\0")), False),
        (b"", False),
        (b"II", False),
        (b"no TIFF at all", False),
        (b"MM\0*\0\0\0\x08\xff\xff", False),
    ],
)
def test_broken_exif_never_hinders_reading(data: bytes, turned: bool) -> None:
    original = np.asarray(smooth(64, 32), float)
    jpeg = with_exif(data)
    found = np.asarray(open_panorama(jpeg), float)
    assert np.abs(found - (original if turned else original[::-1, ::-1])).max() < 40
    assert np.array_equal(np.asarray(open_panorama(Image.open(io.BytesIO(jpeg)))), found)
    check_image(jpeg)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 60))
def test_any_bytes_as_exif_leave_the_image_readable(junk: bytes, position: int) -> None:
    data = directory(TURNED, entry(0x8769, 4, 1, b"\x1a"), entry(0x011A, 5, 1, b"\x08"))
    jpeg = with_exif(data[:position] + junk + data[position + len(junk) :])
    assert open_panorama(jpeg).size == (64, 32)


def test_exif_is_applied_before_the_aspect_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    panorama().save(path, exif=exif(6))  # lies down only by its EXIF entry
    assert "32x64 is 0.500:1, not 2:1" in refusal(path)
    assert open_panorama(path, allow_any_aspect=True).size == (32, 64)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:4:4", "restart_marker_rows": 1}])
def test_pixels_are_those_of_pil_at_every_working_height(tmp_path: Path, mode: str, options: dict[str, Any]) -> None:
    path = tmp_path / "a.jpg"
    smooth(1024, 512).convert(mode).save(path, **options)
    for height, factor in ((None, 1), (129, 1), (128, 2), (65, 2), (64, 4), (33, 4), (32, 8), (1, 8)):
        with Image.open(path) as image:
            image.draft("RGB", (1024 // factor, 512 // factor))
            assert open_panorama(path, working_height=height).tobytes() == image.convert("RGB").tobytes()


def test_aspect_must_be_2_to_1_within_a_percent(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for width in (198, 200, 202):
        panorama(width, 100).save(path)
        assert open_panorama(path).size == (width, 100)
    for width in (197, 203):
        panorama(width, 100).save(path)
        assert f"{width}x100 is {width / 100:.3f}:1, not 2:1" in refusal(path)
    assert open_panorama(path, allow_any_aspect=True).size == (203, 100)
    check_image(path, allow_any_aspect=True)


@pytest.mark.parametrize(("size", "height"), [((512, 256), 64), ((500, 250), 77), ((513, 255), 100), ((1100, 550), 40)])
def test_working_size_is_exact_and_close_to_the_picture(size: tuple[int, int], height: int) -> None:
    small = to_working_size(smooth(*size), height)
    assert small.size == (2 * height, height)
    # Pixel centres: a picture of low frequencies, sampled at the new centres.
    u = (np.arange(2 * height) + 0.5) / (2 * height) * size[0] - 0.5
    v = (np.arange(height) + 0.5) / height * size[1] - 0.5
    picture = np.asarray(smooth(*size), dtype=float)
    columns = picture[:, np.round(u).astype(int) % size[0]]
    expected = columns[np.round(v).astype(int).clip(0, size[1] - 1)]
    assert np.abs(np.asarray(small, dtype=float) - expected).max() < 10


def test_working_size_never_upsamples() -> None:
    assert to_working_size(panorama(64, 32), 100).size == (64, 32)
    assert to_working_size(panorama(65, 32), 32).size == (64, 32)
    assert to_working_size(panorama(63, 32), 32).size == (62, 31)
    exact = panorama(64, 32)
    assert np.array_equal(np.asarray(to_working_size(exact, 32)), np.asarray(exact))


def test_resizing_commutes_with_a_yaw_of_the_panorama() -> None:
    original = panorama(600, 300)
    rotated = Image.fromarray(np.roll(np.asarray(original), 6 * 31, axis=1))
    small = np.asarray(to_working_size(original, 50))
    assert np.array_equal(np.asarray(to_working_size(rotated, 50)), np.roll(small, 31, axis=1))


def test_working_size_does_not_depend_on_the_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    original = panorama(300, 150)
    whole = np.asarray(to_working_size(original, 40))
    monkeypatch.setattr(images, "BAND_ROWS", 7)
    assert np.array_equal(np.asarray(to_working_size(original, 40)), whole)


def test_coarse_jpeg_decoding_gives_the_same_image(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    smooth(2048, 1024).save(path, quality=95)
    coarse = open_panorama(path, working_height=100)
    assert coarse.size == (512, 256)  # a quarter: an eighth would be below twice the working height
    full = open_panorama(path)
    assert full.size == (2048, 1024)
    difference = np.asarray(to_working_size(coarse, 100), float) - np.asarray(to_working_size(full, 100), float)
    assert np.abs(difference).max() <= 4
    smooth(2044, 1022).save(path)
    assert open_panorama(path, working_height=100).size == (1022, 511)  # only factors that divide both sides


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_a_panorama_of_8192x4096_stays_below_400_mb(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (8192, 4096), (10, 20, 30)).save(path, compress_level=1)
    program = (
        "import pathlib, sys; from panollava.corpus.images import open_panorama, to_working_size;"
        "print(to_working_size(open_panorama(pathlib.Path(sys.argv[1]), working_height=1024), 1024).size);"
        "print(pathlib.Path('/proc/self/status').read_text())"
    )
    # A separate process that imports this module alone: other imports need more memory than the image.
    environment = {"PYTHONPATH": str(Path(images.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.startswith("(2048, 1024)")
    peak_kb = int(done.stdout.split("VmHWM:")[1].split()[0])
    assert peak_kb < 400_000
