"""Files of other layouts get one line that names what converts them."""

import json
from pathlib import Path
from typing import Any

import pytest

from panollava.cli import main
from panollava.corpus.importers import IMPORTERS
from panollava.corpus.reading import RecordErrors, parse_records

LLAVA = {"id": "1", "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>"}]}
COCO: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
OMNICOT = {"file_name": "a.jpg", "question": "q", "answer": "a", "type": "t"}
RECORD = {"image_id": "a", "image_path": "a.png", "conversations": [{"human": "q", "assistant": "a"}]}


def lines(*rows: object, indent: int | None = None) -> str:
    return "\n".join(json.dumps(row, indent=indent) for row in rows)


# The name of a file, its text, and what its one line says.
FOREIGN = [
    ("a.json", json.dumps([LLAVA] * 2000), "`panollava import llava "),
    ("a.jsonl", lines(*[LLAVA] * 2000), "`panollava import llava "),
    ("a.json", json.dumps([{"id": "1", "conversations": []}]), "`panollava import llava "),
    ("a.json", json.dumps(LLAVA), "`panollava import llava "),
    ("a.json", json.dumps(COCO), "`panollava import coco "),
    ("a.jsonl", json.dumps(COCO, indent=1), "`panollava import coco "),
    ("a b.json", json.dumps(COCO), "a b.json' NEW_FOLDER`"),
    ("v2_questions.json", json.dumps({"questions": []}), "`panollava import vqa "),
    ("v2_annotations.json", json.dumps({"annotations": []}), "`panollava import vqa "),
    ("metadata.jsonl", lines(OMNICOT, OMNICOT), "`panollava import imagefolder "),
    ("a.tsv", "url\tquery\tannotation", "`panollava import quic360 "),
    ("a.tsv", "url\tquery\tannotation", "`panollava import bench360 "),
    ("a.json", json.dumps([{"messages": [{"role": "user", "content": "x"}]}]), "panollava import llava"),
    ("a.json", lines(RECORD, RECORD), "if each has a line, name the file *.jsonl"),
    ("a.jsonl", json.dumps([RECORD] * 1000, indent=1), "name the file *.json"),
    ("a.jsonl", json.dumps([RECORD]), "name the file *.json"),
    ("a.jsonl", lines(RECORD, RECORD, indent=1), "expected each on a line of its own"),
    ("a.json", json.dumps(RECORD), "is a single record; expected a list"),
    ("a.jsonl", json.dumps(RECORD, indent=1), "is a single record; expected a list"),
    ("a.json", '{"data": []}', "expected a list of records, found an object with 'data'"),
    ("a.json", '"text"', "expected a list of records"),
    ("a.json", "NaN", "expected a list of records"),
    ("a.json", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "run `git lfs pull`"),
    ("a.jsonl", "<!DOCTYPE html>\n<html>\n", "is a web page"),
    ("a.json", "", "is empty"),
    ("a.jsonl", "\n \n", "is empty"),
    ("a.json", "[]", "holds no records"),
]


@pytest.mark.parametrize(("name", "text", "said"), FOREIGN)
def test_a_file_of_another_layout_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    assert main(["validate", str(tmp_path / name)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith(f"panollava: {tmp_path / name}: ")
    assert said in output.err


@pytest.mark.parametrize(
    ("file", "importer"),
    [("metadata.jsonl", "imagefolder"), ("train/metadata.jsonl", "imagefolder"), ("v2_questions.json", "vqa"),
     ("area_1/pano/a.png", "stanford2d3d")],
)  # fmt: skip
def test_a_folder_of_another_layout_names_the_importer(tmp_path: Path, file: str, importer: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(
        RecordErrors, match=f"found none of them; .*`panollava import {importer} {tmp_path} NEW_FOLDER`"
    ):
        parse_records(tmp_path)
    assert importer in IMPORTERS


def test_a_folder_with_a_record_file_of_another_name_says_so(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("[]")
    with pytest.raises(
        RecordErrors, match=r"found none of them; if its records are in '.*train\.json', give that file"
    ):
        parse_records(tmp_path)


def test_records_with_some_keys_wrong_are_no_other_layout(tmp_path: Path) -> None:
    row = RECORD | {"conversations": LLAVA["conversations"], "image": "a.jpg"}
    (tmp_path / "a.json").write_text(json.dumps([row]))
    problems = parse_records(tmp_path / "a.json")[1]
    assert {problem.field for problem in problems} == {
        "conversations.0.human", "conversations.0.assistant", "conversations.0.from", "conversations.0.value", "image",
    }  # fmt: skip
