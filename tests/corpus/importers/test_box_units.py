"""Units of boxes: what is in degrees passes, what may be normalised, in radians or in pixels is refused."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panollava.corpus.importers.box_units import check_units, on_sphere

FILE = Path("train.json")
SMALL = (256, 128)


def check(*boxes: list[float], size: tuple[int, int] | None = None) -> None:
    check_units(FILE, [([float(number) for number in box], size) for box in boxes])


@pytest.mark.parametrize(
    ("boxes", "size", "sign"),
    [
        ([[0.5, 0.5, 0.1, 0.2]], None, "no number of any box is above 1"),
        ([[0.5, 0.5, 0.1, 0.2, 0]], None, "no number of any box is above 1"),
        ([[3.1, 1.6, 0.3, 0.2]], None, "no extent of any box is above 2 pi"),
        ([[-1.5, 0.5, 0.3, 0.2, 0]], None, "no extent of any box is above 1 pi"),
        ([[960, 480, 40, 30]], (1920, 960), "1 of 1 boxes, such as [960.0, 480.0, 40.0, 30.0], are off"),
        ([[700, 100, 40, 30], [100, 300, 9, 9]], None, "2 of 2 boxes"),
        ([[-90, 10, 40, 30], [90, -10, 9, 9]], None, "they may be angles from the centre of the image"),
        ([[90, 10, 40, 30, 0], [-90, -10, 9, 9, 0]], None, "they may be degrees or pixels"),
        ([[230, 60, 40, 30], [10, 20, 30, 20]], SMALL, "all 2 boxes of images of stated size begin inside"),
        ([[20.5 + number, 60.25, 40, 30] for number in range(25)], SMALL, "all 25 boxes of images of stated size"),
        ([[230, 60, 40, 30], [10, 20, 30, 20]], (512, 256), "all 2 boxes of images of stated size"),
        ([[180, 90, 20, 20], [1, 0.5, 20, 20, 0]], None, "boxes of four numbers (1) and of five (1)"),
        ([[180, 90, 20, 20]] * 9 + [[1, 0.5, 20, 20, 0]] * 2, None, "boxes of four numbers (9) and of five (2)"),
        ([[100, 50, 400, 380], [90, 40, 20, 500]], None, "2 of 2 boxes"),
    ],
)
def test_another_unit_is_refused_in_one_line(boxes: list[list[float]], size: tuple[int, int] | None, sign: str) -> None:
    with pytest.raises(ValueError, match=r"^train\.json: ") as error:
        check(*boxes, size=size)
    assert sign in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("boxes", "size"),
    [
        ([], None),
        ([[180, 90, 20, 20], [10, 80, 30, 20]], None),
        ([[180, 90, 20, 20], [10, 80, 30, 20]], (1920, 960)),
        ([[180, 90.5, 20, 20], [10, 80, 30, 20]], SMALL),
        ([[300, 90, 20, 20], [10, 80, 30, 20]], SMALL),
        ([[-3.1, 1.5, 20, 20, 0], [3.1, -1.5, 20, 20, 30]], None),
        ([[180, 90, 20, 20]] * 20 + [[400, 90, 20, 20]], None),
        ([[0.5, 0.5, 1, 40]], None),
        ([[180, 90, 20, 20], [90, 90, 9, 9], [1, 0.5, 20, 20, 0]], None),
    ],
)
def test_degrees_pass(boxes: list[list[float]], size: tuple[int, int] | None) -> None:
    check(*boxes, size=size)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 4095), st.floats(0, 2047), st.floats(8, 400), st.floats(8, 400)), min_size=2, max_size=9
    )
)
def test_pixels_of_large_images_pass_only_inside_the_ranges_of_degrees(boxes: list[tuple[float, ...]]) -> None:
    off = sum(not on_sphere(list(box)) for box in boxes)
    try:
        check(*map(list, boxes), size=(4096, 2048))
    except ValueError:
        assert off
    else:
        assert not off
