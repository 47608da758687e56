"""Dependence of scores on the rotation of the panorama, on the seam and on latitude.

A score is the mean over groups (question types) of the mean of each group; its interval is a 95 % bootstrap over
panoramas. A question without an unambiguous answer at some yaws counts at the others only.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panollava.metrics.intervals import Interval, clustered_bootstrap, clustered_macro_mean, clustered_statistic

Block = dict[str, Any]
Floats = NDArray[np.float64]
# Bands of latitude, in degrees from the horizon; the last one holds the pole.
BANDS_DEG = (0, 15, 30, 45, 60, 90)


@dataclass(frozen=True)
class Outcome:
    """One answer: its value, at most 1, the rotation, and whether it agrees with the answer without a rotation."""

    panorama: str
    question: Hashable
    group: str
    rotation_deg: float
    value: float
    agrees: bool = True


def yaw_scores(plain: Sequence[Outcome], rotated: Sequence[Outcome], *, resamples: int, seed: int) -> Block:
    """Return the consistency of answers over K yaws.

    - `plain`: the score without a rotation; `mean`: the score over all yaws; `ratio`: `mean` / `plain`.
    - `agreement`: the share of answers at a yaw that agree with the plain answer.
    - `all`: the share of questions that are right (value 1) at every yaw.
    - `worst`: the lowest score of any yaw, chosen again in each resample.
    - `yaws`: the score at each yaw.

    Raises:
        ValueError: there are fewer than two yaws, a yaw is not finite, or a rotated question has no plain outcome.
    """
    yaws = sorted({o.rotation_deg for o in rotated})
    if len(yaws) < 2 or not np.isfinite(yaws).all():
        raise ValueError(f"yaws of {yaws} degrees; consistency needs at least two finite ones")
    answered, columns = _columns(plain, rotated, yaws)
    panoramas = [o.panorama for o in answered]
    means = _macro_means(columns, [o.group for o in answered])
    draws = {"resamples": resamples, "seed": seed}
    statistics: dict[str, Callable[[Floats], float]] = {
        "plain": lambda m: m[0],
        "mean": lambda m: m[1],
        "ratio": lambda m: m[1] / m[0] if m[0] else np.nan,  # undefined for a resample in which nothing is right
        "agreement": lambda m: m[2],
        "all": lambda m: m[3],
        "worst": lambda m: m[4:].min(),
    }
    block: Block = {}
    for name, statistic in statistics.items():
        if name == "ratio" and not means(np.arange(len(answered)))[0]:
            continue  # nothing is right without a rotation, so that the ratio is undefined
        block[name] = _block(clustered_statistic(partial(_of_items, means, statistic), panoramas, **draws))
    at_yaw = {f"{yaw:g}": [o for o in rotated if o.rotation_deg == yaw] for yaw in yaws}
    block["yaws"] = {name: mean_score(found, **draws) for name, found in at_yaw.items()}
    return block | {"n": len(answered)}


def _columns(plain: Sequence[Outcome], rotated: Sequence[Outcome], yaws: list[float]) -> tuple[list[Outcome], Floats]:
    """Return the plain outcomes of the rotated questions, and one row of numbers for each `[n, 4 + K]`.

    Columns: the plain value, the mean over the yaws, the agreement, right at every yaw, then the value at each yaw.
    """
    rows = {o.question: row for row, o in enumerate(plain)}
    values, agrees = (np.full((len(plain), len(yaws)), np.nan) for _ in range(2))
    for o in rotated:
        if o.question not in rows:
            raise ValueError(f"question {o.question!r} of panorama {o.panorama!r} has no plain outcome to compare with")
        values[rows[o.question], yaws.index(o.rotation_deg)] = o.value
        agrees[rows[o.question], yaws.index(o.rotation_deg)] = o.agrees
    kept = ~np.isnan(values).all(axis=1)
    answered, values, agrees = [o for o, keep in zip(plain, kept, strict=True) if keep], values[kept], agrees[kept]
    derived = [np.nanmean(values, axis=1), np.nanmean(agrees, axis=1), np.nanmin(values, axis=1) >= 1]
    return answered, np.column_stack([[o.value for o in answered], *derived, values])


def mean_score(outcomes: Sequence[Outcome], *, resamples: int, seed: int) -> Block:
    """Return the score of outcomes with its interval and their number."""
    groups, panoramas = [o.group for o in outcomes], [o.panorama for o in outcomes]
    interval = clustered_macro_mean([o.value for o in outcomes], groups, panoramas, resamples=resamples, seed=seed)
    return _block(interval) | {"n": len(outcomes)}


def seam_gap(away: Sequence[Outcome], seam: Sequence[Outcome], *, resamples: int, seed: int) -> Block:
    """Return the means of the same questions with their object away from the seam and astride it, and their gap.

    Each pair has the same weight. A positive gap means that the seam lowers the score.

    Raises:
        ValueError: the two do not hold the same questions, each once.
    """
    astride = {o.question: o.value for o in seam}
    if not len({o.question for o in away} & astride.keys()) == len(astride) == len(seam) == len(away):
        raise ValueError(
            f"{len(away)} answers away from the seam, {len(seam)} astride; they must be pairs of questions"
        )
    before, after = np.array([[o.value, astride[o.question]] for o in away], dtype=np.float64).T
    panoramas = [o.panorama for o in away]
    gap = clustered_bootstrap(before - after, panoramas, resamples=resamples, seed=seed)
    return {"away": float(before.mean()), "seam": float(after.mean()), **_block(gap, "gap"), "n": len(away)}


def latitude_bands(
    outcomes: Sequence[Outcome], latitudes_deg: Sequence[float], *, resamples: int, seed: int
) -> dict[str, Block]:
    """Return the mean in each band of `BANDS_DEG`, by the latitude of the object in question, over all answers.

    Raises:
        ValueError: a latitude is beyond the poles.
    """
    bands: dict[str, Block] = {}
    for low, high in pairwise(BANDS_DEG):
        inside = [low <= abs(latitude) < high or abs(latitude) == high == 90 for latitude in latitudes_deg]
        found = [o for o, kept in zip(outcomes, inside, strict=True) if kept]
        if found:
            values, panoramas = [o.value for o in found], [o.panorama for o in found]
            interval = clustered_bootstrap(values, panoramas, resamples=resamples, seed=seed)
            bands[f"{low}-{high}"] = _block(interval) | {"n": len(found)}
    if sum(band["n"] for band in bands.values()) < len(outcomes):
        raise ValueError(f"a latitude of {max(map(abs, latitudes_deg))} degrees; it must be within 90")
    return bands


def _macro_means(columns: Floats, groups: Sequence[str]) -> Callable[[NDArray[np.int64]], Floats]:
    """Return a function of items: the mean over groups of the mean of each column `[n, M]`, without missing values."""
    member = np.array([[group == name for name in dict.fromkeys(groups)] for group in groups], dtype=np.float64)
    known = ~np.isnan(columns)
    sums, counts = np.nan_to_num(columns), known.astype(np.float64)

    def means(items: NDArray[np.int64]) -> Floats:
        # The number of draws of each item is its weight: one matrix product instead of a copy of all columns.
        weighted = member * np.bincount(items, minlength=len(member))[:, None]
        total, count = weighted.T @ sums, weighted.T @ counts
        with np.errstate(invalid="ignore"):  # a column without any value in these items has the mean NaN
            return np.asarray((total / np.maximum(count, 1)).sum(axis=0) / (count > 0).sum(axis=0))

    return means


def _of_items(
    means: Callable[[NDArray[np.int64]], Floats], statistic: Callable[[Floats], float], items: NDArray[np.int64]
) -> float:
    return float(statistic(means(items)))


def _block(interval: Interval, name: str = "value") -> Block:
    return {name: interval.value, "low": interval.low, "high": interval.high}
