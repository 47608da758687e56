"""Scoring and results: perfect answers score perfectly, unreadable ones not at all, baselines are those of a hand."""

import json
from random import Random
from typing import Any

import numpy as np
import pytest

from panollava.corpus.records import Record
from panollava.corpus.vocabulary import LANGUAGES
from panollava.corpus.wording import turn_json
from panollava.corpus.world.scenes import sample_scene
from panollava.corpus.world_questions import sample_dialogues
from panollava.inference.answer import Answer
from panollava.tasks import CLOSED_TYPES
from panollava.tasks.majority import TRIED_BOXES, constant_detections, majority
from panollava.tasks.questions import MAX_NEW_TOKENS, Question, derangement, panorama_questions
from panollava.tasks.results import evaluate, free_answers
from panollava.tasks.scoring import Prediction, Variant, iou, reference_objects, score

PER_TYPE = dict.fromkeys((*CLOSED_TYPES, "nearest", "turn", "pointing", "grounding"), 2)
PER_TYPE |= {"detection": 1, "detection_described": 1, "description": 1, "dialogue": 1}


def world_questions(panoramas: int = 12) -> list[list[Question]]:
    """Return the questions of synthetic panoramas, each in both languages."""
    questions = []
    for index in range(panoramas):
        rng = Random(index)
        scene = sample_scene(0, split="test", index=index)
        records = [
            Record.model_validate(
                {"image_id": f"p{index}", "image_path": "a.png"}
                | {"conversations": [turn_json(question, language, rng) for question in dialogue]}
            )
            for dialogue in sample_dialogues(scene, rng, per_type=PER_TYPE)
            for language in LANGUAGES
        ]
        questions.append(panorama_questions(f"p{index}", records))
    return questions


def lines(variant: Variant, questions: list[list[Question]], say: Any) -> list[Prediction]:
    return [score(variant, q, Answer(say(q), 0.5)) for own in questions for q in own]


def question(task: str, answer: dict | None, text: str = "x", image_id: str = "p", **turn: Any) -> Question:
    content = {"human": "?", "assistant": text, "task": task, **turn} | ({} if answer is None else {"answer": answer})
    record = Record.model_validate({"image_id": image_id, "image_path": "a.png", "conversations": [content]})
    return panorama_questions(image_id, [record])[0]


def test_perfect_answers_score_perfectly_in_both_languages() -> None:
    questions = world_questions()
    scores = evaluate(lines("model", questions, lambda q: q.content.assistant), resamples=50, seed=0)
    assert list(scores) == list(LANGUAGES)
    for language, blocks in scores.items():
        asked = [q for own in questions for q in own if q.content.language == language]
        accuracy = blocks["accuracy"]
        assert (accuracy["value"], accuracy["low"], accuracy["high"]) == (1, 1, 1)
        assert accuracy["n"] == sum(q.content.type in CLOSED_TYPES for q in asked)
        assert set(blocks["types"]) == {q.content.type for q in asked if q.content.task == "choice"}
        assert list(blocks["types"])[: len(CLOSED_TYPES)] == list(CLOSED_TYPES)
        assert all(block["value"] == 1 for block in blocks["types"].values())
        assert all(blocks["types"][kind]["majority"] < 1 for kind in CLOSED_TYPES)
        assert blocks["direction"]["median_deg"] < 0.8  # the text holds whole degrees, the truth does not
        assert blocks["direction"]["within_15_deg"] == 1
        assert blocks["grounding"]["iou50"] == 1
        assert blocks["grounding"]["mean_iou"] > 0.8
        assert blocks["detection"]["ap50"] == pytest.approx(1)
        assert blocks["detection"]["unparsed"] == 0
        texts = {name: blocks["description"][name] for name in ("chrf", "bleu", "rouge_l", "cider", "n")}
        assert texts == pytest.approx({"chrf": 1, "bleu": 1, "rouge_l": 1, "cider": 10, "n": 12})
        assert "open" not in blocks


