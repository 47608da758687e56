"""How much scores depend on how the camera happened to stand: rolls, the seam, latitude and tilts.

Plain numbers out of plain outcomes. A score is a mean over groups (question types) of their means; its interval is a
95 % bootstrap over panoramas. A question may lack an unambiguous answer at some rolls; it then counts at the others.
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
    """One answer: its value, at best 1, the turn, and whether it says what the answer without a turn says."""

    panorama: str
    question: Hashable
    group: str
    turn_deg: float
    value: float
    agrees: bool = True


def yaw_scores(plain: Sequence[Outcome], rolled: Sequence[Outcome], *, resamples: int, seed: int) -> Block:
    """Return how the answers to questions hold out under K rolls.

    `plain` is the score without a roll, `mean` that over the rolls, `ratio` the second over the first; `agreement` the
    share of rolled answers that say the same as the plain one; `all` the share of questions that are right (value 1) at
    every roll; `worst` the lowest score of any roll, drawn anew in each resample; `yaws` the score at each.

    Raises:
        ValueError: fewer than two rolls, a roll that is not finite, a rolled question that is not among the plain ones.
    """
    rolls = sorted({o.turn_deg for o in rolled})
    if len(rolls) < 2 or not np.isfinite(rolls).all():
        raise ValueError(f"rolls of {rolls} degrees; consistency needs at least two finite ones")
    rows = {o.question: row for row, o in enumerate(plain)}
    values, agrees = (np.full((len(plain), len(rolls)), np.nan) for _ in range(2))
    for o in rolled:
        if o.question not in rows:
            raise ValueError(f"question {o.question!r} of panorama {o.panorama!r} has no plain outcome to compare with")
        values[rows[o.question], rolls.index(o.turn_deg)] = o.value
        agrees[rows[o.question], rolls.index(o.turn_deg)] = o.agrees
    turned = ~np.isnan(values).all(axis=1)
    asked, values, agrees = [o for o, kept in zip(plain, turned, strict=True) if kept], values[turned], agrees[turned]
    groups, panoramas = [o.group for o in asked], [o.panorama for o in asked]
    # Columns: the plain value, the mean over the rolls, agreement, right at every roll, then the value at each roll.
    columns = np.column_stack(
        [
            [o.value for o in asked],
            np.nanmean(values, axis=1),
            np.nanmean(agrees, axis=1),
            np.nanmin(values, axis=1) >= 1,
            values,
        ]
    )
    means = _macro_means(columns, groups)
    draws = {"resamples": resamples, "seed": seed}

    statistics: dict[str, Callable[[Floats], float]] = {
        "plain": lambda m: m[0],
        "mean": lambda m: m[1],
        "ratio": lambda m: m[1] / m[0] if m[0] else np.nan,  # of no resample in which nothing is right
        "agreement": lambda m: m[2],
        "all": lambda m: m[3],
        "worst": lambda m: m[4:].min(),
    }
    block: Block = {}
    for name, statistic in statistics.items():
        if name == "ratio" and not means(np.arange(len(asked)))[0]:
            continue  # nothing is right without a roll: there is no ratio
        block[name] = _block(clustered_statistic(partial(_of_items, means, statistic), panoramas, **draws))
    at_roll = {f"{roll:g}": [o for o in rolled if o.turn_deg == roll] for roll in rolls}
    block["yaws"] = {name: mean_score(found, **draws) for name, found in at_roll.items()}
    return block | {"n": len(asked)}


def mean_score(outcomes: Sequence[Outcome], *, resamples: int, seed: int) -> Block:
    """Return the score of outcomes with its interval and their number."""
    groups, panoramas = [o.group for o in outcomes], [o.panorama for o in outcomes]
    interval = clustered_macro_mean([o.value for o in outcomes], groups, panoramas, resamples=resamples, seed=seed)
    return _block(interval) | {"n": len(outcomes)}


def seam_gap(away: Sequence[Outcome], seam: Sequence[Outcome], *, resamples: int, seed: int) -> Block:
    """Return the means of the same questions with their object away from the seam and astride it, and their gap.

    Each pair counts alike. Positive gaps say that the seam does harm.

    Raises:
        ValueError: the two do not ask the same questions, each once.
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
    """Return the mean in each band of `BANDS_DEG`, by the latitude of what is asked about; each answer counts alike.

    Raises:
        ValueError: a latitude beyond the poles.
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
    """Return a function of items: the mean over groups of the mean of each column `[n, M]`, missing values left out."""
    member = np.array([[group == name for name in dict.fromkeys(groups)] for group in groups], dtype=np.float64)
    known = ~np.isnan(columns)
    sums, counts = np.nan_to_num(columns), known.astype(np.float64)

    def means(items: NDArray[np.int64]) -> Floats:
        # How often each item is drawn, as a weight: one product in place of a copy of all columns.
        weighted = member * np.bincount(items, minlength=len(member))[:, None]
        total, count = weighted.T @ sums, weighted.T @ counts
        with np.errstate(invalid="ignore"):  # a column without any value in these items has no mean: NaN
            return np.asarray((total / np.maximum(count, 1)).sum(axis=0) / (count > 0).sum(axis=0))

    return means


def _of_items(
    means: Callable[[NDArray[np.int64]], Floats], statistic: Callable[[Floats], float], items: NDArray[np.int64]
) -> float:
    return float(statistic(means(items)))


def _block(interval: Interval, name: str = "value") -> Block:
    return {name: interval.value, "low": interval.low, "high": interval.high}
