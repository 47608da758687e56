"""Causal attention of rows of one length without padding, by the fastest kernel that there is."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.integrations.sdpa_attention import repeat_kv

from panollava.attention.scores import ScoreRule, attend_by_scores

# Fused kernels of half precision want heads of a multiple of so many numbers, and at most so wide.
ALIGNED, WIDEST = 8, 256
# For masked attention: all but cuDNN's, whose gradients are NaN at some lengths then (PyTorch issue 196678).
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def fused_on_gpu(keys: Tensor, values: Tensor) -> bool:
    """Return whether keys `[..., d]` lie where half precision has fused kernels: on a GPU from Ampere on.

    Values of another width have none.
    """
    half, width = keys.dtype in (torch.bfloat16, torch.float16), keys.shape[-1]
    fits = width % ALIGNED == 0 and width <= WIDEST and width == values.shape[-1]
    return keys.is_cuda and half and fits and torch.cuda.get_device_capability(keys.device) >= (8, 0)


def attend_causally(
    query: Tensor, key: Tensor, value: Tensor, scale: float, dropout: float = 0.0, window: int | None = None,
    rule: ScoreRule | None = None,
) -> Tensor:  # fmt: skip
    """Return the causal attention `[B, H, T, v]` of `query` `[B, H, T, d]` to `key` and `value` `[B, G, T, d or v]`.

    A sliding `window` shorter than the rows takes a mask. Kernels for other than half precision want as many heads
    everywhere; without a kernel, all scores would be in memory.
    """
    length, masked = query.shape[2], window is not None and window < query.shape[2]
    if rule is not None:
        positions = torch.arange(length, device=query.device)
        mask = near(positions, positions, length if window is None else window).tril()
        return attend_by_scores(query, key, value, mask, scale=scale, dropout=dropout, rule=rule)
    fused = fused_on_gpu(query, value) and not masked
    if not fused:
        key, value = (repeat_kv(one, query.shape[1] // one.shape[1]) for one in (key, value))
    options: dict[str, Any] = {"scale": scale, "dropout_p": dropout}
    if not masked or window is None:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=fused, **options)
    positions = torch.arange(length, device=query.device)
    with sdpa_kernel(KERNELS):
        mask = near(positions, positions, window).tril()
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, **options)


def near(queries: Tensor, keys: Tensor, window: int) -> Tensor:
    """Return which keys at positions `[K]` lie within a sliding window of queries at positions `[Q]`, `[Q, K]`."""
    return queries[:, None] - keys < window
