"""Confidence intervals of scores by a bootstrap over clusters: whole panoramas are drawn, never single questions.

Questions about one panorama fail together, so intervals that assume independence are too narrow. All functions draw the
same clusters for the same seed. A paired comparison of two models is an interval of their differences.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Interval(NamedTuple):
    """A score and its percentile bootstrap interval; with one cluster, both bounds equal the score."""

    value: float
    low: float
    high: float


def clustered_bootstrap(
    values: ArrayLike,
    clusters: Sequence[Hashable],
    statistic: Literal["mean", "median"] = "mean",
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean or the median of values `[n]` with its interval; `clusters` `[n]` names each value's panorama.

    Raises:
        ValueError: there is no value, a value is not finite, or the lengths differ.
    """
    if statistic == "mean":
        one_group = [0] * len(clusters)
        return clustered_macro_mean(values, one_group, clusters, resamples=resamples, level=level, seed=seed)
    if statistic != "median":
        raise ValueError(f"statistic is {statistic!r}; it must be 'mean' or 'median'")
    numbers = _checked(values, clusters)
    return clustered_statistic(
        lambda items: float(np.median(numbers[items])), clusters, resamples=resamples, level=level, seed=seed
    )


def clustered_macro_mean(
    values: ArrayLike,
    groups: Sequence[Hashable],
    clusters: Sequence[Hashable],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean over groups (question types) of the mean of their values `[n]`, with its interval.

    A group that is absent from a resample is left out of that resample's mean.

    Raises:
        ValueError: there is no value, a value is not finite, or the lengths differ.
    """
    numbers = _checked(values, clusters)
    if len(groups) != len(numbers):
        raise ValueError(f"{len(numbers)} values but {len(groups)} groups; each value needs one")
    cluster, group = _codes(clusters), _codes(groups)
    sums = np.zeros((cluster.max() + 1, group.max() + 1))
    counts = np.zeros_like(sums)
    np.add.at(sums, (cluster, group), numbers)
    np.add.at(counts, (cluster, group), 1)

    def macro_mean(rows: NDArray[np.int64]) -> float:
        total, count = sums[rows].sum(axis=0), counts[rows].sum(axis=0)
        return float((total[count > 0] / count[count > 0]).mean())

    return _interval(macro_mean, len(sums), resamples, level, seed)


def clustered_statistic(
    statistic: Callable[[NDArray[np.int64]], float],
    clusters: Sequence[Hashable],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return any statistic, a function of item indices, with its interval.

    `clusters` `[n]` names each item's panorama; an index occurs as often as its panorama is drawn. A resample with an
    undefined statistic (NaN, such as average precision without any reference) is left out of the interval.

    Raises:
        ValueError: there is no item, or the statistic of all items is not finite.
    """
    if not len(clusters):
        raise ValueError("there are no items to resample; an interval needs at least one")
    cluster = _codes(clusters)
    members = np.split(np.argsort(cluster, kind="stable"), np.bincount(cluster).cumsum()[:-1])
    return _interval(
        lambda rows: statistic(np.concatenate([members[row] for row in rows])), len(members), resamples, level, seed
    )


def _checked(values: ArrayLike, clusters: Sequence[Hashable]) -> NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) != len(clusters):
        raise ValueError(f"values of shape {list(numbers.shape)} but {len(clusters)} clusters; each value needs one")
    if not len(numbers):
        raise ValueError("there are no values; an interval needs at least one")
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise ValueError(f"value {bad[0]} (cluster {clusters[bad[0]]!r}) is {numbers[bad[0]]}; values must be finite")
    return numbers


def _codes(names: Sequence[Hashable]) -> NDArray[np.int64]:
    """Return a number for each name, from 0 in the order of first appearance."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], dtype=np.int64)


def _draws(count: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield `resamples` draws of `count` clusters with replacement."""
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield generator.integers(count, size=count)


def _interval(
    statistic: Callable[[NDArray[np.int64]], float], count: int, resamples: int, level: float, seed: int
) -> Interval:
    """Return the statistic of `count` clusters with its percentile interval."""
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples is {resamples} and level {level}; they must be at least 1 and between 0 and 1")
    value = statistic(np.arange(count))
    if not np.isfinite(value):
        raise ValueError(f"the statistic of all items is {value}; an interval needs a finite one")
    drawn = np.array([statistic(rows) for rows in _draws(count, resamples, seed)])
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))