def test_unreadable_answers_score_as_badly_as_can_be() -> None:
    questions = world_questions(4)
    scores = evaluate(lines("model", questions, lambda q: "hm [1, 2"), resamples=20, seed=0)
    for blocks in scores.values():
        assert blocks["accuracy"]["value"] == 0
        assert blocks["direction"]["median_deg"] == 180
        assert blocks["direction"]["unparsed"] == blocks["direction"]["n"]
        assert blocks["grounding"]["iou50"] == blocks["grounding"]["mean_iou"] == 0
        assert blocks["grounding"]["unparsed"] == blocks["grounding"]["n"]
        assert blocks["detection"]["ap"] == blocks["detection"]["ap50"] == 0
        assert blocks["detection"]["unparsed"] == blocks["detection"]["n"] == 4


def test_the_lines_hold_what_the_report_reads() -> None:
    asked = question("grounding", {"label": "red cube", "box_deg": [179, 0, 20, 20]}, "[179, 0, 20, 20]")
    line = score("blind", asked, Answer("[-171, 0, 20, 20]", 0.25))
    assert line["boxes"] == [{"label": "red cube", "box_deg": [-171, 0, 20, 20]}]
    assert line["iou"] == pytest.approx(1 / 3, abs=0.01)  # half of each box, across the seam
    assert (line["variant"], line["score"], line["parsed"], line["correct"]) == ("blind", 0.25, True, None)
    assert line["answer"] == {"label": "red cube", "box_deg": [179, 0, 20, 20]}
    json.dumps(line, allow_nan=False)
    pointed = score("model", question("direction", {"yaw_deg": 170, "pitch_deg": 0}), Answer("-170, 0", 1))
    assert pointed["direction"] == [-170, 0]
    assert pointed["error_deg"] == pytest.approx(20)
    chosen = score("model", question("choice", {"text": "Front left"}), Answer("front  LEFT.", 1))
    assert chosen["correct"] is True
    told = score("model", question("open", None), Answer("anything", 1))
    assert [told[key] for key in ("correct", "error_deg", "iou", "boxes", "answer", "parsed")] == [None] * 5 + [True]


def test_detections_are_compared_in_the_language_of_the_answer() -> None:
    objects = [{"label": "red cube", "box_deg": [10.4, 0, 20, 20]}, {"label": "blue ball", "box_deg": [90, 0, 9, 9]}]
    text = "빨간색 정육면체 [10, 0, 20, 20]; 파란색 공 [90, 0, 9, 9]"
    line = score("model", question("detection", {"objects": objects}, text, language="ko"), Answer(text, 0.5))
    assert reference_objects(line) == [("빨간색 정육면체", (10.4, 0, 20, 20)), ("파란색 공", (90, 0, 9, 9))]
    assert evaluate([line], resamples=5, seed=0)["ko"]["detection"]["ap50"] == pytest.approx(1)
    free = score("model", question("detection", {"objects": objects}, "A cube and a ball."), Answer(text, 0.5))
    assert [label for label, _ in reference_objects(free)] == ["red cube", "blue ball"]


def test_boxes_of_half_the_sphere_are_counted_and_left_out() -> None:
    wide = {"label": "floor", "box_deg": [0, -80, 200, 20]}
    narrow = {"label": "cube", "box_deg": [0, 0, 20, 20]}
    said = [
        score("model", question("grounding", wide), Answer("[0, -80, 170, 20]", 1)),
        score("model", question("grounding", narrow), Answer("[0, 0, 20, 20]", 1)),
        score("model", question("detection", {"objects": [wide, narrow]}), Answer("cube [0, 0, 20, 20]", 1)),
    ]
    blocks = evaluate(said, resamples=5, seed=0)["en"]
    assert (blocks["grounding"]["n"], blocks["grounding"]["iou50"], blocks["grounding"]["too_wide"]) == (1, 1, 1)
    assert blocks["detection"]["ap50"] == pytest.approx(1)
    assert blocks["detection"]["too_wide"] == 1


