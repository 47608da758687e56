"""Attention within prefixes: rows of one length without padding, causal, by the fastest kernel that there is."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.integrations.sdpa_attention import repeat_kv

from panollava.attention.fused import attend_causally
from panollava.attention.plan import Plan

# For masked attention: all but cuDNN's, whose gradients are NaN at some lengths then (PyTorch issue 196678).
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass(frozen=True, kw_only=True)
class PrefixPlan(Plan):
    """How prefixes `[P, L]` attend that are prefilled: each causally to itself.

    Where no position is needed, as when only their keys and values are, they do not attend in the last layer.
    """

    def attend(
        self, layer: Any, query: Tensor, key: Tensor, value: Tensor, *, scale: float, dropout: float, window: int | None
    ) -> Tensor:
        """Attend causally within `[P, H, L, d]`."""
        if self.in_last_layer and self.needed is not None and not len(self.needed):
            return torch.zeros_like(query).transpose(1, 2)
        output = attend_within_prefixes(query, key, value, scale=scale, dropout=dropout, window=window)
        return output.transpose(1, 2)


def attend_within_prefixes(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float, dropout: float, window: int | None
) -> Tensor:
    """Return the output `[P, H, L, d]` of prefixes; without a mask unless the window is shorter than they are."""
    length = query.shape[2]
    if window is None or window >= length:
        return attend_causally(query, key, value, scale, dropout)
    positions = torch.arange(length, device=query.device)
    mask, groups = near(positions, positions, window).tril(), query.shape[1] // key.shape[1]
    with sdpa_kernel(KERNELS):
        return F.scaled_dot_product_attention(
            query, repeat_kv(key, groups), repeat_kv(value, groups), attn_mask=mask, scale=scale, dropout_p=dropout
        )


def near(queries: Tensor, keys: Tensor, window: int) -> Tensor:
    """Return which keys at positions `[K]` lie within a sliding window of queries at positions `[Q]`, `[Q, K]`."""
    return queries[:, None] - keys < window
