"""OmniCoT: lines of metadata.jsonl as closed questions with their context."""

import json
from pathlib import Path
from typing import Any

from importer_cases import refused, run, write_image


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


def test_lines_become_choices_with_their_reasoning_steps(tmp_path: Path) -> None:
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


def test_splits_have_separate_images(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "validation", "test", "real")):
        omnicot_split(tmp_path / "set" / split, omnicot_line(number))
    records, report = run(tmp_path, "imagefolder", tmp_path / "set")
    assert [record.metadata["split"] for record in records] == ["train", "validation", "test"]
    assert records[2].image_path == "images/test/images/s.png"
    assert dict(report.dropped) == {"folder real, which is no split (import it by itself)": 1}


def test_malformed_lines_are_counted(tmp_path: Path) -> None:
    folder = omnicot_split(tmp_path / "test", omnicot_line(1), omnicot_line(2, answer=[3]), {"question": "?"})
    with (folder / "metadata.jsonl").open("a") as file:
        file.write("{oops\n")
    message = refused(tmp_path, "imagefolder", folder)
    assert message.startswith("3 of 4 lines cannot be imported")
    assert "metadata.jsonl line 2: answer: got [3]" in message
    assert "metadata.jsonl line 3: file_name is missing (and 1 more problems)" in message
    assert "metadata.jsonl line 4 column 2: invalid JSON" in message
    records, report = run(tmp_path, "imagefolder", folder, drop_bad_records=True)
    assert len(records) == 1
    assert "read: 4 lines, imported: 1, left out: 3" in str(report)
    (tmp_path / "out").rename(tmp_path / "kept")
    assert "leave the option out" in refused(tmp_path, "imagefolder", folder, images=tmp_path)
    assert "no such file" in refused(tmp_path, "imagefolder", tmp_path / "none")


def test_numbers_null_and_single_texts_are_read(tmp_path: Path) -> None:
    lines = [
        omnicot_line(1, answer=3, qa_id=7, scene_id=4.0, cot="Alone.", random_objects=None, subtype=None),
        omnicot_line(2, qa_id=7, type=None),
        omnicot_line(2, qa_id="7", type=None),
    ]
    records, report = run(tmp_path, "imagefolder", omnicot_split(tmp_path / "test", *lines))
    assert records[0].conversations[0].answer.text == "3"
    assert records[0].metadata["cot"] == ["Alone."]
    assert [record.metadata["qa_id"] for record in records] == ["7", "7-2"]
    assert records[0].metadata["scene_id"] == "4"
    assert records[1].conversations[0].type == "choice"
    assert report.dropped == {"lines identical to an earlier one": 1}


def test_a_file_name_never_leads_out_of_its_split(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for split in ("train", "validation", "test"):
        omnicot_split(folder / split, omnicot_line(1, file_name="../train/images/s.png"))
    message = refused(tmp_path, "imagefolder", folder)
    assert "3 lines with a bad image name" in message
    assert "  train/metadata.jsonl line 1: image '../train/images/s.png'; expected the path of a file below" in message
