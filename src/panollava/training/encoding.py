"""The frozen encoder's pass over a batch, before the model runs: on a GPU it is replayed as a CUDA graph."""

from typing import Any, Self

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from panollava.attention.cuda_graphs import GraphCache
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration
from panollava.vlm.vision import encode_views


class FrozenEncoder:
    """The frozen encoder of a model in training, with its CUDA graphs. The model's weights are whole."""

    def __init__(self, tower: PreTrainedModel, layer: int | list[int]) -> None:
        self.layer, self.graphs = layer, GraphCache(tower)

    @classmethod
    def of(cls, model: nn.Module) -> Self | None:
        """Return the frozen encoder of a model, which PEFT may have adapted; None where it has none."""
        whole: nn.Module = model.get_base_model() if isinstance(model, PeftModel) else model
        if not isinstance(whole, PanoLlavaForConditionalGeneration) or not whole.model.vision_is_frozen():
            return None
        return cls(whole.model.vision_tower, whole.config.vision_feature_layer)

    def with_grids(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return a batch with `patch_grids` `[P, V, h, w, C]` in place of `pixel_values`, if it has any."""
        if "pixel_values" not in batch:
            return batch
        others = dict(batch)
        with torch.no_grad():
            grids = self.graphs.replay(self._encode, others.pop("pixel_values"))
        return others | {"patch_grids": grids}

    def _encode(self, tower: PreTrainedModel, pixel_values: Tensor) -> Tensor:
        return encode_views(tower, pixel_values, self.layer)
