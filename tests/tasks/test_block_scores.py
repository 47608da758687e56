"""Perfect answers score perfectly, unreadable ones as badly as can be, and blocks that do not apply are absent."""

import pytest
from task_data import lines, question, world_questions

from panollava.corpus.vocabulary import LANGUAGES
from panollava.inference.answer import Answer
from panollava.tasks.block_scores import evaluate
from panollava.tasks.choice import CLOSED_TYPES
from panollava.tasks.questions import true_answers
from panollava.tasks.scoring import score


def test_perfect_answers_score_perfectly_in_both_languages() -> None:
    questions = world_questions()
    training = true_answers([question for own in world_questions(4) for question in own])
    said = lines("model", questions, lambda q: q.content.assistant)
    scores = evaluate(said, resamples=50, seed=0, training=training)
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


def test_blocks_and_baselines_that_do_not_apply_are_absent() -> None:
    alone = [score("model", question("open", None, "A church."), Answer("A house.", 1))]
    scores = evaluate(alone, resamples=5, seed=0)
    assert list(scores["en"]) == ["open"]
    own = {name for name in scores["en"]["open"] if not name.startswith("majority_")} - {"meteor"}
    assert own == {"chrf", "low", "high", "bleu", "rouge_l", "n"}  # CIDEr needs two questions
    nothing = [score("model", question("detection", {"objects": []}, "nothing"), Answer("nothing", 1))]
    assert evaluate(nothing, resamples=5, seed=0) == {"en": {}}
    assert nothing[0].parsed
    both = [*alone, score("blind", question("open", None, "A church."), Answer("A church.", 1))]
    block = evaluate(both, resamples=5, seed=0)["en"]["open"]
    assert [block[f"blind_{name}"] for name in ("chrf", "bleu", "rouge_l")] == pytest.approx([1, 1, 1])
    assert block["rouge_l"] == 0.5
