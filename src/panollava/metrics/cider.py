"""CIDEr-D of texts that are split into words already: how far a caption agrees with what its references say specially.

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

ORDERS = 4  # n-grams of one to four words count alike
SIGMA = 6.0  # words of difference in length that cost a factor of exp(-1/2)
SCALE = 10.0


class _Vector(NamedTuple):
    """A text as tf-idf weights of its n-grams, their norm `[ORDERS]` for each order, and its number of words."""

    weights: dict[Gram, float]
    norms: list[float]
    length: int


def cider_d(predictions: Sequence[Words], references_per_item: Sequence[Sequence[Words]]) -> NDArray[np.float64]:
    """Return the CIDEr-D `[n]`, each in [0, 10], of one prediction per item against all references of the item.

    The items are the corpus: an n-gram weighs log(n / items whose references hold it), so with a single item nothing
    weighs anything and every score is 0.
    """
    counted = [[_grams(words) for words in references] for references in references_per_item]
    holding = Counter(gram for counts in counted for gram in {gram for count in counts for gram in count})
    inverse = {gram: math.log(len(counted) / count) for gram, count in holding.items()}
    unheard = math.log(len(counted)) if counted else 0.0
    scores = []
    for words, references, counts in zip(predictions, references_per_item, counted, strict=True):
        said = _vector(words, _grams(words), inverse, unheard)
        told = [_vector(*pair, inverse, unheard) for pair in zip(references, counts, strict=True)]
        scores.append(SCALE * sum(_similarity(said, reference) for reference in told) / len(told))
    return np.array(scores, dtype=np.float64)


def _grams(words: Words) -> Counter[Gram]:
    return Counter(
        gram for order in range(1, ORDERS + 1) for gram in zip(*(words[start:] for start in range(order)), strict=False)
    )


def _vector(words: Words, counts: Mapping[Gram, int], inverse: Mapping[Gram, float], unheard: float) -> _Vector:
    weights = {gram: count * inverse.get(gram, unheard) for gram, count in counts.items()}
    squares = [0.0] * ORDERS
    for gram, weight in weights.items():
        squares[len(gram) - 1] += weight * weight
    return _Vector(weights, [math.sqrt(square) for square in squares], len(words))


def _similarity(said: _Vector, reference: _Vector) -> float:
    """Return the mean over orders of the clipped cosine of two texts, less what their difference in length costs."""
    dots = [0.0] * ORDERS
    for gram, weight in said.weights.items():
        other = reference.weights.get(gram, 0.0)
        dots[len(gram) - 1] += min(weight, other) * other
    norms = [one * other for one, other in zip(said.norms, reference.norms, strict=True)]
    cosines = [dot / norm for dot, norm in zip(dots, norms, strict=True) if norm]
    return sum(cosines) / ORDERS * math.exp(-((said.length - reference.length) ** 2) / (2 * SIGMA**2))
