"""`torch.compile`: of decoder layers in training, which share one compilation, and of whole passes in answering.

Layers are compiled in place, so that parameters, checkpoints and adapters keep their names, and FSDP finds its layers.
All lengths are symbols: longer rows need no second compilation, another number of panoramas in a batch does. A graph
break is an error, not a slow step.
"""

from collections.abc import Callable

import torch
from torch import nn

# Far more shapes than one model meets; beyond it compiling is an error.
COMPILED_SHAPES = 200


def compile_layers(layers: nn.ModuleList, backend: str = "inductor") -> None:
    """Compile decoder layers but the last when they first run; call it once adapters are in place.

    The last layer does something else (`plan.py`) and would need a compilation of its own.
    """
    for layer in layers[:-1]:
        layer.compile(fullgraph=True, dynamic=True, backend=backend)


def compile_pass(function: Callable, backend: str | Callable) -> Callable:
    """Return a function that is compiled as one graph for each shape of its arguments."""
    compiled = torch.compile(function, dynamic=False, fullgraph=True, backend=backend)
    return torch._dynamo.config.patch(recompile_limit=COMPILED_SHAPES)(compiled)
