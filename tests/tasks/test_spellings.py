"""Spellings of directions and boxes: each is read as what it says, what has two readings is not, nothing raises."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panollava.corpus.vocabulary import box_text, detection_text
from panollava.tasks.spellings import (
    box_numbers,
    detection_numbers,
    direction_numbers,
    parse_box,
    parse_detection,
    parse_direction,
    parse_object,
)

DIRECTIONS = [
    "{y}, {p}", " {y} ,{p}\n", "({y}, {p})", "[{y}, {p}]", "{y}°, {p}°", "({y}°, {p}°)", "{y} deg, {p} deg",
    "{y} degrees, {p} degrees", "{y}, {p} degrees", "{y}도, {p}도", "{y}º; {p}º", "{y} {p}", "{y}, {p}.", "{y}; {p}",
    "yaw={y}, pitch={p}", "Yaw: {y}°, Pitch: {p}°.", "pitch {p}, yaw {y}", "(yaw {y}, pitch {p})", "요 {y}, 피치 {p}",
    '{{"yaw": {y}, "pitch": {p}}}', "{{'yaw_deg': {y}, 'pitch_deg': {p}}}", "<box>{y}, {p}</box>",
]  # fmt: skip
BOXES = [
    "[{y}, {p}, {w}, {h}]", " [ {y},{p} ,{w} , {h} ] ", "({y}, {p}, {w}, {h})", "{y}, {p}, {w}, {h}",
    "[{y}°, {p}°, {w}°, {h}°]", "[{y} {p} {w} {h}]", "<box>{y}, {p}, {w}, {h}</box>", "<box>[{y}, {p}, {w}, {h}]</box>",
    "yaw={y}, pitch={p}, width={w}, height={h}", '{{"yaw": {y}, "pitch": {p}, "width": {w}, "height": {h}}}',
    '{{"bbox": [{y}, {p}, {w}, {h}]}}', '[{{"label": "door", "bbox_2d": [{y}, {p}, {w}, {h}]}}]',
    "{{'box_deg': [{y}, {p}, {w}, {h}]}}", '```json\n{{"bbox": [{y}, {p}, {w}, {h}]}}\n```',
]  # fmt: skip
LISTS = [
    "{0} {1}; {2} {3}", "{0}: {1}; {2}: {3};", "{0} {1}, {2} {3}", "- {0}: {1}\n- {2}: {3}", "1. {0} {1}\n2. {2} {3}",
    "<ref>{0}</ref><box>{1}</box><ref>{2}</ref><box>{3}</box>", "{0} <box>{1}</box>\n{2} <box>{3}</box>",
    '[{{"label": "{0}", "bbox": {1}}}, {{"label": "{2}", "bbox": {3}}}]',
    '{{"objects": [{{"name": "{0}", "box": {1}}}, {{"name": "{2}", "box": {3}}}]}}',
]  # fmt: skip
MINUS = ["-", "−", "–", "－"]
YAW, PITCH, EXTENT = st.integers(-180, 179), st.integers(-90, 90), st.integers(1, 179)
LABEL = st.sampled_from(["door", "red cube", "빨간색 공", "chair (wooden)", "T‐shirt", "日本", "café–bar", "a, b"])
ALL: list[Callable[[str], object]] = [
    parse_direction, parse_box, parse_object, parse_detection, direction_numbers, box_numbers, detection_numbers
]  # fmt: skip


def spelt(number: int, minus: str) -> str:
    return f"{number}".replace("-", minus)


@pytest.mark.parametrize("form", DIRECTIONS)
@settings(max_examples=25, deadline=None)
@given(yaw=YAW, pitch=PITCH, minus=st.sampled_from(MINUS))
def test_every_spelling_of_a_direction_is_read_as_what_it_says(form: str, yaw: int, pitch: int, minus: str) -> None:
    text = form.format(y=spelt(yaw, minus), p=spelt(pitch, minus))
    assert parse_direction(text) == (yaw, pitch)


@pytest.mark.parametrize("form", BOXES)
@settings(max_examples=25, deadline=None)
@given(yaw=YAW, pitch=PITCH, width=EXTENT, height=EXTENT)
def test_every_spelling_of_a_box_is_read_as_what_it_says(
    form: str, yaw: int, pitch: int, width: int, height: int
) -> None:
    assert parse_box(form.format(y=yaw, p=pitch, w=width, h=height)) == (yaw, pitch, width, height)


@pytest.mark.parametrize("form", LISTS)
@settings(max_examples=25, deadline=None)
@given(labels=st.tuples(LABEL, LABEL), boxes=st.lists(st.tuples(YAW, PITCH, EXTENT, EXTENT), min_size=2, max_size=2))
def test_every_spelling_of_a_list_is_read_as_what_it_says(
    form: str, labels: tuple[str, str], boxes: list[tuple[int, ...]]
) -> None:
    first, second = (box_text(list(box)) for box in boxes)
    text = form.format(labels[0], first, labels[1], second)
    objects = [(label, tuple(box)) for label, box in zip(labels, boxes, strict=True)]
    assert parse_detection(text) == (objects, 0)
    assert detection_numbers(text) == objects


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(LABEL, st.tuples(YAW, PITCH, EXTENT, EXTENT)), min_size=1, max_size=5))
def test_what_answers_write_is_read_back(objects: list[tuple[str, tuple[int, ...]]]) -> None:
    assert parse_detection(detection_text([(label, list(box)) for label, box in objects])) == (objects, 0)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("35,5; -12,25", (35.5, -12.25)), ("35,5°, -12,25°", (35.5, -12.25)), ("35.5, -12.25", (35.5, -12.25))],
)
def test_decimals(text: str, wanted: tuple[float, float]) -> None:
    assert parse_direction(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "35,5, -12,3", "35 - 12", "35, -12 or so", "0.6 rad, 0.2 rad", "yaw 35", "yaw 35, yaw 12",
        "35° right, 12° down", "front left", "35, -12, 4", "pitch 35, roll 2", "theta=35, phi=-12", "35,-12;", "1e3, 0",
        "٣٥, 0", "35", "35, 91", "9" * 400 + ", 0", "[[35, -12]]", "x 35, -12", "35/12", "yaw=35pitch=-12",
    ],
)  # fmt: skip
def test_what_is_no_direction_or_has_two_readings_is_not_read(text: str) -> None:
    assert parse_direction(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "<box>(35,-12),(20,15)</box>", "<box>35, -12</box>", "[35, -12, 20, 180]", "[35, -12, 0, 15]", "[[1, 2, 3, 4]]",
        '{"bbox": [1, 2, 3]}', '{"bbox": [true, 2, 3, 4]}', '{"bbox": ["1", 2, 3, 4]}', '{"bbox": [1e999, 2, 3, 4]}',
        '{"bbox": [NaN, 2, 3, 4]}', '{"bbox": [1, 2, 3, 4], "box": [1, 2, 3, 4]}', '{"bbox": 7}', "[]", "{}", "[{}]",
        '[{"bbox": [1, 2, 3, 4]}, {"bbox": [1, 2, 3, 4]}]', "[35,5, -12, 20, 15,5]", "[35, -12, 20, 15, 3]",
        f'{{"bbox": [{"9" * 400}, 2, 3, 4]}}', "red cube [35, -12, 20, 15]", "[35°, -12, 20°, 15]",
    ],
)  # fmt: skip
def test_what_is_no_box_or_has_two_readings_is_not_read(text: str) -> None:
    assert parse_box(text) is None


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.text("[](){}<>box/yawpitch:=,;.-−+ 0123456789°\"'`\n", max_size=60)))
def test_no_text_raises(text: str) -> None:
    for parse in ALL:
        parse(text)
    objects, bad = parse_detection(text)
    assert bad >= 0
    assert bad or objects


@settings(max_examples=200, deadline=None)
@given(st.text("+-.,0123456789 \t\u3000", max_size=14))
def test_texts_of_our_own_form_are_read_as_ever(text: str) -> None:
    number = r"([+-]?[0-9]+(?:\.[0-9]+)?)"
    match = re.fullmatch(rf"{number}\s*,\s*{number}", text.strip())
    if match is not None:
        assert direction_numbers(text) == tuple(map(float, match.groups()))


def test_the_time_is_linear_in_the_text() -> None:
    size = 20_000
    hostile = [
        "[",
        "{",
        '{"a":',
        "1",
        "1, ",
        "1" + " " * 40,
        "1.1.1",
        "yaw=1 ",
        "a ",
        "<box>",
        "<box>1</box>",
        ";",
        "`",
        "°",
    ]
    texts = [piece * (size // len(piece)) for piece in hostile]
    for text in texts:
        for parse in ALL:
            parse(text)
    # Some 0.2 s; quadratic time would be minutes.
