"""Importers: each published layout on a small file and tiny panoramas, and each bad input as one counted error."""

import json
import math
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from panollava.cli import FORMATS
from panollava.corpus.importers import IMPORTERS, import_dataset
from panollava.corpus.importers.boxes import mask_box, object_dialogues, upright_box
from panollava.corpus.importers.common import Request
from panollava.corpus.importers.writing import ImportReport
from panollava.corpus.records import Record
from panollava.corpus.validation import read_dataset
from panollava.tasks.detection import parse_detection
from panollava.tasks.grounding import parse_box
from panollava.vlm.geometry import erp_rays, rays_in_boxes


def write_image(file: Path, size: tuple[int, int] = (16, 8)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Every file has its own colour, so that a copy can be told from another.
    Image.new("RGB", size, tuple(file.name.encode()[:3])).save(file)
    return file


def write_json(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return file


def run(tmp_path: Path, name: str, src: Path, **options: Any) -> tuple[list[Record], ImportReport]:
    """Import into `tmp_path`/out and return what the project's own reader makes of it."""
    request = Request(src, options.pop("images", None), options.pop("seed", 0))
    report = import_dataset(name, request, tmp_path / "out", **options)
    records = read_dataset(tmp_path / "out")
    assert report.records == len(records)
    assert report.images == len({record.image_path for record in records})
    assert all({"source", "licence"} <= record.metadata.keys() for record in records)
    return records, report


def refused(tmp_path: Path, name: str, src: Path, **options: Any) -> str:
    """Return the one error of an import that writes nothing."""
    request = Request(src, options.pop("images", None))
    with pytest.raises(ValueError) as error:
        import_dataset(name, request, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*")), "a temporary folder is left"
    return str(error.value)


def test_the_command_line_offers_every_importer():
    assert tuple(IMPORTERS) == FORMATS


# --- QuIC-360

QUIC = [
    ("https://live.staticflickr.com/65535/a_o.jpg", "weather", "None"),
    ("https://live.staticflickr.com/65535/b_o.jpg", "people", "Three people, \\'walking\\'."),
    ("https://live.staticflickr.com/65535/a_o.jpg", "weather", "Snow lies\u2028on the roofs."),
    ("https://live.staticflickr.com/65535/a_o.jpg", "people", "Nobody is here."),
]


def write_table(file: Path, rows: list[tuple[str, ...]], separator: str = "\t") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    cell = '"{}"' if separator == "," else "{}"
    lines = [separator.join(cell.format(value) for value in row) for row in rows]
    file.write_text("\n".join(["url,query,annotation".replace(",", separator), *lines, ""]), encoding="utf-8")
    return file


@pytest.fixture
def flickr(tmp_path: Path) -> Path:
    for name in ("a_o.jpg", "b_o.jpg"):
        write_image(tmp_path / "flickr" / name)
    return tmp_path / "flickr"


@pytest.mark.parametrize(("name", "separator"), [("train.tsv", "\t"), ("train.csv", ",")])
def test_quic360_keeps_the_captions_of_an_image_and_query_together(
    tmp_path: Path, flickr: Path, name: str, separator: str
) -> None:
    # CORA's CSV has local paths where the TSV has links.
    rows = [(str(flickr / url.split("/")[-1]) if separator == "," else url, *rest) for url, *rest in QUIC]
    records, report = run(tmp_path, "quic360", write_table(tmp_path / name, rows, separator), images=flickr)
    turns = [record.conversations[0] for record in records]
    assert [record.image_id for record in records] == ["a_o.jpg", "b_o.jpg", "a_o.jpg"]
    assert [turn.references for turn in turns] == [["None", QUIC[2][2]], [QUIC[1][2]], [QUIC[3][2]]]
    assert turns[0].assistant == "None"
    assert "weather" in turns[0].human
    assert [record.metadata["query"] for record in records] == ["weather", "people", "people"]
    assert "placeholder" in records[0].metadata["licence"]
    assert report.images == 2
    assert sorted(file.name for file in (tmp_path / "out/images").iterdir()) == ["a_o.jpg", "b_o.jpg"]
    assert (tmp_path / "out/images/a_o.jpg").read_bytes() == (flickr / "a_o.jpg").read_bytes()


def test_quic360_takes_the_splits_of_a_folder(tmp_path: Path, flickr: Path) -> None:
    for name, rows in (("train", QUIC[1:2]), ("valid", QUIC[:1]), ("test", QUIC[3:]), ("test-refer", QUIC)):
        write_table(tmp_path / f"raw/{name}.tsv", rows)
    records, report = run(tmp_path, "quic360", tmp_path / "raw", images=flickr)
    assert [record.metadata["split"] for record in records] == ["train", "validation", "test"]
    assert "left out: 1 file test-refer.tsv, which is no split" in str(report)
    (tmp_path / "raw/valid.tsv").unlink()
    with pytest.raises(ValueError, match=r"raw: found 0 of valid\.tsv and valid\.csv; expected exactly one"):
        IMPORTERS["quic360"](Request(tmp_path / "raw"))


def test_a_table_must_have_its_columns_and_be_utf8(tmp_path: Path) -> None:
    file = tmp_path / "train.tsv"
    file.write_text("url\tannotation\na.jpg\tA room.\n")
    message = refused(tmp_path, "quic360", file)
    assert f"{file}: missing columns 'query'; found ['url', 'annotation'], expected ['url', 'query'" in message
    file.write_bytes("url\tquery\tannotation\na.jpg\tcafé\tA room.\n".encode("latin-1"))
    assert f"{file}: line 2: byte 0xe9 is not UTF-8" in refused(tmp_path, "quic360", file)
    file.write_text("url\tquery\tannotation\na.jpg\tart\tA\troom\n")
    assert "the rows have more fields than the header" in refused(tmp_path, "quic360", file)
    file.write_text("url\tquery\tannotation\na.jpg\tart\tA\nb.jpg\tart\tA\troom\n")
    assert f"{file}: not a table with columns separated by '\\t'" in refused(tmp_path, "quic360", file)
    file.write_text("")
    assert f"{file}: not a table" in refused(tmp_path, "quic360", file)
    file.write_text("url\tquery\tannotation\n")
    assert "holds no record" in refused(tmp_path, "quic360", file)
    assert "expected an annotation file *.tsv or *.csv" in refused(tmp_path, "quic360", tmp_path / "no.tsv")
    assert "expected an annotation file *.tsv or *.csv" in refused(
        tmp_path, "quic360", write_json(tmp_path / "a.json", 1)
    )


def test_an_empty_caption_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    message = refused(tmp_path, "quic360", write_table(tmp_path / "train.tsv", [("a.png", "art", "  ")]))
    assert "2 problems in the records" in message
    assert "train.tsv row 1 below the header.conversations.0.assistant: got '  ': the text is empty" in message


# --- images, for every importer


def test_missing_images_are_counted_and_named_at_once(tmp_path: Path, flickr: Path) -> None:
    rows = [*QUIC, *((f"gone_{number}.jpg", "art", "A wall.") for number in range(7))]
    write_image(flickr / "square.jpg", (8, 8))
    file = write_table(tmp_path / "train.tsv", [*rows, ("square.jpg", "art", "A wall.")])
    message = refused(tmp_path, "quic360", file, images=flickr)
    assert message.startswith("8 of 10 images are missing or cannot be used:\n")
    assert all(f"{flickr / f'gone_{number}.jpg'}: no such image file" in message for number in range(5))
    assert "gone_5" not in message
    assert message.endswith("... and 3 more")
    records, report = run(tmp_path, "quic360", file, images=flickr, drop_bad_images=True)
    assert len(records) == 3
    assert dict(report.dropped) == {"images missing or not usable": 8, "records of such images": 8}
    assert "left out: 8 images missing or not usable" in str(report)


def test_images_that_are_not_panoramas_need_the_option(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", (12, 8))
    file = write_table(tmp_path / "train.tsv", [("a.png", "art", "A wall.")])
    assert "1 of 1 images are missing or cannot be used" in refused(tmp_path, "quic360", file)
    assert "nothing to write" in refused(tmp_path, "quic360", file, drop_bad_images=True)
    report = import_dataset("quic360", Request(file), tmp_path / "out", allow_any_aspect=True)
    assert report.records == 1


def test_image_names_keep_their_folders_and_never_lead_out(tmp_path: Path) -> None:
    for name in ("x/1.png", "y/1.png"):
        write_image(tmp_path / "set" / name)
    rows = [("x/1.png", "art", "A wall."), ("./y/1.png", "art", "A door.")]
    records, _ = run(tmp_path, "quic360", write_table(tmp_path / "set/train.tsv", rows))
    assert [record.image_path for record in records] == ["images/x/1.png", "images/y/1.png"]
    (tmp_path / "out").rename(tmp_path / "kept")
    absolute = [(str(tmp_path / "set/x/1.png"), "art", "A"), (str(tmp_path / "set/y/1.png"), "art", "B")]
    rows = [*absolute, ("../set/x/1.png", "art", "C"), ("", "art", "D")]
    message = refused(tmp_path, "quic360", write_table(tmp_path / "set/train.tsv", rows))
    assert message.startswith("3 image names cannot be used:")
    assert f"row 2 below the header: image '1.png' is {tmp_path / 'set/y/1.png'}, but was" in message
    assert "'../set/x/1.png'; expected the path of a file below the image folder" in message


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    file = write_table(tmp_path / "train.tsv", [("a.png", "art", "A wall.")])
    write_json(tmp_path / "out/annotations.json", [])
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        import_dataset("quic360", Request(file), tmp_path / "out")
    with pytest.raises(ValueError, match=r"no importer 'quic'; there are quic360, llava"):
        import_dataset("quic", Request(file), tmp_path / "other")


def test_a_failed_copy_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("disk full")

    write_image(tmp_path / "a.png")
    file = write_table(tmp_path / "train.tsv", [("a.png", "art", "A wall.")])
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="disk full"):
        import_dataset("quic360", Request(file), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "train.tsv"]


def test_source_and_licence_can_be_named(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    file = write_json(tmp_path / "talk.json", [llava_sample(1)])
    records, report = run(tmp_path, "llava", file, source="our walks", licence="CC0")
    assert records[0].metadata == {"source": "our walks", "licence": "CC0", "id": 1}
    assert "licence: CC0" in str(report)


# --- LLaVA


def llava_sample(name: int | str, **changes: Any) -> dict[str, Any]:
    said = [
        {"from": "human", "value": "<image>\nWhat is  here?"},
        {"from": "gpt", "value": "A room."},
        {"from": "human", "value": "And in <image> behind me?"},
        {"from": "gpt", "value": "A door."},
    ]
    return {"id": name, "image": "a.png", "conversations": said, "model": ""} | changes


def test_llava_dialogues_stay_whole_and_lose_their_marks(tmp_path: Path) -> None:
    write_image(tmp_path / "set/a.png")
    text_only = {key: value for key, value in llava_sample("t").items() if key != "image"}
    records, report = run(tmp_path, "llava", write_json(tmp_path / "set/talk.json", [llava_sample("1"), text_only]))
    turns = [(turn.human, turn.assistant, turn.task) for turn in records[0].conversations]
    assert turns == [("What is  here?", "A room.", "open"), ("And in behind me?", "A door.", "open")]
    assert dict(report.dropped) == {"samples without an image": 1}
    assert records[0].metadata["licence"] == "not stated by the file"


def test_llava_problems_are_in_one_error(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    odd = [{"from": "gpt", "value": "A room."}, {"from": "human", "value": "?"}]
    file = write_json(tmp_path / "talk.json", [llava_sample(1), llava_sample(2, conversations=odd)])
    message = refused(tmp_path, "llava", file)
    assert "talk.json sample 1 (id 2): the sides are ['gpt', 'human']; expected human and gpt in turn" in message
    bad = [llava_sample(1, image=["a.png", "b.png"]), {"id": 2}, llava_sample(3, conversations=[{"from": "system"}])]
    message = refused(tmp_path, "llava", write_json(file, bad))
    assert message.startswith(f"4 problems in {file} (lists count from 0):")
    assert "talk.json.0.image: got ['a.png', 'b.png']" in message
    assert "talk.json.1.conversations: Field required" in message
    assert "talk.json.2.conversations.0.from: got 'system'" in message
    file.write_text("[{")
    assert "Invalid JSON" in refused(tmp_path, "llava", file)
    same = write_json(file, [llava_sample(1), llava_sample(1)])
    assert "is identical to record 0" in refused(tmp_path, "llava", same)


# --- COCO


def coco_file(tmp_path: Path, *boxes: tuple[int, int, list[float]], **changes: Any) -> Path:
    """Write images 1 and 2, categories 5 chair and 9 door, and the boxes (image, category, bbox)."""
    for name in ("1.png", "2.png"):
        write_image(tmp_path / "images" / name)
    annotations = [
        {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "area": 1.0, "iscrowd": 0}
        for number, (image, category, bbox) in enumerate(boxes)
    ]
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 16, "height": 8} for n in (1, 2)],
        "annotations": annotations,
        "categories": [{"id": 5, "name": "chair"}, {"id": 9, "name": "door"}],
    }
    return write_json(tmp_path / "annotations/train.json", content | changes)


def test_360_indoor_boxes_are_degrees_from_the_left_and_the_zenith(tmp_path: Path) -> None:
    file = coco_file(
        tmp_path,
        (1, 5, [270.0, 60, 20.4, 10]),
        (1, 5, [0, 90, 0.3, 10]),
        (1, 9, [180, 120, 40, 50]),
        (2, 9, [9, 9, 9, 9]),
    )
    records, report = run(tmp_path, "coco", file, images=tmp_path / "images")
    assert [record.image_id for record in records] == ["1.png", "1.png", "1.png", "2.png", "2.png"]
    boxes = [(item.label, item.box_deg) for item in records[0].objects]
    assert boxes == [("chair", (90, 30, 20.4, 10)), ("chair", (-180, 0, 0.3, 10)), ("door", (0, -30, 40, 50))]
    detection = records[0].conversations[0]
    assert detection.task == "detection"
    # In the order and the whole degrees of the project's own answers; no side is rounded to nothing.
    assert detection.assistant == "chair [-180, 0, 1, 10]; door [0, -30, 40, 50]; chair [90, 30, 20, 10]"
    found, unparsed = parse_detection(detection.assistant)
    assert (len(found), unparsed) == (3, 0)
    assert [item.box_deg for item in detection.answer.objects] == [
        (-180, 0, 0.3, 10),
        (0, -30, 40, 50),
        (90, 30, 20.4, 10),
    ]
    grounding = records[1].conversations[0]
    assert (grounding.task, grounding.answer.label) == ("grounding", "door")
    assert parse_box(grounding.assistant) == (0, -30, 40, 50)
    described = records[2].conversations[0]
    assert (described.task, described.type) == ("detection", "detection_described")
    assert described.human in ("Detect every chair.", "List every chair with its box.")
    assert described.assistant == "chair [-180, 0, 1, 10]; chair [90, 30, 20, 10]"
    assert [item.label for item in described.answer.objects] == ["chair"] * 2
    assert "360-Indoor" in records[0].metadata["source"]
    assert not records[1].objects
    assert str(report).endswith("left out: nothing")


def test_pandora_boxes_are_radians_and_rotated_ones_get_an_upright_box_about_them(tmp_path: Path) -> None:
    file = coco_file(tmp_path, (1, 5, [-1.5, 0.5, 30, 10, 0]), (2, 9, [math.pi, -0.25, 30, 10, 90]))
    records, _ = run(tmp_path, "coco", file, images=tmp_path / "images")
    plain, turned = records[0].objects[0].box_deg, records[2].objects[0].box_deg
    assert plain == pytest.approx((math.degrees(-1.5), math.degrees(0.5), 30, 10))
    assert turned == pytest.approx((180, math.degrees(-0.25), 10, 30))
    published = records[2].metadata["rotated_boxes_deg"]
    assert published == [pytest.approx([180, math.degrees(-0.25), 30, 10, 90])]
    assert "PANDORA" in records[0].metadata["source"]


def test_the_upright_box_touches_the_corners_of_the_rotated_one():
    width, height = upright_box(60, 40, 25)
    across, along = (math.tan(math.radians(extent / 2)) for extent in (60, 40))
    turn = math.radians(25)
    corners = [
        (x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn))
        for x in (-across, across)
        for y in (-along, along)
    ]
    assert max(x for x, _ in corners) == pytest.approx(math.tan(math.radians(width / 2)))
    assert max(y for _, y in corners) == pytest.approx(math.tan(math.radians(height / 2)))
    assert upright_box(60, 40, 25) == pytest.approx(upright_box(60, 40, -25))


def test_a_label_is_asked_for_where_several_but_not_all_objects_have_it() -> None:
    def asked(*objects: tuple[str, float]) -> list[str]:
        content = [{"label": label, "box_deg": [10.0 * n, 0, width, 9]} for n, (label, width) in enumerate(objects)]
        turns = [turn for (turn,) in object_dialogues(content, Random(0))]
        return [turn["assistant"] for turn in turns if turn.get("type") == "detection_described"]

    assert asked(("a", 9), ("b", 9), ("a", 9)) == ["a [0, 0, 9, 9]; a [20, 0, 9, 9]"]
    assert asked(("a", 9), ("a", 9)) == asked(("a", 9), ("b", 9)) == []
    assert asked(("a", 9), ("b", 9), ("a", 9), ("a", 200)) == []  # the third would be missing


def test_coco_counts_what_it_leaves_out(tmp_path: Path) -> None:
    file = coco_file(
        tmp_path, (1, 5, [1, 90, 20, 0]), (1, 9, [1, 90, 200, 90]), (1, 5, [1, 90, 20, 10]), (2, 5, [1, 9, 9, 9])
    )
    content = json.loads(file.read_text())
    content["annotations"][3]["iscrowd"] = 1
    records, report = run(tmp_path, "coco", write_json(file, content), images=tmp_path / "images")
    assert dict(report.dropped) == {
        "annotations without an extent in (0, 360) degrees": 1,
        "annotations marked iscrowd or ignore": 1,
        "boxes of 180 degrees or more from the questions (they stay in objects)": 1,
        "images without a box that can be asked for": 1,
    }
    assert [item.box_deg[2] for item in records[0].objects] == [200, 20]
    assert [record.conversations[0].task for record in records] == ["detection", "grounding"]


def test_coco_problems_are_in_one_error(tmp_path: Path) -> None:
    file = coco_file(tmp_path, (1, 5, [960, 480, 20, 10]), (3, 5, [1, 1, 9, 9]), (1, 5, [90, 45, 9, 9, 0]))
    message = refused(tmp_path, "coco", file)
    assert message.startswith(f"4 problems in {file}")
    assert "annotations.1: image_id 3 or category_id 5 is not in the file" in message
    assert "boxes of four numbers (2) and of five (1); expected one kind" in message
    assert (
        "annotations.0: bbox [960.0, 480.0, 20.0, 10.0] has its centre off the sphere; 4 numbers are read as" in message
    )
    assert "annotations.2: bbox" in message
    message = refused(tmp_path, "coco", coco_file(tmp_path, (1, 5, [1, 2, 3]), images=[{"id": 1}]))
    assert "train.json.images.0.file_name: Field required" in message
    assert "train.json.annotations.0.bbox: got [1, 2, 3]" in message


def test_a_label_that_an_answer_cannot_spell_is_refused():
    with pytest.raises(ValueError, match=r"label 'a; b' holds one of"):
        object_dialogues([{"label": "a; b", "box_deg": [0, 0, 9, 9]}], None)  # type: ignore[arg-type]


# --- 360Bench

BENCH_HEADER = "No.\timage_file\tquestion\tcategory\tl2-category\tbbox\tindex\tmulti-choice options\tanswer"
OPTIONS = ["Behind the woman.", "Far from the woman.", "It's left of the woman.", "Right of the woman."]
BENCH_BOX = '"[{""bbox_2d"": [58, 20, 59, 21],""label"": ""woman""}]"'


def bench_rows(question: str, right: str = OPTIONS[0]) -> list[str]:
    """Return the four published rotations of a question's options, the right one first, second, third, fourth."""
    rows = []
    for turn in range(4):
        options = OPTIONS[4 - turn :] + OPTIONS[: 4 - turn]
        texts = [f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True)]
        letter = "ABCD"[options.index(right)]
        rows.append(f"{turn}\ta.jpg\t{question}\tSR\tOs\t{BENCH_BOX}\t#1\t{texts}\t{letter}")
    return rows


