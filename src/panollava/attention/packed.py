"""Attention within a packed row: prefixes attend causally, each record to its prefix and, causally, to itself.

The row holds all prefixes, then the records of each panorama, then those of none, then padding. Records use fused
kernels where a GPU has them for sequences of any lengths: attention to the prefix and attention to the record itself
are two parts, joined by their normalisers. Elsewhere the records of each panorama attend under a boolean mask. Both are
equal up to rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import sdpa_kernel
from transformers.integrations.sdpa_attention import repeat_kv

from panollava.attention.causal import KERNELS, attend_causally, fused_on_gpu, near
from panollava.attention.fused import (
    Part,
    PartOutput,
    Sequences,
    attend,
    attend_backward,
    join,
)
from panollava.attention.plan import Plan
from panollava.attention.scores import ScoreRule, attend_by_scores


class Options(TypedDict):
    """How a layer attends, see `Plan.attend`."""

    scale: float
    dropout: float
    window: int | None
    rule: ScoreRule | None


class Heads(NamedTuple):
    """Query, key and value `[1, H, S, d]` of some tokens of a row.

    Keys and values may have fewer heads, and values another width.
    """

    query: Tensor
    key: Tensor
    value: Tensor


@dataclass(frozen=True, kw_only=True)
class PackedPlan(Plan):
    """How a row of P prefixes of one length and of the records behind them attends.

    prefixes, groups, records: where each prefix, the records of each panorama, and each record begin and end.
    lengths: the tokens of each panorama's records.
    texts: the tokens of records that are of no panorama and see no prefix; behind them comes padding.
    segments, positions: segment ids and position ids of the row, `[S]`.
    span: the number of positions, which the language model's context must hold.
    """

    prefixes: Sequences
    groups: Sequences
    records: Sequences
    lengths: tuple[int, ...]
    segments: Tensor
    positions: Tensor
    span: int
    texts: int = 0

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> Self:
        def changed(sequences: Sequences) -> Sequences:
            return change(sequences[0]), sequences[1]

        return replace(
            self,
            needed=None if self.needed is None else change(self.needed),
            prefixes=changed(self.prefixes),
            groups=changed(self.groups),
            records=changed(self.records),
            segments=change(self.segments),
            positions=change(self.positions),
        )

    def to(self, device: Any, **options: Any) -> Self:
        """Return the plan on a device, as accelerate moves a batch."""
        return self._with_tensors(lambda tensor: tensor.to(device, **options))

    def pin_memory(self) -> Self:
        """Return the plan in pinned memory, as PyTorch's data loader asks for."""
        return self._with_tensors(lambda tensor: tensor.pin_memory())

    @property
    def behind(self) -> int:
        """Return how many tokens all records have, behind which comes padding."""
        return sum(self.lengths) + self.texts

    def attend(
        self, layer: Any, query: Tensor, key: Tensor, value: Tensor, *, scale: float, dropout: float,
        window: int | None, rule: ScoreRule | None = None,
    ) -> Tensor:  # fmt: skip
        """Attend within the row `[1, H, S, d]`; in the last layer prefixes are left out: nothing of them is needed."""
        # In mixed precision with float32 weights, the rotary embedding has made queries and keys float32 again.
        query, key = query.to(value.dtype), key.to(value.dtype)
        if window is not None and self.span <= window:
            window = None
        split = len(self.lengths) * self.prefixes[1]
        cut = (one.split([split, one.shape[2] - split], 2) for one in (query, key, value))
        heads, tails = (Heads(*half) for half in zip(*cut, strict=True))
        options: Options = {"scale": scale, "dropout": dropout, "window": window, "rule": rule}
        first = _nothing(heads.query, value) if self.in_last_layer else self._prefixes(heads, options)
        if fused_on_gpu(query, value) and not dropout and window is None and rule is None:
            last = self._fused_records(heads, tails, scale)
        else:
            with sdpa_kernel(KERNELS):
                last = self._masked_records(heads, tails, options)
        return torch.cat((first.transpose(1, 2), last.transpose(1, 2)), dim=1)

    def _prefixes(self, heads: Heads, options: Options) -> Tensor:
        """Return the output of the prefixes, `[1, H, P L, v]`."""
        count, length = len(self.lengths), self.prefixes[1]
        if not length:
            return _nothing(heads.query, heads.value)
        query, key, value = (one[0].unflatten(1, (count, length)).transpose(0, 1) for one in heads)  # [P, H, L, d]
        output = attend_causally(query, key, value, **options)
        return output.transpose(0, 1).flatten(1, 2)[None]

    def _fused_records(self, heads: Heads, tails: Heads, scale: float) -> Tensor:
        """Return the output of the records `tails` behind the prefixes `heads`, `[1, H, T, d]`."""
        tokens = (one[0].transpose(0, 1) for one in (*tails, *heads[1:]))
        return _FusedRecords.apply(*tokens, self, scale).transpose(0, 1)[None]

    def _masked_records(self, heads: Heads, tails: Heads, options: Options) -> Tensor:
        """Return the same, the records of each panorama under a mask."""
        count, prefix = len(self.lengths), self.prefixes[1]
        seen = [prefix] * count + [0] * bool(self.texts)  # of the prefix, by each group of records
        lengths = [*self.lengths, self.texts, tails.query.shape[2] - self.behind]
        (queries, *both), groups = (one.split(lengths, 2) for one in tails), tails.query.shape[1] // tails.key.shape[1]
        segments, positions = (one[count * prefix :].split(lengths) for one in (self.segments, self.positions))
        before = [(*one.split([prefix] * count, 2), one[:, :, :0]) for one in heads[1:]]
        outputs = []
        for number, length in enumerate(seen):
            keys, values = (
                repeat_kv(torch.cat((first[number], own[number]), dim=2), groups)
                for first, own in zip(before, both, strict=True)
            )
            own = (segments[number][:, None] == segments[number]).tril()
            mask = F.pad(own, (length, 0), value=True)
            if (window := options["window"]) is not None:
                mask &= near(positions[number], torch.cat((self.positions[:length], positions[number])), window)
            outputs.append(attend_masked(queries[number], keys, values, mask, options))
        return torch.cat((*outputs, _nothing(queries[-1], tails.value)), dim=2)

    def parts(self, tokens: Sequence[Tensor], scale: float) -> list[Part]:
        """Return the parts of the records' attention: to themselves, and to their prefixes where there are any.

        `tokens` `[T, H, d]` are query, key and value of the records, key and value of the prefixes.
        """
        query, key, value, before_key, before_value = tokens
        query, key, value = (one[: self.behind] for one in (query, key, value))
        own = Part(query, key, value, self.records, self.records, True, scale)
        if not self.prefixes[1]:
            return [own]
        query = query[: self.behind - self.texts]
        return [own, Part(query, before_key, before_value, self.groups, self.prefixes, False, scale)]


