"""Packing: many records behind one shared prefix, in one sequence, each blind to the others.

Segment 0 is the prefix (everything up to and including the panorama), segments 1.. are the records, -1 is padding.
Position ids of each record restart where the prefix ends, so a packed record computes what it would compute alone.

Two ways to attend, equal to rounding: SDPA under the boolean mask of `packed_mask`, which costs S^2, or
`packed_attention`, which masks only what follows the prefix. The second one needs the `layout` of the batch as an
argument of the model's forward.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

IGNORE = -100


@dataclass(frozen=True)
class Packed:
    """One packed row: token ids, position ids, segment ids and labels (IGNORE where nothing is to be learned)."""

    ids: list[int]
    positions: list[int]
    segments: list[int]
    labels: list[int]

    def answers(self) -> list[int]:
        """Return where each answer begins: each token to be learned after one that is not."""
        before = [IGNORE, *self.labels[:-1]]
        return [place for place, label in enumerate(self.labels) if label != IGNORE == before[place]]


def pack(prefix: Sequence[int], records: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Packed:
    """Pack `records` of (ids, labels) behind `prefix`; the prefix is never a target."""
    ids, positions, segments = list(prefix), list(range(len(prefix))), [0] * len(prefix)
    labels = [IGNORE] * len(prefix)
    for number, (record_ids, record_labels) in enumerate(records, start=1):
        ids.extend(record_ids)
        positions.extend(range(len(prefix), len(prefix) + len(record_ids)))
        segments.extend([number] * len(record_ids))
        # A record's first token follows the prefix only when it is alone, so no packed row may predict it.
        labels.extend([IGNORE, *record_labels[1:]])
    return Packed(ids, positions, segments, labels)


def stack(rows: Sequence[Packed], pad_id: int, multiple: int = 32) -> dict[str, Tensor]:
    """Stack packed rows to `input_ids`, `position_ids`, `segments`, `labels`, all `[B, S]`, padded on the right.

    S is rounded up to `multiple`, so that few different shapes occur.
    """
    longest = max(len(row.ids) for row in rows)
    length = -(-longest // multiple) * multiple

    def padded(values: list[int], fill: int) -> list[int]:
        return values + [fill] * (length - len(values))

    return {
        "input_ids": torch.tensor([padded(row.ids, pad_id) for row in rows]),
        "position_ids": torch.tensor([padded(row.positions, 0) for row in rows]),
        "segments": torch.tensor([padded(row.segments, -1) for row in rows]),
        "labels": torch.tensor([padded(row.labels, IGNORE) for row in rows]),
    }


def packed_mask(segments: Tensor, positions: Tensor, sliding_window: int | None = None) -> Tensor:
    """Return the boolean attention mask `[B, 1, S, S]` of packed rows from `segments` and `positions` `[B, S]`.

    A token sees the earlier tokens of its own segment and of the prefix, within `sliding_window` positions where the
    language model has one. Padding sees itself alone, since a row without any key would turn into NaN.
    """
    length = segments.shape[1]
    query, key = segments[:, :, None], segments[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    allowed = causal & ((query == key) | (key == 0)) & (query >= 0) & (key >= 0)
    if sliding_window is not None:
        allowed &= positions[:, :, None] - positions[:, None, :] < sliding_window
    return (allowed | torch.eye(length, dtype=torch.bool, device=segments.device))[:, None]


PACKED_ATTENTION = "panollava_packed"
# All but cuDNN's, whose gradients are NaN at some lengths of masked attention on recent GPUs (PyTorch issue 196678).
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def packed_layout(segments: Tensor, positions: Tensor) -> dict[str, Any]:
    """Return what `packed_attention` needs to know of packed rows, from `segments` and `positions` `[B, S]`.

    `prefix` is the prefix's length, the same in all rows; `mask` `[B, 1, S - prefix, S]` is what the tokens behind it
    may see; `span` is the number of positions, `positions` where each token stands.

    Raises:
        ValueError: rows with prefixes of different lengths.
    """
    prefixes = (segments == 0).sum(1)
    prefix = int(prefixes[0])
    if bool((prefixes != prefix).any()):
        raise ValueError(
            f"the rows of a packed batch have prefixes of {sorted(set(prefixes.tolist()))} tokens, not one"
        )
    mask = packed_mask(segments, positions)[:, :, prefix:]
    return {"prefix": prefix, "mask": mask, "positions": positions, "span": int(positions.max()) + 1}


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: dict[str, Any],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within a packed batch; `query` `[B, H, S, d]`, result `[B, S, H, d]`.

    The prefix is causal and needs no mask. What follows it attends under the mask of the layout, to the prefix and to
    its own record.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    prefix, mask, window = layout["prefix"], layout["mask"], None
    if sliding_window is not None and layout["span"] > sliding_window:
        positions = layout["positions"]
        near = positions[:, None, :, None] - positions[:, None, None, :] < sliding_window
        mask, window = mask & near[:, :, prefix:], near[:, :, :prefix, :prefix].tril()
    attend = partial(F.scaled_dot_product_attention, scale=scaling, dropout_p=dropout)
    first, last = query.tensor_split([prefix], dim=2)
    own_key, own_value = (x[:, :, :prefix] for x in (key, value))
    with sdpa_kernel(KERNELS):
        head = attend(first, own_key, own_value, attn_mask=window, is_causal=window is None)
        rest = attend(last, key, value, attn_mask=mask)
    return torch.cat((head, rest), dim=2).transpose(1, 2), None


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
