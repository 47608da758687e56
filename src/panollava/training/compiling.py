"""`torch.compile` of the language model, one decoder layer at a time: all layers share one compilation.

Layers are compiled in place, so that parameters, checkpoints and adapters keep their names. Batch and length are
symbols: rows of another length need no second compilation. A graph break is an error, not a slow step.
"""

from torch import nn

from panollava.training.processes import divided


def compile_layers(layers: nn.ModuleList) -> None:
    """Compile decoder layers when they first run; call it once adapters are in place.

    Raises:
        ValueError: the model will be divided among processes, whose hooks on every layer cannot be compiled.
    """
    if divided():
        raise ValueError("compile is true, but FSDP divides the layers; set it to false under FSDP")
    for layer in layers:
        layer.compile(fullgraph=True, dynamic=True)