def bench_file(tmp_path: Path, rows: list[str]) -> Path:
    write_image(tmp_path / "a.jpg")
    file = tmp_path / "360Bench.tsv"
    file.write_text("\n".join([BENCH_HEADER, *rows, ""]), encoding="utf-8")
    return file


def chosen(record: Record) -> str:
    """Return the text of the option whose letter is the answer."""
    turn = record.conversations[0]
    assert turn.answer.text == turn.assistant
    (line,) = [line for line in turn.human.split("\n") if line.startswith(f"{turn.assistant}. ")]
    return line[3:]


def test_bench360_permutes_options_and_the_answer_follows(tmp_path: Path) -> None:
    questions = [f"Where are the tables, seen from {number}?" for number in range(12)]
    file = bench_file(
        tmp_path, [row for number, q in enumerate(questions) for row in bench_rows(q, OPTIONS[number % 4])]
    )
    records, report = run(tmp_path, "bench360", file)
    assert len(records) == 12
    assert [chosen(record) for record in records] == [OPTIONS[number % 4] for number in range(12)]
    assert {record.conversations[0].assistant for record in records} == set("ABCD")
    first = records[0].conversations[0]
    assert (first.task, first.type) == ("choice", "SR-Os")
    assert first.human.startswith(questions[0] + "\nA. ")
    assert sorted(line[3:] for line in first.human.split("\n")[1:5]) == OPTIONS
    assert records[0].metadata["rows"] == [1, 2, 3, 4]
    assert records[0].metadata["boxes_px_7296x3648"] == [{"bbox_2d": [58, 20, 59, 21], "label": "woman"}]
    assert "CC BY 4.0" in records[0].metadata["licence"]
    assert dict(report.dropped) == {"rows that rotate the options of a question": 36}


