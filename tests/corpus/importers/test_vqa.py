"""VQA: all human answers are references; questions, annotations and images must match."""

from pathlib import Path
from typing import Any

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


def test_questions_annotations_and_images_must_match(tmp_path: Path) -> None:
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
