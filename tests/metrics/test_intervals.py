"""Clustered intervals: coverage where a naive bootstrap is too narrow, determinism, agreement of fast paths."""

import numpy as np
import pytest
from numpy.typing import NDArray

from panollava.metrics.intervals import clustered_bootstrap, clustered_macro_mean, clustered_statistic


def correlated(generator: np.random.Generator, panoramas: int, questions: int) -> tuple[NDArray, NDArray]:
    """Return values of mean 0 that vary far more across panoramas than within one."""
    centre = generator.normal(size=(panoramas, 1))
    values = centre + 0.3 * generator.normal(size=(panoramas, questions))
    return values.ravel(), np.repeat(np.arange(panoramas), questions)


def covers(interval: tuple[float, float, float], truth: float) -> bool:
    return interval[1] <= truth <= interval[2]


def test_intervals_cover_the_truth_at_their_level() -> None:
    generator = np.random.default_rng(0)
    clustered, naive = [], []
    for seed in range(300):
        values, panoramas = correlated(generator, panoramas=60, questions=6)
        clustered.append(covers(clustered_bootstrap(values, panoramas, resamples=200, seed=seed), 0))
        if seed < 100:
            naive.append(covers(clustered_bootstrap(values, np.arange(len(values)), resamples=200, seed=seed), 0))
    assert 0.92 <= np.mean(clustered) <= 0.98
    assert np.mean(naive) < 0.75


def test_median_intervals_cover_the_truth() -> None:
    generator = np.random.default_rng(1)
    covered = []
    for seed in range(100):
        values, panoramas = correlated(generator, panoramas=60, questions=3)
        covered.append(covers(clustered_bootstrap(values, panoramas, "median", resamples=100, seed=seed), 0))
    assert 0.88 <= np.mean(covered) <= 0.99


def test_value_is_the_statistic_and_inside_its_interval() -> None:
    values, panoramas = correlated(np.random.default_rng(2), 40, 5)
    mean = clustered_bootstrap(values, panoramas)
    median = clustered_bootstrap(values, panoramas, "median")
    assert mean.value == pytest.approx(values.mean())
    assert median.value == pytest.approx(np.median(values))
    assert mean.low < mean.value < mean.high
    assert median.low < median.value < median.high


def test_a_higher_level_has_a_wider_interval() -> None:
    values, panoramas = correlated(np.random.default_rng(3), 40, 5)
    wide, narrow = (clustered_bootstrap(values, panoramas, level=level) for level in (0.99, 0.8))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_seed_determines_the_interval() -> None:
    values, panoramas = correlated(np.random.default_rng(4), 40, 5)
    assert clustered_bootstrap(values, panoramas, seed=7) == clustered_bootstrap(values, panoramas, seed=7)
    assert clustered_bootstrap(values, panoramas, seed=7) != clustered_bootstrap(values, panoramas, seed=8)


def test_any_statistic_draws_the_same_panoramas_as_the_mean() -> None:
    values, panoramas = correlated(np.random.default_rng(5), 30, 4)
    shuffled = np.random.default_rng(6).permutation(len(values))
    values, names = values[shuffled], [f"pano_{panorama}" for panorama in panoramas[shuffled]]
    by_indices = clustered_statistic(lambda items: float(values[items].mean()), names)
    assert by_indices == pytest.approx(clustered_bootstrap(values, names))


def test_whole_panoramas_are_drawn() -> None:
    names = ["a", "b", "a", "c", "b", "a"]
    seen = []

    def statistic(items: NDArray[np.int64]) -> float:
        seen.append(np.bincount(items, minlength=6))
        return 0.0

    clustered_statistic(statistic, names, resamples=50)
    for counts in seen:
        assert counts[0] == counts[2] == counts[5]
        assert counts[1] == counts[4]
        assert counts[0] + counts[1] + counts[3] == 3
    assert len({tuple(counts) for counts in seen}) > 3


def test_macro_mean_gives_question_types_equal_weights() -> None:
    values = [1, 1, 1, 1, 0, 0.5]
    groups = ["colour", "colour", "colour", "colour", "shape", "shape"]
    panoramas = ["a", "b", "c", "d", "a", "b"]
    interval = clustered_macro_mean(values, groups, panoramas)
    assert interval.value == pytest.approx((1 + 0.25) / 2)
    # A draw without "shape" counts the colours alone, one with "a" alone counts (1 + 0) / 2.
    assert interval.low == pytest.approx(0.5)
    assert interval.high == pytest.approx(1)


def test_macro_mean_of_one_group_is_the_mean() -> None:
    values, panoramas = correlated(np.random.default_rng(7), 20, 3)
    assert clustered_macro_mean(values, ["x"] * len(values), panoramas) == clustered_bootstrap(values, panoramas)


def test_undefined_resamples_are_left_out_but_not_an_undefined_score() -> None:
    def first_wanted(items: NDArray[np.int64]) -> float:
        return 0.7 if 0 in items else float("nan")

    assert clustered_statistic(first_wanted, [0, 1, 2]) == pytest.approx((0.7, 0.7, 0.7))
    with pytest.raises(ValueError, match="statistic of all items is nan"):
        clustered_statistic(lambda items: float("nan"), [0, 1, 2])


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_values_without_an_interval_are_refused(statistic: str) -> None:
    with pytest.raises(ValueError, match=r"value 1 \(cluster 'b'\) is nan"):
        clustered_bootstrap([0.0, float("nan")], ["a", "b"], statistic)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no values"):
        clustered_bootstrap([], [], statistic)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 clusters"):
        clustered_bootstrap([1.0], ["a", "b"], statistic)  # type: ignore[arg-type]


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="'mode'; it must be"):
        clustered_bootstrap([1.0], ["a"], "mode")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="level 95"):
        clustered_bootstrap([1.0], ["a"], level=95)
    with pytest.raises(ValueError, match="resamples is 0"):
        clustered_bootstrap([1.0], ["a"], resamples=0)
    with pytest.raises(ValueError, match="1 groups"):
        clustered_macro_mean([1.0, 2.0], ["x"], ["a", "b"])
    with pytest.raises(ValueError, match="no items"):
        clustered_statistic(lambda items: 0.0, [])
