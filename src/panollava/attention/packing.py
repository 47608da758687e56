"""Packing: many records behind one shared prefix, in one sequence, each blind to the others.

Segment 0 is the prefix (everything up to and including the panorama), segments 1.. are the records, -1 is padding.
Position ids of each record restart where the prefix ends, so a packed record computes what it would compute alone.

Two ways to attend, equal to rounding. Rows that are stacked and padded attend by SDPA under the boolean mask of
`packed_mask`, which costs S^2. Rows that are flattened to one, without padding, attend by `packed_attention`; it needs
the `layout` of that row as an argument of the model's forward.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

from panollava.attention.fused import (
    Part,
    Read,
    attend,
    attend_backward,
    attend_causally,
    fused_on_gpu,
    join,
    sequences,
)
from panollava.vlm.labels import IGNORE, next_labels, places_read


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
# For masked attention: all but cuDNN's, whose gradients are NaN at some lengths then (PyTorch issue 196678).
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

LEAST_PADDING = 2


def flatten(rows: Sequence[Packed], pad_id: int, multiple: int = 32) -> dict[str, Any]:
    """Join packed rows to one: `input_ids`, `position_ids`, `labels` `[1, S]`, what is `read`, and the row's `layout`.

    First come all prefixes, then the records of each row. Only the end is padded, up to a `multiple`, and by two tokens
    at least: none and one would be cases of their own for a compiler. `read` `[K]` are the places before learned
    tokens, found here, where no GPU need be waited for.

    Raises:
        ValueError: rows with prefixes of different lengths, or of which a place would be read.
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
        "segments": joined("segments", -1)[0],
        "positions": positions[0],
        "span": int(positions.max()) + 1,
    }
    labels = joined("labels", IGNORE)
    read = places_read(next_labels(labels))
    if bool((read < prefix * len(rows)).any()):
        raise ValueError("a label is learned within a prefix or right behind one; prefixes are not read, see `pack`")
    return {"input_ids": joined("ids", pad_id), "position_ids": positions, "labels": labels, "layout": layout,
            "read": read}  # fmt: skip


def flattened_places(rows: Sequence[Packed]) -> list[int]:
    """Return for each packed row what a place behind its prefix differs by in the row that `flatten` makes."""
    prefix = rows[0].segments.count(0)
    behind = [len(row.ids) - prefix for row in rows]
    return [before + prefix * (len(rows) - 1) for before in accumulate(behind[:-1], initial=0)]