def test_bench360_options_depend_on_the_seed_alone(tmp_path: Path) -> None:
    rows = [row for number in range(12) for row in bench_rows(f"Question {number}?")]
    read = IMPORTERS["bench360"]
    said = [e.fields["conversations"] for e in read(Request(bench_file(tmp_path, rows), seed=3)).entries]
    again = [e.fields["conversations"] for e in read(Request(bench_file(tmp_path, rows[::-1]), seed=3)).entries]
    other = [e.fields["conversations"] for e in read(Request(bench_file(tmp_path, rows), seed=4)).entries]
    assert said == again[::-1]
    assert said != other


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\tA\n", "\tE\n", "answer 'E' to options"),
        ("['A. ", "['", "expected texts that begin with 'A.', 'B.' and so on"),
        ("['A. ", "[3, 'A. ", "expected texts that begin with"),
        ("['A. ", "'A. ", "expected a Python list of texts"),
        ("B. Far from", "B. Behind the woman.', 'C. Far from", "expected texts that begin"),
        ("Far from", "Behind", "expected a letter of options that all differ"),
        ('"[{""bbox_2d', '"{""bbox_2d', "is not JSON"),
        (BENCH_BOX, "3", "expected a list of boxes"),
    ],
)
def test_bench360_names_rows_that_do_not_fit(tmp_path: Path, old: str, new: str, message: str) -> None:
    file = bench_file(tmp_path, bench_rows("Where?")[:1])
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1) + "\n".join(bench_rows("Why?")) + "\n")
    found = refused(tmp_path, "bench360", file)
    assert found.startswith(f"1 rows of {file} cannot be read:\n360Bench.tsv row 1 below the header: ")
    assert message in found