def test_baselines_and_means_by_hand() -> None:
    truths = {"existence": ["yes", "yes", "no", "yes"], "colour": ["red", "Red.", "blue", "green"]}
    asked = [
        question("choice", {"text": truth}, truth, image_id=f"p{place}", type=kind)
        for kind, answers in truths.items()
        for place, truth in enumerate(answers)
    ]
    says = {"model": ["yes"] * 3 + ["no"] + ["red"] * 4, "blind": ["no"] * 8, "shuffled": ["yes"] * 8}
    said = [
        score(variant, q, Answer(text, 1))  # type: ignore[arg-type]
        for variant, texts in says.items()
        for q, text in zip(asked, texts, strict=True)
    ]
    assert majority(said[:4]) == 0.75
    assert majority(said[4:8]) == 0.5
    blocks = evaluate(said, resamples=20, seed=0)["en"]
    assert list(blocks) == ["accuracy", "types"]
    keys = ("value", "majority", "blind", "shuffled", "n")
    assert [blocks["types"]["existence"][key] for key in keys] == [0.5, 0.75, 0.25, 0.75, 4]
    assert [blocks["types"]["colour"][key] for key in keys] == [0.5, 0.5, 0, 0, 4]
    assert [blocks["accuracy"][key] for key in keys] == [0.5, 0.625, 0.125, 0.375, 8]
    assert blocks["accuracy"]["low"] <= 0.5 <= blocks["accuracy"]["high"]


def test_blocks_and_baselines_that_do_not_apply_are_absent() -> None:
    alone = [score("model", question("open", None, "A church."), Answer("A house.", 1))]
    scores = evaluate(alone, resamples=5, seed=0)
    assert list(scores["en"]) == ["open"]
    own = {name for name in scores["en"]["open"] if not name.startswith("majority_")} - {"meteor"}
    assert own == {"chrf", "low", "high", "bleu", "rouge_l", "n"}  # CIDEr needs two questions
    nothing = [score("model", question("detection", {"objects": []}, "nothing"), Answer("nothing", 1))]
    assert evaluate(nothing, resamples=5, seed=0) == {"en": {}}
    assert nothing[0]["parsed"]
    both = [*alone, score("blind", question("open", None, "A church."), Answer("A church.", 1))]
    block = evaluate(both, resamples=5, seed=0)["en"]["open"]
    assert [block[f"blind_{name}"] for name in ("chrf", "bleu", "rouge_l")] == pytest.approx([1, 1, 1])
    assert block["rouge_l"] == 0.5


def test_data_without_the_closed_types_have_an_accuracy_too() -> None:
    said = [score("model", question("choice", {"text": "yes"}, type="mine"), Answer("Yes", 1))]
    assert evaluate(said, resamples=5, seed=0)["en"]["accuracy"]["value"] == 1
    other = score("model", question("choice", {"text": "yes"}, type="existence"), Answer("no", 1))
    assert evaluate([*said, other], resamples=5, seed=0)["en"]["accuracy"]["value"] == 0


def test_free_text_is_compared_with_every_reference_of_its_question() -> None:
    said = [score("model", question("open", None, text), Answer("A church.", 1)) for text in ("A church.", "A house.")]
    assert said[0]["references"] == ["A church."]
    block = evaluate(said, resamples=5, seed=0)["en"]["open"]
    # One question in two records, not two questions.
    assert [block[name] for name in ("chrf", "bleu", "rouge_l", "n")] == pytest.approx([1, 1, 1, 1])
    elsewhere = score("model", question("open", None, "A house.", image_id="q"), Answer("A church.", 1))
    block = evaluate([said[0], elsewhere], resamples=5, seed=0)["en"]["open"]
    # "church" is worth 10, "a" nothing; the single words and the pair of the first are right.
    assert [block["n"], block["rouge_l"], block["cider"]] == pytest.approx([2, (1 + 0.5) / 2, 10 * (2 / 4) / 2])
    assert block["chrf"] < 1


def test_free_answers_are_one_item_per_question_and_answer() -> None:
    asked = [question("open", None, text, image_id=image) for image, text in (("p", "a"), ("p", "b"), ("q", "c"))]
    said = [score("model", q, Answer(text, 1)) for q, text in zip(asked, ("x", "y", "x"), strict=True)]
    said.append(score("model", question("open", None, "b"), Answer("x", 1)))
    said[2]["references"] = ["c", "d", "c"]
    assert free_answers(said) == (["x", "y", "x"], [["a", "b"], ["a", "b"], ["c", "d"]])


