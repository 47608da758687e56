"""Answerers whose robustness is known, and answers that count as the same after a rotation."""

from typing import Any

import pytest
from tiny_backbones import write_panoramas

from panollava.corpus.records import Record
from panollava.corpus.rotation.panorama import Rotation
from panollava.corpus.rotation.rewording import placed_objects, subject
from panollava.corpus.store import open_split, panorama_records
from panollava.inference.answer import Answer
from panollava.tasks.prediction import Prediction
from panollava.tasks.questions import Question, panorama_questions
from panollava.tasks.robustness.outcomes import STUDIES, RotatedPrediction, robustness
from panollava.tasks.robustness.rotated_questions import LONG, RotatedQuestions, rotated_questions, seam_pair
from panollava.tasks.scoring import score

PANORAMAS, WIDTH = 8, 128
YAWS = (67.5, 135, 270)
DRAWS = {"resamples": 30, "seed": 0}
Panoramas = dict[str, list[Record]]


@pytest.fixture(scope="module")
def panoramas(tmp_path_factory: pytest.TempPathFactory) -> Panoramas:
    folder = write_panoramas(tmp_path_factory.mktemp("store"), PANORAMAS, split="test")
    return {row["image_id"]: panorama_records(row) for row in open_split(folder, "test")}


def told(asked: RotatedQuestions, texts: dict[Any, str]) -> list[RotatedPrediction]:
    """Return the answers of an answerer that says `texts` by key."""
    predictions = [score("model", q, Answer(texts[q.key], 1.0)) for q in asked.questions]
    return [RotatedPrediction(prediction, asked.rotation, asked.study) for prediction in predictions]


def truth(questions: list[Question]) -> dict[Any, str]:
    return {q.key: q.content.assistant for q in questions}


def block_of(panoramas: Panoramas, *, blind: bool) -> dict[str, Any]:
    """Return the numbers of an answerer that reads the rotated panorama's record, or that never notices a rotation."""
    lines, plain, latitudes = [], [], {}
    for name, records in panoramas.items():
        unturned = panorama_questions(name, records)
        plain += [score("model", q, Answer(q.content.assistant, 1.0)) for q in unturned]
        found = {q.key: subject(q.content, placed_objects(records)) for q in unturned}
        latitudes |= {key: where[1] for key, where in found.items() if where is not None}
        asked_again = [rotated_questions("yaw", name, records, Rotation(angle))[0] for angle in YAWS]
        asked_again += [rotated_questions("tilt", name, records, Rotation(tilt_deg=angle))[0] for angle in (10, 30)]
        for asked in asked_again + seam_pair(name, records, WIDTH):
            lines += told(asked, truth(unturned if blind else asked.questions))
    return robustness(lines, plain, latitudes, **DRAWS)


def test_an_answerer_that_sees_the_rotation_loses_nothing(panoramas: Panoramas) -> None:
    block = block_of(panoramas, blind=False)
    for measure in ("accuracy", "direction", "grounding"):
        yaws = block["yaws"][measure]
        for name in ("plain", "mean", "ratio", "agreement", "all", "worst"):
            assert yaws[name] == {"value": 1, "low": 1, "high": 1}, (measure, name)
        assert list(yaws["yaws"]) == [f"{angle:g}" for angle in YAWS]
        assert block["seam"][measure]["gap"] == 0
        assert all(block["tilts"][angle][measure]["value"] == 1 for angle in ("10", "30"))
        assert all(band["value"] == 1 for band in block["latitude"][measure].values())
    # The texts round to whole degrees.
    assert block["seam"]["iou"]["gap"] == pytest.approx(0, abs=0.02)
    assert block["seam"]["all"]["n"] >= PANORAMAS
    assert len(block["latitude"]["accuracy"]) >= 3


def test_an_answerer_that_ignores_the_rotation_loses_the_answers_that_depend_on_it(panoramas: Panoramas) -> None:
    block = block_of(panoramas, blind=True)
    yaws = block["yaws"]
    # A direction near a pole hardly moves.
    assert max(yaws[m][n]["value"] for m in ("direction", "grounding") for n in ("mean", "agreement")) < 0.1
    # Of the seven types that make up the accuracy, only one asks for a direction.
    assert [yaws["accuracy"][n]["value"] for n in ("mean", "all", "worst", "ratio")] == pytest.approx([6 / 7] * 4)
    assert yaws["accuracy"]["agreement"]["value"] == pytest.approx(6 / 7)
    for kind in ("existence", "colour", "shape", "count", "relation", "turn", "look"):
        assert yaws["types"][kind]["mean"] == 1, kind
    for kind in ("direction8", "dialogue_direction8", "dialogue_where"):
        assert yaws["types"][kind]["mean"] == 0, kind
    assert block["tilts"]["30"]["direction"]["value"] < block["tilts"]["10"]["direction"]["value"] == 1


