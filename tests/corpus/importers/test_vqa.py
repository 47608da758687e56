"""VQA: all human answers are references; questions, annotations and images must match."""

from pathlib import Path
from typing import Any

import pytest
from importer_cases import refused, run, write_image, write_json


def vqa_answers(question: int, image: int, kind: str, best: str, given: list[str]) -> dict[str, Any]:
    people = [
        {"answer_id": number, "answer": text, "answer_confidence": "yes"} for number, text in enumerate(given, start=1)
    ]
    row = {"question_id": question, "image_id": image, "question_type": "is", "answer_type": kind}
    return row | {"multiple_choice_answer": best, "answers": people}


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


def test_all_human_answers_are_kept(tmp_path: Path) -> None:
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


def odd(**changes: Any) -> list[dict[str, Any]]:
    """Return two annotations, the first with changes."""
    return [vqa_answers(70, 7, "yes/no", "yes", ["yes", "no"]) | changes, vqa_answers(80, 8, "other", "door", ["door"])]


@pytest.mark.parametrize(
    ("changes", "best", "given"),
    [
        ({"multiple_choice_answer": "YES!"}, "yes", ["yes", "no"]),
        ({"multiple_choice_answer": None}, "yes", ["yes", "no"]),
        ({"answers": []}, "yes", []),
        ({"answers": None}, "yes", []),
        ({"answers": ["no", "yes", "no"], "multiple_choice_answer": ""}, "no", ["no", "yes", "no"]),
        ({"answers": [{"answer": 3}, {"answer": None}], "multiple_choice_answer": 3.0}, "3", ["3"]),
        ({"question_id": "70", "image_id": 7.0}, "yes", ["yes", "no"]),
        ({"answer_type": None}, "yes", ["yes", "no"]),
    ],
)
def test_answers_in_other_forms_are_read(tmp_path: Path, changes: dict[str, Any], best: str, given: list[str]) -> None:
    records, report = run(tmp_path, "vqa", vqa_folder(tmp_path, annotations=odd(**changes)))
    turn = records[0].conversations[0]
    assert (turn.assistant, turn.references) == (best, given)
    assert turn.task == ("open" if changes.get("answer_type", "") is None else "choice")
    assert report.findings.changed.total() == (changes.get("multiple_choice_answer") == "YES!")


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"image_id": 8}, "two image_ids"),
        ({"question_id": 90}, "no annotation"),
        ({"answers": [], "multiple_choice_answer": " "}, "no answer"),
        ({"answers": [{"answer": ["yes"]}]}, "a bad answers.answer in annotations"),
        ({"answers": "yes"}, "a bad answers in annotations"),
    ],
)
def test_questions_without_fitting_answers_are_named_or_left_out(
    tmp_path: Path, changes: dict[str, Any], kind: str
) -> None:
    folder = vqa_folder(tmp_path, annotations=odd(**changes))
    message = refused(tmp_path, "vqa", folder)
    assert message.startswith("1 of 2 questions cannot be imported; --drop-bad-records leaves them out:\n")
    assert f"1 questions with {kind}:\n  v2_questions.json questions.0 (question_id '70'): " in message
    records, report = run(tmp_path, "vqa", folder, drop_bad_records=True)
    assert [record.metadata["question_id"] for record in records] == ["80"]
    assert "read: 2 questions, imported: 1, left out: 1" in str(report)


def test_questions_and_annotations_that_come_twice(tmp_path: Path) -> None:
    rows = [{"question_id": 70, "image_id": 7, "question": text} for text in ("Is it day?", "Is it day?")]
    rows.append({"question_id": 80, "image_id": 8, "question": "What?"})
    records, report = run(tmp_path, "vqa", vqa_folder(tmp_path, questions=rows, annotations=[*odd(), *odd()]))
    assert len(records) == 2
    assert report.findings.left_out == {"questions identical to an earlier one": 1}
    (tmp_path / "out").rename(tmp_path / "kept")
    rows[1]["question"] = "Is it night?"
    message = refused(tmp_path, "vqa", vqa_folder(tmp_path, questions=rows, annotations=odd()))
    assert "2 questions with a question_id of several questions" in message
    folder = vqa_folder(tmp_path, annotations=[*odd(), odd(multiple_choice_answer="no")[0]])
    assert "1 questions with two annotations" in refused(tmp_path, "vqa", folder)


def test_files_and_images_must_match(tmp_path: Path) -> None:
    folder = vqa_folder(tmp_path, questions=[{"question_id": 70, "image_id": 7, "question": 3}])
    assert "v2_questions.json questions.0: question: got 3" in refused(tmp_path, "vqa", folder)
    folder = vqa_folder(tmp_path, annotations=[*odd(), vqa_answers(90, 7, "other", "x", ["x"])], license="MIT")
    write_image(folder / "more/8.jpg")
    assert "1 questions with two images" in refused(tmp_path, "vqa", folder)
    (folder / "more/8.jpg").unlink()
    records, report = run(tmp_path, "vqa", folder)
    assert records[0].metadata["licence"] == "not stated by the file"
    assert report.dropped == {"annotations without a question": 1}
    (tmp_path / "out").rename(tmp_path / "kept")
    (folder / "images/8.png").unlink()
    message = refused(tmp_path, "vqa", folder)
    assert message.startswith("1 of 2 images are missing or cannot be used; --drop-bad-images leaves them out:\n")
    assert "v2_questions.json questions.1 (question_id '80'): '8.*' is missing" in message
    write_json(folder / "v1_questions.json", {})
    assert "exactly one *questions.json, found v1_questions.json, v2_questions.json" in refused(tmp_path, "vqa", folder)
    assert "expected a folder with one" in refused(tmp_path, "vqa", folder / "v1_questions.json")


def test_an_image_id_never_leads_out_of_the_folder(tmp_path: Path) -> None:
    folder = vqa_folder(
        tmp_path,
        questions=[{"question_id": 70, "image_id": "../secret", "question": "?"}],
        annotations=odd(image_id="../secret"),
    )
    (folder.parent / "secret.*").write_bytes(b"")
    assert "expected the path of a file below the image folder" in refused(tmp_path, "vqa", folder)
