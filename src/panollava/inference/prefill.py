"""A look at panoramas: the keys and values of what all prompts begin with, computed once for all questions.

On a GPU the encoder's pass and the language model's are replayed as graphs, see `vlm/captured.py`.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache

from panollava.attention.attending import attending
from panollava.attention.cuda_graphs import replayed, whole_graph
from panollava.attention.shared_prefix import SHARED_ATTENTION
from panollava.inference.decode import Prefix
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration
from panollava.vlm.processing_panollava import PanoLlavaProcessor

KeysAndValues = list[tuple[Tensor, Tensor]]


@torch.inference_mode()
def compute_prefix(
    model: PanoLlavaForConditionalGeneration,
    processor: PanoLlavaProcessor,
    panoramas: Sequence[Image.Image],
    head: list[int],
    *,
    compiled: bool = False,
) -> Prefix:
    """Return the prefix of P panoramas: `head`, the visual tokens, and the keys and values of both; see `decode`."""
    views = processor.image_processor(list(panoramas), return_tensors="pt").to(model.device)
    visual = processor.tokens_of_panorama(views["view_poses"][0])
    return prefix_of_views(model, head + [model.config.image_token_id] * visual, **views, compiled=compiled)


@torch.inference_mode()
def prefix_of_views(
    model: PanoLlavaForConditionalGeneration,
    ids: list[int],
    pixel_values: Tensor,
    view_poses: Tensor,
    *,
    compiled: bool = False,
) -> Prefix:
    """Return the prefix `ids` of the P panoramas with views `[P, V, 3, S, S]` at poses `[P, V, 6]`.

    `ids` end with one placeholder for each visual token.
    """
    if model.config.token_reduction == "none":
        grids, visual = replayed(model, seen, pixel_values, view_poses)
    else:  # choosing tokens looks at values, which no graph can do
        grids, visual = seen(model, pixel_values, view_poses)
    # A GPU is not waited for. Only CUDA takes the numbers over at once, before they are gone here.
    head = torch.tensor(ids[: len(ids) - visual.shape[1]], dtype=torch.long)
    head = head.to(visual.device, non_blocking=visual.is_cuda)
    before = model.get_input_embeddings()(head).expand(len(visual), -1, -1)
    states = compiled_prefix_states() if compiled else prefix_states
    window = model.config.text_config.to_dict().get("sliding_window")
    # A compiler would not see that the usual attention needs no mask here.
    with nullcontext() if window is not None and len(ids) > window else attending(model, SHARED_ATTENTION):
        return Prefix(ids, replayed(model, states, torch.cat((before, visual), dim=1)), grids, view_poses)


def seen(model: PanoLlavaForConditionalGeneration, pixel_values: Tensor, view_poses: Tensor) -> tuple[Tensor, Tensor]:
    """Return the patch grids `[P, V, h, w, C]` and language tokens `[P, N, D]` of views."""
    grids = model.model.encode_views(pixel_values)
    features = model.model.get_image_features(view_poses=view_poses, patch_grids=grids, return_dict=True)
    return grids, torch.stack(list(features.pooler_output))


def prefix_states(model: PanoLlavaForConditionalGeneration, embedded: Tensor) -> KeysAndValues:
    """Return the keys and values of each layer for embedded tokens `[P, L, D]`."""
    cache = DynamicCache()  # whole even where the language model has a sliding window: each row's lies elsewhere
    nothing = torch.empty(0, dtype=torch.long, device=embedded.device)
    model.model(inputs_embeds=embedded, past_key_values=cache, use_cache=True, read=nothing)
    layers: Sequence[Any] = cache.layers
    return [(layer.keys, layer.values) for layer in layers]


@cache
def compiled_prefix_states(backend: str | Any = "inductor") -> Any:
    """Return `prefix_states` as one compiled graph for each number and length of prefixes."""
    return whole_graph(prefix_states, backend)
