"""`panollava bench train`: one step of LoRA finetuning on K questions of a panorama, ours beside LLaVA's.

LLaVA trains one question a sequence, as documented, and at its best settings; and packed by hand under a 4-D mask; and
with all questions as one dialogue, which is another loss: each answer sees the earlier ones. A step is the losses,
their gradients, clipping and AdamW, under the mixed precision of the stages.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from panollava.attention.compiling import compile_layers
from panollava.attention.plan import use_plans
from panollava.bench.checks import check_gradients, check_losses
from panollava.bench.limits import device_name, machine_limits, sharing_bound
from panollava.bench.pair import Pair, adapt, build_pair, twin
from panollava.bench.records import Work, random_work
from panollava.bench.sizes import Size
from panollava.bench.steps import Losses, Trained, our_losses, peer_losses
from panollava.bench.turns import Side, check_rounds, peak_memory_gb, quartiles, ratios, time_in_turns
from panollava.vlm.labels import IGNORE

OURS, CACHED = "ours", "ours, encoder's features kept"
COMPILED, CHECKPOINTED = "ours, compiled", "ours, activation checkpointing"
DOCUMENTED, BEST = "LLaVA, as documented", "LLaVA, best settings"
PACKED, PACKED_BEST = "LLaVA, packed by hand", "LLaVA, packed by hand, best settings"
DIALOGUE, DIALOGUE_BEST = "LLaVA, one dialogue", "LLaVA, one dialogue, best settings"
STEP = "LoRA step"
OTHER_LOSS = (DIALOGUE, DIALOGUE_BEST)


@dataclass(frozen=True)
class Sides:
    """Everything that is timed: for each name the model and its losses."""

    trained: dict[str, Trained]
    losses: dict[str, Losses]

    def timed(self) -> dict[str, Side]:
        """Return the steps by name."""
        return {name: partial(self.trained[name].step, losses) for name, losses in self.losses.items()}


def build_sides(pair: Pair, work: Work, size: Size) -> Sides:
    """Return all sides, ours first, then LLaVA as documented."""
    ours, peer = adapt(pair, size)
    use_plans(pair.ours.model.language_model)
    rows = size.rows_at_once
    losses = {
        OURS: our_losses(ours, pair, work, cached=False),
        CACHED: our_losses(ours, pair, work, cached=True),
        DOCUMENTED: peer_losses(peer, pair, work.separate, rows, best=False),
        BEST: peer_losses(peer, pair, work.separate, rows, best=True),
        PACKED: peer_losses(peer, pair, work.masked, 1, best=False),
        PACKED_BEST: peer_losses(peer, pair, work.masked, 1, best=True),
        DIALOGUE: peer_losses(peer, pair, work.dialogue, 1, best=False),
        DIALOGUE_BEST: peer_losses(peer, pair, work.dialogue, 1, best=True),
    }
    own, theirs = Trained.of(ours, size), Trained.of(peer, size)
    sides = Sides({name: own if name in (OURS, CACHED) else theirs for name in losses}, losses)
    return with_variants(sides, pair, work) if size.device == "cuda" else sides


def with_variants(sides: Sides, pair: Pair, work: Work) -> Sides:
    """Return the sides and ours in two more ways, on the same parameters: its layers compiled; activations recomputed.

    They are for large models: at a small one, compiled code for the CPU saves nothing, and memory is no matter.
    """
    own = sides.trained[OURS]
    compiled, checkpointed = twin(own.model), twin(own.model)
    compile_layers(compiled.get_base_model().model.language_model.layers)
    checkpointed.activation_checkpointing_enable()
    more = {name: replace(own, model=model) for name, model in ((COMPILED, compiled), (CHECKPOINTED, checkpointed))}
    losses = {name: our_losses(trained.model, pair, work, cached=False) for name, trained in more.items()}
    return Sides(sides.trained | more, sides.losses | losses)


def check_sides(sides: Sides, pair: Pair, work: Work, size: Size) -> dict[str, Any]:
    """Return how far the sides are apart in loss and gradients from LLaVA as documented.

    Of the dialogue, only the first answer sees what it sees elsewhere; its loss is compared.

    Raises:
        ValueError: two sides that should compute the same do not.
    """
    peer = sides.trained[DOCUMENTED]
    wanted = float(peer.backward(sides.losses[DOCUMENTED]))
    gradients = peer.gradients()
    loss, gradient, count = 0.0, 0.0, 0
    for name in sides.losses:
        if name in OTHER_LOSS:
            continue
        found = float(sides.trained[name].backward(sides.losses[name]))
        loss = max(loss, check_losses(name, found, wanted, size.loss_tolerance))
        worst, count = check_gradients(name, sides.trained[name].gradients(), gradients, size.gradient_tolerance)
        gradient = max(gradient, worst)
    first = {name: value[:1] for name, value in work.separate.items()}
    alone = float(peer.backward(peer_losses(peer.model, pair, first, 1, best=False)))
    behind = work.dialogue["labels"].clone()
    behind[:, pair.visual_tokens + size.record_tokens :] = IGNORE
    for name, best in ((DIALOGUE, False), (DIALOGUE_BEST, True)):
        part = peer_losses(peer.model, pair, work.dialogue | {"labels": behind}, 1, best=best)
        check_losses(f"{name}, first answer", float(peer.backward(part)), alone, size.loss_tolerance)
    return {"loss": loss, "gradient": gradient, "gradients": count, "reference_loss": wanted}


def bench_train(size: Size, rounds: int) -> dict[str, Any]:
    """Return the times of a step on each side, and how many times as long as ours each takes.

    Raises:
        ValueError: sides that differ, fewer than two rounds, no GPU where the size needs one.
    """
    check_rounds(rounds)
    pair = build_pair(size)
    work = random_work(pair, size)
    sides = build_sides(pair, work, size)
    apart = check_sides(sides, pair, work, size)
    limits = machine_limits(size)
    timed = sides.timed()
    times, peaks = time_in_turns(timed, rounds, size.turn_ms), peak_memory_gb(timed)
    rows = {
        name: {"ms": quartiles(taken), "ratio": ratios(taken, times[OURS]), "peak_gb": peaks.get(name)}
        for name, taken in times.items()
    }
    work_text = (
        f"{size.records} questions of {size.record_tokens} tokens, answers included, on one panorama of "
        f"{pair.visual_tokens} visual tokens"
    )
    return {"size": size.name, "device": device_name(size), "work": work_text, "rounds": rounds, "apart": apart,
            "limits": limits, "measures": _measures(times, peaks, pair, size, limits),
            "workloads": {STEP: rows}}  # fmt: skip


def _measures(
    times: dict[str, list[float]], peaks: dict[str, float], pair: Pair, size: Size, limits: dict[str, float]
) -> dict[str, float]:
    """Return the numbers that goals are about; of the limit, frozen weights cost 4 operations a token and weight."""
    bound = sharing_bound(pair.visual_tokens, size.record_tokens, size.records)
    layers = pair.ours.model.language_model.layers
    frozen = sum(parameter.numel() for parameter in layers.parameters() if not parameter.requires_grad)
    flops = 4 * frozen * (pair.visual_tokens + size.records * size.record_tokens)
    measures = {"sharing bound": bound}
    for own, suffix in ((OURS, ""), (COMPILED, ", compiled")):
        if own in times:
            found = _compared(times, own, bound)
            found["share of the frozen-weight limit"] = flops / _seconds(times[own]) / limits["flops_per_s"]
            measures |= {f"{name}{suffix}": value for name, value in found.items()}
    named = {"peak memory, GB": OURS, "peak memory, activation checkpointing, GB": CHECKPOINTED}
    return measures | {measure: peaks[name] for measure, name in named.items() if size.device == "cuda"}


def _compared(times: dict[str, list[float]], own: str, bound: float) -> dict[str, float]:
    """Return how many times as long as one of our sides each way of LLaVA takes."""

    def ratio(*names: str) -> float:
        return min(ratios(times[name], times[own])["median"] for name in names)

    return {
        "documented": ratio(DOCUMENTED),
        "documented, share of the bound": ratio(DOCUMENTED) / bound,
        "best settings": ratio(DOCUMENTED, BEST),
        "best settings, share of the bound": ratio(DOCUMENTED, BEST) / bound,
        "packed by hand": ratio(PACKED),
        "packed by hand, best settings": ratio(PACKED, PACKED_BEST),
        "one dialogue": ratio(DIALOGUE),
        "one dialogue, best settings": ratio(DIALOGUE, DIALOGUE_BEST),
    }


def _seconds(milliseconds: list[float]) -> float:
    return quartiles(milliseconds)["median"] / 1000