# --- VQA


def vqa_folder(tmp_path: Path, *, annotations: list[dict[str, Any]] | None = None, **changes: Any) -> Path:
    folder = tmp_path / "vqa"
    write_image(folder / "images/COCO_train2014_000000000007.jpg")
    write_image(folder / "images/8.png")
    questions = [
        {"question_id": 70, "image_id": 7, "question": "Is it day?"},
        {"question_id": 80, "image_id": 8, "question": "What is behind me?"},
    ]
    answered = [
        vqa_answers(70, 7, "yes/no", "yes", ["yes", "no", "yes", " "]),
        vqa_answers(80, 8, "other", "door", ["door", "gate"]),
    ]
    licence = {"name": "Creative Commons Attribution 4.0", "url": "http://creativecommons.org/licenses/by/4.0/"}
    head = {"info": {}, "data_subtype": "train2014", "data_type": "mscoco", "license": licence}
    write_json(folder / "v2_questions.json", head | {"questions": questions} | changes)
    write_json(folder / "v2_annotations.json", head | {"annotations": annotations or answered})
    return folder


def vqa_answers(question: int, image: int, kind: str, best: str, given: list[str]) -> dict[str, Any]:
    people = [
        {"answer_id": number, "answer": text, "answer_confidence": "yes"} for number, text in enumerate(given, start=1)
    ]
    row = {"question_id": question, "image_id": image, "question_type": "is", "answer_type": kind}
    return row | {"multiple_choice_answer": best, "answers": people}


