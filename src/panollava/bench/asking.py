"""`panollava bench ask`: questions on a panorama, ours beside LLaVA's `generate`.

A fresh question, a further one on the same panorama, and many at once. LLaVA's best settings are those of its
documentation: a batch of questions, a cache prefilled with the panorama and copied for each, on a GPU a static cache
with compiled steps.
Answers have equal lengths; the end of sequence is switched off on both sides.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from panollava.bench.answers import Ours, Peer
from panollava.bench.checks import check_tokens
from panollava.bench.limits import device_name, machine_limits
from panollava.bench.pair import Pair, build_pair
from panollava.bench.sizes import Size
from panollava.bench.turns import Side, check_rounds, quartiles, ratios, time_in_turns

OURS, COMPILED, DOCUMENTED, BATCHED = "ours", "ours, compiled", "LLaVA, as documented", "LLaVA, batched"
REUSED, STATIC = "LLaVA, panorama's cache reused", "LLaVA, static cache"
FIRST, ANSWER, FOLLOW_UP, MANY = "first token", "answer", "first token of a follow-up", "many questions"

# The sides of each workload.
Workloads = dict[str, dict[str, Side]]


def workloads(ours: Ours, peer: Peer, prompts: Tensor, size: Size) -> Workloads:
    """Return what is timed: each workload with its sides, ours first."""
    one, other, count = prompts[:1], prompts[1:2], size.new_tokens
    texts = prompts.tolist()
    prefix, cache = ours.prefill(), peer.prefill()

    def own(answer: Callable[[bool], Tensor]) -> dict[str, Side]:
        compiled = {COMPILED: lambda: answer(True)} if size.device == "cuda" else {}
        return {OURS: lambda: answer(False), **compiled}

    static = {STATIC: lambda: peer.answer(one, count, cache_implementation="static")} if size.device == "cuda" else {}
    return {
        FIRST: {
            **own(lambda compiled: ours.answer(ours.prefill(compiled=compiled), texts[:1], 1, compiled=compiled)),
            DOCUMENTED: lambda: peer.answer(one, 1),
        },
        ANSWER: {
            **own(lambda compiled: ours.answer(ours.prefill(compiled=compiled), texts[:1], count, compiled=compiled)),
            DOCUMENTED: lambda: peer.answer(one, count), **static,
        },
        FOLLOW_UP: {
            **own(lambda compiled: ours.answer(prefix, texts[1:2], 1, compiled=compiled)),
            DOCUMENTED: lambda: peer.answer(other, 1),
            REUSED: lambda: peer.answer_behind(cache, other, 1),
        },
        MANY: {
            **own(lambda compiled: ours.answer(ours.prefill(compiled=compiled), texts, count, compiled=compiled)),
            DOCUMENTED: lambda: peer.one_by_one(prompts, count),
            BATCHED: lambda: peer.answer(prompts, count),
            REUSED: lambda: peer.answer_behind(peer.prefill(), prompts, count),
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

    def ratio(load: str, name: str) -> float:
        return rows[load][name]["ratio"]["median"]

    measures = {
        "follow-up, documented": ratio(FOLLOW_UP, DOCUMENTED),
        "follow-up, best": ratio(FOLLOW_UP, REUSED),
        "many questions, one by one": ratio(MANY, DOCUMENTED),
        "many questions, batched": ratio(MANY, BATCHED),
        "many questions, best": min(ratio(MANY, name) for name in (DOCUMENTED, BATCHED, REUSED)),
    }
    for side, suffix in ((OURS, ""), (COMPILED, ", compiled")):
        if side in rows[FIRST]:
            times = {load: sides[side]["ms"]["median"] for load, sides in rows.items()}
            measures |= {f"{name}{suffix}": value for name, value in _latencies(times, pair, size, limits).items()}
    return measures


def _latencies(times: dict[str, float], pair: Pair, size: Size, limits: dict[str, float]) -> dict[str, float]:
    """Return the latencies of one of our sides, and how much of the machine's limits they use."""
    token = (times[ANSWER] - times[FIRST]) / (size.new_tokens - 1)
    weights = sum(p.numel() for p in pair.ours.model.language_model.layers.parameters())
    flops = 2 * weights * (pair.visual_tokens + size.prompt_tokens)
    read = size.dtype.itemsize * (weights + pair.ours.lm_head.weight.numel())
    return {
        "first token, ms": times[FIRST],
        "follow-up, ms": times[FOLLOW_UP],
        "ms a token": token,
        "many questions, ms": times[MANY],
        "first token, share of the matrix product": flops / (times[FIRST] / 1000) / limits["flops_per_s"],
        "decoding, share of the copy": read / (token / 1000) / limits["bytes_per_s"],
    }
