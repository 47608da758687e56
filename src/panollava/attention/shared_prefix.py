"""Many questions behind few prefixes: the keys and values of a prefix are stored once, not once for each question.

A batch of R rows follows P prefixes of L tokens; row r follows prefix `owners[r]`. An ordinary cache holds the keys and
values of what follows. `shared_attention` attends to both halves apart and joins them by their normalisers, which is
exact; where no prefix has a second row and the cache grows, it attends to both at once. It needs the `shared` argument
of the model's forward; without it, the rows are the prefixes.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

from panollava.attention.fused import attend_causally, fused_on_gpu

SHARED_ATTENTION = "panollava_shared"
# The fused kernel that takes a bias wants a multiple of so many keys.
ALIGNED = 8


@dataclass(frozen=True)
class SharedPrefix:
    """The prefixes of a batch, and which of them each row follows.

    keys, values: for each layer `[P, G, L, d]` of its G key-value heads.
    rows: for each prefix the rows that follow it `[P, M]`, filled up with any row to the largest number M.
    places: where each row lies in the flattened `rows`, `[R]`.
    padding: how many tokens at the beginning of each row are padding, `[R]`.
    padded: whether there is any.
    filled: how many own tokens a static cache holds before the queries; None where the cache ends with them.
    fused: whether the device has fused kernels that return their normalisers, see `fused_on_gpu`.
    """

    keys: list[Tensor]
    values: list[Tensor]
    rows: Tensor
    places: Tensor
    padding: Tensor
    padded: bool
    filled: Tensor | None = None
    fused: bool = False
    _biases: dict[tuple[Any, ...], "Biases"] = field(default_factory=dict)

    @classmethod
    def of(cls, keys: list[Tensor], values: list[Tensor], owners: Tensor, padding: Tensor) -> "SharedPrefix":
        """Return prefixes with rows that follow `owners` `[R]`."""
        rows, places = table_of_rows(owners, len(keys[0]))
        return cls(keys, values, rows, places, padding, bool(padding.any()), fused=fused_on_gpu(keys[0]))

    @property
    def length(self) -> int:
        """Return the length L of the prefixes."""
        return self.keys[0].shape[2]

    def biases(self, query: Tensor, groups: int, own: int, sliding_window: int | None) -> "Biases":
        """Return what hides keys from `query` `[R, H, T, d]`, computed once for all layers, which ask for the same."""
        key = (query.shape[1:3], query.dtype, own, sliding_window)
        if key not in self._biases:
            self.forget()
            hidden, far = _unseen(self, query.shape[2], own, sliding_window)
            self._biases[key] = _biases(self, hidden, far, own, query.shape[1] // groups, query.dtype)
        return self._biases[key]

    def forget(self) -> None:
        """Forget what was hidden from the last queries, since a static cache holds more now."""
        self._biases.clear()

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


def shared_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    shared: SharedPrefix | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    read_in_last_layer: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend with `query` `[R, H, T, d]` to the prefix of each row and its own `key` and `value` `[R, G, S, d]`.

    The queries are the last T of the row's own tokens, of which a static cache holds as many as it is filled with. The
    result is `[R, T, H, d]`; at padding it means nothing. Without `shared` the rows are prefixes themselves, whole,
    unpadded and no longer than a sliding window; in the last layer they do not attend if nothing of them is read
    (`read_in_last_layer`).
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if shared is None and read_in_last_layer is not None and not len(read_in_last_layer):
        return torch.zeros_like(query).transpose(1, 2), None
    if shared is None:
        return attend_causally(query, key, value, scale).transpose(1, 2), None
    layer: Any = module.layer_idx
    heads, _, width = query.shape[1:]
    biases = shared.biases(query, key.shape[1], key.shape[2], sliding_window)
    if shared.unshared:
        return _attend_unshared(query, key, value, biases.both, shared, layer, scale).transpose(1, 2), None
    asked = query.unflatten(1, (key.shape[1], -1)).flatten(2, 3)  # [R, G, n T, d]
    read, normaliser = _read(asked, key, value, biases.own, scale, fused=shared.fused)
    if shared.length:
        together = asked.index_select(0, shared.rows.flatten()).unflatten(0, shared.rows.shape)  # [P, M, G, n T, d]
        together = together.transpose(1, 2).flatten(2, 3)  # [P, G, M n T, d]
        found = _read(together, shared.keys[layer], shared.values[layer], biases.prefix, scale, fused=shared.fused)
        apart = [half.unflatten(2, (shared.rows.shape[1], -1)).transpose(1, 2).flatten(0, 1) for half in found]
        before, other = (half.index_select(0, shared.places) for half in apart)  # [R, G, n T, d or 1]
        share = torch.sigmoid(other - normaliser)
        read = share * before + (1 - share) * read
    return read.to(value.dtype).reshape(len(query), heads, -1, width).transpose(1, 2), None


def _read(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scale: float, *, fused: bool
) -> tuple[Tensor, Tensor]:
    """Return what queries `[B, G, Q, d]` read of `[B, G, K, d]`, and the logarithm of their normalisers `[B, G, Q, 1]`.

    Exponentials and normalisers are float32, as in the fused kernels.
    """
    on_cpu = queries.device.type == "cpu"
    if bias is None and (fused or on_cpu):
        kernels = torch.ops.aten
        if on_cpu:
            flash = kernels._scaled_dot_product_flash_attention_for_cpu
        else:
            flash = kernels._scaled_dot_product_flash_attention
        read, normaliser, *_ = flash(queries, keys, values, scale=scale)
        return read, normaliser[..., None]
    if bias is not None and fused and keys.shape[2] % ALIGNED == 0:
        bias = bias.expand(-1, keys.shape[1], -1, -1)
        efficient = torch.ops.aten._scaled_dot_product_efficient_attention
        read, normaliser, *_ = efficient(queries, keys, values, bias, compute_log_sumexp=True, scale=scale)
        return read, normaliser[:, :, : queries.shape[2], None]
    scores = (queries @ keys.transpose(-1, -2)).float() * scale
    if bias is not None:
        scores = scores + bias
    largest = scores.amax(dim=-1, keepdim=True)
    weights = (scores - largest).exp()
    total = weights.sum(dim=-1, keepdim=True)
    return (weights.to(values.dtype) @ values) / total, largest + total.log()


def _unseen(
    shared: SharedPrefix, count: int, own: int, sliding_window: int | None
) -> tuple[Tensor | None, Tensor | None]:
    """Return which own tokens `[R, T, S]` and which of the prefix `[R, T, L]` the queries do not see; None for none.

    Padding sees itself, for a row of nothing would be NaN.
    """
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
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, shared: SharedPrefix, layer: int, scale: float
) -> Tensor:
    """Attend to the prefix and the own tokens at once.

    The result is `[R, H, T, d]`. What is masked gets its heads repeated, for not every fused kernel does both.
    """
    group = query.shape[1] // key.shape[1]
    wholes: list[Tensor] = []
    for before, after in ((shared.keys[layer], key), (shared.values[layer], value)):
        prefix = before if len(before) == 1 else before.index_select(0, shared.places)
        whole = torch.cat((prefix, after), dim=2)
        wholes.append(whole if bias is None else repeat_kv(whole, group))
    keys, values = wholes
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=scale, enable_gqa=bias is None)


AttentionInterface.register(SHARED_ATTENTION, shared_attention)