def test_the_object_asked_about_lies_astride_the_seam_and_in_front(panoramas: Panoramas) -> None:
    for name, records in panoramas.items():
        seam, away = seam_pair(name, records, WIDTH)
        assert (seam.study, away.study) == ("seam", "away")
        assert {q.key for q in seam.questions} == {q.key for q in away.questions}
        by_key = {q.key: q for q in panorama_questions(name, records)}
        for asked, yaw in ((seam, 180), (away, 0)):
            assert asked.rotation.yaw_deg * WIDTH / 360 == pytest.approx(round(asked.rotation.yaw_deg * WIDTH / 360))
            for question in asked.questions:
                where = subject(by_key[question.key].content, placed_objects(records))
                assert where is not None
                turned = asked.rotation.direction(*where)[0]
                assert abs((turned - yaw + 180) % 360 - 180) <= 180 / WIDTH + 1e-9


def test_a_panorama_without_a_question_about_one_object_has_no_seam_pair() -> None:
    turn = {"human": "Is it day?", "assistant": "yes", "task": "choice", "answer": {"text": "yes"}}
    record = Record.model_validate({"image_id": "p", "image_path": "p.png", "conversations": [turn]})
    assert seam_pair("p", [record], WIDTH) == []


def line(task: str, text: str, typed: dict[str, Any], **fields: Any) -> Prediction:
    turn = {"human": "?", "assistant": "x", "task": task, "answer": typed, **fields}
    record = Record.model_validate({"image_id": "p", "image_path": "p.png", "conversations": [turn]})
    return score("model", panorama_questions("p", [record])[0], Answer(text, 1.0))


@pytest.mark.parametrize(
    ("task", "plain", "turned", "same"),
    [
        ("direction", "100, 10", "-170, 12", True),
        ("direction", "100, 10", "170, 10", False),
        ("direction", "100, 10", "100, 10", False),
        ("direction", "somewhere", "somewhere", False),
        ("grounding", "[100, 10, 20, 20]", "[-170, 10, 22, 20]", True),
        ("grounding", "[100, 10, 20, 20]", "[100, 10, 20, 20]", False),
        ("grounding", "nowhere", "[100, 10, 20, 20]", False),
    ],
)
def test_directions_and_boxes_agree_once_the_plain_one_is_rotated(
    task: str, plain: str, turned: str, same: bool
) -> None:
    # The truth is elsewhere: agreement asks not who is right.
    typed = {"yaw_deg": 0, "pitch_deg": 0} if task == "direction" else {"label": "a", "box_deg": [0, 0, 9, 9]}
    rotated, still = line(task, turned, typed), line(task, plain, typed)
    assert STUDIES[task].agrees(rotated, still, Rotation(90)) is same


@pytest.mark.parametrize(
    ("plain", "turned", "same"),
    [
        (("front", "front"), ("right", "right"), True),
        (("front right", "front"), ("back right", "right"), True),
        (("front right", "front"), ("right", "right"), False),
        (("nonsense", "front"), ("nonsense", "right"), True),
        (("front left", "front"), ("left", "front left"), True),
    ],
)
def test_eight_directions_agree_when_they_are_equally_far_off(
    plain: tuple[str, str], turned: tuple[str, str], same: bool
) -> None:
    lines = [line("choice", said, {"text": true}, type="direction8") for said, true in (turned, plain)]
    assert STUDIES["choice"].agrees(lines[0], lines[1], Rotation(90)) is same


def test_other_choices_agree_when_they_say_the_same() -> None:
    answers = [line("choice", text, {"text": "red"}, type="colour") for text in ("Red.", "red", "blue")]
    assert STUDIES["choice"].agrees(answers[0], answers[1], Rotation(90))
    assert not STUDIES["choice"].agrees(answers[2], answers[1], Rotation(90))


def test_an_answer_that_was_never_given_without_a_rotation_is_refused(panoramas: Panoramas) -> None:
    name, records = next(iter(panoramas.items()))
    asked, _ = rotated_questions("yaw", name, records, Rotation(90))
    with pytest.raises(ValueError, match="was answered after a rotation, but not without; run evaluate"):
        robustness(told(asked, truth(asked.questions)), [], {}, **DRAWS)


def test_questions_left_out_of_a_rotation_are_counted(panoramas: Panoramas) -> None:
    for name, records in panoramas.items():
        asked, left_out = rotated_questions("yaw", name, records, Rotation(22.5))
        assert len(asked.questions) + left_out.total() == len(panorama_questions(name, records))
        assert left_out[f"detection: {LONG}"] == 2
        assert left_out["description: names a direction or a number"] == 2
