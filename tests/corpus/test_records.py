"""Records: valid input, and messages with file, index, field and value for each kind of invalid input."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panollava.corpus.masks import encoded
from panollava.corpus.reading import RecordErrors, parse_records, read_records
from panollava.corpus.records import (
    PLACEHOLDER,
    ChoiceAnswer,
    DetectionAnswer,
    DirectionAnswer,
    LabelledBox,
    Record,
    Turn,
    records_from_json,
    records_to_json,
)
from panollava.corpus.run_lengths import rle_runs
from panollava.corpus.validation import read_dataset, validate_dataset
from panollava.vlm.processing_panollava import PANORAMA_TOKEN


def good_record(number: int = 0) -> dict[str, Any]:
    return {
        "image_id": f"pano_{number}",
        "image_path": f"images/{number}.png",
        "conversations": [{"human": "무엇이 보이나요?", "assistant": "의자가 있습니다.", "language": "ko"}],
        "objects": [{"label": "chair", "box_deg": [-180, 12.5, 20, 15]}],
        "metadata": {"location": "Seoul, Korea", "camera_height": 1.7},
    }


def turn(**keys: object) -> dict[str, object]:
    return {"human": "Where?", "assistant": "There.", **keys}


def write(folder: Path, rows: object, name: str = "annotations.json") -> Path:
    """Write a record file and an image for each of the paths of `good_record`."""
    (folder / "images").mkdir(exist_ok=True)
    for number in range(5):
        Image.new("RGB", (16, 8), (number, 0, 0)).save(folder / "images" / f"{number}.png")
    path = folder / name
    if name.endswith(".jsonl"):
        assert isinstance(rows, list)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def message(path: Path) -> str:
    with pytest.raises(RecordErrors) as error:
        read_records(path)
    return str(error.value)


def with_change(change: dict[str, Any], number: int = 1) -> list[dict[str, Any]]:
    return [good_record(0), {**good_record(number), **change}]


@pytest.mark.parametrize("name", ["annotations.json", "records.jsonl"])
def test_reads_json_and_jsonl_by_file_and_by_folder(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, [good_record(0), good_record(1)], name)
    records = read_records(path)
    assert records == read_records(tmp_path)
    assert [record.image_id for record in records] == ["pano_0", "pano_1"]
    assert records[0].conversations[0].human == "무엇이 보이나요?"
    assert records[0].objects[0].box_deg == (-180, 12.5, 20, 15)
    assert records[0].metadata["camera_height"] == 1.7


def test_defaults_of_a_turn() -> None:
    plain = Turn(human="q", assistant="a")
    assert (plain.task, plain.type, plain.language, plain.answer) == ("open", "open", "en", None)
    typed = Turn(human="q", assistant="yes", task="choice", answer=ChoiceAnswer(text="yes"))
    assert typed.type == "choice"


def test_references_contain_the_answer_and_may_repeat() -> None:
    assert Turn(human="q", assistant="a").references == []
    given = turn(references=["There.", "Over there.", "There."])
    parsed = Turn.model_validate(given)
    assert parsed.references == given["references"]
    assert parsed.model_dump(exclude_unset=True) == given


def test_the_task_decides_the_answer() -> None:
    box = {"label": "red cube", "box_deg": [35, -12, 20, 15]}
    answers = {
        "choice": ({"text": "yes"}, ChoiceAnswer),
        "direction": ({"yaw_deg": -180, "pitch_deg": 90}, DirectionAnswer),
        "grounding": (box, LabelledBox),
        "detection": ({"objects": [box, box]}, DetectionAnswer),
    }
    for task, (answer, kind) in answers.items():
        parsed = Turn.model_validate(turn(task=task, answer=answer))
        assert type(parsed.answer) is kind


def test_json_round_trip_keeps_records_and_text(tmp_path: Path) -> None:
    row = good_record()
    row["conversations"].append(turn(task="grounding", answer={"label": "chair", "box_deg": [0, 0, 10, 10]}))
    row["objects"][0]["mask"] = {"size": [4, 2], "counts": "152"}
    records = [Record.model_validate(row)]
    text = records_to_json(records)
    assert records_from_json(text) == records
    assert "무엇이" in text
    assert json.loads(text) == [row]


def test_run_lengths_agree_with_pycocotools() -> None:
    numpy = pytest.importorskip("numpy")
    coco = pytest.importorskip("pycocotools.mask")
    mask = numpy.random.default_rng(0).random((40, 80)) < numpy.linspace(0, 1, 80)
    counts = coco.encode(numpy.asfortranarray(mask.astype("uint8")))["counts"].decode()
    flat = mask.T.reshape(-1).astype(int)  # COCO goes down the columns
    edges = numpy.flatnonzero(numpy.diff(flat, prepend=0, append=1 - flat[-1]))
    assert rle_runs(counts).tolist() == numpy.diff(edges, prepend=0).tolist()


# One row per kind of invalid value: the keys that replace those of record 1, and the field and value in the message.
BAD_RECORDS: list[tuple[dict[str, Any], str, str]] = [
    ({"image_id": ""}, "image_id", "''"),
    ({"image_id": 7}, "image_id", "7"),
    ({"conversations": []}, "conversations", "[]"),
    ({"conversations": [turn(human="  ")]}, "conversations.0.human", "'  '"),
    ({"conversations": [turn(), turn(assistant="")]}, "conversations.1.assistant", "''"),
    ({"conversations": [{"human": "q"}]}, "conversations.0.assistant", "missing"),
    ({"conversations": [turn(taks="choice")]}, "conversations.0.taks", "known keys: human, assistant, task"),
    ({"conversations": [turn(task="choose")]}, "conversations.0.task", "'choose'"),
    ({"conversations": [turn(task="choice")]}, "conversations.0.answer", "with the keys text"),
    ({"conversations": [turn(answer={"text": "a"})]}, "conversations.0.answer", "{'text': 'a'}"),
    (
        {"conversations": [turn(task="direction", answer={"yaw_deg": 181, "pitch_deg": 0})]},
        "conversations.0.answer.yaw_deg",
        "181",
    ),
    (
        {"conversations": [turn(task="grounding", answer={"label": "x", "box_deg": [0, 0, 360, 1]})]},
        "conversations.0.answer.box_deg.2",
        "360",
    ),
    (
        {"conversations": [turn(task="detection", answer={"objects": [{"label": "x", "box_deg": [0, 0, 9]}]})]},
        "conversations.0.answer.objects.0.box_deg.3",
        "missing",
    ),
    ({"objects": [{"label": "x", "box_deg": [float("nan"), 0, 1, 1]}]}, "objects.0.box_deg.0", "nan"),
    ({"objects": [{"label": "x", "box_deg": [0, -90.5, 1, 1]}]}, "objects.0.box_deg.1", "-90.5"),
    ({"objects": [{"label": "x", "box_deg": [0, 0, 0, 1]}]}, "objects.0.box_deg.2", "0"),
    ({"objects": [{"label": "x", "box_deg": [0, 0, 1, -1]}]}, "objects.0.box_deg.3", "-1"),
    ({"objects": [{"label": "x", "box_deg": ["0", 0, 1, 1]}]}, "objects.0.box_deg.0", "'0'"),
    (
        {"objects": [{"label": "x", "box_deg": [0, 0, 1, 1], "mask": {"size": [4, 4], "counts": "152"}}]},
        "objects.0.mask.counts",
        "the runs cover 8 pixels, size [4, 4] has 16",
    ),
    (
        {"objects": [{"label": "x", "box_deg": [0, 0, 1, 1], "mask": {"size": [4, 2], "counts": "15P"}}]},
        "objects.0.mask.counts",
        "'15P'",
    ),
    ({"conversations": [turn(references=["Here."])]}, "conversations.0.references", "lack the answer of `assistant`"),
    ({"conversations": [turn(references=["There.", ""])]}, "conversations.0.references.1", "''"),
    ({"metadata": "Seoul"}, "metadata", "'Seoul'"),
    ({"conversations": [turn(human="<image>\nWhat?")]}, "conversations.0.human", "contains <image>, LLaVA's marker"),
    ({"conversations": [turn(assistant="an <image>")]}, "conversations.0.assistant", "contains <image>"),
    ({"conversations": [turn(references=["There.", "<image>"])]}, "conversations.0.references.1", "contains <image>"),
    (
        {"conversations": [turn(task="choice", assistant="x", answer={"text": "<image>"})]},
        "conversations.0.answer.text",
        "contains <image>",
    ),
    ({"objects": [{"label": "<image>", "box_deg": [0, 0, 1, 1]}]}, "objects.0.label", "contains <image>"),
    ({"conversations": [turn(assistant="nice \ud83d")]}, "conversations.0.assistant", "U+D83D at position 5"),
    ({"conversations": [turn(type="\udc00")]}, "conversations.0.type", "U+DC00 at position 0"),
    ({"image_id": "a\0b"}, "image_id", "U+0000 at position 1"),
    ({"metadata": {"a": [{"b\ud83d": 1}]}}, "metadata.a.0.b\\ud83d", "the key: the text holds U+D83D"),
    ({"metadata": {"a": [0, {"b": "\udfff"}]}}, "metadata.a.1.b", "U+DFFF"),
    ({"metadata": {"a": [0, float("nan")]}}, "metadata.a.1", "nan is not a JSON number"),
    ({"metadata": {"b": float("-inf")}}, "metadata.b", "-inf is not a JSON number"),
    ({"metadata": {"n": 2**64}}, "metadata.n", "an integer of more than 64 bits"),
    ({"objects": [{"label": "x", "box_deg": [True, 0, 1, 1]}]}, "objects.0.box_deg.0", "True"),
    ({"objects": [{"label": "x", "box_deg": [2**53 + 1, 0, 1, 1]}]}, "objects.0.box_deg.0", "9007199254740993"),
    ({"objects": [{"label": "x", "box_deg": [None, 0, 1, 1]}]}, "objects.0.box_deg.0", "None"),
    (
        {"objects": [{"label": "x", "box_deg": [0, 0, 1, 1], "mask": {"size": [2**16, 2**16], "counts": "0"}}]},
        "objects.0.mask.size",
        "at most 4294967295 pixels",
    ),
    (
        {"objects": [{"label": "x", "box_deg": [0, 0, 1, 1], "mask": {"size": [4, 2], "counts": "PPPPPPP0"}}]},
        "objects.0.mask.counts",
        "the number at position 0 has 8 characters; a run has at most 7",
    ),
    ({"location": "Seoul"}, "location", "known keys: image_id, image_path, conversations, objects, metadata"),
    ({"image_path": "images/none.jpg"}, "image_path", "'images/none.jpg' is missing"),
    ({"image_path": "/etc/passwd"}, "image_path", "'/etc/passwd'"),
    ({"image_path": "C:\\1.jpg"}, "image_path", "'C:\\\\1.jpg'"),
    ({"image_path": "images/../../1.png"}, "image_path", "outside the dataset folder"),
    ({"image_path": "x" * 300}, "image_path", "cannot be looked up"),
]


@pytest.mark.parametrize(("change", "field", "value"), BAD_RECORDS, ids=[f"{row[1]} {row[2]}" for row in BAD_RECORDS])
def test_an_invalid_record_is_reported_with_field_and_value(
    tmp_path: Path, change: dict[str, Any], field: str, value: str
) -> None:
    path = write(tmp_path, with_change(change), "annotations.jsonl")
    text = message(path)
    assert text.startswith("1 problem in")
    assert f"{path}: record 1 (line 2): {field}: " in text
    assert value in text.split(f"{field}: ", 1)[1]


def test_all_invalid_records_are_in_one_error(tmp_path: Path) -> None:
    rows = [{**good_record(number), **change} for number, (change, _, _) in enumerate(BAD_RECORDS)]
    path = write(tmp_path, [*rows, 3, good_record(0)])
    with pytest.raises(RecordErrors) as error:
        read_records(path)
    lines = [str(problem) for problem in error.value.problems]
    for index, (_, field, _) in enumerate([*BAD_RECORDS, ({}, "got 3", "")]):
        assert any(line.startswith(f"{path}: record {index}: {field}: ") for line in lines)
    assert {problem.group() for problem in error.value.problems} == {
        problem.group() for problem in error.value.problems if str(problem) in str(error.value)
    }
    assert len(parse_records(path)[1]) == len(error.value.problems) >= len(BAD_RECORDS) + 1


def test_keys_that_come_twice_are_refused_with_their_path(tmp_path: Path) -> None:
    text = json.dumps(good_record(1))
    texts = {
        "conversations": text[:-1] + ', "conversations": []}',
        "conversations.0.human": text.replace('"assistant"', '"human": "Where?", "assistant"'),
        "metadata.location": text.replace('"camera_height"', '"location": "Busan", "camera_height"'),
        "metadata.camera_height.0.a": text.replace("1.7", '[{"a": 1, "b": 2, "a": 1}]'),
        "objects.0.label": text.replace('"box_deg"', '"label": "chair", "box_deg"'),
    }
    path = write(tmp_path, [good_record(0)])
    for name, ends in (("annotations.json", ("[", "]")), ("annotations.jsonl", ("", ""))):
        path = path.rename(tmp_path / name)
        rows = [json.dumps(good_record(0)), *texts.values()]
        path.write_text(ends[0] + (",\n" if name.endswith("json") else "\n").join(rows) + ends[1])
        located, problems = parse_records(path)
        assert len(located) == 1
        assert [(problem.where.index, problem.field) for problem in problems] == list(enumerate(texts, start=1))
        assert all("comes more than once" in problem.text for problem in problems)


def test_numbers_at_the_edges_are_accepted(tmp_path: Path) -> None:
    row = good_record(0) | {"objects": [{"label": "x", "box_deg": [-0.0, 90, 359.5, 1e-3]}]}
    row["metadata"] = {"nanoseconds": 1732800000123456789, "least": -(2**63), "most": 2**64 - 1, "small": 5e-324}
    found = read_records(write(tmp_path, [row]))
    assert found[0].metadata == row["metadata"]
    assert records_from_json(records_to_json(found)) == found


@pytest.mark.parametrize("name", ["annotations.json", "annotations.jsonl"])
def test_what_python_cannot_read_names_its_line_and_record(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, [good_record(0)]).rename(tmp_path / name)
    first = json.dumps(good_record(0))
    ends, comma = (("[", "]"), ",") if name.endswith("json") else (("", ""), "")
    for bad, said in (
        ('{"image_id": ' + "9" * 5000 + "}", "an integer of thousands of digits"),
        ('{"image_id": ' + "[" * 20_000, "nested far more than 64 levels deep"),
        ('{"image_id": oops}', "invalid JSON, Expecting value, at 'oops}"),
    ):
        path.write_text(f"{ends[0]}{first}{comma}\n{bad}{ends[1]}\n")
        located, problems = parse_records(path)
        assert len(located) == len(problems) == 1
        assert str(problems[0]).startswith(f"{path}: line 2 column ")
        assert said in str(problems[0])


def test_a_record_made_in_python_is_as_storable_as_one_from_a_file() -> None:
    for change in ({"metadata": {"a": [float("inf")]}}, {"image_id": "\ud83d"}, {"metadata": {"a": {1: 2}}}):
        with pytest.raises(ValueError, match=r"metadata|image_id"):
            Record.model_validate(good_record() | change)


def test_more_problems_than_anyone_reads_end_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("panollava.corpus.reading.MAX_PROBLEMS", 10)
    problems = parse_records(write(tmp_path, [{}] * 100))[1]
    assert len(problems) == 13
    assert "more than 10 problems; the rest was not read" in str(problems[-1])
    monkeypatch.setattr("panollava.corpus.reading.MAX_VALUES", 10)
    text = message(write(tmp_path, [good_record(0) | {"metadata": {"a": [0] * 100}, "objects": [{}] * 20}]))
    assert text.endswith("record 0: holds more than 10 values besides the metadata; divide it into several records")


def test_identical_records_are_refused_but_one_image_may_have_many(tmp_path: Path) -> None:
    other = {**good_record(0), "conversations": [turn()]}
    assert len(read_records(write(tmp_path, [good_record(0), other]))) == 2
    # The same content with its keys in another order, and a default written out, is the same record.
    again = dict(reversed(good_record(0).items()))
    again["conversations"] = [{"task": "open", **again["conversations"][0]}]
    again["metadata"] = dict(reversed(again["metadata"].items()))
    path = write(tmp_path, [good_record(0), other, again])
    text = message(path)
    assert f"{path}: record 2: image_id: 'pano_0' is identical to record 0" in text
    assert text.startswith("1 problem ")


def test_one_image_id_with_two_paths_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, [good_record(0), {**good_record(1), "image_id": "pano_0"}])
    text = message(path)
    assert f"{path}: record 1: image_path: 'images/1.png', but image_id 'pano_0' has 'images/0.png' in record 0" in text


def test_links_out_of_the_folder_and_loops_are_refused(tmp_path: Path) -> None:
    inside = tmp_path / "dataset"
    inside.mkdir()
    rows = [{**good_record(0), "image_path": "images/out.png"}, {**good_record(1), "image_path": "images/loop.png"}]
    path = write(inside, rows)
    Image.new("RGB", (16, 8)).save(tmp_path / "secret.png")
    (inside / "images" / "out.png").symlink_to(tmp_path / "secret.png")
    (inside / "images" / "loop.png").symlink_to(inside / "images" / "loop.png")
    text = message(path)
    assert f"record 0: image_path: 'images/out.png' leads to '{(tmp_path / 'secret.png').resolve()}', outside" in text
    assert "record 1: image_path: 'images/loop.png'" in text
    # A link that stays inside is a path like any other, also when the dataset folder itself is a link.
    (inside / "images" / "out.png").unlink()
    (inside / "images" / "out.png").symlink_to("3.png")
    write(inside, rows[:1])
    (tmp_path / "linked").symlink_to(inside)
    assert len(read_records(tmp_path / "linked")) == 1


def test_invalid_json_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_text('[\n  {"image_id": "a",\n   "image_path": }\n]')
    assert f"{path}: line 3 column 18: record 0: invalid JSON" in message(path)
    path.write_text('{"image_id": "a"}')
    assert f"{path}: expected a list of records, found an object with 'image_id'" in message(path)
    path.write_text("[]")
    assert f"{path}: holds no records" in message(path)
    path.write_bytes(b'[\n"\xff"]')
    assert f"{path}: line 2: byte 0xff is not UTF-8" in message(path)


def test_jsonl_reports_each_bad_line_and_keeps_counting(tmp_path: Path) -> None:
    path = write(tmp_path, [good_record(0)], "records.jsonl")
    bad = json.dumps({**good_record(1), "image_id": ""})
    separator = json.dumps({**good_record(2), "metadata": {"note": "a\u2028b"}}, ensure_ascii=False)
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{{oops\n{separator}\n{bad}\n", encoding="utf-8")
    text = message(path)
    assert text.startswith("2 problems ")
    assert f"{path}: line 3 column 2: invalid JSON" in text
    assert f"{path}: record 3 (line 5): image_id: ''" in text.replace("got ''", "''")


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = write(tmp_path, [good_record(0)])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_records(path)) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]".encode("utf-16"), "line 1: byte 0xff is not UTF-8; the file looks like UTF-16; save it as UTF-8"),
        ("[]".encode("utf-16-le"), "the file looks like UTF-16 or UTF-32; save it as UTF-8"),
        ('["파노라마"]'.encode("cp949"), "line 1: byte 0xc6 is not UTF-8; the file looks like cp949, which Korean"),
        (b"\x7fELF", "line 1 column 1: invalid JSON"),
        (b"[] []", "line 1 column 4: record 0: invalid JSON, Extra data"),
        (b"[1,]", "line 1 column 4: record 1: invalid JSON, Expecting value"),
        (b"[1", "line 1 column 3: record 1: invalid JSON, Expecting ',' or ']'"),
    ],
)
def test_no_json_in_utf_8_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "annotations.json"
    path.write_bytes(content)
    assert f"{path}: {said}" in message(path)


def test_line_ends_of_every_system_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, [good_record(0), good_record(1)], "annotations.jsonl")
    for end in (b"\r\n", b"\r"):
        path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", end))
        assert len(read_records(path)) == 2


def test_what_is_no_regular_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "records.json")
    (tmp_path / "loop.json").symlink_to("loop.json")
    (tmp_path / "annotations.json").mkdir()
    for path in (tmp_path / "records.json", tmp_path / "loop.json", Path("/dev/zero")):
        assert f"{path}: is neither a file nor a folder" in message(path)
    assert "found none of them" in message(tmp_path)


def test_a_folder_needs_exactly_one_record_file(tmp_path: Path) -> None:
    assert f"{tmp_path}: expected exactly one of annotations.json or" in message(tmp_path)
    write(tmp_path, [good_record(0)])
    write(tmp_path, [good_record(0)], "records.jsonl")
    assert "found annotations.json, records.jsonl" in message(tmp_path)
    assert f"{tmp_path / 'none.json'}: no such file or folder" in message(tmp_path / "none.json")
    (tmp_path / "records.csv").write_text("a,b")
    assert f"{tmp_path / 'records.csv'}: a record file is named" in message(tmp_path / "records.csv")


def test_records_and_images_are_reported_together(tmp_path: Path) -> None:
    path = write(tmp_path, [good_record(0), {**good_record(1), "image_id": ""}, good_record(2), good_record(3)])
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "2.png")
    (tmp_path / "images" / "3.png").write_text("no image")
    with pytest.raises(RecordErrors) as error:
        read_dataset(tmp_path)
    text = str(error.value)
    assert len(error.value.problems) == 3
    assert f"{path}: record 1: image_id: " in text
    assert f"{path}: record 2: image_path: {tmp_path / 'images' / '2.png'}: 30x20 is 1.500:1, not 2:1" in text
    assert f"{path}: record 3: image_path: {tmp_path / 'images' / '3.png'}: not a readable image" in text
    report = validate_dataset(tmp_path)
    assert report.problems == error.value.problems
    assert text in str(report)


def test_images_that_fail_alike_are_cut_short(tmp_path: Path) -> None:
    names = [f"{'abcdefgh'[number % 8] * (number + 1)}.png" for number in range(30)]
    rows = [good_record(0) | {"image_id": name, "image_path": name} for name in names]
    for name in names[:20]:
        Image.new("RGB", (60 + len(name), 20)).save(tmp_path / name)
    for name in names[20:]:
        (tmp_path / name).write_text("no image")
    write(tmp_path, rows)
    report = validate_dataset(tmp_path)
    assert len(report.problems) == 30
    assert len({problem.group() for problem in report.problems}) == 2
    assert "  … and 15 more of this kind" in str(report)
    assert "  … and 5 more of this kind" in str(report)


def test_the_report_counts_records_images_and_turns(tmp_path: Path) -> None:
    choice = turn(task="choice", type="existence", answer={"text": "yes"})
    path = write(tmp_path, [good_record(0), {**good_record(0), "conversations": [choice, turn()]}, good_record(1)])
    report = validate_dataset(tmp_path)
    assert (report.file, report.records, report.images, report.turns) == (path, 3, 2, 4)
    assert report.tasks == {"open": 3, "choice": 1}
    assert report.types == {"open": 3, "existence": 1}
    assert report.languages == {"ko": 2, "en": 2}
    assert report.problems == []
    assert str(report).endswith("no problems")
    assert "note: the pipeline needs at least 7 different panoramas" in str(report)


def test_text_with_the_panorama_token_is_refused() -> None:
    assert PLACEHOLDER == PANORAMA_TOKEN
    with pytest.raises(ValueError, match="reword it"):
        Turn.model_validate({"human": f"what is {PANORAMA_TOKEN}?", "assistant": "a panorama"})


def test_masks_must_have_the_size_of_their_image(tmp_path: Path) -> None:

    item = {"label": "chair", "box_deg": [0, 0, 20, 15]}
    rows = [{**good_record(n), "objects": [{**item, "mask": encoded(np.ones(size, bool))}]}
            for n, size in enumerate([(8, 16), (16, 8)])]  # fmt: skip
    write(tmp_path, rows)
    with pytest.raises(RecordErrors) as error:
        read_dataset(tmp_path)
    assert len(error.value.problems) == 1
    assert "record 1: objects.0.mask.size: size is [16, 8], but" in str(error.value)
    assert "is [8, 16] ([height, width])" in str(error.value)
