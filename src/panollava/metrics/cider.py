"""CIDEr-D of texts that are already split into words: agreement with the references, weighted for rare n-grams.

Source: Vedantam, Zitnick and Parikh, CIDEr: Consensus-based image description evaluation, 2015, equations 1 to 4 and
the clipping and length penalty of CIDEr-D; the numbers are those of the authors' own code, pycocoevalcap.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Words = Sequence[str]
Gram = tuple[str, ...]

ORDERS = 4  # n-grams of one to four words, with equal weights
SIGMA = 6.0  # a difference in length of so many words costs a factor of exp(-1/2)
SCALE = 10.0


class _Vector(NamedTuple):
    """A text as tf-idf weights of its n-grams, their norm for each order `[ORDERS]`, and its number of words."""

    weights: dict[Gram, float]
    norms: list[float]
    length: int


def cider_d(predictions: Sequence[Words], references_per_item: Sequence[Sequence[Words]]) -> NDArray[np.float64]:
    """Return the CIDEr-D `[n]`, each in [0, 10], of one prediction per item against all references of the item.

    The items are the corpus: an n-gram has the weight log(n / items whose references contain it). With a single item,
    all weights and the score are 0.
    """
    counted = [[_grams(words) for words in references] for references in references_per_item]
    containing = Counter(gram for counts in counted for gram in {gram for count in counts for gram in count})
    inverse = {gram: math.log(len(counted) / count) for gram, count in containing.items()}
    unseen_weight = math.log(len(counted)) if counted else 0.0
    scores = []
    for words, references, counts in zip(predictions, references_per_item, counted, strict=True):
        prediction = _vector(words, _grams(words), inverse, unseen_weight)
        vectors = [_vector(*pair, inverse, unseen_weight) for pair in zip(references, counts, strict=True)]
        scores.append(SCALE * sum(_similarity(prediction, reference) for reference in vectors) / len(vectors))
    return np.array(scores, dtype=np.float64)


def _grams(words: Words) -> Counter[Gram]:
    return Counter(
        gram for order in range(1, ORDERS + 1) for gram in zip(*(words[start:] for start in range(order)), strict=False)
    )


def _vector(words: Words, counts: Mapping[Gram, int], inverse: Mapping[Gram, float], unseen_weight: float) -> _Vector:
    weights = {gram: count * inverse.get(gram, unseen_weight) for gram, count in counts.items()}
    squares = [0.0] * ORDERS
    for gram, weight in weights.items():
        squares[len(gram) - 1] += weight * weight
    return _Vector(weights, [math.sqrt(square) for square in squares], len(words))


def _similarity(prediction: _Vector, reference: _Vector) -> float:
    """Return the mean clipped cosine over the orders, times a penalty for the difference in length."""
    dots = [0.0] * ORDERS
    for gram, weight in prediction.weights.items():
        other = reference.weights.get(gram, 0.0)
        dots[len(gram) - 1] += min(weight, other) * other
    norms = [one * other for one, other in zip(prediction.norms, reference.norms, strict=True)]
    cosines = [dot / norm for dot, norm in zip(dots, norms, strict=True) if norm]
    return sum(cosines) / ORDERS * math.exp(-((prediction.length - reference.length) ** 2) / (2 * SIGMA**2))
