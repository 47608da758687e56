"""Many questions behind few prefixes: the keys and values of a prefix are stored once, not once for each question.

A batch of R rows follows P prefixes of L tokens; row r follows prefix `owners[r]`. An ordinary cache holds the keys and
values of what follows. `shared_attention` attends to both halves apart and joins them by their normalisers, which is
exact; where no prefix has a second row, it attends to both at once. It needs the `shared` argument of the model's
forward.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

SHARED_ATTENTION = "panollava_shared"


@dataclass(frozen=True)
class SharedPrefix:
    """The prefixes of a batch, and which of them each row follows.

    keys, values: for each layer `[P, G, L, d]` of its G key-value heads.
    rows: for each prefix the rows that follow it `[P, M]`, filled up with any row to the largest number M.
    places: where each row lies in the flattened `rows`, `[R]`.
    padding: how many tokens at the beginning of each row are padding, `[R]`.
    padded: whether there is any.
    filled: how many own tokens a static cache holds before the queries; None where the cache ends with them.
    """

    keys: list[Tensor]
    values: list[Tensor]
    rows: Tensor
    places: Tensor
    padding: Tensor
    padded: bool
    filled: Tensor | None = None
    _unseen: dict[tuple[int, int, int | None], tuple[Tensor | None, Tensor | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, keys: list[Tensor], values: list[Tensor], owners: Tensor, padding: Tensor) -> "SharedPrefix":
        """Return prefixes with rows that follow `owners` `[R]`."""
        rows, places = table_of_rows(owners, len(keys[0]))
        return cls(keys, values, rows, places, padding, bool(padding.any()))

    @property
    def length(self) -> int:
        """Return the length L of the prefixes."""
        return self.keys[0].shape[2]

    def unseen(self, count: int, own: int, sliding_window: int | None) -> tuple[Tensor | None, Tensor | None]:
        """Return which own tokens `[R, T, S]` and which of the prefix `[R, T, L]` T queries do not see; None for none.

        Padding sees itself, for a row of nothing would be NaN. All layers ask for the same.
        """
        key = (count, own, sliding_window)
        if key not in self._unseen:
            self.forget()
            self._unseen[key] = _unseen(self, count, own, sliding_window)
        return self._unseen[key]

    def forget(self) -> None:
        """Forget what the last queries did not see, since a static cache holds more now."""
        self._unseen.clear()


def table_of_rows(owners: Tensor, prefixes: int, largest: int | None = None) -> tuple[Tensor, Tensor]:
    """Return for each prefix the rows that follow it `[P, M]`, and where each row lies in that table, `[R]`.

    M is the largest number of rows of a prefix, or `largest`.
    """
    counts = torch.bincount(owners, minlength=prefixes)
    width = int(counts.max()) if largest is None else largest
    order = owners.argsort(stable=True)
    rank = torch.arange(len(owners), device=owners.device) - (counts.cumsum(0) - counts)[owners[order]]
    places = torch.empty_like(owners)
    places[order] = owners[order] * width + rank
    rows = torch.zeros(len(counts) * width, dtype=torch.long, device=owners.device)
    rows[places] = torch.arange(len(owners), device=owners.device)
    return rows.view(len(counts), width), places


def _join(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return what attention reads of `values` under `scores`, and the logarithm of its normaliser, in float32.

    The exponentials are taken in float32, as the fused kernels do it.
    """
    scores = scores.float()
    largest = scores.amax(dim=-1, keepdim=True)
    weights = (scores - largest).exp()
    normaliser = weights.sum(dim=-1, keepdim=True)
    return (weights.to(values.dtype) @ values) / normaliser, largest + normaliser.log()


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
    layer: Any = module.layer_idx
    heads, count, width = query.shape[1:]
    groups, own = key.shape[1], key.shape[2]
    scale = width**-0.5 if scaling is None else scaling
    hidden, far = shared.unseen(count, own, sliding_window)
    if shared.length and shared.rows.shape[1] == 1 and shared.filled is None:
        unseen = [F.pad(hidden, (shared.length, 0))] if hidden is not None else []
        unseen += [F.pad(far, (0, own))] if far is not None else []
        mask = ~torch.stack(unseen).any(0)[:, None] if unseen else None  # [R, 1, T, L + S]
        return _attend_unshared(query, key, value, mask, shared, layer, scale).transpose(1, 2), None
    asked = (query * scale).unflatten(1, (groups, -1)).flatten(2, 3)  # [R, G, n T, d]
    scores = asked @ key.transpose(-1, -2)  # [R, G, n T, S]
    if hidden is not None:
        scores = _fill(scores.unflatten(2, (-1, count)), hidden[:, None, None]).flatten(2, 3)
    read, weight = _join(scores, value)
    if shared.length:
        together = asked.index_select(0, shared.rows.flatten()).unflatten(0, shared.rows.shape)  # [P, M, G, n T, d]
        together = together.transpose(1, 2).flatten(2, 3)  # [P, G, M n T, d]
        scores = together @ shared.keys[layer].transpose(-1, -2)
        if far is not None:
            far = far.index_select(0, shared.rows.flatten()).unflatten(0, shared.rows.shape)  # [P, M, T, L]
            shape = scores.unflatten(2, (shared.rows.shape[1], -1, count))  # [P, G, M, n, T, L]
            scores = _fill(shape, far[:, None, :, None]).flatten(2, 4)
        found = [
            half.unflatten(2, (shared.rows.shape[1], -1)).transpose(1, 2).flatten(0, 1)
            for half in _join(scores, shared.values[layer])
        ]
        before, normaliser = (half.index_select(0, shared.places) for half in found)  # [R, G, n T, d or 1]
        share = torch.sigmoid(normaliser - weight)
        read = share * before + (1 - share) * read
    return read.view(-1, heads, count, width).transpose(1, 2).to(value.dtype), None


