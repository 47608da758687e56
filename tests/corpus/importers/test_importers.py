"""All importers on damaged sources: a message of printable lines, or a valid dataset whose counts add up."""

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from importer_cases import write_image

from panollava.corpus.importers import import_dataset
from panollava.corpus.importers.common import Request
from panollava.corpus.validation import read_dataset

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A wall."}]
ANSWERS = {"answers": [{"answer": "yes"}], "multiple_choice_answer": "yes", "answer_type": "yes/no"}
BOX = {"image_id": 1, "category_id": 1, "bbox": [200.5, 90, 20, 10], "iscrowd": 0}
LINE = {"file_name": "a.png", "question": "Where?", "answer": "here", "type": "t", "qa_id": "1", "cot": ["So."]}
# The file, its content, and what SRC is: the file or its folder.
SOURCES: dict[str, tuple[str, Any]] = {
    "llava": ("talk.json", [{"id": n, "image": "a.png", "conversations": TURNS} for n in range(3)]),
    "coco": (
        "boxes.json",
        {
            "images": [{"id": 1, "file_name": "a.png", "width": 2048, "height": 1024}],
            "annotations": [BOX, BOX | {"bbox": [20, 80, 9, 9]}],
            "categories": [{"id": 1, "name": "door"}],
        },
    ),
    "vqa": (
        "v_annotations.json",
        {"annotations": [{"question_id": n, "image_id": "a"} | ANSWERS for n in range(2)]},
    ),
    "imagefolder": ("metadata.jsonl", [LINE, LINE | {"qa_id": 2}]),
}
ODD = st.sampled_from(
    (None, True, -1, 1.5, float("nan"), 2**70, "", "x" * 900, "\ud83d", "\0", "\x1b[2J", "../a.png", "/etc/hosts",
     "<image>", "<pano>", [], {}, [[]], {"a": {}}, ["a.png"], "a.png", 1, "1")
)  # fmt: skip


def damaged(content: Any, data: st.DataObject) -> Any:
    """Return the content with one value replaced, removed or doubled, at any depth."""
    if not isinstance(content, list | dict) or not content or data.draw(st.integers(0, 5)) == 0:
        return data.draw(ODD)
    key = data.draw(st.sampled_from(range(len(content)) if isinstance(content, list) else list(content)))
    change = data.draw(st.sampled_from(["inside"] * 6 + ["remove", "double"]))
    if change == "remove":
        del content[key]
    elif change == "double" and isinstance(content, list):
        content.append(content[key])
    else:
        content[key] = damaged(content[key], data)
    return content


@pytest.mark.parametrize("name", SOURCES)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_damaged_source_gives_a_message_or_a_valid_dataset(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("source")
    write_image(folder / "a.png")
    file_name, good = SOURCES[name]
    content = good
    for _ in range(data.draw(st.integers(1, 3))):
        content = damaged(copy.deepcopy(content), data)
    lines = file_name.endswith("l") and isinstance(content, list)
    text = "\n".join(map(json.dumps, content)) if lines else json.dumps(content)
    (folder / file_name).write_text(text)
    questions = [{"question_id": number, "image_id": "a", "question": "Day?"} for number in range(2)]
    (folder / "v_questions.json").write_text(json.dumps({"questions": questions}))
    request = Request(folder if name == "vqa" else folder / file_name)
    try:
        report = import_dataset(name, request, folder / "out", drop_bad_records=True, drop_bad_images=True)
    except ValueError as error:
        assert not (folder / "out").exists()
        shown = str(error)
    else:
        findings = report.findings
        assert findings.read == report.samples + findings.left_out.total() + findings.bad.total()
        assert len(read_dataset(folder / "out")) == report.records
        shown = str(report)
    assert shown.replace("\n", "").isprintable()
