"""Answerers whose robustness is known, and what counts as the same answer after a turn."""

from typing import Any

import pytest
from tiny_backbones import write_panoramas

from panollava.corpus.records import Record
from panollava.corpus.rotation.panorama import Rotation
from panollava.corpus.rotation.rewording import placed_objects, subject
from panollava.corpus.store import open_split, panorama_records
from panollava.inference.answer import Answer
from panollava.tasks.questions import Question, panorama_questions
from panollava.tasks.robustness.outcomes import agrees, robustness
from panollava.tasks.robustness.questions import LONG, Asking, asking, key_of, seam_askings
from panollava.tasks.scoring import Prediction, score

PANORAMAS, WIDTH = 8, 128
ROLLS = (67.5, 135, 270)
DRAWS = {"resamples": 30, "seed": 0}
Panoramas = dict[str, list[Record]]


@pytest.fixture(scope="module")
def panoramas(tmp_path_factory: pytest.TempPathFactory) -> Panoramas:
    folder = write_panoramas(tmp_path_factory.mktemp("store"), PANORAMAS, split="test")
    return {row["image_id"]: panorama_records(row) for row in open_split(folder, "test")}


def told(asked: Asking, texts: dict[Any, str]) -> list[Prediction]:
    """Return the lines of an answerer that says `texts` by key."""
    turned = {"study": asked.study, "yaw_deg": asked.rotation.yaw_deg, "tilt_deg": asked.rotation.tilt_deg}
    return [turned | score("model", q, Answer(texts[key_of(q)], 1.0)) for q in asked.questions]


def truth(questions: list[Question]) -> dict[Any, str]:
    return {key_of(q): q.content.assistant for q in questions}


def block_of(panoramas: Panoramas, *, blind: bool) -> dict[str, Any]:
    """Return the numbers of an answerer that reads the turned panorama's record, or that never notices a turn."""
    lines, plain, latitudes = [], [], {}
    for name, records in panoramas.items():
        unturned = panorama_questions(name, records)
        plain += [score("model", q, Answer(q.content.assistant, 1.0)) for q in unturned]
        found = {key_of(q): subject(q.content, placed_objects(records)) for q in unturned}
        latitudes |= {key: where[1] for key, where in found.items() if where is not None}
        askings = [asking("roll", name, records, Rotation(angle))[0] for angle in ROLLS]
        askings += [asking("tilt", name, records, Rotation(tilt_deg=angle))[0] for angle in (10, 30)]
        for asked in askings + seam_askings(name, records, WIDTH):
            lines += told(asked, truth(unturned if blind else asked.questions))
    return robustness(lines, plain, latitudes, **DRAWS)


def test_an_answerer_that_sees_the_turn_loses_nothing(panoramas: Panoramas) -> None:
    block = block_of(panoramas, blind=False)
    for measure in ("accuracy", "direction", "grounding"):
        rolls = block["rolls"][measure]
        for name in ("plain", "mean", "ratio", "agreement", "all", "worst"):
            assert rolls[name] == {"value": 1, "low": 1, "high": 1}, (measure, name)
        assert list(rolls["yaws"]) == [f"{angle:g}" for angle in ROLLS]
        assert block["seam"][measure]["gap"] == 0
        assert all(block["tilts"][angle][measure]["value"] == 1 for angle in ("10", "30"))
        assert all(band["value"] == 1 for band in block["latitude"][measure].values())
    # The texts round to whole degrees.
    assert block["seam"]["iou"]["gap"] == pytest.approx(0, abs=0.02)
    assert block["seam"]["all"]["n"] >= PANORAMAS
    assert len(block["latitude"]["accuracy"]) >= 3


def test_an_answerer_that_does_not_notice_the_turn_loses_what_depends_on_it(panoramas: Panoramas) -> None:
    block = block_of(panoramas, blind=True)
    rolls = block["rolls"]
    # A direction near a pole hardly moves.
    assert max(rolls[m][n]["value"] for m in ("direction", "grounding") for n in ("mean", "agreement")) < 0.1
    # Of the seven types that make up the accuracy, only one asks for a direction.
    assert [rolls["accuracy"][n]["value"] for n in ("mean", "all", "worst", "ratio")] == pytest.approx([6 / 7] * 4)
    assert rolls["accuracy"]["agreement"]["value"] == pytest.approx(6 / 7)
    for kind in ("existence", "colour", "shape", "count", "relation", "turn", "look"):
        assert rolls["types"][kind]["mean"] == 1, kind
    for kind in ("direction8", "dialogue_direction8", "dialogue_where"):
        assert rolls["types"][kind]["mean"] == 0, kind
    assert block["tilts"]["30"]["direction"]["value"] < block["tilts"]["10"]["direction"]["value"] == 1


def test_the_object_asked_about_lies_astride_the_seam_and_in_front(panoramas: Panoramas) -> None:
    for name, records in panoramas.items():
        seam, away = seam_askings(name, records, WIDTH)
        assert (seam.study, away.study) == ("seam", "away")
        assert {key_of(q) for q in seam.questions} == {key_of(q) for q in away.questions}
        by_key = {key_of(q): q for q in panorama_questions(name, records)}
        for asked, yaw in ((seam, 180), (away, 0)):
            assert asked.rotation.yaw_deg * WIDTH / 360 == pytest.approx(round(asked.rotation.yaw_deg * WIDTH / 360))
            for question in asked.questions:
                where = subject(by_key[key_of(question)].content, placed_objects(records))
                assert where is not None
                turned = asked.rotation.direction(*where)[0]
                assert abs((turned - yaw + 180) % 360 - 180) <= 180 / WIDTH + 1e-9


def test_a_panorama_without_a_question_about_one_object_has_no_seam_pair() -> None:
    turn = {"human": "Is it day?", "assistant": "yes", "task": "choice", "answer": {"text": "yes"}}
    record = Record.model_validate({"image_id": "p", "image_path": "p.png", "conversations": [turn]})
    assert seam_askings("p", [record], WIDTH) == []


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
def test_directions_and_boxes_agree_once_the_plain_one_is_turned(
    task: str, plain: str, turned: str, same: bool
) -> None:
    # The truth is elsewhere: agreement asks not who is right.
    typed = {"yaw_deg": 0, "pitch_deg": 0} if task == "direction" else {"label": "a", "box_deg": [0, 0, 9, 9]}
    assert agrees(line(task, turned, typed), line(task, plain, typed), Rotation(90)) is same


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
    assert agrees(lines[0], lines[1], Rotation(90)) is same


def test_other_choices_agree_when_they_say_the_same() -> None:
    answers = [line("choice", text, {"text": "red"}, type="colour") for text in ("Red.", "red", "blue")]
    assert agrees(answers[0], answers[1], Rotation(90))
    assert not agrees(answers[2], answers[1], Rotation(90))


def test_an_answer_that_was_never_given_without_a_turn_is_refused(panoramas: Panoramas) -> None:
    name, records = next(iter(panoramas.items()))
    asked, _ = asking("roll", name, records, Rotation(90))
    with pytest.raises(ValueError, match="was answered after a turn, but not without; run evaluate"):
        robustness(told(asked, truth(asked.questions)), [], {}, **DRAWS)


def test_what_is_left_out_of_a_turn_is_counted(panoramas: Panoramas) -> None:
    for name, records in panoramas.items():
        asked, left_out = asking("roll", name, records, Rotation(22.5))
        assert len(asked.questions) + left_out.total() == len(panorama_questions(name, records))
        assert left_out[f"detection: {LONG}"] == 2
        assert left_out["description: names a direction or a number"] == 2