def test_vqa_keeps_all_human_answers(tmp_path: Path) -> None:
    records, report = run(tmp_path, "vqa", vqa_folder(tmp_path))
    closed, free = (record.conversations[0] for record in records)
    assert (closed.task, closed.answer.text, closed.references) == ("choice", "yes", ["yes", "no", "yes"])
    assert (free.task, free.assistant, free.references, free.type) == ("open", "door", ["door", "gate"], "vqa other")
    assert [record.image_path for record in records] == [
        "images/images/COCO_train2014_000000000007.jpg",
        "images/images/8.png",
    ]
    assert records[0].metadata["licence"].startswith("Creative Commons Attribution 4.0, http")
    assert dict(report.dropped) == {"answers without text": 1}


def test_vqa_questions_annotations_and_images_must_fit(tmp_path: Path) -> None:
    lonely = [vqa_answers(70, 8, "yes/no", "yes", ["yes"]), vqa_answers(90, 8, "other", "door", ["door"])]
    message = refused(tmp_path, "vqa", vqa_folder(tmp_path, annotations=lonely))
    assert message.startswith("3 questions and annotations do not fit:")
    for text in ("70 has two image_ids", "90 has annotations but no question", "80 has no annotation"):
        assert text in message
    folder = vqa_folder(tmp_path, questions=[{"question_id": 70, "image_id": 7, "question": 3}])
    assert "v2_questions.json.questions.0.question: got 3" in refused(tmp_path, "vqa", folder)
    disagreeing = [vqa_answers(70, 7, "other", "yes", ["no"]), vqa_answers(80, 8, "other", "door", ["door"])]
    message = refused(tmp_path, "vqa", vqa_folder(tmp_path, annotations=disagreeing))
    assert (
        "question_id 70.conversations.0.references: got ['no']: the references lack the answer of `assistant`"
        in message
    )
    folder = vqa_folder(tmp_path)
    write_image(folder / "more/8.jpg")
    assert "1 images of" in refused(tmp_path, "vqa", folder)
    (folder / "more/8.jpg").unlink()
    (folder / "images/8.png").unlink()
    assert f"1 of 2 images are missing or cannot be used:\n{folder / '8.*'}: no such" in refused(
        tmp_path, "vqa", folder
    )
    write_json(folder / "v1_questions.json", {})
    assert "exactly one *questions.json, found v1_questions.json, v2_questions.json" in refused(tmp_path, "vqa", folder)
    assert "expected a folder with one" in refused(tmp_path, "vqa", folder / "v1_questions.json")