class _FusedRecords(torch.autograd.Function):
    """Attention of the records `[T, H, d]` of a packed row by fused kernels, without a mask.

    A record attends to its prefix, whose keys and values are `before`, and, causally, to itself: two parts, which are
    joined. The output of the padding at the end is zero.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, before_key: Tensor, before_value: Tensor,
        plan: PackedPlan, scale: float,
    ) -> Tensor:  # fmt: skip
        tokens = [query, key, value, before_key, before_value]
        found = [attend(part) for part in plan.parts(tokens, scale)]
        whole = joined(*found) if len(found) == 2 else found[0]
        output = _padded(whole.tokens, query)
        ctx.save_for_backward(*tokens, output, whole.normaliser)
        ctx.plan, ctx.scale = plan, scale
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *tokens, output, normaliser = ctx.saved_tensors
        end = ctx.plan.behind
        whole, gradient = PartOutput(output[:end], normaliser), gradients[0][:end]
        own, *others = [
            attend_backward(part, first_of(whole, len(part.query)), gradient[: len(part.query)])
            for part in ctx.plan.parts(tokens, ctx.scale)
        ]
        to_query, to_key, to_value = own
        to_before: Sequence[Tensor | None] = (None, None)
        if others:
            ((more, *to_before),) = others
            to_query = to_query + _padded(more, to_query)
        return *(_padded(one, output) for one in (to_query, to_key, to_value)), *to_before, None, None


def first_of(part: PartOutput, count: int) -> PartOutput:
    """Return the output of the first queries of a part."""
    return PartOutput(part.tokens[:count], part.normaliser[:, :count].contiguous())


def joined(own: PartOutput, before: PartOutput) -> PartOutput:
    """Return the output of records for themselves and what is before them, which the last of them may lack."""
    count = len(before.tokens)
    if count == len(own.tokens):
        return join(own, before)
    both = join(first_of(own, count), before)
    return PartOutput(
        torch.cat((both.tokens, own.tokens[count:])), torch.cat((both.normaliser, own.normaliser[:, count:]), dim=1)
    )


def attend_masked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, options: Options) -> Tensor:
    """Return the output `[B, H, T, v]` of `query` `[B, H, T, d]` for `key` and `value` `[B, H, S, d]` under a mask."""
    scale, dropout, rule = options["scale"], options["dropout"], options["rule"]
    if rule is not None:
        return attend_by_scores(query, key, value, mask, scale=scale, dropout=dropout, rule=rule)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, dropout_p=dropout)


def _nothing(query: Tensor, value: Tensor) -> Tensor:
    """Return zeros in place of the output of queries `[1, H, S, d]` for values `[1, G, S, v]`."""
    return query.new_zeros(*query.shape[:-1], value.shape[-1])


def _padded(tokens: Tensor, whole: Tensor) -> Tensor:
    """Return `tokens` `[T, ...]` with zeros behind them, as many as `whole` has."""
    return torch.cat([tokens, tokens.new_zeros(len(whole) - len(tokens), *tokens.shape[1:])])
