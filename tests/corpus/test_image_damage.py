"""Damaged images: pixels that are missing are found wherever the format can tell, and nothing whole is refused."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_images import chunk, claimed_png, panorama, refusal, saved, smooth

from panollava.corpus.images import ImageError, check_image, image_size, open_panorama

END = b"\xff\xd9"
JPEGS: tuple[dict[str, Any], ...] = (
    {},
    {"progressive": True},
    {"subsampling": "4:4:4", "optimize": True},
    {"restart_marker_rows": 1},
)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tiff", "a.bmp", "a.avif"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_truncated_files_are_named(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    panorama(256, 128).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    refusal(path)


def test_a_truncated_jpeg_is_told_with_the_size_of_the_file() -> None:
    assert "damaged or truncated JPEG of 2048x1024: " in refusal(saved(smooth(2048, 1024), "JPEG")[:-2000])


@pytest.mark.parametrize("options", JPEGS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_was_cut_is_found_although_it_has_an_end_marker(mode: str, options: dict[str, Any]) -> None:
    data = saved(panorama(128, 64).resize((256, 128)).convert(mode), "JPEG", **options)
    check_image(data)
    check_image(data + b"a trailer, as cameras append it")
    for kept in (0.34, 0.6, 0.9, 0.97):
        assert "damaged or truncated JPEG" in refusal(data[: int(len(data) * kept)] + END)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(JPEGS),
    st.sampled_from([(0, 0, 0), (127, 127, 127), (128, 128, 128), (255, 255, 255)]),
    st.integers(2, 60),
    st.integers(1, 95),
    st.booleans(),
)
def test_whole_jpegs_are_never_refused(
    options: dict[str, Any], ground: tuple[int, int, int], height: int, quality: int, plain: bool
) -> None:
    image = Image.new("RGB", (2 * height, height), ground)
    if not plain:
        image.paste(panorama(2 * height, height // 2), (0, 0))
    data = saved(image, "JPEG", quality=quality, **options)
    check_image(data)
    assert open_panorama(data).size == image.size


def test_pictures_behind_the_first_one_do_not_matter() -> None:
    image, other = panorama(256, 128), panorama(32, 16)
    for options in ({}, {"progressive": True}):
        data = saved(image, "MPO", save_all=True, append_images=[other], **options)
        check_image(data)
        assert open_panorama(data).tobytes() == open_panorama(saved(image, "JPEG", **options)).tobytes()
        first = data.index(END + b"\xff\xd8")
        assert "damaged or truncated JPEG" in refusal(data[: first // 2] + data[first:])


def test_baseline_scans_may_be_sloppy_about_their_coefficients() -> None:
    data = saved(panorama(), "JPEG")
    header = data.index(b"\xff\xda")
    last = header + 2 + int.from_bytes(data[header + 2 : header + 4]) - 2
    assert data[last] == 63
    check_image(data[:last] + b"\0" + data[last + 1 :])


def test_a_jpeg_of_endless_scans_is_refused_at_once() -> None:
    data = saved(Image.new("L", (8192, 4096), 77), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    assert "scans or more takes too long to decode" in refusal(data[:-2] + data[last:-2] * 3000 + END)


@pytest.mark.parametrize("rows", [0, 1, 10, 31])
@pytest.mark.parametrize("ground", [0, 200])
def test_a_png_of_too_few_rows_is_found(rows: int, ground: int) -> None:
    row = b"\0" + bytes([ground]) * 64 * 3
    check_image(claimed_png(64, 32, row * 32))
    assert "damaged or truncated PNG" in refusal(claimed_png(64, 32, row * rows))
    if rows:
        assert f"it holds {193 * rows} of {193 * 32} bytes of its pixels" in refusal(claimed_png(64, 32, row * rows))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.sampled_from([(0, 1, 1), (0, 8, 1), (2, 8, 3), (2, 16, 6), (6, 8, 4), (3, 4, 0.5)]))
def test_interlaced_pngs_are_counted_by_their_passes(height: int, layout: tuple[int, int, float]) -> None:
    colours, depth, size = layout
    bits = depth if size <= 1 else round(size * 8)
    total, width = 0, 2 * height
    for left, top, right, down in (
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
    ):  # fmt: skip
        columns, rows = len(range(left, width, right)), len(range(top, height, down))
        total += rows * (1 + (columns * bits + 7) // 8) if columns else 0

    def png(pixels: bytes) -> bytes:
        header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 1)
        palette = chunk(b"PLTE", bytes(48)) if colours == 3 else b""
        parts = chunk(b"IHDR", header), palette, chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + b"".join(parts)

    check_image(png(bytes(total)))
    refusal(png(bytes(total - 1)))


def test_a_png_whose_data_is_broken_is_found() -> None:
    data = saved(panorama(), "PNG")
    middle = len(data) // 2
    assert "damaged or truncated PNG" in refusal(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])


def test_a_png_whose_pixels_have_another_checksum_is_found() -> None:
    """PIL's decoder has all the pixels that it wants by then."""
    data = saved(Image.new("RGB", (64, 32), "grey"), "PNG")
    place = data.index(b"IEND") - 45
    assert "damaged or truncated PNG of 64x32" in refusal(data[:place] + b"'" + data[place + 1 :])


