"""`torch.compile` of the language model, one decoder layer at a time: all layers share one compilation.

Layers are compiled in place, so that parameters, checkpoints and adapters keep their names, and FSDP finds its layers.
All lengths are symbols: longer rows need no second compilation, another number of panoramas in a batch does. A graph
break is an error, not a slow step.
"""

from torch import nn


def compile_layers(layers: nn.ModuleList) -> None:
    """Compile decoder layers when they first run; call it once adapters are in place."""
    for layer in layers:
        layer.compile(fullgraph=True, dynamic=True)
