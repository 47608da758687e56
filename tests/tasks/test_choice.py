"""Choices: accuracies, means over types and baselines are those of a hand."""

from task_data import question

from panollava.inference.answer import Answer
from panollava.tasks.block_scores import evaluate
from panollava.tasks.choice import majority
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
    assert majority(said[:4]) == 0.75
    assert majority(said[4:8]) == 0.5
    blocks = evaluate(said, resamples=20, seed=0)["en"]
    assert list(blocks) == ["accuracy", "types"]
    keys = ("value", "majority", "blind", "shuffled", "n")
    assert [blocks["types"]["existence"][key] for key in keys] == [0.5, 0.75, 0.25, 0.75, 4]
    assert [blocks["types"]["colour"][key] for key in keys] == [0.5, 0.5, 0, 0, 4]
    assert [blocks["accuracy"][key] for key in keys] == [0.5, 0.625, 0.125, 0.375, 8]
    assert blocks["accuracy"]["low"] <= 0.5 <= blocks["accuracy"]["high"]


def test_data_without_the_closed_types_have_an_accuracy_too() -> None:
    said = [score("model", question("choice", {"text": "yes"}, type="mine"), Answer("Yes", 1))]
    assert evaluate(said, resamples=5, seed=0)["en"]["accuracy"]["value"] == 1
    other = score("model", question("choice", {"text": "yes"}, type="existence"), Answer("no", 1))
    assert evaluate([*said, other], resamples=5, seed=0)["en"]["accuracy"]["value"] == 0
