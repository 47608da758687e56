"""Choices: accuracies, means over types and baselines are those of a hand."""

from task_data import question

from panollava.inference.answer import Answer
from panollava.tasks.block_scores import evaluate
from panollava.tasks.scoring import score


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
    # In training `yes` and `Green` are the most frequent answers.
    training = [
        score("model", question("choice", {"text": truth}, truth, type=kind), Answer("", 0))
        for kind, truth in (("existence", "yes"), ("colour", "Green"), ("colour", "green."), ("colour", "red"))
    ]
    blocks = evaluate(said, resamples=20, seed=0, training=training)["en"]
    assert list(blocks) == ["accuracy", "types"]
    keys = ("value", "majority", "blind", "shuffled", "n")
    assert [blocks["types"]["existence"][key] for key in keys] == [0.5, 0.75, 0.25, 0.75, 4]
    assert [blocks["types"]["colour"][key] for key in keys] == [0.5, 0.25, 0, 0, 4]
    assert [blocks["accuracy"][key] for key in keys] == [0.5, 0.5, 0.125, 0.375, 8]
    assert blocks["accuracy"]["low"] <= 0.5 <= blocks["accuracy"]["high"]


def test_data_without_the_closed_types_have_an_accuracy_too() -> None:
    said = [score("model", question("choice", {"text": "yes"}, type="mine"), Answer("Yes", 1))]
    assert evaluate(said, resamples=5, seed=0)["en"]["accuracy"]["value"] == 1
    other = score("model", question("choice", {"text": "yes"}, type="existence"), Answer("no", 1))
    assert evaluate([*said, other], resamples=5, seed=0)["en"]["accuracy"]["value"] == 0


def test_the_majority_comes_from_training_and_is_absent_without_it() -> None:
    said = [
        score("model", question("choice", {"text": "yes"}, type=kind), Answer("no", 1)) for kind in ("look", "count")
    ]
    none = evaluate(said, resamples=5, seed=0)["en"]
    assert "majority" not in none["accuracy"]
    assert all("majority" not in block for block in none["types"].values())
    # A type that training does not know has no usual answer; other languages do not count.
    training = [score("model", question("choice", {"text": "yes"}, type="look"), Answer("", 0))]
    training.append(score("model", question("choice", {"text": "yes"}, type="count", language="ko"), Answer("", 0)))
    some = evaluate(said, resamples=5, seed=0, training=training)["en"]
    assert {kind: block["majority"] for kind, block in some["types"].items()} == {"count": 0, "look": 1}
    assert some["accuracy"]["majority"] == 0.5
