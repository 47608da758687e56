"""Greedy decoding of rows behind shared prefixes, with a KV cache that grows; for a CPU.

Rows that have ended leave the batch. A GPU would wait for Python then: `decode_static.py` is for it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from panollava.attention.plan import last_of_rows
from panollava.attention.shared_prefix import SharedPlan, SharedPrefix
from panollava.inference.prompts import Prefix, PromptBatch, Row
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration


class Limits(NamedTuple):
    """When answers end: the ids of end of sequence, the id that fills up, and the fewest tokens of an answer."""

    ends: tuple[int, ...]
    pad: int
    min_new_tokens: int = 0


class Decoded(NamedTuple):
    """The likeliest tokens `[R, T]` of rows and their log-probabilities `[R, T]`, 0 after the end.

    And the hidden state `[R, D]` of the last token of each prompt. The end of sequence is one of the tokens.
    """

    tokens: Tensor
    scores: Tensor
    prompt_state: Tensor


def likeliest(logits: Tensor, ends: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return of logits `[R, vocabulary]` the likeliest tokens, their log-probabilities, and which of them are ends."""
    best = logits.max(dim=-1)
    return best.indices, (best.values - logits.logsumexp(dim=-1)).double(), (best.indices[:, None] == ends).any(dim=-1)


def decode_growing(
    model: PanoLlavaForConditionalGeneration, prefix: Prefix, batch: Sequence[Row], limits: Limits
) -> Decoded:
    """Return the answers of rows with the same longest answer. In inference mode.

    Rows that have ended leave the batch once they are half of it.
    """
    device, budget = model.device, batch[0].max_new_tokens
    ids, positions, padding, owners = PromptBatch.of(batch, prefix, limits.pad, device)
    found = torch.full((len(batch), budget), limits.pad, device=device)
    scores = torch.zeros(len(batch), budget, dtype=torch.double, device=device)
    ended = torch.zeros(len(batch), dtype=torch.bool, device=device)
    end_ids = torch.tensor(limits.ends, dtype=torch.long, device=device)
    keys, values = prefix.keys_and_values()
    live, cache = torch.arange(len(batch), device=device), DynamicCache()
    shared = SharedPrefix.of(keys, values, owners, padding)
    for step in range(budget):
        plan = SharedPlan(prefix=shared, needed=last_of_rows(ids))
        state = {"past_key_values": cache, "use_cache": True, "plan": plan}
        hidden = model.model(input_ids=ids, position_ids=positions, **state).last_hidden_state[:, -1]
        if step == 0:
            prompt_state = hidden
        logits = model.logits_of(hidden).float()
        if step < limits.min_new_tokens:
            logits[:, end_ids] = float("-inf")
        tokens, gained, last = likeliest(logits, end_ids)
        ids, positions = tokens[:, None], positions[:, -1:] + 1
        found[live, step] = tokens
        scores[live, step] = gained.masked_fill(ended[live], 0)
        ended[live] |= last
        going = (~ended[live]).nonzero()[:, 0]
        if len(going) == 0:
            break
        if 2 * len(going) <= len(live):
            live, ids, positions = live[going], ids[going], positions[going]
            cache.batch_select_indices(going)
            shared = SharedPrefix.of(keys, values, owners[live], padding[live])
    return Decoded(found, scores, prompt_state)
