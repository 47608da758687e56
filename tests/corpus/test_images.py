"""Images: unusable files and their messages, and a working size that keeps the seam intact."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panollava.corpus import images
from panollava.corpus.images import ImageError, check_image, open_panorama, to_working_size


def panorama(width: int = 64, height: int = 32, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(width: int, height: int) -> Image.Image:
    """Return a picture of low frequencies that is continuous across the seam."""
    yaw = np.linspace(0, 2 * np.pi, width, endpoint=False)
    rows = np.linspace(0, 1, height)[:, None]
    channels = [127 + 100 * np.sin(k * yaw + k) * (1 - rows / k) for k in (1, 2, 3)]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))


def claimed_png(path: Path, width: int, height: int) -> None:
    """Write a PNG whose header claims a size and that holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def refusal(path: Path) -> str:
    """Return the message, which opening and checking must agree on."""
    with pytest.raises(ImageError) as error:
        check_image(path)
    with pytest.raises(ImageError):
        open_panorama(path)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1"])
def test_any_8_bit_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tiff"
    panorama().convert(mode).save(path)
    opened = open_panorama(path)
    assert (opened.mode, opened.size) == ("RGB", (64, 32))


def test_16_bit_images_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((32, 64), dtype=np.uint16)).save(path)
    assert "pixel mode 'I;16'; expected 8 bits" in refusal(path)


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    assert "no such image file" in refusal(tmp_path / "none.jpg")
    path = tmp_path / "text.jpg"
    path.write_text("no image")
    assert "not a readable image" in refusal(path)
    path.write_bytes(b"")
    assert "not a readable image" in refusal(path)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tiff", "a.bmp"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_truncated_files_are_named(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    panorama(256, 128).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    refusal(path)


def test_truncated_jpeg_says_so_with_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    panorama(256, 128).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    assert "damaged or truncated JPEG of" in refusal(path)


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


def test_exif_orientation_is_applied_before_the_aspect_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    original = panorama()
    for orientation, stored in ((3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        original.transpose(stored).save(path, exif=exif)
        opened = open_panorama(path)
        assert np.array_equal(np.asarray(opened), np.asarray(original))
    original.save(path, exif=exif)  # lies down only by its EXIF entry
    assert "32x64 is 0.500:1" in refusal(path)


@pytest.mark.parametrize(("width", "height"), [(16386, 8193), (40000, 20000)])
def test_decompression_bombs_are_refused_by_their_header(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "a.png"
    claimed_png(path, width, height)
    text = refusal(path)
    assert "decompression bomb" in text
    assert str(width * height) in text
    assert "16384x8192" in text


def test_the_largest_allowed_size_is_no_bomb(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / "a.png"
    claimed_png(path, 16384, 8192)
    with images._opened(path) as image:
        assert image.size == (16384, 8192)
    assert not recwarn.list


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
