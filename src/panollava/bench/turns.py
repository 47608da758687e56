"""Timing that two sides can agree on: they take turns, and each turn is compared with the other side's next to it.

Times are milliseconds. A GPU has finished before the clock is read.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Side = Callable[[], Any]
Name = TypeVar("Name")


def _finished() -> float:
    """Return the time in seconds once all that was asked of a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def check_rounds(rounds: int) -> None:
    """Raise a ValueError if a spread cannot be told from so few rounds."""
    if rounds < 2:
        raise ValueError(f"rounds is {rounds}; a spread takes at least 2")


def time_in_turns(sides: dict[Name, Side], rounds: int, turn_ms: float = 0) -> dict[Name, list[float]]:
    """Return the milliseconds of each side in each round after one to warm up; the order turns from round to round.

    A side that is quicker than `turn_ms` does its work again until about so long has passed. A GPU is not waited for in
    between, so Python may work ahead of it.
    """
    taken: dict[Name, list[float]] = {name: [] for name in sides}
    repeats = dict.fromkeys(sides, 1)
    names = list(sides)
    for round_ in range(rounds + 1):
        shift = round_ % len(names)
        for name in names[shift:] + names[:shift]:
            start = _finished()
            for _ in range(repeats[name]):
                sides[name]()
            taken[name].append(1000 * (_finished() - start) / repeats[name])
            if round_ == 0:
                repeats[name] = max(1, round(turn_ms / taken[name][0]))
    return {name: times[1:] for name, times in taken.items()}


def quartiles(values: list[float]) -> dict[str, float]:
    """Return the median and the quartiles of at least two values."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": low, "q3": high}


def ratios(times: list[float], others: list[float]) -> dict[str, float]:
    """Return the quartiles of how many times as long as the other side one side took, round by round."""
    return quartiles([own / other for own, other in zip(times, others, strict=True)])


def spread(values: dict[str, float], digits: int = 2) -> str:
    """Return quartiles as text: the median, and the first and third quartile in brackets."""
    return f"{values['median']:.{digits}f} ({values['q1']:.{digits}f}-{values['q3']:.{digits}f})"


def peak_memory_gb(sides: dict[Name, Side]) -> dict[Name, float]:
    """Return the most memory of the GPU that tensors took while each side ran, in 10^9 bytes; empty without a GPU."""
    if not torch.cuda.is_available():
        return {}
    peaks = {}
    for name, side in sides.items():
        torch.cuda.reset_peak_memory_stats()
        side()
        peaks[name] = torch.cuda.max_memory_allocated() / 1e9
    return peaks
