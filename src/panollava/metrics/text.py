"""Scores of answers in words: BLEU, chrF, ROUGE-L, CIDEr and METEOR of free text, and normalisation of closed answers.

Every score takes one prediction per item and *all* references of the item at once. All scores use Unicode in composed
form (NFC), so that a Korean syllable is one character however it was typed, and all but chrF use the tokens of `words`.
A text without words matches nothing.
"""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest

import numpy as np
import regex
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from panollava.closed_answers import normalise_answer as normalise_answer
from panollava.metrics.cider import cider_d

References = Sequence[Sequence[str]]

# The regex module, because \w of `re` ends a word at the vowel signs of Hindi or Thai.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}"
_WORD = regex.compile(rf"[{_UNSPACED}]|[\w--[{_UNSPACED}]]+", regex.VERSION1)


def words(text: str) -> list[str]:
    r"""Return the words of a text in any script: NFC, case folded, runs of \w; punctuation and symbols are dropped.

    Korean is split at spaces, so that a word keeps its particles and endings (공이 and 공은 differ). No analyser is
    needed, but the scores are stricter than English ones, and the two must not be compared. Chinese characters and
    kana, which are written without spaces, are single words.
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return _WORD.findall(folded)


def text_scores(predictions: Sequence[str], references_per_item: References, language: str = "en") -> dict[str, float]:
    """Return every score of this module that is defined: "chrf", "bleu", "rouge_l", "cider" and "meteor".

    "cider" needs two items, "meteor" English and its data (`meteor_installed`). Raises ValueError as `chrf` does.
    """
    scores = {
        "chrf": chrf(predictions, references_per_item),
        "bleu": bleu(predictions, references_per_item),
        "rouge_l": rouge_l(predictions, references_per_item),
    }
    if len(predictions) > 1:
        scores["cider"] = cider(predictions, references_per_item)
    if language == "en" and meteor_installed():
        scores["meteor"] = meteor(predictions, references_per_item)
    return scores


def chrf(predictions: Sequence[str], references_per_item: References) -> float:
    """Return sacrebleu's corpus chrF in [0, 1] of one prediction per item against all references of the item.

    The best matching reference of an item counts. Character n-grams need no word tokeniser, so that Korean is scored
    like English. Source: Popovic, chrF: character n-gram F-score for automatic MT evaluation, 2015.

    Raises:
        ValueError: there is nothing to compare, or an item has no references.
    """
    return chrf_of_items(predictions, references_per_item)(range(len(predictions)))


def chrf_of_items(predictions: Sequence[str], references_per_item: References) -> Callable[[Iterable[int]], float]:
    """Return a function from item indices, which may repeat, to their corpus chrF.

    For intervals: n-grams are counted once. Arguments and errors are those of `chrf`.
    """
    _check(predictions, references_per_item)
    composed = [[unicodedata.normalize("NFC", text) for text in references] for references in references_per_item]
    composed_predictions = [unicodedata.normalize("NFC", text) for text in predictions]
    metric = CHRF()
    # Private methods, as in sacrebleu's own bootstrap: `corpus_score` would count n-grams in every resample.
    counts = metric._extract_corpus_statistics(composed_predictions, _streams(composed))
    return lambda items: metric._aggregate_and_compute([counts[item] for item in items]).score / 100


def bleu(predictions: Sequence[str], references_per_item: References) -> float:
    """Return sacrebleu's corpus BLEU in [0, 1] over n-grams of up to four `words`, against all references of an item.

    Orders longer than every prediction do not count, so that one right word is a right answer. Source: Papineni et al.,
    BLEU: a method for automatic evaluation of machine translation, 2002. Raises ValueError as `chrf` does.
    """
    _check(predictions, references_per_item)
    spaced = [[" ".join(words(text)) for text in references] for references in references_per_item]
    spaced_predictions = [" ".join(words(text)) for text in predictions]
    # `force` suppresses the warning that the texts are already tokenised.
    metric = BLEU(tokenize="none", force=True, effective_order=True)
    return metric.corpus_score(spaced_predictions, _streams(spaced)).score / 100


def rouge_l(predictions: Sequence[str], references_per_item: References) -> float:
    """Return the mean ROUGE-L F1 in [0, 1] over `words`, of each item with its best matching reference.

    Source: Lin, ROUGE: a package for automatic evaluation of summaries, 2004, and the package rouge-score. Raises
    ValueError as `chrf` does.
    """
    # Imported here, because it imports nltk, which takes as long as torch.
    from rouge_score.rouge_scorer import RougeScorer

    _check(predictions, references_per_item)
    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    pairs = zip(predictions, references_per_item, strict=True)
    scores = [scorer.score_multi(references, prediction)["rougeL"].fmeasure for prediction, references in pairs]
    return float(np.mean(scores))


def cider(predictions: Sequence[str], references_per_item: References) -> float:
    """Return the mean CIDEr-D in [0, 10] over `words`, averaged over all references of an item; see `cider_d`.

    Raises:
        ValueError: as `chrf`, and for a single item, which has no corpus to weight n-grams by.
    """
    _check(predictions, references_per_item)
    if len(predictions) == 1:
        raise ValueError("CIDEr of one item is undefined: it weighs words by how few items have them; give two or more")
    split = [[words(text) for text in references] for references in references_per_item]
    return float(cider_d([words(text) for text in predictions], split).mean())


def meteor_installed() -> bool:
    """Return whether METEOR can be computed: nltk's data package "wordnet" is installed. Downloads nothing."""
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError:
        return False
    return True


def meteor(predictions: Sequence[str], references_per_item: References) -> float:
    """Return nltk's mean METEOR in [0, 1] over `words`, of each item with its best matching reference.

    English only: stems are Porter's and synonyms WordNet's. nltk looks synonyms up by their stems, and misses those
    whose stem is no word (picture, image). Source: Lavie and Agarwal, METEOR, 2007.

    Raises:
        ValueError: as `chrf`.
        LookupError: the data are not installed (`meteor_installed`); nltk's message says how to install them.
    """
    from nltk.corpus import wordnet
    from nltk.translate.meteor_score import meteor_score

    _check(predictions, references_per_item)
    split = [[words(text) for text in references] for references in references_per_item]
    pairs = zip(split, predictions, strict=True)
    return float(
        np.mean(
            [
                meteor_score(split_references, words(prediction), wordnet=wordnet)
                for split_references, prediction in pairs
            ]
        )
    )


class _Words:
    """The tokeniser for rouge-score, whose own one drops everything but a-z and 0-9, and so all Korean."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


def _check(predictions: Sequence[str], references_per_item: References) -> None:
    """Raise ValueError unless each item has a prediction and references that are not blank."""
    if not predictions or len(predictions) != len(references_per_item):
        raise ValueError(
            f"{len(predictions)} predictions, {len(references_per_item)} reference lists; give one each per item"
        )
    for index, references in enumerate(references_per_item):
        if isinstance(references, str):
            raise ValueError(f"item {index} has the text {references!r} for references; give a list of texts")
        if not references or not all(reference.strip() for reference in references):
            raise ValueError(f"item {index} has the references {list(references)}; each item needs some, none empty")


def _streams(references_per_item: References) -> list[list[str]]:
    """Return the references as sacrebleu takes them: the n-th one of every item, None if an item has fewer."""
    return [list(stream) for stream in zip_longest(*references_per_item)]
