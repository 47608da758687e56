"""`panollava bench ask`: questions on a panorama, ours beside LLaVA's `generate`.

A fresh question, a further one on the same panorama, and many at once. LLaVA's best settings are those of its
documentation: a batch of questions, a cache prefilled with the panorama and copied for each, on a GPU a static cache.
Answers have equal lengths; the end of sequence is switched off on both sides.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from panollava.bench.checks import check_tokens
from panollava.bench.limits import device_name, machine_limits
from panollava.bench.pair import Pair, build_pair
from panollava.bench.sizes import Size
from panollava.bench.turns import Side, check_rounds, quartiles, ratios, time_in_turns
from panollava.tasks.answering import Prefix, Row, decode, prefix_of_views
from panollava.vlm.attending import attending
from panollava.vlm.shared_prefix import SHARED_ATTENTION

OURS, DOCUMENTED, BATCHED = "ours", "LLaVA, as documented", "LLaVA, batched"
REUSED, STATIC = "LLaVA, panorama's cache reused", "LLaVA, static cache"
FIRST, ANSWER, FOLLOW_UP, MANY = "first token", "answer", "first token of a follow-up", "many questions"

# The sides of each workload.
Workloads = dict[str, dict[str, Side]]


@dataclass(frozen=True)
class Ours:
    """Our side: the model and the panorama."""

    pair: Pair

    def look(self) -> Prefix:
        """Return the panorama's keys and values."""
        return prefix_of_views(self.pair.ours, self.pair.prefix, self.pair.pixel_values, self.pair.view_poses)

    def answer(self, prefix: Prefix, prompts: Tensor, count: int) -> Tensor:
        """Return `count` tokens `[R, count]` for each prompt `[R, T]`."""
        rows = [Row(index, 0, ids, count) for index, ids in enumerate(prompts.tolist())]
        with attending(self.pair.ours, SHARED_ATTENTION):
            return decode(self.pair.ours, prefix, rows, [], 0)[0]


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


def workloads(ours: Ours, peer: Peer, prompts: Tensor, size: Size) -> Workloads:
    """Return what is timed: each workload with its sides, ours first."""
    one, other, count = prompts[:1], prompts[1:2], size.new_tokens
    prefix, cache = ours.look(), peer.look()
    static = {STATIC: lambda: peer.answer(one, count, cache_implementation="static")} if size.device == "cuda" else {}
    return {
        FIRST: {OURS: lambda: ours.answer(ours.look(), one, 1), DOCUMENTED: lambda: peer.answer(one, 1)},
        ANSWER: {
            OURS: lambda: ours.answer(ours.look(), one, count), DOCUMENTED: lambda: peer.answer(one, count), **static,
        },
        FOLLOW_UP: {
            OURS: lambda: ours.answer(prefix, other, 1),
            DOCUMENTED: lambda: peer.answer(other, 1),
            REUSED: lambda: peer.answer_behind(cache, other, 1),
        },
        MANY: {
            OURS: lambda: ours.answer(ours.look(), prompts, count),
            DOCUMENTED: lambda: peer.one_by_one(prompts, count),
            BATCHED: lambda: peer.answer(prompts, count),
            REUSED: lambda: peer.answer_behind(peer.look(), prompts, count),
        },
    }  # fmt: skip


def check_answers(loads: Workloads, peer: Peer, prompts: Tensor, size: Size) -> dict[str, float]:
    """Return the share of tokens that each side says as LLaVA does one question at a time.

    Raises:
        ValueError: a side says something else.
    """
    asked = {FIRST: prompts[:1], ANSWER: prompts[:1], FOLLOW_UP: prompts[1:2], MANY: prompts}
    shares = {}
    for load, sides in loads.items():
        wanted = sides[DOCUMENTED]()
        for name, side in sides.items():
            if name != DOCUMENTED:
                said = side()
                logits = peer.logits(asked[load], said)
                shares[f"{load}: {name}"] = check_tokens(f"{load}: {name}", said, wanted, logits, size.logit_tolerance)
    return shares


@torch.inference_mode()
def bench_ask(size: Size, rounds: int) -> dict[str, Any]:
    """Return the times of each workload on each side, and how many times as long as ours each takes.

    Raises:
        ValueError: sides that say different things, fewer than two rounds, no GPU where the size needs one.
    """
    check_rounds(rounds)
    pair = build_pair(size)
    ours, peer = Ours(pair), Peer(pair)
    prompts = torch.randint(pair.ours.config.image_token_id, (size.asked, size.prompt_tokens)).to(size.device)
    loads = workloads(ours, peer, prompts, size)
    shares = check_answers(loads, peer, prompts, size)
    limits = machine_limits(size)
    times = time_in_turns({(load, name): side for load, sides in loads.items() for name, side in sides.items()}, rounds)
    rows = {
        load: {
            name: {"ms": quartiles(times[load, name]), "ratio": ratios(times[load, name], times[load, OURS])}
            for name in sides
        }
        for load, sides in loads.items()
    }
    return {"size": size.name, "device": device_name(size), "work": _work(pair, size), "rounds": rounds,
            "equal_tokens": shares, "limits": limits, "measures": _measures(rows, pair, size, limits),
            "workloads": rows}  # fmt: skip


def _work(pair: Pair, size: Size) -> str:
    return (
        f"questions of {size.prompt_tokens} tokens on one panorama of {pair.visual_tokens} visual tokens, answers of "
        f"{size.new_tokens}; many questions: {size.asked}"
    )


def _measures(rows: dict[str, Any], pair: Pair, size: Size, limits: dict[str, float]) -> dict[str, float]:
    """Return the numbers that goals are about."""

    def ms(load: str) -> float:
        return rows[load][OURS]["ms"]["median"]

    def ratio(load: str, name: str) -> float:
        return rows[load][name]["ratio"]["median"]

    token = (ms(ANSWER) - ms(FIRST)) / (size.new_tokens - 1)
    weights = sum(p.numel() for p in pair.ours.model.language_model.layers.parameters())
    flops = 2 * weights * (pair.visual_tokens + size.prompt_tokens)
    read = size.dtype.itemsize * (weights + pair.ours.lm_head.weight.numel())
    return {
        "first token, ms": ms(FIRST),
        "follow-up, ms": ms(FOLLOW_UP),
        "ms a token": token,
        "many questions, ms": ms(MANY),
        "follow-up, documented": ratio(FOLLOW_UP, DOCUMENTED),
        "follow-up, best": ratio(FOLLOW_UP, REUSED),
        "many questions, one by one": ratio(MANY, DOCUMENTED),
        "many questions, batched": ratio(MANY, BATCHED),
        "many questions, best": min(ratio(MANY, name) for name in (DOCUMENTED, BATCHED, REUSED)),
        "first token, share of the matrix product": flops / (ms(FIRST) / 1000) / limits["flops_per_s"],
        "decoding, share of the copy": read / (token / 1000) / limits["bytes_per_s"],
    }