def test_free_text_is_compared_with_all_references_of_its_turn() -> None:
    asked = question("open", None, "A church.", references=["A church.", "A gate."])
    said = score("model", asked, Answer("A gate.", 1))
    assert (said["reference"], said["references"]) == ("A church.", ["A church.", "A gate."])
    assert evaluate([said], resamples=5, seed=0)["en"]["open"]["chrf"] == 1


def test_later_turns_see_the_true_dialogue_and_the_panorama_comes_first() -> None:
    turns = [{"human": "a", "assistant": "b"}, {"human": "c", "assistant": "d"}]
    record = Record.model_validate({"image_id": "p", "image_path": "a.png", "conversations": turns})
    first, second = panorama_questions("p", [record])
    assert [part["type"] for part in first.messages[0]["content"]] == ["image", "text"]
    assert [message["role"] for message in second.messages] == ["user", "assistant", "user"]
    assert second.messages[:1] == first.messages
    assert [m["content"][-1]["text"] for m in second.messages] == ["a", "b", "c"]
    assert (second.record, second.turn, second.max_new_tokens) == (0, 1, MAX_NEW_TOKENS["open"])


@pytest.mark.parametrize("count", [2, 3, 10, 321])
def test_a_derangement_moves_every_panorama(count: int) -> None:
    order = derangement(count, 3)
    assert sorted(order) == list(range(count))
    assert all(place != shown for place, shown in enumerate(order))
    assert order == derangement(count, 3)
    assert count < 10 or order != derangement(count, 4)


def test_a_single_panorama_cannot_be_deranged() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        derangement(1, 0)


def test_people_are_scored_against_each_other() -> None:
    def said(image: str, *references: str) -> Prediction:
        asked = question("open", None, references[0], image_id=image, references=list(references))
        return score("model", asked, Answer("A pond.", 1))

    agreeing = [said("p", "A gate.", "A gate of stone."), said("q", "A big tree.", "A big tree!", "A tree.")]
    block = evaluate(agreeing, resamples=20, seed=0)["en"]["open"]
    # First references: "a gate" in "a gate of stone" (F 2/3), "a big tree" is told again (1); the second ones alike; of
    # the third ones there is one, "a tree" of "a big tree" (F 4/5).
    assert block["human_rouge_l"] == pytest.approx(((2 / 3 + 1) / 2 + (2 / 3 + 1) / 2 + 4 / 5) / 3)
    assert block["chrf"] < block["human_chrf"] < 1
    assert block["low"] <= block["chrf"] <= block["high"]
    alone = evaluate([said("p", "A gate."), said("q", "A tree.")], resamples=5, seed=0)["en"]["open"]
    assert not [name for name in alone if name.startswith("human_")]


def test_detection_by_description_has_numbers_of_its_own() -> None:
    red, blue = ({"label": label, "box_deg": [yaw, 0, 20, 20]} for label, yaw in (("red cube", 10), ("blue ball", 90)))
    texts = {"red": "red cube [10, 0, 20, 20]", "both": "red cube [10, 0, 20, 20]; blue ball [90, 0, 20, 20]"}

    def said(variant: Any, objects: list[dict[str, Any]], text: str, **fields: Any) -> Prediction:
        return score(variant, question("detection", {"objects": objects}, text, **fields), Answer(text, 0.5))

    plain = [said("model", [red, blue], texts["both"])]
    described = [
        said("model", [red], texts["red"], type="detection_described"),
        # A right box of what was not asked for counts as a wrong one.
        said("model", [blue], texts["both"], type="detection_described", image_id="q"),
        said("shuffled", [red], "red cube [99, 0, 20, 20]", type="detection_described"),
    ]
    alone, both = (evaluate(lines, resamples=5, seed=0)["en"] for lines in (plain, plain + described))
    assert list(alone) == ["detection"]
    assert list(both) == ["detection", "detection_described"]
    assert both["detection"] == alone["detection"]
    block = both["detection_described"]
    assert (block["n"], block["ap50"], block["shuffled_ap50"]) == (2, pytest.approx(1), 0)
    described[1]["boxes"][0]["score"] = 0.9  # the surplus red cube now comes before the right one
    assert evaluate(described, resamples=5, seed=0)["en"]["detection_described"]["ap50"] == pytest.approx((0.5 + 1) / 2)


