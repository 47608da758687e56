"""Many questions behind few prefixes: the keys and values of a prefix are stored once, not once for each question.

A batch of R rows follows P prefixes of L tokens; row r follows prefix `owners[r]`. An ordinary cache holds the keys and
values of what follows. `shared_attention` attends to both halves apart and joins them by their normalisers, which is
exact. It needs the `shared` argument of the model's forward.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

SHARED_ATTENTION = "panollava_shared"


@dataclass(frozen=True)
class SharedPrefix:
    """The prefixes of a batch, and which of them each row follows.

    keys, values: for each layer `[P, G, L, d]` of its G key-value heads.
    rows: for each prefix the rows that follow it `[P, M]`, filled up with any row to the largest number M.
    places: where each row lies in the flattened `rows`, `[R]`.
    padding: how many tokens at the beginning of each row are padding, `[R]`.
    """

    keys: list[Tensor]
    values: list[Tensor]
    rows: Tensor
    places: Tensor
    padding: Tensor

    @classmethod
    def of(cls, keys: list[Tensor], values: list[Tensor], owners: Tensor, padding: Tensor) -> "SharedPrefix":
        """Return prefixes with rows that follow `owners` `[R]`."""
        counts = torch.bincount(owners, minlength=len(keys[0]))
        largest = int(counts.max())
        order = owners.argsort(stable=True)
        rank = torch.arange(len(owners), device=owners.device) - (counts.cumsum(0) - counts)[owners[order]]
        places = torch.empty_like(owners)
        places[order] = owners[order] * largest + rank
        rows = torch.zeros(len(counts) * largest, dtype=torch.long, device=owners.device)
        rows[places] = torch.arange(len(owners), device=owners.device)
        return cls(keys, values, rows.view(len(counts), largest), places, padding)

    @property
    def length(self) -> int:
        """Return the length L of the prefixes."""
        return self.keys[0].shape[2]


def _join(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return what attention reads of `values` under `scores`, and the logarithm of its normaliser."""
    return scores.softmax(dim=-1) @ values, scores.logsumexp(dim=-1, keepdim=True)


def shared_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    shared: SharedPrefix,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend with `query` `[R, H, T, d]` to the prefix of each row and its own `key` and `value` `[R, G, S, d]`.

    The queries are the last T of the row's S own tokens. The result is `[R, T, H, d]`; at padding it means nothing.
    """
    heads, count, width = query.shape[1:]
    groups, own = key.shape[1], key.shape[2]
    scale = width**-0.5 if scaling is None else scaling
    lowest = torch.finfo(query.dtype).min
    asked = (query * scale).unflatten(1, (groups, heads // groups))  # [R, G, n, T, d]
    place = torch.arange(own - count, own, device=query.device)[:, None]
    distance = place - torch.arange(own, device=query.device)
    hidden = (distance < 0) | (torch.arange(own, device=query.device) < shared.padding[:, None, None])
    if sliding_window is not None:
        hidden |= distance >= sliding_window
    hidden &= distance != 0  # padding sees itself, for a row of nothing would be NaN
    scores = (asked.flatten(2, 3) @ key.transpose(-1, -2)).unflatten(2, (-1, count))
    read, weight = _join(scores.masked_fill(hidden[:, None, None], lowest), value[:, :, None])
    if shared.length:
        layer: Any = module.layer_idx
        together = asked.index_select(0, shared.rows.flatten()).unflatten(0, shared.rows.shape)  # [P, M, G, n, T, d]
        together = together.transpose(1, 2).flatten(2, 4)  # [P, G, M n T, d]
        scores = together @ shared.keys[layer].transpose(-1, -2)
        if sliding_window is not None and shared.length + own > sliding_window:
            behind = shared.length + place.T - shared.padding[:, None]  # [R, T], the positions of the queries
            far = behind[..., None] - torch.arange(shared.length, device=query.device) >= sliding_window
            far = far.index_select(0, shared.rows.flatten()).unflatten(0, shared.rows.shape)  # [P, M, T, L]
            shape = scores.unflatten(2, (shared.rows.shape[1], -1, count))  # [P, G, M, n, T, L]
            scores = shape.masked_fill(far[:, None, :, None], lowest).flatten(2, 4)
        found = [
            half.unflatten(2, (shared.rows.shape[1], -1, count)).transpose(1, 2).flatten(0, 1)
            for half in _join(scores, shared.values[layer])
        ]
        before, normaliser = (half.index_select(0, shared.places) for half in found)  # [R, G, n, T, d or 1]
        share = torch.sigmoid(normaliser - weight)
        read = share * before + (1 - share) * read
    return read.flatten(1, 2).transpose(1, 2).to(value.dtype), None


AttentionInterface.register(SHARED_ATTENTION, shared_attention)
