"""Greedy decoding of rows behind shared prefixes, for a model that attends by `SHARED_ATTENTION`, in inference mode.

On a CPU the cache grows, and rows that have ended leave the batch. A GPU would wait for Python then: there a step works
on the same tensors each time and is replayed as a graph, see `static_rows.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from panollava.attention.shared_prefix import SharedPrefix
from panollava.vlm.last_layer import last_of_rows
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration


@dataclass(frozen=True)
class Prefix:
    """The tokens that all prompts begin with, and for P panoramas their keys and values, patch grids and poses.

    `layers` holds keys and values `[P, G, L, d]` of each layer. Without any panorama it is empty, and `grids` and
    `poses` are None.
    """

    ids: list[int]
    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    grids: Tensor | None = None
    poses: Tensor | None = None

    def states(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the keys and the values of each layer; a single empty one where there is no prefix."""
        if not self.layers:
            nothing = [torch.empty(1, 1, 0, 1)]  # of no layer: nothing is read of it
            return nothing, nothing
        return [keys for keys, _ in self.layers], [values for _, values in self.layers]


@dataclass(frozen=True)
class Row:
    """One question: its place in the result, its panorama, its tokens after the prefix, its longest answer.

    `masked` says whether it asks for a mask as well.
    """

    index: int
    panorama: int
    ids: list[int]
    max_new_tokens: int
    masked: bool = False


class Prompts(NamedTuple):
    """Rows as tensors: token ids and positions `[R, T]`, padded on the left; the padding and prefix of each, `[R]`."""

    ids: Tensor
    positions: Tensor
    padding: Tensor
    owners: Tensor

    @classmethod
    def of(cls, batch: Sequence[Row], prefix: Prefix, pad: int, device: torch.device, multiple: int = 1) -> "Prompts":
        """Return a batch, padded to the longest row and on to a `multiple` of tokens."""
        longest = -(-max(len(row.ids) for row in batch) // multiple) * multiple
        ids = torch.tensor([[pad] * (longest - len(row.ids)) + row.ids for row in batch], device=device)
        padding = torch.tensor([longest - len(row.ids) for row in batch], device=device)
        positions = len(prefix.ids) + (torch.arange(longest, device=device) - padding[:, None]).clamp(min=0)
        return cls(ids, positions, padding, torch.tensor([row.panorama for row in batch], device=device))


class Said(NamedTuple):
    """The likeliest tokens `[R, T]` of rows and their log-probabilities `[R, T]`, 0 after the end.

    And the hidden state `[R, D]` of the last token of each prompt. The end of sequence counts as said.
    """

    tokens: Tensor
    scores: Tensor
    first: Tensor


def likeliest(logits: Tensor, ends: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return of logits `[R, vocabulary]` the likeliest tokens, their log-probabilities, and which of them are ends."""
    best = logits.max(dim=-1)
    return best.indices, (best.values - logits.logsumexp(dim=-1)).double(), (best.indices[:, None] == ends).any(dim=-1)


def decode_growing(
    model: PanoLlavaForConditionalGeneration,
    prefix: Prefix,
    batch: Sequence[Row],
    ends: list[int],
    pad: int,
    min_new_tokens: int = 0,
) -> Said:
    """Return what rows with the same longest answer say, with a cache that grows.

    Rows that have ended leave the batch once they are half of it.
    """
    device, budget = model.device, batch[0].max_new_tokens
    ids, positions, padding, owners = Prompts.of(batch, prefix, pad, device)
    said = torch.full((len(batch), budget), pad, device=device)
    scores = torch.zeros(len(batch), budget, dtype=torch.double, device=device)
    ended = torch.zeros(len(batch), dtype=torch.bool, device=device)
    end_ids = torch.tensor(ends, dtype=torch.long, device=device)
    keys, values = prefix.states()
    live, cache, shared = (
        torch.arange(len(batch), device=device),
        DynamicCache(),
        SharedPrefix.of(keys, values, owners, padding),
    )
    for step in range(budget):
        state = {"past_key_values": cache, "shared": shared, "use_cache": True, "read": last_of_rows(ids)}
        hidden = model.model(input_ids=ids, position_ids=positions, **state).last_hidden_state[:, -1]
        if step == 0:
            first = hidden
        logits = model.lm_head(hidden).float()
        if step < min_new_tokens:
            logits[:, end_ids] = float("-inf")
        tokens, gained, last = likeliest(logits, end_ids)
        ids, positions = tokens[:, None], positions[:, -1:] + 1
        said[live, step] = tokens
        scores[live, step] = gained.masked_fill(ended[live], 0)
        ended[live] |= last
        going = (~ended[live]).nonzero()[:, 0]
        if len(going) == 0:
            break
        if 2 * len(going) <= len(live):
            live, ids, positions = live[going], ids[going], positions[going]
            cache.batch_select_indices(going)
            shared = SharedPrefix.of(keys, values, owners[live], padding[live])
    return Said(said, scores, first)
