"""CUDA graphs of repeated work: persistent tensors for each shape of work, in a cache that belongs to one model's
owner.

The first call with a shape runs as it is, the second is captured, later ones are replayed. Graphs read the weights
where they lay when they were captured: when modules or weights have been replaced, the cache starts anew. Without CUDA
the work just runs.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

# Of a GPU's memory, what tensors of all shapes of a kind but the present one may take; graphs keep theirs beside it.
SHARE_OF_MEMORY = 0.25
LIMIT_WITHOUT_GPU = 2**34

Result = TypeVar("Result")


class ReplayedFunction:
    """A function of persistent tensors alone. On a GPU it runs as it is once, then is captured and replayed."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.called = device, False
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, function: Callable[[], Result]) -> Result:
        """Return the result of the function, the same each time; the next call overwrites it."""
        if self.device.type != "cuda" or not self.called:
            self.called = True
            return function()
        with torch.cuda.device(self.device):  # a capture takes the current device's stream
            if self.graph is None:
                graph = torch.cuda.CUDAGraph()
                # In memory of its own, which goes when it goes; other threads may pin memory meanwhile.
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                    self.result: Any = function()
                self.graph = graph
            self.graph.replay()
        return self.result


class Sized(Protocol):
    """What is cached for one shape of work."""

    @property
    def nbytes(self) -> int:
        """Return how many bytes its tensors take, those of graphs aside."""


Entry = TypeVar("Entry", bound=Sized)


class WeightAddresses:
    """Where a model's modules, weights and buffers lay; quick to compare, for every answer and training step does.

    What only Python decides, such as whether PEFT's adapters are switched off, is not seen: clear the cache then.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        self._children = [module._modules for module in modules if module._modules]
        self._tensors = [own for module in modules for own in (module._parameters, module._buffers) if own]
        self._modules, self._addresses = self._modules_now(), self._addresses_now()

    def _modules_now(self) -> list[nn.Module | None]:
        return [child for own in self._children for child in own.values()]

    def _addresses_now(self) -> list[int]:
        return [tensor.data_ptr() for own in self._tensors for tensor in own.values() if tensor is not None]

    def unchanged(self) -> bool:
        """Return whether all modules are the same ones, and all weights where they were."""
        return self._modules_now() == self._modules and self._addresses_now() == self._addresses


class GraphCache:
    """Persistent tensors and graphs of one model, by the shape of the work; the oldest of a kind make room.

    Its owner keeps it as long as the model's weights are to be reused, and clears it to free the memory.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._weights: WeightAddresses | None = None
        self._entries: OrderedDict[Hashable, Any] = OrderedDict()

    def clear(self) -> None:
        """Free all tensors and graphs."""
        self._weights, self._entries = None, OrderedDict()

    def entry(self, shape: Hashable, make: Callable[[], Entry], limit: int) -> Entry:
        """Return the entry of a shape, made now if it is new; others of its kind take at most `limit` bytes."""
        if self._weights is None or not self._weights.unchanged():
            self._weights, self._entries = WeightAddresses(self.model), OrderedDict()
        found = self._entries.pop(shape, None)
        mine = make() if found is None else found
        others = [(old, other.nbytes) for old, other in self._entries.items() if type(other) is type(mine)]
        while sum(size for _, size in others) > limit:
            self._entries.pop(others.pop(0)[0])
        self._entries[shape] = mine
        return mine

    def replay(self, function: Callable[..., Result], *given: Tensor) -> Result:
        """Return what a function makes of the model and of tensors, on a GPU by graphs. Without gradients."""
        device = given[0].device
        if device.type != "cuda":
            return function(self.model, *given)
        shape = function, tuple((each.shape, each.dtype) for each in given)
        return self.entry(shape, lambda: GraphedFunction(function, given), limit_bytes(device))(self.model, given)


def limit_bytes(device: torch.device) -> int:
    """Return how many bytes all shapes of a kind but the present one may take on a device."""
    if device.type != "cuda":
        return LIMIT_WITHOUT_GPU
    return int(SHARE_OF_MEMORY * torch.cuda.get_device_properties(device).total_memory)


class GraphedFunction:
    """A function of a model and some tensors, replayed on persistent tensors of its own."""

    def __init__(self, function: Callable[..., Any], given: Sequence[Tensor]) -> None:
        self.function, self.given = function, [torch.empty_like(each) for each in given]
        self.replayed, self.nbytes = ReplayedFunction(given[0].device), 0

    def __call__(self, model: nn.Module, given: Sequence[Tensor]) -> Any:
        """Return the tensors that the function makes."""
        for own, each in zip(self.given, given, strict=True):
            own.copy_(each)
        result = self.replayed(lambda: self.function(model, *self.given))
        if not self.nbytes:
            self.nbytes = sum(tensor.nbytes for tensor in (*self.given, *tree_leaves(result)))
        return result if self.replayed.graph is None else tree_map(torch.clone, result)
