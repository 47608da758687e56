"""Packing: many records behind one shared prefix, in one sequence, each blind to the others.

Segment 0 is the prefix (everything up to and including the panorama), segments 1.. are the records, -1 is padding.
Position ids of each record restart where the prefix ends, so a packed record computes what it would compute alone.

Two ways to attend, equal to rounding. Rows that are stacked and padded attend by SDPA under the boolean mask of
`packed_mask`, which costs S^2. Rows that are flattened to one, without padding, attend by `packed_attention`; it needs
the `layout` of that row as an argument of the model's forward.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

from .flash import Part, Read, attend, attend_backward, fused_on_gpu, join, sequences

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

LEAST_PADDING = 2


def flatten(rows: Sequence[Packed], pad_id: int, multiple: int = 32) -> dict[str, Any]:
    """Join packed rows to one: `input_ids`, `position_ids`, `labels` `[1, S]`, and the `layout` of the row.

    First come all prefixes, then the records of each row. Only the end is padded, up to a `multiple`, and by two tokens
    at least: none and one would be cases of their own for a compiler.

    Raises:
        ValueError: rows with prefixes of different lengths.
    """
    prefixes = [row.segments.count(0) for row in rows]
    prefix = prefixes[0]
    if set(prefixes) != {prefix}:
        raise ValueError(f"the rows of a packed batch have prefixes of {sorted(set(prefixes))} tokens, not one")
    total = sum(len(row.ids) for row in rows)
    padding = LEAST_PADDING + -(total + LEAST_PADDING) % multiple

    def joined(name: str, fill: int) -> Tensor:
        values = [vars(row)[name] for row in rows]
        tokens = [value for own in values for value in own[:prefix]] + [
            value for own in values for value in own[prefix:]
        ]
        return torch.tensor([tokens + [fill] * padding])

    positions, groups = joined("positions", 0), [len(row.ids) - prefix for row in rows]
    records = [len(list(own)) for row in rows for segment, own in groupby(row.segments) if segment > 0]
    layout = {
        "prefixes": sequences(prefixes),
        "groups": sequences(groups),
        "records": sequences(records),
        "lengths": groups,
        "tokens": total,
        "segments": joined("segments", -1)[0],
        "positions": positions[0],
        "span": int(positions.max()) + 1,
    }
    return {"input_ids": joined("ids", pad_id), "position_ids": positions, "labels": joined("labels", IGNORE),
            "layout": layout}  # fmt: skip


def flattened_places(rows: Sequence[Packed]) -> list[int]:
    """Return for each packed row what a place behind its prefix differs by in the row that `flatten` makes."""
    prefix = rows[0].segments.count(0)
    behind = [len(row.ids) - prefix for row in rows]
    return [before + prefix * (len(rows) - 1) for before in accumulate(behind[:-1], initial=0)]


class _FusedAttention(torch.autograd.Function):
    """Attention of the tokens `[S, H, d]` of a flattened row by fused kernels, without a mask.

    Prefixes are causal. A record sees its prefix and, causally, itself: two parts, which are joined. The padding at the
    end reads nothing.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: dict[str, Any], scale: float) -> Tensor:
        own, *others = _parts(query, key, value, layout, scale)
        found = [attend(own)]
        if others:
            first, before = map(attend, others)
            found = [first, join(found[0], before)]
        read = torch.cat([*(part.tokens for part in found), torch.zeros_like(query[layout["tokens"] :])])
        ctx.save_for_backward(query, key, value, read, *(part.normaliser for part in found))
        ctx.layout, ctx.scale = layout, scale
        return read

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, read, *normalisers = ctx.saved_tensors
        (gradient,), split, end = gradients, _split(ctx.layout), ctx.layout["tokens"]
        own, *others = _parts(query, key, value, ctx.layout, ctx.scale)
        whole = Read(read[split:end], normalisers[-1])
        tails = attend_backward(own, whole, gradient[split:end])
        pieces: list[Sequence[Tensor]] = [tails, [torch.zeros_like(one[end:]) for one in (query, key, value)]]
        if others:
            first, before = others
            to_query, to_key, to_value = attend_backward(before, whole, gradient[split:end])
            head = attend_backward(first, Read(read[:split], normalisers[0]), gradient[:split])
            pieces[0] = tails[0] + to_query, *tails[1:]
            pieces.insert(0, [head[0], head[1] + to_key, head[2] + to_value])
        return *(torch.cat(column) for column in zip(*pieces, strict=True)), None, None


