"""Files of images: which are opened, and what the others are told."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image
from tiny_images import claimed_png, panorama, refusal, saved

from panollava.corpus.image_files import Source, opened
from panollava.corpus.images import ImageError, open_panorama


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "AVIF"])
def test_the_formats_of_panoramas_are_read_whatever_the_name_is(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(saved(panorama(), kind))
    assert open_panorama(path).size == (64, 32)
    assert refusal(path.rename(tmp_path / "a.insp")).endswith("expected JPEG, PNG, WebP, TIFF, BMP or AVIF")


@pytest.mark.parametrize("kind", ["GIF", "EPS", "PDF", "PPM", "TGA", "ICO", "PCX", "SGI", "JPEG2000"])
def test_no_other_decoder_of_pil_is_started(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("Ghostscript was started"))
    path = tmp_path / "a.jpg"
    path.write_bytes(saved(panorama(), kind))
    assert "not a readable image" in refusal(path)
    if kind != "PDF":  # which PIL only writes
        with Image.open(path) as image, pytest.raises(ImageError, match=f"not a readable image: {kind}"):
            open_panorama(image)


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "the file is empty"),
        (b"no image", "not an image file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "a git-lfs pointer in place of the image; run `git lfs pull`",
        ),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC (HEIF); convert it to JPEG"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC (HEIF); convert it to JPEG"),
        (b"\0\0\0\x20ftypisom\0\0\x02\0", "a video"),
        (b"\x1aE\xdf\xa3\x01\0\0\0", "a video"),
        (b"v/1\x01\x02\0\0\0", "OpenEXR; tone-map it"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", "Radiance HDR; tone-map it"),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01", "a RAW photograph"),
        (b"\n<!doctype html><html>404</html>", "a text or web page"),
        (b'{"error": "not found"}', "a text or web page"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"%PDF-1.7\n", "PDF or PostScript"),
        (b"PK\x03\x04\x14\0", "an archive; unpack it"),
        (b"8BPS\0\x01", "a Photoshop document"),
        (b"\xff\xd8\xff\xe0\0", "its header is damaged"),
    ],
)
def test_other_files_are_told_what_they_are_and_what_to_do(tmp_path: Path, content: bytes, hint: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for source in (path, content):
        text = refusal(source)
        assert f"not a readable image: {hint}" in text
        assert "expected JPEG, PNG" in text


def test_raw_photographs_are_not_taken_for_their_thumbnail(tmp_path: Path) -> None:
    path = tmp_path / "a.dng"
    path.write_bytes(saved(panorama(), "TIFF", tiffinfo={50706: bytes((1, 4, 0, 0))}))
    assert "a RAW photograph; develop it, stitch it" in refusal(path)
    assert "a RAW photograph; develop it, stitch it" in refusal(path.read_bytes())


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the names of sockets are short
        server.bind("socket.jpg")
        for name in ("pipe.jpg", "socket.jpg"):
            assert "a pipe or a device; expected an image file" in refusal(tmp_path / name)
    assert "a pipe or a device; expected an image file" in refusal(Path("/dev/zero"))
    assert "a folder; expected an image file" in refusal(tmp_path)
    assert "no such image file" in refusal(tmp_path / "none.jpg")
    assert "cannot be looked up: File name too long" in str(_error("x" * 5000))


def _error(source: Source) -> str:
    with pytest.raises(ImageError) as error:
        open_panorama(source)
    return str(error.value)


def test_names_stay_on_one_line_and_urls_are_told_apart() -> None:
    assert _error("a\nb\x1b[31m.jpg") == "'a\\nb\\x1b[31m.jpg': no such image file"
    assert _error("a\0b.jpg") == "'a\\x00b.jpg': cannot be looked up: embedded null byte"
    for url in ("https://example.org/a.jpg", "s3://bucket/a.jpg", "data:image/png;base64,AAAA"):
        assert _error(url) == f"{url}: this is a URL; download the image and give its path"
    assert "this is a URL" in _error(Path("https://example.org/a.jpg"))
    assert "C:/a.jpg: no such image file" in _error("C:/a.jpg")
    assert "a ndarray; expected a path, the bytes of a file" in _error(np.zeros((32, 64, 3), np.uint8))  # type: ignore[arg-type] # the mistake


@pytest.mark.parametrize(("width", "height"), [(16386, 8193), (20000, 10000), (40000, 20000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_by_the_header_with_one_limit_and_a_remedy(width: int, height: int) -> None:
    text = refusal(claimed_png(width, height))
    assert str(width * height) in text
    assert "at most 134217728 (16384x8192) are decoded, against decompression bombs" in text
    assert "scale it down, for example to 16384x8192" in text
    assert "178956970" not in text  # PIL's own limit


@pytest.mark.parametrize(("width", "height"), [(1, 10**8), (10**8, 1), (0, 0), (0, 5), (1, 1)])
def test_sides_that_no_panorama_has_are_refused(width: int, height: int) -> None:
    refusal(claimed_png(width, height), allow_any_aspect=True)
    if width * height < 2:
        with pytest.raises(ImageError, match=f"the image is {width}x{height}; expected at least 2x1 pixels"):
            open_panorama(Image.new("RGB", (width, height)), allow_any_aspect=True)


def test_the_largest_allowed_size_is_no_bomb(recwarn: pytest.WarningsRecorder) -> None:
    with opened(claimed_png(16384, 8192)) as (image, _):
        assert image.size == (16384, 8192)
    assert not recwarn.list


def test_a_file_that_the_caller_opened_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    panorama().save(path)
    with path.open("rb") as file:
        file.read(7)
        first = open_panorama(file)
        assert not file.closed
        assert open_panorama(file).tobytes() == first.tobytes() == panorama().tobytes()
