"""An answer: its text, how probable it is and its parts are, and the mask head's scores where a mask was asked for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Answer:
    """The text of an answer, and the probability of the whole answer, end of sequence included.

    `patches` `[V, h, w]` are the mask head's scores, for a question that asks for a mask. `parts` are the probabilities
    of the tokens of each part of the text between semicolons, given what is before. A question that the context does
    not hold is not `answered`: its text is empty. One whose longest answer was too short has not `ended`.
    """

    text: str
    score: float
    patches: Tensor | None = None
    parts: tuple[float, ...] | None = None
    answered: bool = True
    ended: bool = True


UNANSWERED = Answer("", 0.0, answered=False)


def answer_of(
    tokenizer: Any, tokens: Sequence[int], scores: Sequence[float], ends: Sequence[int], patches: Tensor | None
) -> Answer:
    """Return the answer of decoded tokens and their log-probabilities, which are 0 after the end of sequence."""
    said = next((number for number, token in enumerate(tokens) if token in ends), len(tokens))
    text = tokenizer.decode(tokens[:said], skip_special_tokens=True)
    parts = part_probabilities(tokenizer, tokens[: said + 1], scores)
    return Answer(text.strip(), math.exp(sum(scores)), patches, parts, ended=said < len(tokens))


def part_probabilities(tokenizer: Any, ids: Sequence[int], scores: Sequence[float]) -> tuple[float, ...]:
    """Return the probability of each part of an answer between semicolons from its tokens' log-probabilities.

    A token that ends a part counts in it, unless it is a semicolon alone or a special token, which say that a part ends
    but nothing of it.
    """
    parts, special = [0.0], set(tokenizer.all_special_ids)
    for number, token, score in zip(ids, tokenizer.convert_ids_to_tokens(ids), scores, strict=False):
        if token is None or number in special:  # None: beyond the vocabulary, as in one that is padded
            continue
        if token != ";":
            parts[-1] += score
        parts += [0.0] * token.count(";")
    return tuple(math.exp(part) for part in parts)
