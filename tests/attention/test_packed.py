"""Attention within a packed row: the two parts of fused attention add up to attention under a mask."""

from itertools import pairwise
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import send_to_device
from torch import Tensor

from panollava.attention import packed
from panollava.attention.fused import Part, PartOutput
from panollava.attention.packed import PackedPlan, joined
from panollava.attention.packing import flatten, pack

PAD = 2
# Of two panoramas, the lengths of records.
LENGTHS = ((9, 17, 40, 16), (33, 6))
LAYER: Any = SimpleNamespace(layer_idx=0)


TEXTS = (12, 5)


def plan_of(prefix: int, lengths: tuple[tuple[int, ...], ...] = LENGTHS, texts: tuple[int, ...] = ()) -> PackedPlan:
    rows = [pack([5] * prefix, [([7] * count, [7] * count) for count in own]) for own in lengths]
    alone = pack([], [([7] * count, [7] * count) for count in texts]) if texts else None
    return flatten(rows, PAD, texts=alone)["plan"]


def attend(plan: PackedPlan, query: Tensor, key: Tensor, value: Tensor, window: int | None = None) -> Tensor:
    scale = query.shape[-1] ** -0.5
    return plan.attend(LAYER, query, key, value, scale=scale, dropout=0.0, window=window)


def plain(part: Part) -> PartOutput:
    """Attend as a part says, sequence by sequence, in plain products."""
    groups = part.query.shape[1] // part.key.shape[1]
    key, value = (one.repeat_interleave(groups, 1) for one in (part.key, part.value))
    outputs, normalisers = [], []
    for queries, keys in zip(pairwise(part.queries[0].tolist()), pairwise(part.keys[0].tolist()), strict=True):
        scores = torch.einsum("qhd,khd->hqk", part.query[slice(*queries)], key[slice(*keys)]) * part.scale
        if part.causal:
            scores = scores.masked_fill(torch.ones_like(scores[0], dtype=torch.bool).triu(1), float("-inf"))
        outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), value[slice(*keys)]))
        normalisers.append(scores.logsumexp(-1))
    return PartOutput(torch.cat(outputs), torch.cat(normalisers, 1))


