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

from panollava.bench.pair import Pair
from panollava.inference.answer import decode
from panollava.inference.decode import Prefix, Row
from panollava.inference.prefill import prefix_of_views


@dataclass(frozen=True)
class Ours:
    """Our side: the model and the panorama."""

    pair: Pair

    def look(self, *, compiled: bool = False) -> Prefix:
        """Return the panorama's keys and values."""
        views = self.pair.pixel_values, self.pair.view_poses
        return prefix_of_views(self.pair.ours, self.pair.prefix, *views, compiled=compiled)

    def answer(self, prefix: Prefix, prompts: list[list[int]], count: int, *, compiled: bool = False) -> Tensor:
        """Return `count` tokens `[R, count]` for each of R prompts."""
        rows = [Row(index, 0, ids, count) for index, ids in enumerate(prompts)]
        return decode(self.pair.ours, prefix, rows, [], 0, compiled=compiled).tokens


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

    def look(self) -> DynamicCache:
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

    def logits(self, prompts: Tensor, said: Tensor) -> Tensor:
        """Return the logits `[R, count, vocabulary]` of what was said after each prompt."""
        found = []
        for prompt, tokens in zip(prompts.split(1), said.split(1), strict=True):
            ids = torch.cat((self.full(prompt), tokens[:, :-1]), dim=1)
            inputs = {"input_ids": ids, "pixel_values": self.pair.images(1), "logits_to_keep": said.shape[1]}
            found.append(self.pair.peer(**inputs).logits.float())
        return torch.cat(found)

    def _generate(self, prompts: Tensor, count: int, **inputs: Any) -> Tensor:
        ids = self.full(prompts)
        model: Any = self.pair.peer
        said = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count, **inputs
        )
        return said[:, ids.shape[1] :]
