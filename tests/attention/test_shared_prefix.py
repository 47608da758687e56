"""Rows behind shared prefixes attend to what they would attend to alone, window and padding included."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from panollava.attention.scores import ScoreRule
from panollava.attention.shared_prefix import SharedPlan, SharedPrefix

PREFIXES, GROUPS, HEADS, LENGTH, WIDTH, OWN = 3, 2, 4, 22, 8, 9
OWNERS = torch.tensor([2, 0, 0, 2, 2])  # prefix 1 has no row
PADDING = torch.tensor([0, 3, 1, 0, 8])


def alone(query: Tensor, keys: Tensor, values: Tensor, window: int | None) -> Tensor:
    """Attend causally with the last queries `[H, T, d]` of one unpadded row `[G, S, d]`."""
    count, total = query.shape[1], keys.shape[1]
    distance = torch.arange(total - count, total)[:, None] - torch.arange(total)
    mask = (distance >= 0) & (distance < (window or total))
    keys, values = (x.repeat_interleave(HEADS // GROUPS, 0) for x in (keys, values))
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)


def attend(
    shared: SharedPrefix, query: Tensor, keys: Tensor, values: Tensor, *, layer: int = 0, window: int | None = None,
    rule: ScoreRule | None = None,
) -> Tensor:  # fmt: skip
    module: Any = SimpleNamespace(layer_idx=layer)
    plan = SharedPlan(prefix=shared)
    return plan.attend(module, query, keys, values, scale=WIDTH**-0.5, dropout=0.0, window=window, rule=rule)


@pytest.mark.parametrize("count", [OWN, 4, 1])
@pytest.mark.parametrize("window", [None, 5, 20, 25])
@pytest.mark.parametrize(
    ("prefixes", "owners", "paddings"),
    [
        (PREFIXES, OWNERS, PADDING),
        (PREFIXES, OWNERS, torch.zeros_like(PADDING)),
        (PREFIXES, torch.tensor([2, 0]), torch.tensor([3, 0])),  # nothing is shared
        (PREFIXES, torch.tensor([1]), torch.tensor([0])),
        (1, torch.tensor([0]), torch.tensor([2])),
    ],
)
def test_each_row_attends_as_it_would_alone(
    prefixes: int, owners: Tensor, paddings: Tensor, window: int | None, count: int
) -> None:
    keys, values = torch.randn(2, prefixes, GROUPS, LENGTH, WIDTH)
    own_keys, own_values = torch.randn(2, len(owners), GROUPS, OWN, WIDTH)
    query = torch.randn(len(owners), HEADS, count, WIDTH)
    shared = SharedPrefix.of([torch.zeros_like(keys), keys], [keys, values], owners, paddings)
    output = attend(shared, query, own_keys, own_values, layer=1, window=window)
    assert torch.isfinite(output).all()
    for row, (owner, padding) in enumerate(zip(owners, paddings.tolist(), strict=True)):
        real = min(count, OWN - padding)
        wanted = alone(
            query[row, :, -real:],
            torch.cat((keys[owner], own_keys[row, :, padding:]), dim=1),
            torch.cat((values[owner], own_values[row, :, padding:]), dim=1),
            window,
        )
        assert torch.allclose(output[row, -real:].transpose(0, 1), wanted, atol=1e-5), row


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the fused kernels of half precision need a GPU")
@pytest.mark.parametrize("length", [LENGTH, 0])
@pytest.mark.parametrize("window", [None, 5, 25])
def test_the_fused_kernels_compute_plain_products(length: int, window: int | None) -> None:
    keys, values = torch.randn(2, PREFIXES, GROUPS, length, WIDTH)
    own_keys, own_values = torch.randn(2, len(OWNERS), GROUPS, 16, WIDTH)
    query = torch.randn(len(OWNERS), HEADS, 4, WIDTH)
    found = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16)):
        there = [x.to(device, dtype) for x in (keys, values, query, own_keys, own_values)]
        shared = SharedPrefix.of([there[0]], [there[1]], OWNERS.to(device), PADDING.to(device))
        assert shared.fused == (device == "cuda")
        found.append(attend(shared, *there[2:], window=window).float().cpu())
    assert torch.allclose(*found, atol=0.05)


@pytest.mark.parametrize(
    "rule", [ScoreRule(cap=1.5), ScoreRule(sinks=torch.arange(4.0)), ScoreRule(2.0, torch.ones(4))]
)
@pytest.mark.parametrize("owners", [OWNERS, torch.tensor([2, 0, 1])])  # shared prefixes, and one for each row
@pytest.mark.parametrize("window", [None, 20])
def test_capped_scores_and_sinks_are_those_of_the_whole_row(
    owners: Tensor, rule: ScoreRule, window: int | None
) -> None:
    keys = 2 * torch.randn(PREFIXES, GROUPS, LENGTH, WIDTH)
    own_keys, query = torch.randn(len(owners), GROUPS, OWN, WIDTH), 3 * torch.randn(len(owners), HEADS, OWN, WIDTH)
    values, own_values = torch.randn(PREFIXES, GROUPS, LENGTH, 3), torch.randn(len(owners), GROUPS, OWN, 3)
    shared = SharedPrefix.of([keys], [values], owners, torch.zeros_like(owners))
    output = attend(shared, query, own_keys, own_values, window=window, rule=rule)
    assert output.shape == (len(owners), OWN, HEADS, 3)
    for row, owner in enumerate(owners):
        seen = torch.cat((keys[owner], own_keys[row]), 1).repeat_interleave(2, 0).double()
        told = torch.cat((values[owner], own_values[row]), 1).repeat_interleave(2, 0).double()
        scores = query[row].double() @ seen.mT * WIDTH**-0.5
        if rule.cap is not None:
            scores = rule.cap * (scores / rule.cap).tanh()
        distance = torch.arange(LENGTH, LENGTH + OWN)[:, None] - torch.arange(LENGTH + OWN)
        raised = scores.exp() * ((distance >= 0) & (distance < (window or 99)))
        nothing = 0 if rule.sinks is None else rule.sinks.double().exp()[:, None, None]
        wanted = raised @ told / (raised.sum(-1, keepdim=True) + nothing)
        assert torch.allclose(output[row].transpose(0, 1).double(), wanted, atol=1e-5)


def test_without_a_prefix_rows_are_alone() -> None:
    own_keys, own_values = torch.randn(2, 2, GROUPS, OWN, WIDTH)
    query, nothing = torch.randn(2, HEADS, OWN, WIDTH), [torch.empty(1, 1, 0, 1)]
    shared = SharedPrefix.of(nothing, nothing, torch.tensor([0, 0]), torch.tensor([0, 0]))
    output = attend(shared, query, own_keys, own_values)
    for row in range(2):
        assert torch.allclose(
            output[row].transpose(0, 1), alone(query[row], own_keys[row], own_values[row], None), atol=1e-5
        )


def test_a_prefix_is_stored_once() -> None:
    keys = [torch.randn(PREFIXES, GROUPS, LENGTH, WIDTH)]
    shared = SharedPrefix.of(keys, keys, OWNERS, PADDING)
    assert shared.keys[0].data_ptr() == keys[0].data_ptr()
    assert shared.rows.shape == (PREFIXES, 3)
    assert torch.equal(shared.rows.flatten()[shared.slots], torch.arange(len(OWNERS)))