# --- OmniCoT


def omnicot_line(number: int, **changes: Any) -> dict[str, Any]:
    line = {
        "file_name": "images/s.png",
        "scene_id": "s",
        "qa_id": f"s-{number}",
        "type": "viewpoint_transform_identify",
    }
    line |= {"subtype": "A1", "question": "Standing at the fridge, what is nearest?", "answer": "shelf"}
    return line | {"cot": ["First.", "Then."], "random_objects": ["a(1, 2)", "b(3, 4)", "c(5, 6)", "d(7, 8)"]} | changes


def omnicot_split(folder: Path, *lines: dict[str, Any]) -> Path:
    write_image(folder / "images/s.png")
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_omnicot_lines_become_choices_with_their_steps(tmp_path: Path) -> None:
    real = omnicot_line(2, cot=[], random_objects=None)
    records, report = run(tmp_path, "imagefolder", omnicot_split(tmp_path / "test", omnicot_line(1), real))
    turn = records[0].conversations[0]
    assert (turn.task, turn.answer.text, turn.type) == ("choice", "shelf", "viewpoint_transform_identify")
    assert turn.human.split("\n") == [
        "The x axis points east, the y axis north.",
        "Known places (x, y): a(1, 2); b(3, 4); c(5, 6).",
        "Standing at the fridge, what is nearest?",
    ]
    assert "Known places" not in records[1].conversations[0].human
    assert records[0].metadata["cot"] == ["First.", "Then."]
    assert records[0].metadata["qa_id"] == "s-1"
    assert report.images == 1


