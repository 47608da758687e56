"""What a GPU does again and again, recorded as graphs: persistent tensors for each shape of work, kept for a model.

What a shape does for the first time runs as it is, is captured the second time and replayed from then on. Graphs read
the weights where they lay when they were captured: a model whose modules or weights have been replaced gets new ones.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

# Of a GPU's memory, what tensors of all shapes of a kind but the present one may take; graphs keep theirs beside it.
SHARE_OF_MEMORY = 0.25
LIMIT_WITHOUT_GPU = 2**34
# Far more shapes than one model meets; beyond it compiling is an error.
COMPILED_SHAPES = 200

Result = TypeVar("Result")


class Replayed:
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


class Kept(Protocol):
    """What is kept for one shape of work."""

    @property
    def nbytes(self) -> int:
        """Return how many bytes its tensors take, those of graphs aside."""


class Weights:
    """Where a model's modules, weights and buffers lay; quick to compare, for every answer and training step does.

    What only Python decides, such as whether PEFT's adapters are switched off, is not seen: `forget` the model then.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())  # the model itself is not held below: it would live for ever
        self._children = [module._modules for module in modules if module._modules]
        self._tensors = [own for module in modules for own in (module._parameters, module._buffers) if own]
        self._modules, self._places = self._modules_now(), self._places_now()

    def _modules_now(self) -> list[nn.Module | None]:
        return [child for own in self._children for child in own.values()]

    def _places_now(self) -> list[int]:
        return [tensor.data_ptr() for own in self._tensors for tensor in own.values() if tensor is not None]

    def stayed(self) -> bool:
        """Return whether all modules are the same ones, and all weights where they were."""
        return self._modules_now() == self._modules and self._places_now() == self._places


@dataclass
class Shapes:
    """What is kept for one model, by the shape of the work, the one used last at the end; and where its weights lay."""

    weights: Weights
    known: OrderedDict[Hashable, Any]


_SHAPES: WeakKeyDictionary[nn.Module, Shapes] = WeakKeyDictionary()
Something = TypeVar("Something", bound=Kept)


def kept(model: nn.Module, shape: Hashable, make: Callable[[], Something], limit_bytes: int) -> Something:
    """Return what is kept for a shape, from the last time or made now; the oldest of its kind make room for it."""
    shapes = _SHAPES.get(model)
    if shapes is None or not shapes.weights.stayed():
        shapes = _SHAPES[model] = Shapes(Weights(model), OrderedDict())
    known = shapes.known
    found = known.pop(shape, None)
    mine = make() if found is None else found
    others = [(old, other.nbytes) for old, other in known.items() if type(other) is type(mine)]
    while sum(size for _, size in others) > limit_bytes:
        known.pop(others.pop(0)[0])
    known[shape] = mine
    return mine


def forget(model: nn.Module) -> None:
    """Forget what is kept for a model and for its parts.

    Their memory is needed, or they do something else in a way that `Weights` miss.
    """
    for module in model.modules():
        _SHAPES.pop(module, None)


def limit_bytes(device: torch.device) -> int:
    """Return how many bytes all shapes of a kind but the present one may take on a device."""
    if device.type != "cuda":
        return LIMIT_WITHOUT_GPU
    return int(SHARE_OF_MEMORY * torch.cuda.get_device_properties(device).total_memory)


class OnOwnTensors:
    """A function of a model and some tensors, replayed on tensors of its own."""

    def __init__(self, function: Callable[..., Any], given: Sequence[Tensor]) -> None:
        self.function, self.given = function, [torch.empty_like(each) for each in given]
        self.replayed, self.nbytes = Replayed(given[0].device), 0

    def __call__(self, model: nn.Module, given: Sequence[Tensor]) -> Any:
        """Return the tensors that the function makes."""
        for own, each in zip(self.given, given, strict=True):
            own.copy_(each)
        result = self.replayed(lambda: self.function(model, *self.given))
        if not self.nbytes:
            self.nbytes = sum(tensor.nbytes for tensor in (*self.given, *tree_leaves(result)))
        return result if self.replayed.graph is None else tree_map(torch.clone, result)


def replayed(model: nn.Module, function: Callable[..., Result], *given: Tensor) -> Result:
    """Return the tensors that a function makes of a model and tensors, on a GPU by graphs. Without gradients."""
    device = given[0].device
    if device.type != "cuda":
        return function(model, *given)
    shape = function, tuple((each.shape, each.dtype) for each in given)
    return kept(model, shape, lambda: OnOwnTensors(function, given), limit_bytes(device))(model, given)


def whole_graph(function: Callable, backend: str | Callable) -> Callable:
    """Return a function that is compiled as one graph for each shape of what it is given."""
    compiled = torch.compile(function, dynamic=False, fullgraph=True, backend=backend)
    return torch._dynamo.config.patch(recompile_limit=COMPILED_SHAPES)(compiled)