@pytest.mark.parametrize("prefix", [22, 0])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("texts", [(), TEXTS])
def test_joined_parts_are_masked_attention(prefix: int, groups: int, texts: tuple[int, ...]) -> None:
    plan, heads, scale = plan_of(prefix, texts=texts), [4, 4 // groups, 4 // groups], 8**-0.5
    tokens = [torch.randn(1, h, len(plan.segments), 8, dtype=torch.double) for h in heads]
    behind = prefix * len(LENGTHS)
    rows = [one[0].transpose(0, 1) for one in tokens]
    parts = plan.parts([*(row[behind:] for row in rows), *(row[:behind] for row in rows[1:])], scale)
    assert len(parts) == (2 if prefix else 1)
    found = joined(plain(parts[0]), plain(parts[1])) if prefix else plain(parts[0])
    records = slice(behind, behind + sum(plan.lengths) + sum(texts))
    wanted = attend(plan, *tokens)[0, records]
    assert wanted.abs().mean() > 0.05
    assert torch.allclose(found.tokens, wanted, atol=1e-10)


def plain_backward(part: Part, whole: PartOutput, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a part's query, key and value, from the output and the normalisers of the whole."""
    groups = part.query.shape[1] // part.key.shape[1]
    found = [torch.zeros_like(one) for one in part[:3]]
    for queries, keys in zip(pairwise(part.queries[0].tolist()), pairwise(part.keys[0].tolist()), strict=True):
        at, of = slice(*queries), slice(*keys)
        key, value = (one[of].repeat_interleave(groups, 1) for one in (part.key, part.value))
        scores = torch.einsum("qhd,khd->hqk", part.query[at], key) * part.scale
        if part.causal:
            scores = scores.masked_fill(torch.ones_like(scores[0], dtype=torch.bool).triu(1), float("-inf"))
        weights = (scores - whole.normaliser[:, at, None]).exp()
        lost = (gradient[at] * whole.tokens[at]).sum(-1).T[..., None]
        inner = weights * (torch.einsum("qhd,khd->hqk", gradient[at], value) - lost) * part.scale
        found[0][at] = torch.einsum("hqk,khd->qhd", inner, key)
        for one, to_all in (
            (found[1], torch.einsum("hqk,qhd->khd", inner, part.query[at])),
            (found[2], torch.einsum("hqk,qhd->khd", weights, gradient[at])),
        ):
            one[of] = to_all.unflatten(1, (-1, groups)).sum(2)
    return found[0], found[1], found[2]


@pytest.mark.parametrize("prefix", [22, 0])
@pytest.mark.parametrize("texts", [(), TEXTS])
def test_parts_have_the_gradients_of_masked_attention(
    prefix: int, texts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(prefix, texts=texts)
    tokens = [torch.randn(1, h, len(plan.segments), 8, dtype=torch.double, requires_grad=True) for h in (4, 2, 2)]
    gradient = torch.randn(1, len(plan.segments), 4, 8, dtype=torch.double)
    wanted = attend(plan, *tokens)
    both = [[wanted, *torch.autograd.grad(wanted, tokens, gradient)]]
    monkeypatch.setattr(packed, "fused_on_gpu", lambda tensor: True)
    monkeypatch.setattr(packed, "attend", plain)
    monkeypatch.setattr(packed, "attend_backward", plain_backward)
    found = attend(plan, *tokens)
    both.append([found, *torch.autograd.grad(found, tokens, gradient)])
    for one, other in zip(*both, strict=True):
        assert torch.allclose(one, other, atol=1e-10)


def test_queries_and_keys_that_the_rotary_embedding_made_float32_are_half_again() -> None:
    plan = plan_of(22)
    query, key, value = (torch.randn(1, 4, len(plan.segments), 8) for _ in range(3))
    found = attend(plan, query, key, value.bfloat16())
    assert found.dtype == torch.bfloat16
    wanted = attend(plan, query, key, value)
    assert (found.float() - wanted).norm() < 0.02 * wanted.norm()


def test_a_plan_moves_with_its_tensors() -> None:
    plan = plan_of(22)
    there = send_to_device({"plan": plan}, "meta")["plan"]
    moved = (there.needed, there.segments, there.positions, there.prefixes[0], there.groups[0], there.records[0])
    assert all(tensor.is_meta for tensor in moved)
    assert (there.lengths, there.span, there.records[1]) == (plan.lengths, plan.span, plan.records[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the fused kernels run on a GPU")
@pytest.mark.parametrize("prefix", [1764, 0])
@pytest.mark.parametrize("texts", [(), (150, 70, 9)])
def test_fused_kernels_compute_masked_attention_on_a_gpu(prefix: int, texts: tuple[int, ...]) -> None:
    """Forwards and backwards, by PyTorch's own kernels: a change of their contract is seen here."""
    rng = Random(0)
    lengths = tuple(tuple(rng.randrange(2, 200) for _ in range(8)) for _ in range(2))
    plan = plan_of(prefix, lengths, texts).to("cuda")
    size = len(plan.segments)
    exact = [torch.randn(1, heads, size, 128, device="cuda", requires_grad=True) for heads in (8, 2, 2)]
    half = [one.detach().bfloat16().requires_grad_() for one in exact]
    gradient = torch.randn(1, size, 8, 128, device="cuda")
    results = []
    for tokens in (exact, half):
        output = attend(plan, *tokens)
        results.append([output, *torch.autograd.grad(output, tokens, gradient.to(output.dtype))])
    for wanted, found in zip(*results, strict=True):
        assert (found.float() - wanted).norm() < 0.01 * wanted.norm()
