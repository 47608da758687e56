"""Whatever a record file holds, reading it gives records or one error of printable lines, in linear time."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from panollava.corpus.json_values import MAX_DEPTH, value_faults
from panollava.corpus.reading import RecordErrors, parse_records, read_records
from panollava.corpus.records import Record, records_from_json, records_to_json
from panollava.corpus.run_lengths import rle_runs
from panollava.corpus.store import PanoramaRow, open_split, panorama_records, write_store
from panollava.corpus.validation import validate_dataset

FILES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Any code point, halves of surrogate pairs and terminal escapes among them.
texts = st.text(st.characters(codec=None) | st.sampled_from("\ud83d\udc00\0\x1b\u202e\n"), max_size=12)
numbers = st.integers() | st.floats() | st.sampled_from([10**400, 2**64, -(2**63) - 1])
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
good_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(
    lambda text: text.strip() and "<" not in text
)
metadata = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
        | good_texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(good_texts, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)  # fmt: skip
degrees = st.tuples(st.integers(-180, 179), st.integers(-90, 90), st.integers(1, 359), st.integers(1, 359)).map(list)
boxes = st.fixed_dictionaries({"label": st.sampled_from(["door", "빨간색 공"]), "box_deg": degrees})


def typed(task: str, answer: dict[str, Any], assistant: str) -> dict[str, Any]:
    """Return a turn with a typed answer."""
    return {"human": "Where?", "assistant": assistant, "task": task, "answer": answer}


turns = st.one_of(
    st.fixed_dictionaries({"human": good_texts, "assistant": good_texts}, optional={"type": good_texts}),
    boxes.map(lambda box: typed("grounding", box, str(box["box_deg"]))),
    st.lists(boxes, min_size=1, max_size=3).map(
        lambda found: typed(
            "detection", {"objects": found}, "; ".join(f"{item['label']} {item['box_deg']}" for item in found)
        )
    ),
)
records = st.fixed_dictionaries(
    {"image_id": good_texts, "image_path": st.just("a.png"), "conversations": st.lists(turns, min_size=1, max_size=3)},
    optional={"objects": st.lists(boxes, max_size=3), "metadata": metadata},
)


@st.composite
def damaged_records(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a record in which one value somewhere is replaced by any other one."""
    record = draw(records)
    place: Any = record
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or draw(st.booleans()):
            place[key] = draw(values)
            return record
        place = inner


def read(folder: Path, text: str, name: str) -> list[Record]:
    """Return the records of a text; if it is refused, check the error."""
    path = folder / name
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        return read_records(path)
    except RecordErrors as error:
        assert error.problems
        assert all(str(problem).isprintable() and len(str(problem)) <= 1000 for problem in error.problems)
        assert all(line.isprintable() for line in str(error).split("\n"))
        return []
    finally:
        path.unlink()