def test_a_box_has_the_probability_of_its_own_part() -> None:
    truth = {"objects": [{"label": "cube", "box_deg": [0, 0, 20, 20]}, {"label": "ball", "box_deg": [90, 0, 20, 20]}]}
    text = "cube [0, 0, 20, 20]; nonsense; ball [90, 0, 20, 20]"
    asked = question("detection", truth, text)
    line = score("model", asked, Answer(text, 0.06, parts=(0.6, 0.2, 0.5)))
    assert [box["score"] for box in line["boxes"]] == [0.6, 0.5]
    assert line["unparsed"] == 1
    for unknown in (None, (0.6, 0.5)):  # parts of another number are not those of the text
        whole = score("model", asked, Answer(text, 0.06, parts=unknown))
        assert [box["score"] for box in whole["boxes"]] == [0.06, 0.06]


def test_the_majority_of_detections_is_one_box_for_each_label() -> None:
    def line(number: int, *boxes: tuple[str, float]) -> Prediction:
        objects = [{"label": label, "box_deg": [yaw, 0, 20, 20]} for label, yaw in boxes]
        return score(
            "model",
            question("detection", {"objects": objects}, "?", image_id=f"p{number}"),
            Answer("a [1, 2, 3, 4]", 1),
        )

    lines = [line(0, ("a", 0), ("b", 90)), line(1, ("a", 2)), line(2, ("a", -2)), line(3, ("a", 178), ("b", -90))]
    said = constant_detections(lines)
    assert said == [("a", (0, 0, 20, 20), 3 / 4), ("b", (90, 0, 20, 20), 1 / 4)]
    # Label a is right in the first three panoramas; b in the first, of two true ones and four said.
    block = evaluate(lines, resamples=5, seed=0)["en"]["detection"]
    assert block["majority_ap50"] == pytest.approx((76 / 101 + 51 / 101) / 2)
    crowd = [line(number, ("a", 0.1 * number)) for number in range(3 * TRIED_BOXES)]
    ((label, box, share),) = constant_detections(crowd)
    assert (label, share) == ("a", np.mean([iou(box, (0.1 * n, 0, 20, 20)) >= 0.5 for n in range(300)]))
    assert 0.4 < share < 0.5  # from 6.7 degrees on either side of it


def test_the_majority_of_directions_and_boxes_is_the_constant_that_does_best() -> None:
    yaws = (10, 12, 14, 100, -170)
    lines = [
        score("model", question("direction", {"yaw_deg": yaw, "pitch_deg": 0}, image_id=f"d{yaw}"), Answer("0, 0", 1))
        for yaw in yaws
    ]
    boxes = ([0, 0, 20, 20], [2, 0, 20, 20], [178, 0, 20, 20], [-2, 0, 20, 20])
    lines += [
        score("model", question("grounding", {"label": "a", "box_deg": box}, image_id=f"b{box[0]}"), Answer("?", 1))
        for box in boxes
    ]
    texts = ("A red ball.", "A red ball.", "A plaza at night.")
    lines += [
        score("model", question("open", None, text, image_id=f"t{n}"), Answer("?", 1)) for n, text in enumerate(texts)
    ]
    scores = evaluate(lines, resamples=5, seed=0)["en"]
    assert scores["direction"]["majority_median_deg"] == pytest.approx(2)  # always 12: off by 0, 2, 2, 88, 178
    assert scores["grounding"]["majority"] == 3 / 4  # always [0, 0, 20, 20]
    assert scores["open"]["majority_rouge_l"] == pytest.approx((1 + 1 + 2 / 7) / 3)  # "a" of four words
