"""Prefill: the keys and values of the tokens that all prompts begin with, computed once for all questions.

On a GPU the encoder's pass and the language model's are replayed as CUDA graphs.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from panollava.attention.compiling import compile_pass
from panollava.attention.cuda_graphs import GraphCache
from panollava.attention.shared_prefix import PrefixPlan
from panollava.inference.prompts import Prefix
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration

KeysAndValues = list[tuple[Tensor, Tensor]]


def prefill(
    graphs: GraphCache, head: list[int], pixel_values: Tensor, view_poses: Tensor, *, compiled: bool = False
) -> Prefix:
    """Return the prefix of P panoramas with views `[P, V, 3, S, S]` at poses `[P, V, 6]`, behind the tokens `head`.

    In inference mode.
    """
    model: Any = graphs.model
    grids, visual = graphs.replay(encode, pixel_values, view_poses)
    # A GPU is not waited for. Only CUDA takes the numbers over at once, before they are gone here.
    there = torch.tensor(head, dtype=torch.long).to(visual.device, non_blocking=visual.is_cuda)
    before = model.get_input_embeddings()(there).expand(len(visual), -1, -1)
    ids = head + [model.config.image_token_id] * visual.shape[1]
    compute = compiled_keys_and_values() if compiled else keys_and_values
    return Prefix(ids, graphs.replay(compute, torch.cat((before, visual), dim=1)), grids, view_poses)


def encode(model: PanoLlavaForConditionalGeneration, pixel_values: Tensor, view_poses: Tensor) -> tuple[Tensor, Tensor]:
    """Return the patch grids `[P, V, h, w, C]` and language tokens `[P, N, D]` of views."""
    grids = model.model.encode_views(pixel_values)
    features = model.model.get_image_features(view_poses=view_poses, patch_grids=grids, return_dict=True)
    return grids, torch.stack(list(features.pooler_output))


def keys_and_values(model: PanoLlavaForConditionalGeneration, embedded: Tensor) -> KeysAndValues:
    """Return the keys and values of each layer for embedded tokens `[P, L, D]`."""
    plan = PrefixPlan(needed=torch.empty(0, dtype=torch.long, device=embedded.device))
    model.model(inputs_embeds=embedded, use_cache=False, plan=plan)
    # Whole even where the language model has a sliding window: each row's lies elsewhere.
    return [plan.seen[number] for number in sorted(plan.seen)]


@cache
def compiled_keys_and_values(backend: str | Any = "inductor") -> Any:
    """Return `keys_and_values` as one compiled graph for each number and length of prefixes."""
    return compile_pass(keys_and_values, backend)
