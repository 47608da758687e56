"""A look at panoramas: one compiled graph for each shape, and the same keys and values whoever computes them."""

from collections.abc import Callable
from itertools import chain

import pytest
import torch
from tiny_models import noting, on_own_tensors, prefix_of

from panollava import PanoLlavaForConditionalGeneration
from panollava.inference import prefill as looking
from panollava.inference.decode import Prefix

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def assert_same(one: Prefix, other: Prefix) -> None:
    assert one.grids is not None
    assert other.grids is not None
    assert torch.allclose(one.grids, other.grids.to(one.grids), atol=1e-4)
    for wanted, found in zip(chain(*one.states()), chain(*other.states()), strict=True):
        assert torch.allclose(wanted, found.to(wanted), atol=1e-4)


def test_a_prefix_is_one_graph_for_each_shape(
    make_model: Callable[..., PanoLlavaForConditionalGeneration], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, graphs = make_model().to(DEVICE), list[int]()

    traced = looking.compiled_prefix_states(noting(graphs))
    monkeypatch.setattr(looking, "compiled_prefix_states", lambda: traced)
    for panoramas in (1, 2, 1):
        torch.manual_seed(panoramas)
        plain = prefix_of(model, panoramas)
        torch.manual_seed(panoramas)
        assert_same(plain, prefix_of(model, panoramas, compiled=True))
    assert len(graphs) == 2


@pytest.mark.parametrize("reduction", ["none", "unique"])
def test_looks_at_other_panoramas_leave_earlier_ones_alone(
    make_model: Callable[..., PanoLlavaForConditionalGeneration], monkeypatch: pytest.MonkeyPatch, reduction: str
) -> None:
    """On a GPU the first look runs as it is, the second is captured, later ones are replayed."""
    model = make_model(token_reduction=reduction)
    plain = {}
    for seed, panoramas in ((0, 2), (1, 2), (2, 1)):
        torch.manual_seed(seed)
        plain[seed] = prefix_of(model, panoramas)
    model.to(DEVICE)
    if DEVICE == "cpu":
        monkeypatch.setattr(looking, "replayed", on_own_tensors)
    looks = []
    for seed, panoramas in ((0, 2), (2, 1), (1, 2), (0, 2), (1, 2), (2, 1), (0, 2)):
        torch.manual_seed(seed)
        looks.append((seed, prefix_of(model, panoramas)))
    for seed, look in looks:
        assert_same(plain[seed], look)
    assert not torch.allclose(plain[0].states()[0][0], plain[1].states()[0][0], atol=1e-3)
