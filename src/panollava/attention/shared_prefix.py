"""Prefixes, and many questions behind few of them: the keys and values of a prefix are stored once.

A batch of R rows follows P prefixes of L tokens; row r follows prefix `owners[r]`. An ordinary cache holds the rows'
own keys and values. Attention to the prefix and to the row's own tokens is computed apart and joined by the
normalisers, which is exact; where no prefix has a second row and the cache grows, both are attended to at once.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.integrations.sdpa_attention import repeat_kv

from panollava.attention.causal import attend_causally, fused_on_gpu
from panollava.attention.plan import Plan
from panollava.attention.scores import ScoreRule, attend_by_scores

# The fused kernel that takes a bias wants a multiple of so many keys.
ALIGNED = 8


@dataclass(frozen=True, kw_only=True)
class PrefixPlan(Plan):
    """How prefixes `[P, L]` attend that are prefilled: each causally to itself.

    Where no position is needed, as when only their keys and values are, they do not attend in the last layer.

    seen: keys and values of each layer by its number, as they were attended to; a cache may hold something else.
    """

    seen: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def attend(
        self, layer: Any, query: Tensor, key: Tensor, value: Tensor, *, scale: float, dropout: float,
        window: int | None, rule: ScoreRule | None = None,
    ) -> Tensor:  # fmt: skip
        """Attend causally within `[P, H, L, d]`."""
        self.seen[layer.layer_idx] = key.contiguous(), value.contiguous()
        if self.in_last_layer and self.needed is not None and not len(self.needed):
            return query.new_zeros(*query.shape[:-1], value.shape[-1]).transpose(1, 2)
        return attend_causally(query, key, value, scale, dropout, window, rule).transpose(1, 2)


@dataclass(frozen=True)
class SharedPrefix:
    """The prefixes of a batch, and which of them each row follows.

    keys, values: for each layer `[P, G, L, d]` of its G key-value heads; values may have another width.
    rows: for each prefix the rows that follow it `[P, M]`, filled up with any row to the largest number M.
    slots: where each row lies in the flattened `rows`, `[R]`.
    padding: how many tokens at the beginning of each row are padding, `[R]`.
    padded: whether there is any.
    filled: how many own tokens a static cache holds before the queries; None where the cache ends with them.
    fused: whether the device has fused kernels that return their normalisers, see `fused_on_gpu`.
    """

    keys: list[Tensor]
    values: list[Tensor]
    rows: Tensor
    slots: Tensor
    padding: Tensor
    padded: bool
    filled: Tensor | None = None
    fused: bool = False

    @classmethod
    def of(cls, keys: list[Tensor], values: list[Tensor], owners: Tensor, padding: Tensor) -> "SharedPrefix":
        """Return prefixes with rows that follow `owners` `[R]`."""
        rows, slots = table_of_rows(owners, len(keys[0]))
        return cls(keys, values, rows, slots, padding, bool(padding.any()), fused=fused_on_gpu(keys[0], values[0]))

    @property
    def length(self) -> int:
        """Return the length L of the prefixes."""
        return self.keys[0].shape[2]

    @property
    def unshared(self) -> bool:
        """Return whether attending to prefix and own tokens at once costs less than apart: no prefix has two rows."""
        return bool(self.length) and self.rows.shape[1] == 1 and self.filled is None


class Biases(NamedTuple):
    """What is added to scores to hide keys, the lowest number or nothing; None where all is seen.

    Of the own tokens `[R, 1, n T, S]` for the n heads of a group, of the prefix `[P, 1, M n T, L]`; where prefixes are
    unshared, of both together `[R, 1, T, L + S]`, and the others are None.
    """

    own: Tensor | None = None
    prefix: Tensor | None = None
    both: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class SharedPlan(Plan):
    """How one pass over rows behind shared prefixes attends.

    biases: what hides keys, by what it depends on; computed once for all layers of the pass.
    """

    prefix: SharedPrefix
    biases: dict[tuple[Any, ...], Biases] = field(default_factory=dict)

    def attend(
        self, layer: Any, query: Tensor, key: Tensor, value: Tensor, *, scale: float, dropout: float,
        window: int | None, rule: ScoreRule | None = None,
    ) -> Tensor:  # fmt: skip
        """Attend with `query` `[R, H, T, d]` to the prefix of each row and its own `key` and `value` `[R, G, S, d]`.

        The queries are the last T of the row's own tokens, of which a static cache holds as many as it is filled with.
        The output at padding means nothing.
        """
        shared, number = self.prefix, layer.layer_idx
        heads, width = query.shape[1], value.shape[-1]
        biases = self._biases(query, key, window)
        if shared.unshared:
            keys, values = (shared.keys[number], key), (shared.values[number], value)
            return _attend_unshared(query, keys, values, biases.both, shared.slots, scale, rule).transpose(1, 2)
        grouped = query.unflatten(1, (key.shape[1], -1)).flatten(2, 3)  # [R, G, n T, d]
        options: dict[str, Any] = {"scale": scale, "rule": rule, "fused": shared.fused}
        output, normaliser = _attend(grouped, key, value, biases.own, **options)
        if shared.length:
            together = grouped.index_select(0, shared.rows.flatten()).unflatten(0, shared.rows.shape)
            together = together.transpose(1, 2).flatten(2, 3)  # [P, G, M n T, d]
            before = shared.keys[number], shared.values[number]
            found = _attend(together, *before, biases.prefix, **options)
            apart = [half.unflatten(2, (shared.rows.shape[1], -1)).transpose(1, 2).flatten(0, 1) for half in found]
            behind, other = (half.index_select(0, shared.slots) for half in apart)  # [R, G, n T, d or 1]
            share = torch.sigmoid(other - normaliser)
            output = share * behind + (1 - share) * output
            normaliser = torch.logaddexp(other, normaliser) if rule is not None else normaliser
        if rule is not None:
            output = output * rule.share_of_keys(normaliser)
        return output.to(value.dtype).reshape(len(query), heads, -1, width).transpose(1, 2)

    def _biases(self, query: Tensor, key: Tensor, window: int | None) -> Biases:
        """Return what hides keys from `query` `[R, H, T, d]`; the layers of a pass share it."""
        group, own = query.shape[1] // key.shape[1], key.shape[2]
        kind = (query.shape[1:3], query.dtype, own, window)
        if kind not in self.biases:
            hidden, far = _unseen(self.prefix, query.shape[2], own, window)
            self.biases[kind] = _biases(self.prefix, hidden, far, own, group, query.dtype)
        return self.biases[kind]


def table_of_rows(owners: Tensor, prefixes: int, largest: int | None = None) -> tuple[Tensor, Tensor]:
    """Return for each prefix the rows that follow it `[P, M]`, and where each row lies in that table, `[R]`.

    M is the largest number of rows of a prefix, or `largest`.
    """
    counts = torch.bincount(owners, minlength=prefixes)
    width = int(counts.max()) if largest is None else largest
    order = owners.argsort(stable=True)
    rank = torch.arange(len(owners), device=owners.device) - (counts.cumsum(0) - counts)[owners[order]]
    slots = torch.empty_like(owners)
    slots[order] = owners[order] * width + rank
    rows = torch.zeros(len(counts) * width, dtype=torch.long, device=owners.device)
    rows[slots] = torch.arange(len(owners), device=owners.device)
    return rows.view(len(counts), width), slots


def _attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor | None,
    *,
    scale: float,
    rule: ScoreRule | None,
    fused: bool,
) -> tuple[Tensor, Tensor]:
    """Return the output `[B, G, Q, v]` of queries for keys `[B, G, K, d]`, and the log of their normalisers.

    The normalisers are `[B, G, Q, 1]`. Exponentials and normalisers are float32, as in the fused kernels, of which only
    PyTorch's private operators return the normalisers.
    """
    on_cpu = queries.device.type == "cpu" and keys.shape[-1] == values.shape[-1]
    capped = rule is not None and rule.cap is not None
    if bias is None and (fused or on_cpu) and not capped:
        kernels = torch.ops.aten
        if on_cpu:
            flash = kernels._scaled_dot_product_flash_attention_for_cpu
        else:
            flash = kernels._scaled_dot_product_flash_attention
        output, normaliser, *_ = flash(queries, keys, values, scale=scale)
        return output, normaliser[..., None]
    if bias is not None and fused and keys.shape[2] % ALIGNED == 0 and not capped:
        bias = bias.expand(-1, keys.shape[1], -1, -1)
        efficient = torch.ops.aten._scaled_dot_product_efficient_attention
        output, normaliser, *_ = efficient(queries, keys, values, bias, compute_log_sumexp=True, scale=scale)
        return output, normaliser[:, :, : queries.shape[2], None]
    scores = (queries @ keys.transpose(-1, -2)).float() * scale
    scores = scores if rule is None else rule.capped(scores)
    if bias is not None:
        scores = scores + bias
    largest = scores.amax(dim=-1, keepdim=True)
    weights = (scores - largest).exp()
    total = weights.sum(dim=-1, keepdim=True)
    return (weights.to(values.dtype) @ values) / total, largest + total.log()


def _unseen(shared: SharedPrefix, count: int, own: int, window: int | None) -> tuple[Tensor | None, Tensor | None]:
    """Return which own tokens `[R, T, S]` and which of the prefix `[R, T, L]` the queries do not see; None for none.

    Padding sees itself, for a row of nothing would be NaN.
    """
    device, hidden, far = shared.padding.device, None, None
    keys = torch.arange(own, device=device)
    first = own - count if shared.filled is None else shared.filled
    queries = (torch.arange(count, device=device) + first)[:, None]
    everything = count == 1 and not shared.padded and shared.filled is None
    if not everything or (window is not None and own > window):
        distance = queries - keys
        hidden = (distance < 0) | (keys < shared.padding[:, None, None])
        if window is not None:
            hidden |= distance >= window
        hidden &= distance != 0
    if window is not None and shared.length + own > window:
        positions = shared.length + queries.T - shared.padding[:, None]  # [R, T]
        far = positions[..., None] - torch.arange(shared.length, device=device) >= window
    return hidden, far


def _biases(
    shared: SharedPrefix, hidden: Tensor | None, far: Tensor | None, own_tokens: int, group: int, dtype: torch.dtype
) -> Biases:
    def bias(mask: Tensor) -> Tensor:
        return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, torch.finfo(dtype).min)

    def of_group(mask: Tensor) -> Tensor:
        return mask[:, None].expand(-1, group, -1, -1).flatten(1, 2)  # [R, n T, .]

    if shared.unshared:
        unseen = [F.pad(hidden, (shared.length, 0))] if hidden is not None else []
        unseen += [F.pad(far, (0, own_tokens))] if far is not None else []
        return Biases(both=bias(torch.stack(unseen).any(0)[:, None]) if unseen else None)
    own = None if hidden is None else bias(of_group(hidden))[:, None]
    if far is None or not shared.length:
        return Biases(own)
    far = of_group(far).index_select(0, shared.rows.flatten()).unflatten(0, shared.rows.shape)  # [P, M, n T, L]
    return Biases(own, bias(far.flatten(1, 2))[:, None])


def _attend_unshared(
    query: Tensor, keys: tuple[Tensor, Tensor], values: tuple[Tensor, Tensor], bias: Tensor | None, slots: Tensor,
    scale: float, rule: ScoreRule | None,
) -> Tensor:  # fmt: skip
    """Return the output `[R, H, T, d]` for the prefix's and the row's own keys and values at once.

    Where a mask hides some, keys and values get their heads repeated, for not every fused kernel does both.
    """
    wholes: list[Tensor] = []
    for before, after in (keys, values):
        prefix = before if len(before) == 1 else before.index_select(0, slots)
        whole = torch.cat((prefix, after), dim=2)
        wholes.append(whole if bias is None else repeat_kv(whole, query.shape[1] // after.shape[1]))
    if rule is not None:
        seen = query.new_zeros(1, 1, 1, 1) if bias is None else bias
        return attend_by_scores(query, wholes[0], wholes[1], seen, scale=scale, dropout=0.0, rule=rule)
    options: dict[str, Any] = {"attn_mask": bias, "scale": scale, "enable_gqa": bias is None}
    return F.scaled_dot_product_attention(query, wholes[0], wholes[1], **options)