def test_omnicot_splits_keep_their_images_apart(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "validation", "test", "real")):
        omnicot_split(tmp_path / "set" / split, omnicot_line(number))
    records, report = run(tmp_path, "imagefolder", tmp_path / "set")
    assert [record.metadata["split"] for record in records] == ["train", "validation", "test"]
    assert records[2].image_path == "images/test/images/s.png"
    assert dict(report.dropped) == {"folder real, which is no split (import it by itself)": 1}


def test_omnicot_bad_lines_are_counted(tmp_path: Path) -> None:
    folder = omnicot_split(tmp_path / "test", omnicot_line(1), omnicot_line(2, answer=3), {"question": "?"})
    with (folder / "metadata.jsonl").open("a") as file:
        file.write("{oops\n")
    message = refused(tmp_path, "imagefolder", folder)
    assert message.startswith(f"5 problems in {folder / 'metadata.jsonl'}:")
    assert "metadata.jsonl line 2.answer: got 3" in message
    assert "metadata.jsonl line 3.file_name: Field required" in message
    assert "leave the option out" in refused(tmp_path, "imagefolder", folder, images=tmp_path)
    assert "no such file" in refused(tmp_path, "imagefolder", tmp_path / "none")


# --- Stanford 2D-3D-S


@pytest.mark.parametrize("box", [[0, 0, 40, 20], [178, 10, 30, 50], [-90, 75, 60, 40], [20, -90, 50, 50]])
def test_the_box_of_a_mask_is_the_box_that_drew_it(box: list[float]) -> None:
    rays = erp_rays(180, 360, torch.float64)
    mask = rays_in_boxes(rays, torch.tensor(box, dtype=torch.float64).deg2rad())
    yaw, pitch, *extents = mask_box(mask.numpy())
    assert pitch == pytest.approx(box[1], abs=1.5)
    if box[1] > -90:  # at a pole every yaw is the same centre, but not the same box
        assert abs((yaw - box[0] + 180) % 360 - 180) < 3
        assert extents == pytest.approx(box[2:], abs=2.5)
    found = torch.tensor([yaw, pitch, *extents], dtype=torch.float64).deg2rad()
    assert rays_in_boxes(rays, found)[mask].double().mean() > 0.999


