"""Packed rows the plain way: stacked, padded on the right, under a boolean mask of S^2 numbers a row.

It takes nothing but SDPA, and prefixes may differ in length. The reference that packed attention must equal.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from panollava.attention.packing import Packed
from panollava.vlm.labels import IGNORE


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
