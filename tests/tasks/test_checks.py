"""Texts of answers must say what their typed answers say, in a form that evaluation reads."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from task_data import world_questions
from tiny_models import write_dataset

from panollava import PanoDataset
from panollava.cli import main
from panollava.corpus.reading import RecordLocation
from panollava.corpus.records import Record
from panollava.corpus.vocabulary import LANGUAGES
from panollava.inference.answer import Answer
from panollava.tasks.checks import answer_problems
from panollava.tasks.questions import panorama_questions
from panollava.tasks.scoring import score

DOOR = {"label": "door", "box_deg": [35.0, -12.0, 20.0, 15.0]}
WINDOW = {"label": "window", "box_deg": [-90.0, 0.0, 10.0, 10.0]}
TRUTHS: dict[str, Any] = {
    "choice": {"text": "yes"},
    "direction": {"yaw_deg": 35.0, "pitch_deg": -12.0},
    "grounding": DOOR,
    "detection": {"objects": [DOOR, WINDOW]},
}


def problems(task: str, text: str, answer: Any = None, **fields: Any) -> list[str]:
    """Return the problems of a record whose second turn has a typed answer."""
    turn = {"human": "?", "assistant": text, "task": task, "answer": answer or TRUTHS[task], **fields}
    turns = [{"human": "hello", "assistant": "hi"}, turn]
    record = Record.model_validate({"image_id": "a", "image_path": "a.jpg", "conversations": turns})
    return list(map(str, answer_problems([(RecordLocation(Path("a.json"), 4), record)])))


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("choice", "Yes."),
        ("choice", " YES "),
        ("direction", "35, -12"),
        ("direction", "35°, −12°"),
        ("direction", "35.4, -11.1"),
        ("direction", "-325, -12"),
        ("grounding", "[35, -12, 20, 15]"),
        ("grounding", '{"bbox": [35, -12, 20, 15]}'),
        ("grounding", "<box>34.2, -12, 19.5, 16</box>"),
        ("detection", "door [35, -12, 20, 15]; window [-90, 0, 10, 10]"),
        ("detection", "문 [35, -12, 20, 15]\n창문 [270, 0, 10, 10]"),
    ],
)
def test_texts_that_agree_pass(task: str, text: str) -> None:
    assert problems(task, text) == []


@pytest.mark.parametrize(
    ("task", "text", "told"),
    [
        ("choice", "Yes, there is.", "got 'Yes, there is.', but the typed answer is 'yes'; write 'yes', or correct"),
        ("choice", "no", "got 'no', but the typed answer is 'yes'"),
        ("direction", "90, 40", "but the typed answer is yaw_deg 35, pitch_deg -12; write '35, -12', or correct"),
        ("direction", "front left", "in which evaluation can read no direction; write '35, -12'"),
        ("direction", "35, -14", "got '35, -14', but the typed answer is"),
        ("grounding", "door", "in which evaluation can read no box; write '[35, -12, 20, 15]'"),
        ("grounding", "<box>(35,-12),(20,15)</box>", "can read no box"),
        ("grounding", "[35, -12, 15, 20]", "but the typed answer is box_deg [35.0, -12.0, 20.0, 15.0]"),
        ("detection", "A door and a window.", "can read no list of labelled boxes; write 'door [35, -12, 20, 15]; win"),
        ("detection", "door [35, -12, 20, 15]", "a list of 2 objects, not 1"),
        (
            "detection",
            "window [-90, 0, 10, 10]; door [35, -12, 20, 15]",
            "'door' with box_deg [35.0, -12.0, 20.0, 15.0]",
        ),
        ("detection", "gate [35, -12, 20, 15]; window [-90, 0, 10, 10]", "'door' with box_deg"),
        ("detection", "door [35, -12, 20, 15]; window", "can read no list"),
    ],
)
def test_texts_that_cannot_be_read_or_contradict_are_refused_with_the_right_form(
    task: str, text: str, told: str
) -> None:
    (problem,) = problems(task, text)
    assert problem.startswith("a.json: record 4: conversations.1.assistant: got ")
    assert told in problem
    assert "\n" not in problem


def test_special_cases() -> None:
    assert problems("detection", "nothing", {"objects": []}) == []
    assert "an empty list" in problems("detection", "door [1, 2, 3, 4]", {"objects": []})[0]
    assert "no word to compare" in problems("choice", "?!", {"text": "?!"})[0]
    # Near a pole a yaw means little; beyond 180 degrees a box has no area, and evaluation leaves it out.
    assert problems("direction", "120, 90", {"yaw_deg": 35.0, "pitch_deg": 89.9}) == []
    floor = {"label": "floor", "box_deg": [0.0, -80.0, 200.0, 20.0]}
    assert problems("grounding", "[0, -80, 200, 20]", floor) == []
    assert problems("detection", "floor [0, -80, 200, 20]; door [35, -12, 20, 15]", {"objects": [floor, DOOR]}) == []
    assert "but the typed answer" in problems("grounding", "[0, -80, 170, 20]", floor)[0]
    # 180 cannot be read as an extent.
    assert (
        "can read no box" in problems("grounding", "[0, 0, 180, 20]", floor | {"box_deg": [0.0, 0.0, 179.7, 20.0]})[0]
    )
    # Words of another language than the typed label's.
    assert problems("detection", "Tuer [35, -12, 20, 15]", {"objects": [DOOR]}, language="de") == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_synthetic_world_passes_its_own_check(language: str) -> None:
    turns = [q.content for own in world_questions(6) for q in own if q.content.language == language]
    record = Record.model_validate(
        {
            "image_id": "a",
            "image_path": "a.png",
            "conversations": [turn.model_dump(exclude_unset=True) for turn in turns],
        }
    )
    assert {turn.task for turn in turns} >= TRUTHS.keys()
    assert answer_problems([(RecordLocation(Path("world"), 0), record)]) == []


@settings(max_examples=60, deadline=None)
@given(
    task=st.sampled_from(["direction", "grounding"]),
    numbers=st.tuples(st.integers(-180, 180), st.integers(-90, 90), st.integers(4, 178), st.integers(4, 178)),
    offsets=st.tuples(*[st.sampled_from([0.0, 0.0, 0.5, -0.7, 3.0])] * 4),
)
def test_a_text_that_passes_scores_as_right(task: str, numbers: tuple[int, ...], offsets: tuple[float, ...]) -> None:
    yaw, pitch, width, height = (
        min(max(n + o, lo), hi)
        for n, o, lo, hi in zip(numbers, offsets, (-180, -90, 0.1, 0.1), (180, 90, 179.9, 179.9), strict=True)
    )
    if task == "direction":
        text, answer = f"{numbers[0]}, {numbers[1]}", {"yaw_deg": yaw, "pitch_deg": pitch}
    else:
        text, answer = str(list(numbers)), {"label": "door", "box_deg": [yaw, pitch, width, height]}
    turn = {"human": "?", "assistant": text, "task": task, "answer": answer}
    record = Record.model_validate({"image_id": "a", "image_path": "a.png", "conversations": [turn]})
    passed = not answer_problems([(RecordLocation(Path("a"), 0), record)])
    scored = score("model", panorama_questions("a", [record])[0], Answer(text, 1.0))
    if passed and task == "direction":
        assert scored.error_deg is not None and scored.error_deg < 2
    if passed and task == "grounding":
        assert scored.parsed and scored.iou is not None and scored.iou > 0
    close = all(abs(offset) <= 1 for offset in offsets[: 2 if task == "direction" else 4])
    assert passed or not close


def test_validate_and_the_trainers_data_list_answers_beside_all_other_problems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_dataset(tmp_path / "data", 1) / "annotations.json"
    records = json.loads(file.read_text("utf-8"))
    records[0]["image_path"] = "gone.png"
    records[1]["conversations"][0] |= {"task": "direction", "assistant": "left", "answer": TRUTHS["direction"]}
    file.write_text(json.dumps(records), encoding="utf-8")
    assert main(["validate", str(tmp_path / "data")]) == 1
    printed = capsys.readouterr().out
    with pytest.raises(ValueError, match="4 problems") as error:
        PanoDataset(tmp_path / "data")
    for text in (printed, str(error.value)):
        assert "gone.png" in text
        assert "record 1: conversations.0.assistant: got 'left', in which evaluation can read no direction" in text