class _FusedAttention(torch.autograd.Function):
    """Attention of the records `[T, H, d]` of a flattened row by fused kernels, without a mask.

    A record sees its prefix, whose keys and values are `before`, and, causally, itself: two parts, which are joined.
    The padding at the end reads nothing.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, before_key: Tensor, before_value: Tensor,
        layout: dict[str, Any], scale: float,
    ) -> Tensor:  # fmt: skip
        tokens = [query, key, value, before_key, before_value]
        found = [attend(part) for part in _parts(tokens, layout, scale)]
        whole = join(*found) if len(found) == 2 else found[0]
        read = _padded(whole.tokens, query)
        ctx.save_for_backward(*tokens, read, whole.normaliser)
        ctx.layout, ctx.scale = layout, scale
        return read

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *tokens, read, normaliser = ctx.saved_tensors
        end = sum(ctx.layout["lengths"])
        whole, gradient = Read(read[:end], normaliser), gradients[0][:end]
        own, *others = [attend_backward(part, whole, gradient) for part in _parts(tokens, ctx.layout, ctx.scale)]
        to_query, to_key, to_value = own
        to_before: Sequence[Tensor | None] = (None, None)
        if others:
            ((more, *to_before),) = others
            to_query = to_query + more
        return *(_padded(one, read) for one in (to_query, to_key, to_value)), *to_before, None, None


def _padded(tokens: Tensor, whole: Tensor) -> Tensor:
    """Return `tokens` `[T, ...]` with zeros behind them, as many as `whole` has."""
    return torch.cat([tokens, tokens.new_zeros(len(whole) - len(tokens), *tokens.shape[1:])])


def _parts(tokens: Sequence[Tensor], layout: dict[str, Any], scale: float) -> list[Part]:
    """Return the parts of the attention of records: to themselves, and to their prefixes where there are any.

    `tokens` are query, key and value of the records, key and value of the prefixes.
    """
    prefixes, groups, records = (layout[name] for name in ("prefixes", "groups", "records"))
    query, key, value, before_key, before_value = tokens
    query, key, value = (one[: sum(layout["lengths"])] for one in (query, key, value))
    own = Part(query, key, value, records, records, True, scale)
    if not prefixes[1]:
        return [own]
    return [own, Part(query, before_key, before_value, groups, prefixes, False, scale)]


def _fused_records(heads: Sequence[Tensor], tails: Sequence[Tensor], layout: dict[str, Any], scale: float) -> Tensor:
    """Return what the records `tails` `[1, H, T, d]` read behind the prefixes `heads` `[1, H, P L, d]`."""
    tokens = (one[0].transpose(0, 1) for one in (*tails, *heads[1:]))
    return _FusedAttention.apply(*tokens, layout, scale).transpose(0, 1)[None]


def _masked_records(
    heads: Sequence[Tensor], tails: Sequence[Tensor], layout: dict[str, Any], window: int | None,
    scale: float, dropout: float,
) -> Tensor:  # fmt: skip
    """Return the same, the records of each panorama under a mask."""
    count, prefix = len(layout["lengths"]), layout["prefixes"][1]
    lengths = [*layout["lengths"], tails[0].shape[2] - sum(layout["lengths"])]
    (queries, *both), groups = (one.split(lengths, 2) for one in tails), tails[0].shape[1] // tails[1].shape[1]
    segments, positions = (layout[name][count * prefix :].split(lengths) for name in ("segments", "positions"))
    before, reads = [one.split([prefix] * count, 2) for one in heads[1:]], []
    for number in range(count):
        keys, values = (
            repeat_kv(torch.cat((first[number], own[number]), dim=2), groups)
            for first, own in zip(before, both, strict=True)
        )
        own = (segments[number][:, None] == segments[number]).tril()
        mask = F.pad(own, (prefix, 0), value=True)
        if window is not None:
            mask &= _near(positions[number], torch.cat((layout["positions"][:prefix], positions[number])), window)
        options: dict[str, Any] = {"attn_mask": mask, "scale": scale, "dropout_p": dropout}
        reads.append(F.scaled_dot_product_attention(queries[number], keys, values, **options))
    return torch.cat((*reads, torch.zeros_like(queries[-1])), dim=2)


def _prefixes(
    heads: Sequence[Tensor], layout: dict[str, Any], window: int | None, scale: float, dropout: float
) -> Tensor:
    """Return what prefixes `[1, H, P L, d]` read, causally and without a mask unless a window is shorter than them."""
    count, length = len(layout["lengths"]), layout["prefixes"][1]
    if not length:
        return heads[0]
    query, key, value = (one[0].unflatten(1, (count, length)).transpose(0, 1) for one in heads)  # [P, H, L, d]
    if window is None or window >= length:
        read = attend_causally(query, key, value, scale, dropout)
    else:
        groups, positions = query.shape[1] // key.shape[1], layout["positions"][:length]
        mask = _near(positions, positions, window).tril()
        with sdpa_kernel(KERNELS):
            read = F.scaled_dot_product_attention(
                query, repeat_kv(key, groups), repeat_kv(value, groups), attn_mask=mask, scale=scale, dropout_p=dropout
            )
    return read.transpose(0, 1).flatten(1, 2)[None]


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
    read_in_last_layer: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within a flattened row; `query` `[1, H, S, d]`, result `[1, S, H, d]`.

    Prefixes attend by the fastest kernel that there is; not at all in the last layer where only some places are read
    (`read_in_last_layer`), for these are in records. Records do so where there are fused kernels for sequences of any
    lengths; elsewhere, and for what these cannot do (dropout, a window shorter than the row's positions), those of each
    panorama attend under a mask.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # In mixed precision with float32 weights, the rotation by positions has made them float32 again.
    query, key = query.to(value.dtype), key.to(value.dtype)
    window = sliding_window if sliding_window is not None and layout["span"] > sliding_window else None
    split = len(layout["lengths"]) * layout["prefixes"][1]
    cut = (one.split([split, one.shape[2] - split], 2) for one in (query, key, value))
    heads, tails = zip(*cut, strict=True)
    unread = read_in_last_layer is not None
    first = torch.zeros_like(heads[0]) if unread else _prefixes(heads, layout, window, scale, dropout)
    if fused_on_gpu(query) and not dropout and window is None:
        last = _fused_records(heads, tails, layout, scale)
    else:
        with sdpa_kernel(KERNELS):
            last = _masked_records(heads, tails, layout, window, scale, dropout)
    return torch.cat((first.transpose(1, 2), last.transpose(1, 2)), dim=1), None


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
