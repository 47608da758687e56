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
    folder = omnicot_split(tmp_path / "test", omnicot_line(1), omnicot_line(2, answer=3), {"question": "?"})
    with (folder / "metadata.jsonl").open("a") as file:
        file.write("{oops\n")
    message = refused(tmp_path, "imagefolder", folder)
    assert message.startswith(f"5 problems in {folder / 'metadata.jsonl'}:")
    assert "metadata.jsonl line 2.answer: got 3" in message
    assert "metadata.jsonl line 3.file_name: Field required" in message
    assert "leave the option out" in refused(tmp_path, "imagefolder", folder, images=tmp_path)
    assert "no such file" in refused(tmp_path, "imagefolder", tmp_path / "none")
