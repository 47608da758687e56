"""GPano metadata: crops on their canvas, scaled files, other projections, tilted cameras, hostile XMP."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_images import STORED, exif, panorama, refusal, saved

from panollava.corpus.gpano import FULL, Placement, placement, read_gpano
from panollava.corpus.image_files import ImageError
from panollava.corpus.images import check_image, image_size, open_panorama, to_working_size
from panollava.corpus.masks import encoded
from panollava.corpus.validation import validate_dataset

NAMES = (
    "FullPanoWidthPixels",
    "FullPanoHeightPixels",
    "CroppedAreaImageWidthPixels",
    "CroppedAreaImageHeightPixels",
    "CroppedAreaLeftPixels",
    "CroppedAreaTopPixels",
)
NAMESPACE = "http://ns.google.com/photos/1.0/panorama/"


def packet(attributes: str = "", inside: str = "", before: str = "", prefix: str = "GPano") -> str:
    return (
        f'{before}<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:{prefix}="{NAMESPACE}" {attributes}>{inside}</rdf:Description>'
        "</rdf:RDF></x:xmpmeta>"
    )


def sizes(*values: Any) -> dict[str, Any]:
    return dict(zip(NAMES, values, strict=True))


def xmp(values: Mapping[str, Any]) -> bytes:
    return packet(" ".join(f'GPano:{name}="{value}"' for name, value in values.items())).encode()


def on_canvas(crop: Image.Image, canvas: tuple[int, int], corner: tuple[int, int]) -> bytes:
    wanted = Image.new("RGB", canvas)
    wanted.paste(crop, corner)
    return wanted.tobytes()


BAND = sizes(360, 180, 360, 60, 0, 70)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_band_is_placed_on_its_canvas_in_every_format_and_from_every_source(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(saved(panorama(360, 60), kind, **_with_xmp(kind, xmp(BAND))))
    decoded = Image.open(path).convert("RGB")
    decoded.load()
    assert image_size(path) == (180, 360)
    for source in (path, path.read_bytes(), Image.open(path), decoded):
        opened = open_panorama(source)
        assert opened.tobytes() == on_canvas(decoded, (360, 180), (0, 70))
        assert open_panorama(opened).tobytes() == opened.tobytes()
    check_image(path)


def _with_xmp(kind: str, data: bytes) -> dict[str, Any]:
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", data.decode(), zip=True)
        return {"pnginfo": info}
    return {"tiffinfo": {700: data}} if kind == "TIFF" else {"xmp": data}


def test_a_crop_that_is_2_to_1_is_not_stretched_over_the_sphere() -> None:
    image = panorama(64, 32)
    data = saved(image, "WEBP", lossless=True, xmp=xmp(sizes(128, 64, 64, 32, 10, 20)))
    assert open_panorama(data).tobytes() == on_canvas(image, (128, 64), (10, 20))
    whole = saved(image, "WEBP", lossless=True, xmp=xmp(sizes(64, 32, 64, 32, 0, 0)))
    assert open_panorama(whole).tobytes() == image.tobytes()


def test_elements_and_other_prefixes_are_read_like_attributes() -> None:
    values = {name: str(value) for name, value in BAND.items()}
    elements = "".join(f"<GPano:{name}>\n {value} </GPano:{name}>" for name, value in values.items())
    assert read_gpano(packet("", elements).encode()) == values == read_gpano(xmp(values))
    other = packet(" ".join(f'p:{name}="{value}"' for name, value in values.items()), prefix="p")
    assert read_gpano(other.encode("utf-16")) == values
    padded = b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>' + xmp(values) + b"\0\0"
    assert read_gpano(padded) == values


def test_the_place_on_the_canvas_is_that_of_the_upright_image() -> None:
    image = panorama(64, 16)
    values = xmp(sizes(64, 32, 64, 16, 0, 5))
    for orientation, stored in STORED.items():
        data = saved(image.transpose(stored), "PNG", exif=exif(orientation), **_with_xmp("PNG", values))
        assert open_panorama(data).tobytes() == on_canvas(image, (64, 32), (0, 5))


def test_a_crop_that_was_scaled_is_placed_on_a_canvas_scaled_alike() -> None:
    assert placement(_text(sizes(8000, 4000, 8000, 1333, 0, 1400)), (2000, 333)) == Placement(
        (2000, 999), (0, 350), (2000, 333)
    )
    assert placement(_text(sizes(8000, 4000, 4000, 2000, 4000, 2000)), (1000, 500)) == Placement(
        (2000, 1000), (1000, 500), (1000, 500)
    )
    with pytest.raises(ImageError, match=r"the image is 2000x400, but GPano's crop is 8000x1333 .* was cut since"):
        placement(_text(sizes(8000, 4000, 8000, 1333, 0, 1400)), (2000, 400))


def _text(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_crop_always_lies_on_its_canvas(data: st.DataObject) -> None:
    height = data.draw(st.integers(1, 4000))
    width, tall = data.draw(st.integers(1, 2 * height)), data.draw(st.integers(1, height))
    left, top = data.draw(st.integers(0, 2 * height - width)), data.draw(st.integers(0, height - tall))
    scale = data.draw(st.floats(0.1, 2))
    size = max(round(width * scale), 1), max(round(tall * scale), 1)
    try:
        place = placement(_text(sizes(2 * height, height, width, tall, left, top)), size)
    except ImageError:  # a crop of few pixels may be scaled out of shape
        return
    assert place is not None
    assert all(0 <= place.corner[axis] <= place.canvas[axis] - size[axis] for axis in (0, 1))
    if size == (width, tall):
        assert place == Placement((2 * height, height), (left, top), size)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (sizes(360, 170, 360, 60, 0, 70), "GPano's full panorama is 360x170, expected 2:1"),
        (sizes(360, 180, 360, 60, 0, 121), r"crop 360x60 at \(0, 121\) is not inside its full panorama 360x180"),
        (sizes(360, 180, 360, 60, 1, 70), "is not inside"),
        (sizes(360, 180, 360, 60, -1, 70), "is not inside"),
        (sizes(360, 180, 0, 0, 0, 0), "is not inside"),
        (sizes(0, 0, 360, 60, 0, 0), "full panorama is 0x0"),
        (sizes(-360, -180, 360, 60, 0, 0), "full panorama is -360x-180"),
        (sizes(360, 180, 180, 60, 0, 0), "the image is 360x60, but GPano's crop is 180x60"),
        (sizes(360, 180, "wide", 60, 0, 0), "CroppedAreaImageWidthPixels is 'wide', expected a number"),
        (sizes(360, 180, "nan", 60, 0, 0), "expected a number"),
        (sizes(360, 180, 360.5, 60, 0, 0), "'360.5', expected whole pixels"),
        (sizes("9" * 400, 180, 360, 60, 0, 0), "has more than 100 characters"),
        (sizes(999999998, 499999999, 360, 60, 0, 0), "GPano's full panorama has 999999998x499999999, .* scale it down"),
        (sizes(36000, 18000, 360, 60, 0, 0), "at most 134217728"),
        ({"FullPanoWidthPixels": 360, "CroppedAreaTopPixels": 3}, "GPano has no FullPanoHeightPixels, Cropped"),
        ({"ProjectionType": "cylindrical"}, "GPano ProjectionType is 'cylindrical'; convert the image"),
        ({"PosePitchDegrees": -12.5}, "PosePitchDegrees is -12.5: the camera was tilted, by more than 5 degrees"),
        ({"PoseRollDegrees": "1e1"}, "PoseRollDegrees is 1e1: the camera was tilted"),
        ({"PoseRollDegrees": "level"}, "PoseRollDegrees is 'level', expected a number"),
    ],
)
def test_what_contradicts_itself_is_refused_with_its_values(values: dict[str, Any], problem: str) -> None:
    data = saved(panorama(360, 60), "WEBP", xmp=xmp(values))
    for allow in (False, True):
        with pytest.raises(ImageError, match=problem):
            open_panorama(data, allow_any_aspect=allow)
        with pytest.raises(ImageError, match=problem):
            check_image(data, allow_any_aspect=allow)


def test_what_leaves_the_geometry_alone_is_accepted() -> None:
    image = panorama()
    for values in (
        {},
        {"ProjectionType": "Equirectangular"},
        {
            "ProjectionType": "equirectangular",
            "PoseHeadingDegrees": 123,
            "PosePitchDegrees": -4.9,
            "PoseRollDegrees": 5,
        },
        sizes(64, 32, 64, 32, 0, 0),
        sizes("64.0", "32.0", 64, 32, "0.0", "+0"),
        sizes(6400, 3200, 6400, 3200, 0, 0),
        dict(zip(FULL, (64, 32), strict=True)),
    ):
        assert open_panorama(saved(image, "WEBP", lossless=True, xmp=xmp(values))).tobytes() == image.tobytes()
    with pytest.raises(ImageError, match="not 2:1"):
        open_panorama(saved(panorama(360, 60), "WEBP", xmp=xmp({"ProjectionType": "equirectangular"})))


def test_crops_are_not_decoded_coarsely() -> None:
    data = saved(panorama(1024, 512), "JPEG", xmp=xmp(sizes(2048, 1024, 1024, 512, 3, 5)))
    fine = open_panorama(data, working_height=16)
    assert fine.tobytes() == open_panorama(data).tobytes()
    assert to_working_size(fine, 16).size == (32, 16)


def test_xmp_without_gpano_is_not_even_parsed_and_broken_gpano_is_refused() -> None:
    image = panorama()
    for other in (b"", b"<x:xmpmeta", b"\xff\xfe\0", b"<a/>"):
        assert open_panorama(saved(image, "WEBP", lossless=True, xmp=other)).tobytes() == image.tobytes()
    for broken in (xmp(BAND)[:-30], xmp(BAND).replace(b'"', b"", 1), f"\xff{NAMESPACE}".encode("latin-1")):
        assert "XMP with GPano data is broken" in refusal(saved(image, "WEBP", xmp=broken))
    twice = packet('GPano:PoseRollDegrees="1"', "<GPano:PoseRollDegrees>2</GPano:PoseRollDegrees>").encode()
    assert "GPano PoseRollDegrees is both '1' and '2'" in refusal(saved(image, "WEBP", xmp=twice))
    tagged = saved(image, "TIFF", tiffinfo={700: xmp(BAND)})
    assert open_panorama(tagged.replace(b"\xbc\x02\x01\0", b"\xbc\x02\x03\0")).tobytes() == image.tobytes()


def test_hostile_xmp_is_answered_at_once() -> None:
    entities = "".join(f'<!ENTITY {b} "{f"&{a};" * 20}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    bomb = packet('GPano:ProjectionType="&i;"', before=f'<!DOCTYPE a [<!ENTITY a "aaaa">{entities}]>')
    outside = packet('GPano:ProjectionType="&i;"', before='<!DOCTYPE a SYSTEM "file:///etc/passwd">')
    for text, problem in (
        (bomb, "a document type, which XMP never has"),
        (outside, "a document type, which XMP never has"),
        (packet(inside="<a>" * 10**6), "elements 101 deep"),
        (packet(f'GPano:PoseRollDegrees="{"1" * 10**6}"'), "more than 100 characters"),
        (packet(inside=f"<GPano:PoseRollDegrees>{' 1' * 10**6}</GPano:PoseRollDegrees>"), "more than 100 characters"),
        (packet('GPano:PoseRollDegrees="x&#10;\x1b[31m"'), "broken"),
    ):
        with pytest.raises(ImageError, match=problem):
            read_gpano(text.encode())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 400), st.text(max_size=20))
def test_any_xmp_is_read_or_refused(junk: bytes, position: int, value: str) -> None:
    data = xmp({**BAND, "PoseRollDegrees": value.replace('"', "")})
    for text in (data, data[:position] + junk + data[position:], data[:position] + junk):
        try:
            placement(read_gpano(text), (360, 60))
        except ImageError as error:
            assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_masks_have_the_size_of_the_canvas(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.img").write_bytes(saved(panorama(360, 60), kind, **_with_xmp(kind, xmp(BAND))))
    for rows, problems in ((180, []), (60, ["size is [60, 360], but"])):
        mask = encoded(np.ones((rows, 360), bool))
        record = {
            "image_id": "a",
            "image_path": "a.img",
            "conversations": [{"human": "What?", "assistant": "That."}],
            "objects": [{"label": "all", "box_deg": [0, 0, 90, 90], "mask": mask}],
        }
        (tmp_path / "annotations.json").write_text(json.dumps([record]))
        found = validate_dataset(tmp_path).problems
        assert len(found) == len(problems)
        assert all(part in str(problem) for part, problem in zip(problems, found, strict=True))
