"""What a frozen encoder makes of a batch's views, before the model runs: on a GPU its pass is replayed as a graph.

The graph lives until the encoder does not or it is forgotten, see `vlm/captured.py`.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from panollava.attention.cuda_graphs import replayed
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration
from panollava.vlm.vision import encode_views


def with_grids(model: nn.Module, batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch with `patch_grids` `[P, V, h, w, C]` in place of `pixel_values`, if the model's encoder is frozen.

    `model` may be adapted by PEFT; its weights are whole.
    """
    whole: nn.Module = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(whole, PanoLlavaForConditionalGeneration) or "pixel_values" not in batch:
        return batch
    if not whole.model.vision_is_frozen():
        return batch
    encode, others = _encode_at(whole.config.vision_feature_layer), dict(batch)
    with torch.no_grad():
        grids = replayed(whole.model.vision_tower, encode, others.pop("pixel_values"))
    return others | {"patch_grids": grids}


@cache
def _encode_at(layer: int) -> Callable[[PreTrainedModel, Tensor], Tensor]:
    """Return what gives an encoder's hidden state `layer`, the same function each time."""
    return lambda tower, pixel_values: encode_views(tower, pixel_values, layer)
