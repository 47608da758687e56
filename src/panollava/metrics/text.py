"""Scores of answers in words: chrF for free text, and the normal form in which closed answers are compared.

Both see Unicode in composed form (NFC), so that a Korean syllable is one character however it was typed.
"""

import unicodedata
from collections.abc import Sequence
from itertools import zip_longest

from sacrebleu.metrics.chrf import CHRF

SENTENCE_MARKS = ".,;:!?…。、，！？；："


def normalise_answer(text: str) -> str:
    """Return a closed answer as it is compared: NFC, case folded, single spaces, no punctuation at its end."""
    words = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    # Folding can take a composed character apart, so compose once more.
    return unicodedata.normalize("NFC", words.rstrip(SENTENCE_MARKS + " "))


def chrf(predictions: Sequence[str], references_per_item: Sequence[Sequence[str]]) -> float:
    """Return sacrebleu's corpus chrF in [0, 1] of one prediction per item against all references of the item.

    An item counts with the reference that it matches best. Character n-grams need no word tokeniser, so Korean counts
    as English does. Source: Popovic, chrF: character n-gram F-score for automatic MT evaluation, 2015.

    Raises:
        ValueError: nothing to compare, or an item without references.
    """
    if not predictions or len(predictions) != len(references_per_item):
        raise ValueError(
            f"{len(predictions)} predictions, {len(references_per_item)} reference lists; chrF needs one each per item"
        )
    for index, references in enumerate(references_per_item):
        if not references or not all(reference.strip() for reference in references):
            raise ValueError(f"item {index} has the references {list(references)}; each item needs some, none empty")
    composed = [[unicodedata.normalize("NFC", text) for text in references] for references in references_per_item]
    # sacrebleu wants streams, the n-th reference of every item; None stands where an item has fewer.
    streams = [list(stream) for stream in zip_longest(*composed)]
    said = [unicodedata.normalize("NFC", text) for text in predictions]
    return CHRF().corpus_score(said, streams).score / 100
