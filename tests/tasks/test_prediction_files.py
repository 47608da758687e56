"""Files of predictions: lines come back as they were written, and a bad one is refused by number, field and value."""

import json
from pathlib import Path
from typing import Any

import pytest
from task_data import lines, question, world_questions

from panollava.inference.answer import Answer
from panollava.tasks.prediction_files import parse_predictions, read_predictions, write_lines
from panollava.tasks.scoring import score

# The keys of a line, in their order; those of detections have `unparsed` at the end.
KEYS = [
    "variant", "image_id", "record", "turn", "language", "task", "type", "question", "reference", "references",
    "answer", "prediction", "score", "parsed", "correct", "error_deg", "direction", "iou", "boxes", "mask",
    "mask_iou", "mask_ceiling", "mask_majority", "boundary_deg",
]  # fmt: skip


def test_predictions_come_back_as_they_were_written(tmp_path: Path) -> None:
    said = lines("blind", world_questions(3), lambda q: q.content.assistant)
    path = tmp_path / "folder" / "predictions.jsonl"
    write_lines(path, (prediction.as_line() for prediction in said))
    assert read_predictions(path) == said
    for line, prediction in zip(map(json.loads, path.read_text("utf-8").splitlines()), said, strict=True):
        assert line == prediction.as_line()
        assert list(line) == KEYS + (["unparsed"] if line["task"] == "detection" else [])


def test_a_box_has_a_score_in_detections_alone() -> None:
    objects = {"objects": [{"label": "cube", "box_deg": [0, 0, 20, 20]}]}
    found = score("model", question("detection", objects), Answer("cube [1, 2, 3, 4]", 0.5)).as_line()
    assert found["boxes"] == [{"label": "cube", "box_deg": [1, 2, 3, 4], "score": 0.5}]
    named = score("model", question("grounding", objects["objects"][0]), Answer("[1, 2, 3, 4]", 0.5)).as_line()
    assert named["boxes"] == [{"label": "cube", "box_deg": [1, 2, 3, 4]}]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"turn": "x"}, "turn: Input should be a valid integer"),
        ({"variant": "other"}, "variant: Input should be 'model', 'shuffled' or 'blind'"),
        ({"score": float("nan")}, "score: Input should be a finite number, found nan"),
        ({"correct": None}, "an answer of task 'choice' needs `correct`, which is null"),
        (
            {"answer": {"yaw_deg": 1}},
            r"answer\.text: Field required; answer\.yaw_deg: Extra inputs are not permitted, found 1",
        ),
    ],
)
def test_a_bad_line_is_named(fields: dict[str, Any], message: str) -> None:
    good = score("model", question("choice", {"text": "yes"}), Answer("yes", 0.5)).as_line()
    texts = [json.dumps(good), json.dumps(good | fields)]
    with pytest.raises(ValueError, match=f"(?s)^run.jsonl, line 2: not a scored answer: {message}"):
        list(parse_predictions("run.jsonl", texts))


def test_a_file_without_predictions_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "empty.jsonl", [])
    with pytest.raises(ValueError, match=r"empty\.jsonl: no predictions"):
        read_predictions(tmp_path / "empty.jsonl")