def test_a_mask_that_no_tangent_plane_holds_has_a_box_of_180_or_more():
    band = np.zeros((32, 64), dtype=bool)
    band[14:18] = True
    _, _, width, height = mask_box(band)
    assert width == 359
    assert height == pytest.approx(4 * 180 / 32, abs=0.1)
    one = np.zeros((32, 64), dtype=bool)
    one[16, 32] = True
    assert mask_box(one) == pytest.approx([180 / 64, -180 / 64, 360 / 64, 360 / 64], abs=1e-3)


STANFORD_LABELS = ["<UNK>_0_<UNK>_0_0", *(f"{name}_1_office_1_1" for name in ("chair", "floor", "wall"))] + [
    "x_1_a_1_1"
] * 300
STANFORD_LABELS[300] = "chair_2_office_1_1"
PANO = "camera_0ccf_office_1_frame_equirectangular_domain"


def stanford_folder(tmp_path: Path, *, size: tuple[int, int] = (64, 32)) -> Path:
    """Write one panorama: two chairs (1 and 300), a floor, a wall all around, unlabelled and missing pixels."""
    root = tmp_path / "2D-3D-S"
    write_json(root / "assets/semantic_labels.json", STANFORD_LABELS)
    write_image(root / f"area_1/pano/rgb/{PANO}_rgb.png", (64, 32))
    index = np.full((32, 64), 3)
    index[:4], index[4:6], index[24:] = 0x0D0D0D, 0, 2
    index[12:20, 30:36], index[12:16, :3], index[12:16, -3:] = 1, 300, 300
    colours = np.stack((index >> 16, index >> 8 & 255, index & 255), axis=-1).astype(np.uint8)
    file = root / f"area_1/pano/semantic/{PANO}_semantic.png"
    file.parent.mkdir(parents=True)
    Image.fromarray(colours).resize(size, Image.Resampling.NEAREST).save(file)
    return root


def test_stanford_instances_become_objects_with_masks(tmp_path: Path) -> None:
    records, report = run(tmp_path, "stanford2d3d", stanford_folder(tmp_path))
    objects = records[0].objects
    assert [item.label for item in objects] == ["chair", "floor", "wall", "chair"]
    assert all(item.mask.size == (32, 64) for item in objects)
    decoded = [coco_mask.decode({"size": list(o.mask.size), "counts": o.mask.counts.encode()}) for o in objects]
    assert [int(mask.sum()) for mask in decoded] == [48, 512, 1080, 24]
    assert objects[0].box_deg[:2] == pytest.approx((360 / 64, 0), abs=0.5)
    # Astride the seam, as one object.
    assert abs(objects[3].box_deg[0]) > 179
    assert objects[3].box_deg[2] == pytest.approx(6 * 360 / 64, abs=2)
    assert objects[2].box_deg[2] >= 180
    detection = records[0].conversations[0].answer
    assert sorted(item.label for item in detection.objects) == ["chair", "chair", "floor"]
    assert records[1].conversations[0].answer.label == "floor"
    assert [item.label for item in records[2].conversations[0].answer.objects] == ["chair"] * 2
    assert len(records) == 3
    assert report.dropped["pixels without a label"] == 6 * 64
    assert report.dropped["boxes of 180 degrees or more from the questions (they stay in objects)"] == 1
    assert "licence agreement" in records[0].metadata["licence"]


def test_stanford_files_must_fit(tmp_path: Path) -> None:
    root = stanford_folder(tmp_path, size=(32, 16))
    message = refused(tmp_path, "stanford2d3d", root)
    assert message.startswith("1 of 1 panoramas cannot be read:")
    assert "(32, 16) pixels, the picture has (64, 32); expected the same size" in message
    semantic = root / f"area_1/pano/semantic/{PANO}_semantic.png"
    Image.new("RGB", (64, 32), (0, 9, 0)).save(semantic)
    assert f"{semantic}: index 2304 has no label" in refused(tmp_path, "stanford2d3d", root)
    semantic.write_bytes(b"no image")
    assert "not a readable image" in refused(tmp_path, "stanford2d3d", root)
    semantic.rename(semantic.with_name("other_semantic.png"))
    message = refused(tmp_path, "stanford2d3d", root)
    assert message.startswith("2 images below")
    assert f"{PANO}_rgb.png has no semantic image" in message
    write_json(root / "assets/semantic_labels.json", ["chair"])
    assert "label 0: 'chair'" in refused(tmp_path, "stanford2d3d", root)
    assert "SRC is the folder that holds assets/" in refused(tmp_path, "stanford2d3d", root / "area_1")
    assert "leave the option out" in refused(tmp_path, "stanford2d3d", root, images=root)
