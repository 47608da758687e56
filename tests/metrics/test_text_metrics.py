"""Text scores against sacrebleu, pycocoevalcap and hand, in English and Korean, and normal forms of closed answers."""

import math
import unicodedata
from collections.abc import Callable
from pathlib import Path
from time import process_time

import numpy as np
import pytest
from nltk.corpus import LazyCorpusLoader, WordNetCorpusReader
from rouge_score.rouge_scorer import RougeScorer

from panollava.metrics.cider import cider_d
from panollava.metrics.text import (
    bleu,
    chrf,
    chrf_of_items,
    cider,
    meteor,
    meteor_installed,
    normalise_answer,
    rouge_l,
    text_scores,
    words,
)

SCORES: dict[str, Callable[..., float]] = {"chrf": chrf, "bleu": bleu, "rouge_l": rouge_l, "cider": cider}

PREDICTIONS = ["a red cube stands left of the blue ball", "빨간 공이 왼쪽에 있습니다", "", "yes"]
REFERENCES = [
    ["a red cube is to the left of the blue ball", "the ball is right of the cube"],
    ["빨간 공은 왼쪽에 있다", "공이 오른쪽에 있습니다"],
    ["two trees", "trees"],
    ["yes", "yes, it is"],
]


def test_chrf_agrees_with_sacrebleu() -> None:
    # sacrebleu 2.6.0, CHRF().corpus_score: of the corpus, then of each item alone.
    assert chrf(PREDICTIONS, REFERENCES) == pytest.approx(0.5885601492501006, abs=1e-12)
    expected = [0.6939854250097351, 0.4760265862100617, 0.0, 1.0]
    scores = [chrf([prediction], [references]) for prediction, references in zip(PREDICTIONS, REFERENCES, strict=True)]
    assert scores == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("text", ["a red cube", "빨간 상자", "네", "x"])
def test_an_answer_equal_to_one_of_its_references_scores_one(text: str) -> None:
    assert chrf([text], [["something else", text]]) == pytest.approx(1)


def test_korean_is_compared_by_syllable_in_any_unicode_form() -> None:
    reference = "빨간 공이 왼쪽에 있습니다"
    near, far = chrf(["빨간 공이 오른쪽에 있습니다"], [[reference]]), chrf(["나무가 세 그루 보인다"], [[reference]])
    assert far < 0.1 < 0.5 < near < 1
    assert chrf([unicodedata.normalize("NFD", reference)], [[reference]]) == pytest.approx(1)


def test_an_empty_prediction_lowers_the_score() -> None:
    assert chrf(["abcdefg", ""], [["abcdefg"], ["hijklmn"]]) < 0.6


def test_the_best_reference_counts_in_any_order() -> None:
    predictions, references = PREDICTIONS[:2], REFERENCES[:2]
    score = chrf(predictions, references)
    assert chrf(predictions, [texts[::-1] for texts in references]) == pytest.approx(score)
    assert chrf(predictions, [[*texts, "아무 상관이 없는 말"] for texts in references]) == pytest.approx(score)
    assert chrf(predictions, [texts[1:] for texts in references]) < score


def test_white_space_does_not_count() -> None:
    assert chrf(["a  red\ncube"], [["a red cube"]]) == pytest.approx(1)


def test_input_without_texts_is_refused() -> None:
    with pytest.raises(ValueError, match="0 predictions"):
        chrf([], [])
    with pytest.raises(ValueError, match="1 predictions, 2 reference lists"):
        chrf(["a"], [["a"], ["b"]])
    for missing in ([], [" "], ["b", ""]):
        with pytest.raises(ValueError, match="item 1 has the references"):
            chrf(["a", "b"], [["a"], missing])