@FILES
@given(rows=values | st.lists(damaged_records() | values, max_size=3))
def test_any_json_gives_records_or_an_error_of_printable_lines(
    rows: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    Image.new("RGB", (16, 8)).save(folder / "a.png")
    read(folder, json.dumps(rows), "annotations.json")
    lines = rows if isinstance(rows, list) else [rows]
    for record in read(folder, "\n".join(map(json.dumps, lines)), "annotations.jsonl"):
        assert records_from_json(records_to_json([record])) == [record]  # what is accepted, the store can carry


@settings(FILES, max_examples=150)
@given(text=st.text(st.sampled_from('[]{},:"\\ua0d8\n\r 1-+.eEnulNaIfity\x00\x1b\ufeff'), max_size=40))
def test_any_text_gives_records_or_an_error_of_printable_lines(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for name in ("annotations.json", "annotations.jsonl"):
        assert read(tmp_path_factory.getbasetemp(), text, name) == []


@settings(FILES, max_examples=20)
@given(rows=st.lists(records, min_size=1, max_size=3, unique_by=lambda row: row["image_id"]))
def test_good_records_survive_file_and_store(
    rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    image = Image.new("RGB", (16, 8))
    image.save(folder / "a.png")
    path = folder / "annotations.json"
    path.write_text(json.dumps(rows))
    found = read_records(path)
    assert [record.model_dump(mode="json", exclude_unset=True) for record in found] == rows
    assert records_from_json(records_to_json(found)) == found
    path.write_text(records_to_json(found), encoding="utf-8")
    assert read_records(path) == found
    path.unlink()
    write_store(folder / "store", "train", [PanoramaRow(r.image_id, image, [r]) for r in found], jpeg_quality=None)
    stored = open_split(folder / "store", "train").remove_columns("image")
    assert [panorama_records(row) for row in stored] == [[record] for record in found]


@settings(max_examples=200, deadline=None)
@given(data=st.data(), height=st.integers(1, 40), width=st.integers(1, 40))
def test_run_lengths_are_those_of_pycocotools(data: st.DataObject, height: int, width: int) -> None:
    bits = data.draw(st.binary(min_size=height * width, max_size=height * width))
    mask = np.frombuffer(bits, np.uint8).reshape(height, width, order="F") % data.draw(st.integers(2, 9)) == 0
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    runs = rle_runs(code["counts"].decode())
    assert runs.sum() == height * width
    painted = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    assert (painted.reshape(height, width, order="F") == mask).all()


@settings(max_examples=100, deadline=None)
@given(runs=st.lists(st.integers(0, 2**20), min_size=1, max_size=8))  # pycocotools has no room for longer ones
def test_long_runs_are_those_of_pycocotools(runs: list[int]) -> None:
    code = coco.frPyObjects({"size": [1, 1], "counts": runs}, 1, 1)
    assert rle_runs(code["counts"].decode()).tolist() == runs


def test_runs_of_32_bits_are_read() -> None:
    assert rle_runs("5PPPPPP27SPPPPPNiooooo1N").tolist() == [5, 2**31, 7, 3, 2**31, 1]


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(min_codepoint=40, max_codepoint=120) | st.characters(codec=None), max_size=30))
def test_any_text_is_run_lengths_or_a_value_error(text: str) -> None:
    try:
        runs = rle_runs(text)
    except ValueError as error:
        assert str(error).isprintable()
    else:
        assert len(runs) == sum(ord(character) - 48 < 32 for character in text)


@settings(max_examples=100, deadline=None)
@given(value=values)
def test_what_has_no_fault_can_be_written_and_read(value: Any) -> None:
    if not list(value_faults(value)):
        text = json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8").decode()
        assert json.loads(text) == value


@pytest.mark.parametrize("depth", [MAX_DEPTH - 2, MAX_DEPTH - 1, 300, 900, 20_000, 200_000])
def test_nesting_has_one_limit_in_files_and_in_the_store(tmp_path: Path, depth: int) -> None:
    Image.new("RGB", (16, 8)).save(tmp_path / "a.png")
    record = '{"image_id": "a", "image_path": "a.png", "metadata": %s,'
    record += ' "conversations": [{"human": "q", "assistant": "a"}]}'
    inner = '{"k": ' * (depth - 1) + "{}" + "}" * (depth - 1)
    path = tmp_path / "annotations.json"
    path.write_text(f"[{record % inner}]")
    if depth < MAX_DEPTH:
        found = read_records(path)
        assert records_from_json(records_to_json(found)) == found
    else:
        with pytest.raises(RecordErrors, match=f"record 0: .*nested .*more than {MAX_DEPTH} levels deep"):
            read_records(path)


def test_hostile_files_are_answered_at_once(tmp_path: Path) -> None:
    record = {"image_id": "a", "image_path": "a.png", "conversations": [{"human": "q", "assistant": "a"}]}
    item = {"label": "x", "box_deg": [0, 0, 1, 1]}
    turn = {"human": "q", "assistant": "a"}
    hostile: list[Any] = [
        [[]] * 100_000,
        [{}] * 20_000,
        [record | {"conversations": [turn | {"references": [""] * 100_000}]}],
        [record | {f"key {number}": 1 for number in range(100_000)}],
        [record | {"metadata": {"x": [float("nan")] * 100_000}}],
        [record | {"objects": [item | {"mask": {"size": [8, 16], "counts": "o" * 400_000}}]}],
        [record | {"objects": [item | {"mask": {"size": [8, 16], "counts": "0" * 10**6}}]}],
        [record | {"image_path": "a/" * 100_000}, record | {"image_path": "a/" * 2_000}],
        [record | {"image_id": "x" * 5_000_000, "y" * 5_000_000: 1}],
    ]  # fmt: skip
    for rows in hostile:
        path = tmp_path / "annotations.json"
        path.write_text(json.dumps(rows))
        started = time.process_time()
        report = str(RecordErrors(parse_records(path)[1]))
        assert time.process_time() - started < 10  # far above what it takes, far below what squares take
        assert report.count("\n") < 40
        assert len(report) < 20_000


def test_the_report_of_a_hostile_dataset_is_printable(tmp_path: Path) -> None:
    Image.new("RGB", (16, 8)).save(tmp_path / "a.png")
    turn = {"assistant": "a", "language": "\u202e"}
    rows = [
        {"image_id": "a", "image_path": "a.png", "conversations": [turn | {"human": f"q{n}", "type": f"\x1b[2J{n}\n"}]}
        for n in range(1000)
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    report = str(validate_dataset(tmp_path))
    assert all(line.isprintable() for line in report.split("\n"))
    assert "\\x1b[2J0\\n 1" in report
    assert "… and 980 more" in report
    assert len(report) < 2000
