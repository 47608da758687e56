"""Prefill: one compiled graph for each shape, and the same keys and values whoever computes them."""

from collections.abc import Callable
from itertools import chain

import pytest
import torch
from tiny_models import noting, prefix_of, replay_on_cpu

from panollava import PanoLlavaForConditionalGeneration
from panollava.attention.cuda_graphs import GraphCache
from panollava.attention.plan import use_plans
from panollava.inference import prefill as prefill_module
from panollava.inference.prompts import Prefix

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def assert_same(one: Prefix, other: Prefix) -> None:
    assert one.grids is not None
    assert other.grids is not None
    assert torch.allclose(one.grids, other.grids.to(one.grids), atol=1e-4)
    for wanted, found in zip(chain(*one.keys_and_values()), chain(*other.keys_and_values()), strict=True):
        assert torch.allclose(wanted, found.to(wanted), atol=1e-4)


def made(make_model: Callable[..., PanoLlavaForConditionalGeneration]) -> GraphCache:
    model = make_model()
    use_plans(model.model.language_model)
    return GraphCache(model)


def test_a_prefix_is_one_graph_for_each_shape(
    make_model: Callable[..., PanoLlavaForConditionalGeneration], monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs, compiled = made(make_model), list[int]()
    graphs.model.to(DEVICE)
    traced = prefill_module.compiled_keys_and_values(noting(compiled))
    monkeypatch.setattr(prefill_module, "compiled_keys_and_values", lambda: traced)
    for panoramas in (1, 2, 1):
        torch.manual_seed(panoramas)
        plain = prefix_of(graphs, panoramas)
        torch.manual_seed(panoramas)
        assert_same(plain, prefix_of(graphs, panoramas, compiled=True))
    assert len(compiled) == 2


def test_prefilling_other_panoramas_leaves_earlier_prefixes_alone(
    make_model: Callable[..., PanoLlavaForConditionalGeneration], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the first pass runs as it is, the second is captured, later ones are replayed."""
    graphs, plain = made(make_model), {}
    for seed, panoramas in ((0, 2), (1, 2), (2, 1)):
        torch.manual_seed(seed)
        plain[seed] = prefix_of(graphs, panoramas)
    graphs.model.to(DEVICE)
    if DEVICE == "cpu":
        monkeypatch.setattr(GraphCache, "replay", replay_on_cpu)
    prefixes = []
    for seed, panoramas in ((0, 2), (2, 1), (1, 2), (0, 2), (1, 2), (2, 1), (0, 2)):
        torch.manual_seed(seed)
        prefixes.append((seed, prefix_of(graphs, panoramas)))
    for seed, prefix in prefixes:
        assert_same(plain[seed], prefix)
    keys = [plain[seed].keys_and_values()[0][0] for seed in (0, 1)]
    assert not torch.allclose(*keys, atol=1e-3)
