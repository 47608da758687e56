"""Records: valid input, and messages with file, index, field and value for each kind of invalid input."""

import json
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
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
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
    for index, (_, field, _) in enumerate(BAD_RECORDS):
        assert f"{path}: record {index}: {field}: " in str(error.value)
    assert f"{path}: record {len(rows)}: got 3: " in str(error.value)
    assert len(parse_records(path)[1]) == len(error.value.problems) >= len(BAD_RECORDS) + 1


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
