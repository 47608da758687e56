"""Free text: every reference counts, a question is one item, and people are scored against each other."""

import pytest
from task_data import question

from panollava.inference.answer import Answer
from panollava.tasks.block_scores import evaluate
from panollava.tasks.prediction import Prediction
from panollava.tasks.scoring import score
from panollava.tasks.text import free_answers


def test_free_text_is_compared_with_every_reference_of_its_question() -> None:
    said = [score("model", question("open", None, text), Answer("A church.", 1)) for text in ("A church.", "A house.")]
    assert said[0].references == ["A church."]
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
    said[2] = said[2].model_copy(update={"references": ["c", "d", "c"]})
    assert free_answers(said) == (["x", "y", "x"], [["a", "b"], ["a", "b"], ["c", "d"]])


def test_free_text_is_compared_with_all_references_of_its_turn() -> None:
    asked = question("open", None, "A church.", references=["A church.", "A gate."])
    said = score("model", asked, Answer("A gate.", 1))
    assert (said.reference, said.references) == ("A church.", ["A church.", "A gate."])
    assert evaluate([said], resamples=5, seed=0)["en"]["open"]["chrf"] == 1


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


def test_the_majority_is_the_most_frequent_text() -> None:
    texts = ("A red ball.", "A red ball.", "A plaza at night.")
    said = [
        score("model", question("open", None, text, image_id=f"t{n}"), Answer("?", 1)) for n, text in enumerate(texts)
    ]
    block = evaluate(said, resamples=5, seed=0, training=said)["en"]["open"]
    assert block["majority_rouge_l"] == pytest.approx((1 + 1 + 2 / 7) / 3)  # "a" of four words
    # Of training, not of the questions that are scored.
    assert evaluate(said[2:], resamples=5, seed=0, training=said)["en"]["open"]["majority_rouge_l"] < 0.3
    assert not [name for name in evaluate(said, resamples=5, seed=0)["en"]["open"] if name.startswith("majority")]