KOREAN = ["빨간 공이 왼쪽에 있습니다", "나무가 세 그루 보인다"]
ENGLISH = ["a red ball is on the left", "three trees can be seen"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A Red cube, left of it: 3 balls!", ["a", "red", "cube", "left", "of", "it", "3", "balls"]),
        ("빨간 공이 왼쪽에 있습니다.", ["빨간", "공이", "왼쪽에", "있습니다"]),
        ("《공》이 있다。", ["공", "이", "있다"]),
        ("STRASSE straße", ["strasse", "strasse"]),
        ("हिन्दी में पाठ", ["हिन्दी", "में", "पाठ"]),
        ("漢字とabc", ["漢", "字", "と", "abc"]),
        ("İstanbul", [unicodedata.normalize("NFC", "i̇stanbul")]),
        (" … 🙂 ?!", []),
        ("", []),
    ],
)
def test_words_are_found_in_any_script(text: str, expected: list[str]) -> None:
    assert words(text) == expected
    assert words(unicodedata.normalize("NFD", text)) == expected


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("texts", [KOREAN, ENGLISH], ids=["ko", "en"])
def test_the_right_text_has_the_best_score_and_a_wrong_one_a_low_score(name: str, texts: list[str]) -> None:
    score, best = SCORES[name], 10 if name == "cider" else 1
    assert score(texts, [[text] for text in texts]) == pytest.approx(best)
    typed = [unicodedata.normalize("NFD", text).upper() + " ." for text in texts]
    if name != "chrf":  # letters include capitals and full stops
        assert score(typed, [[text] for text in texts]) == pytest.approx(best)
    assert score(texts[::-1], [[text] for text in texts]) < 0.15 * best
    near = [f"{texts[0]} {texts[1].split()[0]}", texts[1]]
    assert 0.5 * best < score(near, [[text] for text in texts]) < best


def test_the_own_tokeniser_of_rouge_score_drops_korean() -> None:
    assert RougeScorer(["rougeL"]).score(KOREAN[0], KOREAN[0])["rougeL"].fmeasure == 0
    assert rouge_l(KOREAN[:1], [KOREAN[:1]]) == 1


@pytest.mark.parametrize("name", SCORES)
def test_a_second_reference_counts_in_any_order(name: str) -> None:
    score = SCORES[name]
    predictions = ["a red cube on the left", "two trees by the road"]
    one = [["the cube is red"], ["two trees by a lake"]]
    two = [["the cube is red", "a red cube on the left side"], ["two trees by a lake"]]
    assert score(predictions, two) > score(predictions, one)
    assert score(predictions, two) == pytest.approx(score(predictions, [two[0][::-1], two[1]]))


@pytest.mark.parametrize("name", SCORES)
def test_texts_without_words_match_nothing(name: str) -> None:
    assert SCORES[name](["", "…"], [["a red cube"], ["공이 있다"]]) == 0
    if name != "chrf":
        assert SCORES[name](["?", "a"], [["?"], ["🙂"]]) == 0


