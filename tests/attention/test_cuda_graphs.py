"""The cache of a model's persistent tensors and CUDA graphs, and when it starts anew; on a GPU with the graphs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from panollava import PanoLlavaForConditionalGeneration
from panollava.attention.cuda_graphs import GraphCache, GraphedFunction, WeightAddresses

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def halves(model: PanoLlavaForConditionalGeneration, given: Tensor) -> list[Tensor]:
    return [given[:2] * model.lm_head.weight[0, 0], given[2:].square()]


class Overwriting:
    """A graph without a GPU: what the first call makes is where later ones leave their results."""

    graph = None

    def __call__(self, function: Callable[[], list[Tensor]]) -> list[Tensor]:
        if self.graph is None:
            self.graph, self.result = "captured", function()
        for own, new in zip(self.result, function(), strict=True):
            own.copy_(new)
        return self.result


@torch.inference_mode()
@pytest.mark.parametrize("overwriting", [False, True])
def test_later_calls_do_not_overwrite_results(
    make_model: Callable[..., PanoLlavaForConditionalGeneration], overwriting: bool
) -> None:
    model = make_model().to(DEVICE)
    given = [torch.randn(4, 3, device=DEVICE) for _ in range(4)]
    own = GraphedFunction(halves, [given[0]])
    if overwriting:
        own.replayed = Overwriting()
    found = [own(model, [one]) for one in given]
    for one, (left, right) in zip(given, found, strict=True):
        assert torch.equal(torch.cat((left, right)), torch.cat(halves(model, one)))
    assert own.nbytes == 2 * given[0].nbytes


def test_replaced_weights_and_modules_are_noticed() -> None:
    def made() -> nn.Sequential:
        return nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.BatchNorm1d(3))

    model = made()
    weights = WeightAddresses(model)
    with torch.no_grad():
        model[0].weight.mul_(2)
    assert weights.unchanged()
    for change in (
        lambda model: setattr(model[0], "weight", nn.Parameter(model[0].weight.clone())),
        lambda model: setattr(model[0].weight, "data", model[0].weight.data.clone()),
        lambda model: model[1].__setitem__(0, nn.Linear(3, 3)),
        lambda model: model[1].__setitem__(1, nn.Tanh()),
        lambda model: model.append(nn.ReLU()),
        lambda model: model[2].register_buffer("running_mean", torch.ones(3)),
    ):
        model = made()
        weights = WeightAddresses(model)
        assert weights.unchanged()
        change(model)
        assert not weights.unchanged()


class Entry:
    nbytes = 100


def test_the_oldest_entries_of_a_kind_make_room() -> None:
    cache = GraphCache(nn.Linear(2, 2))
    entries = {shape: cache.entry(shape, Entry, 1000) for shape in "abc"}
    assert all(cache.entry(shape, Entry, 1000) is own for shape, own in entries.items())
    assert cache.entry("a", Entry, 100) is entries["a"]  # of the others, the newer one fits into 100 bytes
    assert cache.entry("c", Entry, 1000) is entries["c"]
    assert cache.entry("b", Entry, 1000) is not entries["b"]


def test_a_cache_starts_anew_when_it_is_cleared_or_weights_move() -> None:
    model = nn.Linear(2, 2)
    cache = GraphCache(model)
    first = cache.entry("a", Entry, 1000)
    cache.clear()
    second = cache.entry("a", Entry, 1000)
    assert second is not first
    model.weight = nn.Parameter(model.weight.detach().clone())
    assert cache.entry("a", Entry, 1000) is not second