def _fill(scores: Tensor, hidden: Tensor) -> Tensor:
    return scores.masked_fill(hidden, torch.finfo(scores.dtype).min)


def _unseen(
    shared: SharedPrefix, count: int, own: int, sliding_window: int | None
) -> tuple[Tensor | None, Tensor | None]:
    device, hidden, far = shared.padding.device, None, None
    places = torch.arange(own, device=device)
    first = own - count if shared.filled is None else shared.filled
    queries = (torch.arange(count, device=device) + first)[:, None]
    everything = count == 1 and not shared.padded and shared.filled is None
    if not everything or (sliding_window is not None and own > sliding_window):
        distance = queries - places
        hidden = (distance < 0) | (places < shared.padding[:, None, None])
        if sliding_window is not None:
            hidden |= distance >= sliding_window
        hidden &= distance != 0
    if sliding_window is not None and shared.length + own > sliding_window:
        positions = shared.length + queries.T - shared.padding[:, None]  # [R, T]
        far = positions[..., None] - torch.arange(shared.length, device=device) >= sliding_window
    return hidden, far


def _attend_unshared(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, shared: SharedPrefix, layer: int, scale: float
) -> Tensor:
    """Attend where no prefix has a second row, so that joining the halves costs less than attending twice.

    The result is `[R, H, T, d]`. What is masked gets its heads repeated, for not every fused kernel does both.
    """
    group = query.shape[1] // key.shape[1]
    wholes: list[Tensor] = []
    for before, after in ((shared.keys[layer], key), (shared.values[layer], value)):
        prefix = before if len(before) == 1 else before.index_select(0, shared.places)
        whole = torch.cat((prefix, after), dim=2)
        wholes.append(whole if mask is None else repeat_kv(whole, group))
    keys, values = wholes
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale, enable_gqa=mask is None)


AttentionInterface.register(SHARED_ATTENTION, shared_attention)