def _split(layout: dict[str, Any]) -> int:
    """Return where the prefixes of a flattened row end."""
    return len(layout["lengths"]) * layout["prefixes"][1]


def _parts(query: Tensor, key: Tensor, value: Tensor, layout: dict[str, Any], scale: float) -> list[Part]:
    """Return the parts of the attention, of which there is only the first where there is no prefix.

    Records attend to themselves, prefixes to themselves, and records to their prefixes.
    """
    prefixes, groups, records = (layout[name] for name in ("prefixes", "groups", "records"))
    split, end = _split(layout), layout["tokens"]
    last, own_key, own_value = (one[split:end] for one in (query, key, value))
    own = Part(last, own_key, own_value, records, records, True, scale)
    if not split:
        return [own]
    first, key, value = (one[:split] for one in (query, key, value))
    return [own, Part(first, key, value, prefixes, prefixes, True, scale),
            Part(last, key, value, groups, prefixes, False, scale)]  # fmt: skip


def _masked_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: dict[str, Any], window: int | None, **options: Any
) -> Tensor:
    """Attend panorama by panorama: the prefix causally, its records under a mask; `query` `[1, H, S, d]`."""
    attend: Any = partial(F.scaled_dot_product_attention, **options)
    groups = query.shape[1] // key.shape[1]
    count, prefix = len(layout["lengths"]), layout["prefixes"][1]
    lengths = [*[prefix] * count, *layout["lengths"], query.shape[2] - layout["tokens"]]
    queries, keys, values = (one.split(lengths, 2) for one in (query, repeat_kv(key, groups), repeat_kv(value, groups)))
    segments, positions = (layout[name].split(lengths) for name in ("segments", "positions"))
    heads, tails = [], []
    for first, last in zip(range(count), range(count, 2 * count), strict=True):
        own = (segments[last][:, None] == segments[last]).tril()
        mask, seen = F.pad(own, (prefix, 0), value=True), None
        if window is not None:
            mask &= _near(positions[last], torch.cat((positions[first], positions[last])), window)
            seen = _near(positions[first], positions[first], window).tril()
        if prefix:
            heads.append(attend(queries[first], keys[first], values[first], attn_mask=seen, is_causal=seen is None))
        behind = (torch.cat((both[first], both[last]), dim=2) for both in (keys, values))
        tails.append(attend(queries[last], *behind, attn_mask=mask))
    return torch.cat((*heads, *tails, torch.zeros_like(queries[-1])), dim=2)


def _near(queries: Tensor, keys: Tensor, window: int) -> Tensor:
    return queries[:, None] - keys < window


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
    """Attend within a flattened row; `query` `[1, H, S, d]`, result `[1, S, H, d]`.

    Where there are no fused kernels, or for what they cannot do (dropout, a window shorter than the row's positions),
    the records of each panorama attend under a mask.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # In mixed precision with float32 weights, the rotation by positions has made them float32 again.
    query, key = query.to(value.dtype), key.to(value.dtype)
    window = sliding_window if sliding_window is not None and layout["span"] > sliding_window else None
    if fused_on_gpu(query) and not dropout and window is None:
        tokens = (one[0].transpose(0, 1) for one in (query, key, value))
        return _FusedAttention.apply(*tokens, layout, scale)[None], None
    with sdpa_kernel(KERNELS):
        read = _masked_attention(query, key, value, layout, window, scale=scale, dropout_p=dropout)
    return read.transpose(1, 2), None


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
