"""chrF against the values of sacrebleu, in English and Korean, and the normal form of closed answers."""

import unicodedata

import pytest

from panollava.metrics.text import chrf, normalise_answer

PREDICTIONS = ["a red cube stands left of the blue ball", "빨간 공이 왼쪽에 있습니다", "", "yes"]
REFERENCES = [
    ["a red cube is to the left of the blue ball", "the ball is right of the cube"],
    ["빨간 공은 왼쪽에 있다", "공이 오른쪽에 있습니다"],
    ["two trees", "trees"],
    ["yes", "yes, it is"],
]


def test_agrees_with_sacrebleu() -> None:
    # sacrebleu 2.6.0, CHRF().corpus_score: of the corpus, then of each item alone.
    assert chrf(PREDICTIONS, REFERENCES) == pytest.approx(0.5885601492501006, abs=1e-12)
    expected = [0.6939854250097351, 0.4760265862100617, 0.0, 1.0]
    scores = [chrf([prediction], [references]) for prediction, references in zip(PREDICTIONS, REFERENCES, strict=True)]
    assert scores == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("text", ["a red cube", "빨간 상자", "네", "x"])
def test_an_answer_equal_to_one_of_its_references_scores_one(text: str) -> None:
    assert chrf([text], [["something else", text]]) == pytest.approx(1)


def test_korean_is_compared_by_syllable_however_it_was_typed() -> None:
    reference = "빨간 공이 왼쪽에 있습니다"
    near, far = chrf(["빨간 공이 오른쪽에 있습니다"], [[reference]]), chrf(["나무가 세 그루 보인다"], [[reference]])
    assert far < 0.1 < 0.5 < near < 1
    assert chrf([unicodedata.normalize("NFD", reference)], [[reference]]) == pytest.approx(1)


def test_a_missing_answer_costs_what_its_references_ask() -> None:
    assert chrf(["abcdefg", ""], [["abcdefg"], ["hijklmn"]]) < 0.6


def test_the_best_reference_counts_and_their_order_does_not() -> None:
    predictions, references = PREDICTIONS[:2], REFERENCES[:2]
    score = chrf(predictions, references)
    assert chrf(predictions, [texts[::-1] for texts in references]) == pytest.approx(score)
    assert chrf(predictions, [[*texts, "아무 상관이 없는 말"] for texts in references]) == pytest.approx(score)
    assert chrf(predictions, [texts[1:] for texts in references]) < score


def test_white_space_does_not_count() -> None:
    assert chrf(["a  red\ncube"], [["a red cube"]]) == pytest.approx(1)


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ValueError, match="0 predictions"):
        chrf([], [])
    with pytest.raises(ValueError, match="1 predictions, 2 reference lists"):
        chrf(["a"], [["a"], ["b"]])
    for missing in ([], [" "], ["b", ""]):
        with pytest.raises(ValueError, match="item 1 has the references"):
            chrf(["a", "b"], [["a"], missing])


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  Yes. ", "yes"),
        ("The  red\tcube !", "the red cube"),
        ("STRASSE", "straße".casefold()),
        ("네。", "네"),
        (unicodedata.normalize("NFD", "빨간색입니다."), "빨간색입니다"),
        ("3.5", "3.5"),
        ("50%", "50%"),
        ("left?!", "left"),
        ("...", ""),
        ("", ""),
    ],
)
def test_closed_answers_are_compared_in_a_normal_form(text: str, normal: str) -> None:
    assert normalise_answer(text) == normal
    assert normalise_answer(normalise_answer(text)) == normalise_answer(text)


def test_different_answers_stay_different() -> None:
    assert len({normalise_answer(text) for text in ("left", "right", "1", "11", "왼쪽", "오른쪽")}) == 6
