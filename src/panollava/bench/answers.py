"""How each side answers questions on one panorama: ours behind its shared prefix, LLaVA by `generate`.

LLaVA computes everything anew, or continues behind a prefilled cache. Prompts are without the placeholders; each side
gets them as it takes them: ours as lists, as a tokenizer makes them, LLaVA's as a tensor `[R, T]` on the device.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from panollava.attention.cuda_graphs import GraphCache
from panollava.attention.plan import use_plans
from panollava.bench.pair import Pair
from panollava.inference.decode import Limits, decode_growing
from panollava.inference.decode_static import decode_static
from panollava.inference.prefill import prefill
from panollava.inference.prompts import Prefix, Row


class Ours:
    """Our side: the model and the panorama."""

    def __init__(self, pair: Pair) -> None:
        use_plans(pair.ours.model.language_model)
        self.pair, self.graphs = pair, GraphCache(pair.ours)

    def prefill(self, *, compiled: bool = False) -> Prefix:
        """Return the panorama's keys and values."""
        views = self.pair.pixel_values, self.pair.view_poses
        return prefill(self.graphs, [], *views, compiled=compiled)

    def answer(self, prefix: Prefix, prompts: list[list[int]], count: int, *, compiled: bool = False) -> Tensor:
        """Return `count` tokens `[R, count]` for each of R prompts."""
        rows, limits = [Row(index, 0, ids, count) for index, ids in enumerate(prompts)], Limits((), 0)
        if self.pair.ours.device.type == "cuda":
            return decode_static(self.graphs, prefix, rows, limits, compiled=compiled).tokens
        return decode_growing(self.pair.ours, prefix, rows, limits).tokens


@dataclass(frozen=True)
class Peer:
    """LLaVA: the model and the panorama."""

    pair: Pair

    def full(self, prompts: Tensor) -> Tensor:
        """Return prompts `[R, T]` behind the placeholders of the panorama, `[R, P + T]`."""
        prefix = torch.tensor(self.pair.prefix, device=prompts.device)
        return torch.cat((prefix.expand(len(prompts), -1), prompts), dim=1)

    def answer(self, prompts: Tensor, count: int, **options: Any) -> Tensor:
        """Return `count` tokens `[R, count]` for each prompt `[R, T]`, everything computed anew."""
        return self._generate(prompts, count, pixel_values=self.pair.images(len(prompts)), **options)

    def one_by_one(self, prompts: Tensor, count: int) -> Tensor:
        """Return the same, one prompt after the other."""
        return torch.cat([self.answer(prompt, count) for prompt in prompts.split(1)])

    def prefill(self) -> DynamicCache:
        """Return a cache prefilled with the panorama."""
        config: Any = self.pair.peer.config.text_config
        cache = DynamicCache(config=config)
        ids = torch.tensor([self.pair.prefix], device=self.pair.pixel_values.device)
        state = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
        self.pair.peer(input_ids=ids, pixel_values=self.pair.images(1), **state)
        return cache

    def answer_behind(self, cache: DynamicCache, prompts: Tensor, count: int) -> Tensor:
        """Return the same behind a prefilled cache, which is copied and repeated for the prompts."""
        own = copy.deepcopy(cache)
        own.batch_repeat_interleave(len(prompts))
        return self._generate(prompts, count, past_key_values=own)

    def logits(self, prompts: Tensor, answers: Tensor) -> Tensor:
        """Return the logits `[R, count, vocabulary]` of the answers to prompts."""
        found = []
        for prompt, tokens in zip(prompts.split(1), answers.split(1), strict=True):
            ids = torch.cat((self.full(prompt), tokens[:, :-1]), dim=1)
            inputs = {"input_ids": ids, "pixel_values": self.pair.images(1), "logits_to_keep": answers.shape[1]}
            found.append(self.pair.peer(**inputs).logits.float())
        return torch.cat(found)

    def _generate(self, prompts: Tensor, count: int, **inputs: Any) -> Tensor:
        ids = self.full(prompts)
        model: Any = self.pair.peer
        tokens = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count, **inputs
        )
        return tokens[:, ids.shape[1] :]
