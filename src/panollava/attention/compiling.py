"""`torch.compile` of the language model, one decoder layer at a time: all layers share one compilation.

Layers are compiled in place, so that parameters, checkpoints and adapters keep their names, and FSDP finds its layers.
All lengths are symbols: longer rows need no second compilation, another number of panoramas in a batch does. A graph
break is an error, not a slow step. The last layer does less, by hooks (`vlm/last_layer.py`). It stays as it is: it
would need a compilation of its own, and a compilation that layers share takes no notice of what hooks only one has.
"""

from torch import nn


def compile_layers(layers: nn.ModuleList, backend: str = "inductor") -> None:
    """Compile decoder layers but the last when they first run; call it once adapters are in place."""
    for layer in layers[:-1]:
        layer.compile(fullgraph=True, dynamic=True, backend=backend)
