"""Attention of a flattened row by fused kernels, in joined parts, is its attention under masks.

The kernels run on a GPU; elsewhere plain products with the same contract take their place.
"""

from collections.abc import Iterator
from itertools import pairwise
from random import Random

import pytest
import torch
from accelerate.utils import send_to_device
from torch import Tensor

from panollava.attention import packing
from panollava.attention.packing import flatten, pack, packed_attention

PAD = 2
# Of two panoramas, the lengths of records.
LENGTHS = ((9, 17, 40, 16), (33, 6))


def layout_of(prefix: int, lengths: tuple[tuple[int, ...], ...] = LENGTHS) -> dict:
    rows = [pack([5] * prefix, [([7] * count, [7] * count) for count in own]) for own in lengths]
    return flatten(rows, PAD)["layout"]


def sequences_of(ends_q: Tensor, ends_k: Tensor) -> Iterator[tuple[slice, slice]]:
    for queries, keys in zip(pairwise(ends_q.tolist()), pairwise(ends_k.tolist()), strict=True):
        yield slice(*queries), slice(*keys)


def scores_of(query: Tensor, key: Tensor, causal: bool, scale: float) -> Tensor:
    scores = torch.einsum("qhd,khd->hqk", query, key) * scale
    return scores.masked_fill(torch.ones_like(scores[0], dtype=torch.bool).triu(1), float("-inf")) if causal else scores


def reference_forward(query, key, value, ends_q, ends_k, longest_q, longest_k, dropout, causal, debug, *, scale):
    """The contract of PyTorch's fused kernel for sequences of any lengths, in plain products."""
    assert (longest_q, longest_k) == (int(ends_q.diff().max()), int(ends_k.diff().max()))
    assert (dropout, debug) == (0.0, False)
    key, value = (one.repeat_interleave(query.shape[1] // key.shape[1], 1) for one in (key, value))
    reads, normalisers = [], []
    for queries, keys in sequences_of(ends_q, ends_k):
        scores = scores_of(query[queries], key[keys], causal, scale)
        reads.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), value[keys]))
        normalisers.append(scores.logsumexp(-1))
    return torch.cat(reads), torch.cat(normalisers, 1), None, None, None


def reference_backward(
    gradient, query, key, value, read, normaliser, ends_q, ends_k, longest_q, longest_k, dropout, causal, *random, scale
):
    """Gradients from the result and the normalisers that are given, as in Dao et al. 2022, algorithm 4."""
    groups = query.shape[1] // key.shape[1]
    to_query, (to_key, to_value) = torch.zeros_like(query), torch.zeros(2, len(key), *query.shape[1:]).to(query)
    key, value = (one.repeat_interleave(groups, 1) for one in (key, value))
    for queries, keys in sequences_of(ends_q, ends_k):
        above = gradient[queries]
        weights = (scores_of(query[queries], key[keys], causal, scale) - normaliser[:, queries, None]).exp()
        delta = (above * read[queries]).sum(-1).T[..., None]
        inner = weights * (torch.einsum("qhd,khd->hqk", above, value[keys]) - delta) * scale
        to_query[queries] = torch.einsum("hqk,khd->qhd", inner, key[keys])
        to_key[keys] = torch.einsum("hqk,qhd->khd", inner, query[queries])
        to_value[keys] = torch.einsum("hqk,qhd->khd", weights, above)
    return to_query, *(one.unflatten(1, (-1, groups)).sum(2) for one in (to_key, to_value))


@pytest.mark.parametrize("prefix", [22, 0])
@pytest.mark.parametrize("groups", [1, 2])
def test_fused_attention_in_parts_is_masked_attention(
    monkeypatch: pytest.MonkeyPatch, prefix: int, groups: int
) -> None:
    layout = layout_of(prefix)
    size, heads = len(layout["segments"]), [4, 4 // groups, 4 // groups]
    tokens = [torch.randn(1, h, size, 8, dtype=torch.double, requires_grad=True) for h in heads]
    gradient = torch.randn(1, size, 4, 8, dtype=torch.double)
    results = []
    for fused in (False, True):
        if fused:
            monkeypatch.setattr(packing, "fused_on_gpu", lambda tensor: True)
            monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", reference_forward)
            monkeypatch.setattr(torch.ops.aten, "_flash_attention_backward", reference_backward)
        read, _ = packed_attention(torch.nn.Identity(), *tokens, None, layout=layout)
        results.append([read.detach(), *torch.autograd.grad(read, tokens, gradient)])
    assert results[0][0].abs().mean() > 0.05
    for masked, joined in zip(*results, strict=True):
        assert torch.allclose(masked, joined, atol=1e-10)


def test_queries_and_keys_that_positions_made_float32_are_half_again() -> None:
    layout = layout_of(22)
    query, key, value = (torch.randn(1, 4, len(layout["segments"]), 8) for _ in range(3))
    read, _ = packed_attention(torch.nn.Identity(), query, key, value.bfloat16(), None, layout=layout)
    assert read.dtype == torch.bfloat16
    wanted, _ = packed_attention(torch.nn.Identity(), query, key, value, None, layout=layout)
    assert (read.float() - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the fused kernels run on a GPU")
@pytest.mark.parametrize("prefix", [1764, 0])
def test_fused_kernels_compute_masked_attention_on_a_gpu(prefix: int) -> None:
    rng = Random(0)
    lengths = tuple(tuple(rng.randrange(2, 200) for _ in range(8)) for _ in range(2))
    layout = send_to_device(layout_of(prefix, lengths), "cuda")
    size = len(layout["segments"])
    exact = [torch.randn(1, heads, size, 128, device="cuda", requires_grad=True) for heads in (8, 2, 2)]
    half = [one.detach().bfloat16().requires_grad_() for one in exact]
    gradient = torch.randn(1, size, 8, 128, device="cuda")
    results = []
    for tokens in (exact, half):
        read, _ = packed_attention(torch.nn.Identity(), *tokens, None, layout=layout)
        results.append([read, *torch.autograd.grad(read, tokens, gradient.to(read.dtype))])
    for wanted, found in zip(*results, strict=True):
        assert (found.float() - wanted).norm() < 0.01 * wanted.norm()