@pytest.mark.parametrize("name", SCORES)
def test_every_score_refuses_unequal_lengths_and_missing_references(name: str) -> None:
    with pytest.raises(ValueError, match="1 predictions, 2 reference lists"):
        SCORES[name](["a"], [["a"], ["b"]])
    with pytest.raises(ValueError, match="item 1 has the references"):
        SCORES[name](["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="item 0 has the text 'left' for references"):
        SCORES[name](["a", "b"], ["left", ["b"]])


def test_bleu_by_hand() -> None:
    # 5 words, 4 of them right, 3 of 4 pairs, 2 of 3 triples, 1 of 2 fours; no brevity penalty.
    expected = (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert bleu(["a red cube stands here"], [["a red cube stands"]]) == pytest.approx(expected)
    # A word counts as often as one reference has it: "the" twice of three times. One word right is right.
    assert bleu(["the"], [["the"]]) == pytest.approx(1)
    assert bleu(["the the the"], [["the x", "the the"]]) < bleu(["the the"], [["the x", "the the"]])
    # The reference nearest in length decides the length penalty.
    assert bleu(["a b c d"], [["a b c d e f g h", "x y z"]]) == pytest.approx(1)
    assert bleu(["a b c d"], [["a b c d e f g h"]]) == pytest.approx(math.exp(1 - 8 / 4))


def test_rouge_l_by_hand() -> None:
    # Longest common sequence "a cube left" of 4 and 5 words.
    precision, recall = 3 / 4, 3 / 5
    expected = 2 * precision * recall / (precision + recall)
    assert rouge_l(["a red cube left"], [["a cube to left here"]]) == pytest.approx(expected)
    assert rouge_l(["a red cube left", "b"], [["a cube to left here", "zzz"], ["x"]]) == pytest.approx(expected / 2)


def test_cider_agrees_with_pycocoevalcap() -> None:
    predictions = ["a red cube is left of a blue ball", "two trees by the road", "공이 왼쪽에 있다", "a b a b a"]
    references = [
        ["a red cube stands left of the ball", "the blue ball is right of a cube"],
        ["two trees by a lake"],
        ["빨간 공이 왼쪽에 있다", "공이 왼쪽에 있다", "공이 있다"],
        ["a b a", "a a a a b"],
    ]
    # pycocoevalcap 1.2, Cider().compute_score on the same words.
    expected = [2.7633097965423725, 3.751428989734014, 5.134919695177742, 2.5674481442370256]
    scores = cider_d([words(text) for text in predictions], [[words(text) for text in texts] for texts in references])
    np.testing.assert_allclose(scores, expected, rtol=1e-12)
    assert cider(predictions, references) == pytest.approx(np.mean(expected))


def test_cider_by_hand() -> None:
    # "cube" and "ball" have an idf of log 2, "the" none. One word of one right: of four orders, the first is whole.
    assert cider(["cube", "ball"], [["cube"], ["ball"]]) == pytest.approx(10 / 4)
    assert cider(["the", "the"], [["the cube"], ["the ball"]]) == 0
    # Repeated words are clipped, and the difference of three words in length costs exp(-9 / 72).
    expected = 10 / 4 * math.exp(-9 / 72) * (1 / 4)
    assert cider_d([["cube"] * 4, []], [[["cube"]], [["ball"]]])[0] == pytest.approx(expected)


def test_cider_of_one_item_is_refused_and_left_out() -> None:
    with pytest.raises(ValueError, match="CIDEr of one item is undefined"):
        cider(["a"], [["a"]])
    assert set(text_scores(["네"], [["네"]], "ko")) == {"chrf", "bleu", "rouge_l"}


def test_meteor_is_left_out_without_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    monkeypatch.setattr("nltk.corpus.wordnet", LazyCorpusLoader("wordnet", WordNetCorpusReader, None))
    assert not meteor_installed()
    assert set(text_scores(ENGLISH, [[text] for text in ENGLISH])) == {"chrf", "bleu", "rouge_l", "cider"}


# One chunk of all words: fragmentation costs 0.5 (chunks / matches) ** 3.
THREE_WORDS = 1 - 0.5 / 27


class Thesaurus:
    """Stands in for WordNet and knows no synonyms."""

    def ensure_loaded(self) -> None:
        pass

    def synsets(self, word: str) -> list[object]:
        return []


def test_meteor_matches_stems_and_takes_the_best_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nltk.corpus.wordnet", Thesaurus())
    assert meteor(["A red cube.", "no"], [["yes", "a red cube"], ["yes"]]) == pytest.approx(THREE_WORDS / 2)
    assert meteor(["a red cubes"], [["a red cube"]]) == pytest.approx(THREE_WORDS)
    # Two of three words, next to each other: precision and recall 2 / 3.
    assert meteor(["a red picture"], [["a red image"]]) == pytest.approx(2 / 3 * (1 - 0.5 / 8))
    assert "meteor" in text_scores(ENGLISH, [[text] for text in ENGLISH], "en")
    assert "meteor" not in text_scores(KOREAN, [[text] for text in KOREAN], "ko")


@pytest.mark.skipif(not meteor_installed(), reason="nltk's data package wordnet is not installed")
def test_meteor_matches_synonyms() -> None:
    assert meteor(["a red film"], [["a red flick"]]) == pytest.approx(THREE_WORDS)


def test_a_thousand_captions_are_scored_in_seconds() -> None:
    random = np.random.default_rng(0)
    vocabulary = [f"word{number}" for number in range(60)]
    predictions, references = ([" ".join(random.choice(vocabulary, 27)) for _ in range(640)] for _ in range(2))
    text_scores(predictions[:2], [[text] for text in references[:2]], "ko")  # imports
    start = process_time()
    text_scores(predictions, [[text] for text in references], "ko")
    assert process_time() - start < 3  # about half a second; the limit is for slow machines


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


def test_chrf_of_items_equals_chrf_of_those_items() -> None:
    predictions = ["a red cube", "빨간 공", "nothing at all", "a blue ball"]
    known = [["a red cube", "the red cube"], ["빨간 공이 있다"], ["a green cone"], ["a blue cone", "a ball", "blue"]]
    of_items = chrf_of_items(predictions, known)
    for items in ([0, 1, 2, 3], [2], [3, 1], [1, 1, 0]):
        wanted = chrf([predictions[item] for item in items], [known[item] for item in items])
        assert of_items(items) == pytest.approx(wanted, abs=1e-12)
