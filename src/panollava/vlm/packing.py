"""Packing: many records behind one shared prefix, in one sequence, each blind to the others.

Segment 0 is the prefix (everything up to and including the panorama), segments 1.. are the records, -1 is padding.
Position ids of each record restart where the prefix ends, so a packed record computes what it would compute alone.

Two ways to attend, equal to rounding: SDPA under the boolean mask of `packed_mask`, which costs S^2, or
`packed_attention`, which gives each record the prefix's keys and its own and never sees the others. The second one
needs the `layout` of the batch as an argument of the model's forward.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
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
BUCKET = 8


def packed_layout(segments: Tensor) -> dict[str, Any]:
    """Return where the prefix and the records of packed rows lie, from `segments` `[B, S]`.

    `prefix` is the prefix's length, the same in all rows. `buckets` holds records of similar length together: their
    tokens `[R, L]` as indices into the flattened batch, the row `[R]` that each belongs to, and their lengths `[R]`.

    Raises:
        ValueError: rows with prefixes of different lengths.
    """
    prefixes = (segments == 0).sum(1)
    prefix = int(prefixes[0])
    if bool((prefixes != prefix).any()):
        raise ValueError(
            f"the rows of a packed batch have prefixes of {sorted(set(prefixes.tolist()))} tokens, not one"
        )
    by_size: dict[int, list[tuple[int, int, int]]] = {}
    for row, values in enumerate(segments):
        counts = values[values > 0].unique_consecutive(return_counts=True)[1]
        starts = prefix + F.pad(counts.cumsum(0), (1, 0))[:-1]
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
            size = -(-count // BUCKET) * BUCKET
            by_size.setdefault(size, []).append((row, row * segments.shape[1] + start, count))
    buckets = []
    for size, records in sorted(by_size.items()):
        rows, starts, lengths = (torch.tensor(column) for column in zip(*records, strict=True))
        offsets = torch.arange(size).expand(len(records), -1).minimum(lengths[:, None] - 1)
        buckets.append({"tokens": starts[:, None] + offsets, "rows": rows, "lengths": lengths})
    return {"prefix": prefix, "buckets": buckets}


def _causal(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Return the mask `[queries, keys]` of tokens that end together, within a sliding window where there is one."""
    distance = torch.arange(keys - queries, keys, device=device)[:, None] - torch.arange(keys, device=device)
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)


def _take(flat: Tensor, tokens: Tensor) -> Tensor:
    """Return the records `[R, H, L, d]` at `tokens` `[R, L]` of a flattened batch `[B S, H, d]`."""
    # index_select, for its gradient is a plain addition where that of an index is a scattered one.
    return flat.index_select(0, tokens.flatten()).unflatten(0, tokens.shape).transpose(1, 2)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, *, scaling: float | None, dropout: float
) -> Tensor:
    """Attend with many short queries `[R, H, L, d]`; on a CPU without the fused kernel, whose backward pass is slow."""
    if query.is_cuda:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = ((query * scale) @ key.transpose(-1, -2)).masked_fill(~mask, float("-inf"))
    return F.dropout(scores.softmax(dim=-1), dropout) @ value


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
    """Attend within a packed batch; `query` `[B, H, S, d]`, result `[B, S, H, d]`, zero at padding.

    The prefix is causal. Each record attends to the prefix of its row and to its own earlier tokens. No pair of tokens
    from two records is ever computed.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    prefix = layout["prefix"]
    options: dict[str, Any] = {"scaling": scaling, "dropout": dropout}
    window = _causal(prefix, prefix, sliding_window, query.device)
    first, own_key, own_value = (x[:, :, :prefix] for x in (query, key, value))
    head = _attend(first, own_key, own_value, window, **options)
    flat_query, flat_key, flat_value = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    out = torch.zeros_like(flat_query).unflatten(0, (len(query), -1))
    out = torch.cat((head.transpose(1, 2), out[:, prefix:]), dim=1).flatten(0, 1)
    places, results = [], []
    for bucket in layout["buckets"]:
        tokens, rows = bucket["tokens"], bucket["rows"]
        keys, values = (
            torch.cat((shared.index_select(0, rows), _take(flat, tokens)), dim=2)
            for shared, flat in ((own_key, flat_key), (own_value, flat_value))
        )
        mask = _causal(tokens.shape[1], keys.shape[2], sliding_window, query.device)
        read = _attend(_take(flat_query, tokens), keys, values, mask, **options).transpose(1, 2)
        real = torch.arange(tokens.shape[1], device=tokens.device) < bucket["lengths"][:, None]
        kept = real.flatten().nonzero()[:, 0]
        places.append(tokens.flatten().index_select(0, kept))
        results.append(read.flatten(0, 1).index_select(0, kept))
    out = out.index_copy(0, torch.cat(places), torch.cat(results).to(out.dtype))
    return out.unflatten(0, (len(query), -1)), None


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
