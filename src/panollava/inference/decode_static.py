"""Greedy decoding on a GPU: persistent tensors and a static KV cache for each shape of a batch, steps as CUDA graphs.

A shape is rounded up (rows to a power of two, tokens to a multiple), so few are needed. Whether all rows have ended is
checked every few steps, for the check makes the GPU wait.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import StaticLayer

from panollava.attention.causal import fused_on_gpu
from panollava.attention.compiling import compile_pass
from panollava.attention.cuda_graphs import GraphCache, ReplayedFunction, limit_bytes
from panollava.attention.plan import last_of_rows
from panollava.attention.shared_prefix import SharedPlan, SharedPrefix, table_of_rows
from panollava.inference.decode import Decoded, Limits, likeliest
from panollava.inference.prompts import Prefix, PromptBatch, Row
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration

PROMPT_MULTIPLE, OWN_MULTIPLE = 16, 64
CHECK_EVERY = 8


def caches_latents(config: Any) -> bool:
    """Return whether a language model caches what keys and values are made of (multi-head latent attention)."""
    match config.to_dict():
        case {"kv_lora_rank": int()}:
            return True
    return False


class Shape(NamedTuple):
    """R rows of at most N own tokens behind P prefixes of L tokens, at most M rows behind one; the ends of sequence.

    And whether steps are compiled before they are captured.
    """

    rows: int
    own: int
    prefixes: int
    length: int
    behind_one: int
    ends: tuple[int, ...]
    compiled: bool


def _next_logits(
    model: PanoLlavaForConditionalGeneration, ids: Tensor, positions: Tensor, cache: Cache, shared: SharedPrefix
) -> tuple[Tensor, Tensor]:
    """Return the hidden state `[R, D]` of the last of tokens `[R, T]`, and its logits `[R, vocabulary]`."""
    # Embedded here: the model would search placeholders in the ids, and a search cannot be captured.
    embedded = model.get_input_embeddings()(ids)
    plan = SharedPlan(prefix=shared, needed=last_of_rows(ids))
    hidden = model.model(
        inputs_embeds=embedded, position_ids=positions, use_cache=True, past_key_values=cache, plan=plan
    ).last_hidden_state
    return hidden[:, -1], model.logits_of(hidden[:, -1]).float()


@cache
def compiled_next_logits(backend: str | Callable = "inductor") -> Callable[..., tuple[Tensor, Tensor]]:
    """Return `_next_logits` as one compiled graph for each shape; the first call with a shape takes half a minute."""
    return compile_pass(_next_logits, backend)


class StaticRows:
    """The tensors of one shape, and the work on them: a prompt of T tokens, and a step of one."""

    def __init__(self, model: PanoLlavaForConditionalGeneration, shape: Shape, prefix: Prefix) -> None:
        self.model, self.shape = model, shape
        device, rows = model.device, shape.rows
        # Whole even where the language model has a sliding window, of which the attention knows.
        self.layers = [StaticLayer(shape.own) for _ in range(model.config.text_config.num_hidden_layers)]
        self.cache = Cache(layers=[*self.layers])
        whole: dict[str, Any] = {"dtype": torch.long, "device": device}
        self.filled = torch.zeros((), **whole)
        keys, values = prefix.keys_and_values()
        # The first call makes the others: without a prefix, and where a cache holds something else than keys.
        for layer, key, value in zip(self.layers, keys, values, strict=False):
            if key.shape[2] and not caches_latents(model.config.text_config):
                layer.lazy_initialization(
                    key.new_empty(rows, *key[0, :, :0].shape), value.new_empty(rows, *value[0, :, :0].shape)
                )
        self.shared = SharedPrefix(
            [torch.empty_like(given) for given in keys],
            [torch.empty_like(given) for given in values],
            rows=torch.zeros(shape.prefixes, shape.behind_one, **whole),
            slots=torch.zeros(rows, **whole),
            padding=torch.zeros(rows, **whole),
            padded=True,
            filled=self.filled,
            fused=fused_on_gpu(keys[0], values[0]),
        )
        self.ends = torch.tensor(shape.ends, **whole)
        self.token, self.position = torch.zeros(2, rows, 1, **whole)
        self.found = torch.zeros(rows, shape.own, **whole)
        self.scores = torch.zeros(rows, shape.own, dtype=torch.double, device=device)
        self.ended = torch.zeros(rows, dtype=torch.bool, device=device)
        self.step, self.minimum = torch.zeros(2, 1, **whole)
        self.loaded: Callable[[], Prefix | None] = lambda: None
        self.advance = ReplayedFunction(device)
        self.prompts: dict[int, tuple[Tensor, ReplayedFunction]] = {}

    @property
    def nbytes(self) -> int:
        """Return how many bytes keys and values take."""
        own: list[Any] = [layer.keys for layer in self.layers if layer.is_initialized]
        return 2 * sum(keys.nbytes for keys in [*own, *self.shared.keys])

    def _advance(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Read tokens `[R, T]`, choose the next one, and return the hidden state `[R, D]` that it comes from."""
        next_logits = compiled_next_logits() if self.shape.compiled else _next_logits
        hidden, logits = next_logits(self.model, ids, positions, self.cache, self.shared)
        logits = logits.clone()
        logits[:, self.ends] += torch.where(self.step < self.minimum, float("-inf"), 0.0)
        tokens, gained, last = likeliest(logits, self.ends)
        self.found.index_copy_(1, self.step, tokens[:, None])
        self.scores.index_copy_(1, self.step, gained.masked_fill(self.ended, 0)[:, None])
        self.ended |= last
        self.token.copy_(tokens[:, None])
        self.position.copy_(positions[:, -1:] + 1)
        self.filled.add_(ids.shape[1])
        self.step += 1
        return hidden

    def _load(self, prefix: Prefix, prompts: PromptBatch, limits: Limits) -> None:
        """Take over a batch of r <= R rows; the others have ended before they begin."""
        real = len(prompts.owners)
        if self.loaded() is not prefix:
            for own, given in zip(
                [*self.shared.keys, *self.shared.values], chain(*prefix.keys_and_values()), strict=True
            ):
                own.copy_(given)
            self.loaded = ref(prefix)
        rows, slots = table_of_rows(prompts.owners, self.shape.prefixes, self.shape.behind_one)
        _copy(self.shared.rows, rows)
        _copy(self.shared.slots.zero_()[:real], slots)
        _copy(self.shared.padding.zero_()[:real], prompts.padding)
        self.found.fill_(limits.pad)
        self.minimum.fill_(limits.min_new_tokens)
        self.ended.fill_(True)[:real] = False

    def _read(self, prompts: PromptBatch) -> Tensor:
        """Read the prompts, choose the first token of each, and return the hidden state `[R, D]` that it comes from."""
        real, length = prompts.ids.shape
        if length not in self.prompts:
            own = torch.zeros(2, self.shape.rows, length, dtype=torch.long, device=self.model.device)
            self.prompts[length] = own, ReplayedFunction(own.device)
        own, read = self.prompts[length]
        _copy(own[:, :real], torch.stack((prompts.ids, prompts.positions)))
        return read(lambda: self._begin(*own)).clone()

    def _begin(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Reset the state of the last batch, and advance by a prompt."""
        for state in (self.filled, self.scores, self.step, *(layer.cumulative_length for layer in self.layers)):
            state.zero_()
        return self._advance(ids, positions)

    def decode(self, prefix: Prefix, prompts: PromptBatch, budget: int, limits: Limits) -> Decoded:
        """Return the answers of the rows, at most `budget` tokens each."""
        real = len(prompts.owners)
        self._load(prefix, prompts, limits)
        prompt_state = self._read(prompts)
        for step in range(1, budget):
            if step % CHECK_EVERY == 0 and bool(self.ended.all()):
                break
            self.advance(lambda: self._advance(self.token, self.position))
        tokens, scores = self.found[:real, :budget].clone(), self.scores[:real, :budget].clone()
        return Decoded(tokens, scores, prompt_state[:real])


def _copy(own: Tensor, given: Tensor) -> None:
    """Copy without waiting for the GPU."""
    own.copy_(given, non_blocking=True)


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def decode_static(
    graphs: GraphCache, prefix: Prefix, batch: Sequence[Row], limits: Limits, *, compiled: bool = False
) -> Decoded:
    """Return the answers of rows with the same longest answer, on persistent tensors. In inference mode."""
    model: Any = graphs.model
    budget = batch[0].max_new_tokens
    # Made where Python is, for a GPU would be asked a dozen times.
    prompts = PromptBatch.of(batch, prefix, limits.pad, torch.device("cpu"), PROMPT_MULTIPLE)
    keys, _ = prefix.keys_and_values()
    most = max(Counter(row.panorama for row in batch).values())
    shape = Shape(
        rows=_power_of_two(len(batch)),
        own=-(-(prompts.ids.shape[1] + budget) // OWN_MULTIPLE) * OWN_MULTIPLE,
        prefixes=len(keys[0]),
        length=keys[0].shape[2],
        behind_one=_power_of_two(most),
        ends=limits.ends,
        compiled=compiled,
    )
    rows = graphs.entry(shape, lambda: StaticRows(model, shape, prefix), limit_bytes(model.device))
    return rows.decode(prefix, prompts, budget, limits)
