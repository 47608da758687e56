"""Attention by all of its scores, for families whose scores no fused kernel makes: capped ones, and such with sinks.

It takes memory for every query and key at once, as those families' own code does.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.integrations.sdpa_attention import repeat_kv


class ScoreRule(NamedTuple):
    """What becomes of scores: a cap on their size, and a sink `[H]`, a score of nothing, beside those of the keys."""

    cap: float | None = None
    sinks: Tensor | None = None

    def capped(self, scores: Tensor) -> Tensor:
        """Return the scores, drawn into the range of the cap."""
        return scores if self.cap is None else (scores / self.cap).tanh() * self.cap

    def share_of_keys(self, normaliser: Tensor) -> Tensor | float:
        """Return which share of attention the keys have beside the sinks.

        `normaliser` `[B, G, n T, 1]` is the logarithm of theirs, for the n heads of each of G groups.
        """
        if self.sinks is None:
            return 1.0
        grouped = self.sinks.view(normaliser.shape[1], -1)
        queries = normaliser.shape[2] // grouped.shape[1]
        return torch.sigmoid(normaliser - grouped.repeat_interleave(queries, dim=1)[None, ..., None])


def attend_by_scores(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scale: float, dropout: float, rule: ScoreRule
) -> Tensor:
    """Return the output `[B, H, T, v]` of `query` `[B, H, T, d]` for `key` and `value` `[B, G, S, d]`.

    A boolean `mask` says what is seen, another is added to the scores; without one, attention is causal.
    """
    key, value = (repeat_kv(one, query.shape[1] // one.shape[1]) for one in (key, value))
    scores = rule.capped(query @ key.transpose(-1, -2) * scale)
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril(key.shape[2] - query.shape[2])
    seen = mask.dtype == torch.bool
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min) if seen else scores + mask
    if rule.sinks is not None:
        sinks = rule.sinks[None, :, None, None].expand(len(scores), -1, scores.shape[2], 1)
        scores = torch.cat((scores, sinks.to(scores.dtype)), dim=-1)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)[..., : key.shape[2]]
    return F.dropout(weights, dropout) @ value
