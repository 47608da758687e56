"""Paired tests of two models on the same questions, with panoramas as clusters: difference, interval, p value, Holm.

Intervals are percentile bootstraps that draw whole panoramas, each with both models' answers. P values come from a
permutation test that swaps the two models' answers per panorama: if the models are equal, every swap is as likely as
the observed assignment. Clusters are sorted by name, so that the order of the questions does not matter.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS = 10_000
# Numbers in the largest array of one step; affects memory, not results.
_AT_ONCE = 1_000_000

Floats = NDArray[np.float64]
# Maps the number of copies of each item `[draws, n]` to the score of each draw `[draws]`.
Statistic = Callable[[NDArray[np.int64]], Floats]


class Paired(NamedTuple):
    """Scores `a` and `b`, `difference` = b - a with its interval, and p values.

    `p` is two-sided, `p_less` tests for differences as low as this one, and `p_greater` for those as high.
    """

    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    p_less: float
    p_greater: float


def paired_mean(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[Hashable],
    groups: Sequence[Hashable] | None = None,
    *,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> Paired:
    """Compare the means of values `[n]`, or the means over `groups` (question types) of the means within each.

    Sources: Noreen, Computer-Intensive Methods for Testing Hypotheses, 1989 (approximate randomisation; here the sign
    of a panorama's whole difference is flipped); Efron and Tibshirani, An Introduction to the Bootstrap, 1993.

    Raises:
        ValueError: there is no value, a value is not finite, or the lengths differ.
    """
    first, second, cluster = _checked(a, b, clusters)
    group = np.zeros(len(cluster), dtype=np.int64) if groups is None else _codes(groups)
    if len(group) != len(cluster):
        raise ValueError(f"{len(cluster)} values but {len(group)} groups; each value needs one")
    counts = np.zeros((cluster.max() + 1, group.max() + 1))
    sums_a, sums_b = np.zeros_like(counts), np.zeros_like(counts)
    for table, numbers in ((counts, 1.0), (sums_a, first), (sums_b, second)):
        np.add.at(table, (cluster, group), numbers)

    def means(sums: Floats, copies: NDArray[np.int64]) -> Floats:
        weights = copies.astype(np.float64)
        present = weights @ counts
        # A group that is absent from a draw is left out of that draw's mean.
        total = np.divide(weights @ sums, present, out=np.zeros_like(present), where=present > 0)
        return total.sum(axis=1) / (present > 0).sum(axis=1)

    moved = ((sums_b - sums_a) / counts.sum(axis=0)).mean(axis=1)
    null = [(1.0 - 2.0 * swap) @ moved for swap in _swaps(len(moved), len(moved), draws, seed)]
    drawn = [(means(sums_a, copies), means(sums_b, copies)) for copies in _copies(len(moved), len(moved), draws, seed)]
    everything = np.ones((1, len(moved)), dtype=np.int64)
    return _result(means(sums_a, everything)[0], means(sums_b, everything)[0], drawn, level, np.concatenate(null))


def paired_median(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[Hashable],
    *,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> Paired:
    """Compare the medians of values `[n]`: the difference of the medians, not the median of the differences.

    Sources as in `paired_mean`; here the two models' values of a panorama are swapped.

    Raises:
        ValueError: there is no value, a value is not finite, or the lengths differ.
    """
    first, second, cluster = _checked(a, b, clusters)
    count, n = int(cluster.max()) + 1, len(first)
    both = np.concatenate((first, second))
    order = np.argsort(both, kind="stable")
    owner, of_b = cluster[order % n], (order >= n).astype(np.int8)
    null = []
    for swap in _swaps(count, 2 * n, draws, seed):
        reached = np.cumsum(
            swap[:, owner] ^ of_b, axis=1, dtype=np.int32
        )  # of the values that belong to b after the swap
        medians_a = _medians(both[order], np.arange(1, 2 * n + 1, dtype=np.int32) - reached)
        null.append(_medians(both[order], reached) - medians_a)
    orders = [np.argsort(values, kind="stable") for values in (first, second)]
    drawn = []
    for copies in _copies(count, n, draws, seed):
        counts = [np.cumsum(copies[:, cluster[own]], axis=1, dtype=np.int32) for own in orders]
        drawn.append((_medians(first[orders[0]], counts[0]), _medians(second[orders[1]], counts[1])))
    return _result(float(np.median(first)), float(np.median(second)), drawn, level, np.concatenate(null))


def paired_statistic(
    a: Statistic,
    b: Statistic,
    clusters: Sequence[Hashable],
    *,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> Paired:
    """Compare a statistic that single questions do not have (average precision), by a bootstrap alone.

    `a` and `b` take the number of copies of each item `[draws, n]`. A p value is the share of draws whose difference is
    zero or has the other sign (Efron and Tibshirani, 1993, section 15.4, the achieved significance level). Draws with
    an undefined statistic (NaN) are left out.

    Raises:
        ValueError: there is no item, or a statistic of all items is not finite.
    """
    if not len(clusters):
        raise ValueError("there are no items to compare; a paired test needs at least one")
    cluster = _codes(clusters)
    everything = np.ones((1, len(cluster)), dtype=np.int64)
    drawn = []
    for copies in _copies(int(cluster.max()) + 1, len(cluster), draws, seed):
        items = copies[:, cluster]
        drawn.append((a(items), b(items)))
    return _result(float(a(everything)[0]), float(b(everything)[0]), drawn, level, None)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values corrected for their number. Source: Holm, A simple sequentially rejective test, 1979."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return corrected.tolist()


def _checked(a: ArrayLike, b: ArrayLike, clusters: Sequence[Hashable]) -> tuple[Floats, Floats, NDArray[np.int64]]:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or len(first) != len(clusters):
        raise ValueError(
            f"values of shape {list(first.shape)} and {list(second.shape)} but {len(clusters)} clusters; "
            "both models need one value for each question"
        )
    if not len(first):
        raise ValueError("there are no values to compare; a paired test needs at least one")
    for side, numbers in (("first", first), ("second", second)):
        bad = np.flatnonzero(~np.isfinite(numbers))
        if len(bad):
            where = f"value {bad[0]} (cluster {clusters[bad[0]]!r}) of the {side} model"
            raise ValueError(f"{where} is {numbers[bad[0]]}; values must be finite")
    return first, second, _codes(clusters)


def _codes(names: Sequence[Hashable]) -> NDArray[np.int64]:
    """Return a number for each name, from 0 in sorted order."""
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}  # type: ignore[type-var]
    return np.array([numbers[name] for name in names], dtype=np.int64)


def _steps(width: int, draws: int) -> Iterator[int]:
    """Yield numbers of draws that sum to `draws`, each small enough for arrays of `width` columns."""
    if draws < 1:
        raise ValueError(f"draws is {draws}; a paired test needs at least 1")
    step = max(1, _AT_ONCE // width)
    for start in range(0, draws, step):
        yield min(step, draws - start)


def _copies(count: int, width: int, draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield the number of copies of each of `count` clusters in bootstrap draws `[step, count]`."""
    generator = np.random.default_rng(seed)
    for step in _steps(width, draws):
        drawn = generator.integers(count, size=(step, count)) + count * np.arange(step)[:, None]
        yield np.bincount(drawn.ravel(), minlength=step * count).reshape(step, count)


def _swaps(count: int, width: int, draws: int, seed: int) -> Iterator[NDArray[np.int8]]:
    """Yield which of `count` clusters swap their models, 0 or 1 `[step, count]`."""
    generator = np.random.default_rng((seed, 1))
    for step in _steps(width, draws):
        # Drawn as int64: smaller types discard bits at the end of each step, so that results would depend on steps.
        yield generator.integers(2, size=(step, count)).astype(np.int8)


def _medians(ranked: Floats, reached: NDArray[np.integer]) -> Floats:
    """Return medians `[draws]` of sorted values `[n]`; `reached` `[draws, n]` counts those up to and including each."""
    size = reached[:, -1:]
    lower, upper = (reached > (size - 1) // 2).argmax(axis=1), (reached > size // 2).argmax(axis=1)
    return (ranked[lower] + ranked[upper]) / 2


def _result(a: float, b: float, drawn: list[tuple[Floats, Floats]], level: float, null: Floats | None) -> Paired:
    """Return the comparison; `null` are the differences under swaps, or None for p values from the bootstrap.

    The observed assignment counts as one more swap, so that p is never 0. Source: Phipson and Smyth, Permutation
    P-values should never be zero, 2010.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must be between 0 and 1")
    if not np.isfinite([a, b]).all():
        raise ValueError(f"the statistic of all items is {a} and {b}; a paired test needs finite ones")
    difference = b - a
    differences = np.concatenate([second - first for first, second in drawn])
    differences = differences[np.isfinite(differences)]
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    if null is None:
        less, greater = _p_value(differences >= 0), _p_value(differences <= 0)
        both = min(1.0, 2 * min(less, greater))
    else:
        slack = 1e-9 * float(np.abs(null).max())  # tied swaps differ by rounding
        less, greater = _p_value(null <= difference + slack), _p_value(null >= difference - slack)
        both = _p_value(np.abs(null) >= abs(difference) - slack)
    return Paired(float(a), float(b), float(difference), float(low), float(high), both, less, greater)


def _p_value(as_extreme: NDArray[np.bool_]) -> float:
    return float((1 + as_extreme.sum()) / (1 + len(as_extreme)))