def test_a_png_bomb_is_not_inflated_beyond_its_size() -> None:
    check_image(claimed_png(64, 32, bytes(1 << 27)))
    check_image(claimed_png(64, 32, bytes(1 << 27), interlaced=True))


def patched(data: bytes, tag: int, change: Callable[[int], int], *, count: bool = False) -> bytes:
    """Return a little-endian TIFF with another value, or number of values, of a tag."""
    directory = int.from_bytes(data[4:8], "little")
    for number in range(int.from_bytes(data[directory : directory + 2], "little")):
        start = directory + 2 + 12 * number
        if int.from_bytes(data[start : start + 2], "little") == tag:
            place = start + (4 if count else 8)
            value = change(int.from_bytes(data[place : place + 4], "little"))
            return data[:place] + value.to_bytes(4, "little") + data[place + 4 :]
    raise AssertionError(f"no tag {tag}")


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg"])
def test_strips_that_a_tiff_lacks_are_found(compression: str) -> None:
    data = saved(panorama(256, 128), "TIFF", compression=compression, strip_size=256 * 3 * 16)
    check_image(data)
    assert image_size(data) == (128, 256)
    fewer, lower = patched(data, 273, lambda count: count - 1, count=True), patched(data, 278, lambda rows: rows // 2)
    if compression == "raw":
        refusal(fewer)
        refusal(lower)
    else:
        assert "tiles or strips, expected 8" in refusal(fewer)
        assert "tiles or strips, expected 16" in refusal(lower)
        assert "are not in the file" in refusal(patched(data, 279, lambda start: start + 2))


def test_tiff_bombs_are_refused_before_they_are_decoded() -> None:
    data = saved(panorama(), "TIFF", compression="tiff_deflate")
    hostile = patched(data, 278, lambda rows: 0)
    assert "damaged" in refusal(hostile)
    tiled = data.replace(struct.pack("<HH", 278, 3), struct.pack("<HH", 322, 3))
    with pytest.raises(ImageError, match="damaged"):
        check_image(tiled)


def test_only_the_first_of_many_frames_is_decoded() -> None:
    frames = [panorama(seed=number) for number in range(30)]
    for kind, options in (("TIFF", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert open_panorama(data).tobytes() == frames[0].tobytes()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF"]), st.data())
def test_any_damage_ends_in_an_image_or_in_one_line(kind: str, data: st.DataObject) -> None:
    whole = saved(panorama(16, 8), kind)
    start = data.draw(st.integers(0, len(whole)))
    junk = data.draw(st.binary(max_size=12))
    end = data.draw(st.integers(0, 12))
    try:
        check_image(whole[:start] + junk + whole[start + end :], allow_any_aspect=True)
    except ImageError as error:
        assert len(str(error).splitlines()) == 1
