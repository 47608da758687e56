"""Fused attention: causal, of rows of one length; and on a GPU, of sequences of any lengths in parts that are joined.

Tokens of such sequences are `[T, H, d]`, without padding between them; keys and values may have fewer heads. With the
output come the logarithms of the normalisers `[H, T]`, by which attention to some keys and attention to others add up
to attention to all (`join`). Backwards, a part takes the output and the normalisers of the whole, as in ring attention
(Liu, Zaharia and Abbeel 2023).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Where each of N sequences begins and the last one ends, `[N + 1]`, and how long the longest is. A plain tuple, for
# that is what moves to a device with a batch.
Sequences = tuple[Tensor, int]


class Part(NamedTuple):
    """Queries `[T, H, d]` with the keys and values that they attend to, and of which sequences they are.

    Causal, a token attends to the earlier ones of its own sequence; else to all of the sequence of the same number.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    queries: Sequences
    keys: Sequences
    causal: bool
    scale: float


class PartOutput(NamedTuple):
    """The output `[T, H, d]` of a part's queries, and the logarithms of their normalisers `[H, T]`."""

    tokens: Tensor
    normaliser: Tensor


def sequences(lengths: Sequence[int]) -> Sequences:
    """Return sequences of these lengths."""
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32), max(lengths)


def attend(part: Part) -> PartOutput:
    """Return the output of a part."""
    tokens, normaliser, *_ = torch.ops.aten._flash_attention_forward(
        part.query, part.key, part.value, *_lengths(part), 0.0, part.causal, False, scale=part.scale
    )
    return PartOutput(tokens, normaliser)


def attend_backward(part: Part, whole: PartOutput, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a part's query, key and value from the `gradient` of the `whole` output."""
    inputs = gradient, part.query, part.key, part.value, whole.tokens, whole.normaliser.contiguous()
    random = gradient.new_zeros(2, dtype=torch.uint64), gradient.new_empty(0)  # the state of a dropout of nothing
    return torch.ops.aten._flash_attention_backward(
        *inputs, *_lengths(part), 0.0, part.causal, *random, scale=part.scale
    )


def _lengths(part: Part) -> tuple[Tensor, Tensor, int, int]:
    return part.queries[0], part.keys[0], part.queries[1], part.keys[1]


def join(first: PartOutput, second: PartOutput) -> PartOutput:
    """Return the output of the same queries for the keys of two parts together."""
    normaliser = torch.logaddexp(first.normaliser, second.normaliser)
    shares = [(part.normaliser - normaliser).exp().T[..., None] for part in (first, second)]
    tokens = first.tokens * shares[0] + second.tokens * shares[1]
    return PartOutput(tokens.to(first.tokens.dtype), normaliser)
