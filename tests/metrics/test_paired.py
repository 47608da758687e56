"""Paired tests: p is uniform under the null and falls with the effect; panoramas are the units; Holm's correction."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import kstest, permutation_test

from panollava.metrics.paired import Paired, holm, paired_mean, paired_median, paired_statistic

Answers = tuple[NDArray, NDArray, NDArray]


def answers(generator: np.random.Generator, panoramas: int, questions: int, effect: float = 0.0) -> Answers:
    """Return two models' values and their panoramas; values vary far less within a panorama than across panoramas."""
    hardness = generator.normal(size=(panoramas, 1))
    taste = generator.normal(size=(2, panoramas, 1))
    noise = 0.5 * generator.normal(size=(2, panoramas, questions))
    a, b = hardness + taste + noise + np.array([0, effect])[:, None, None]
    return a.ravel(), b.ravel(), np.repeat(np.arange(panoramas), questions)


def p_values(test: Any, effect: float, repetitions: int, seed: int = 0) -> NDArray:
    generator = np.random.default_rng(seed)
    tests = [test(*answers(generator, 40, 3, effect), draws=400, seed=seed) for seed in range(repetitions)]
    return np.array([(t.p, t.p_less, t.p_greater) for t in tests])


@pytest.mark.parametrize("test", [paired_mean, paired_median])
def test_p_is_uniform_under_the_null(test: Any) -> None:
    p = p_values(test, 0.0, 1500)
    assert all(0.03 <= rate <= 0.07 for rate in (p <= 0.05).mean(axis=0))
    for one in p.T:
        assert kstest(one, "uniform").pvalue > 0.001


def test_p_of_the_bootstrap_alone_keeps_its_level_with_many_panoramas() -> None:
    generator, p = np.random.default_rng(11), []
    for seed in range(1000):
        a, b, panoramas = answers(generator, 100, 2)
        sides = [lambda copies, values=values: copies @ values / copies.sum(axis=1) for values in (a, b)]
        test = paired_statistic(*sides, panoramas, draws=300, seed=seed)
        p.append((test.p, test.p_less, test.p_greater))
    assert all(0.03 <= rate <= 0.07 for rate in (np.array(p) <= 0.05).mean(axis=0))


def test_questions_as_units_would_reject_too_often() -> None:
    generator = np.random.default_rng(1)
    naive = []
    for seed in range(200):
        a, b, panoramas = answers(generator, 40, 5)
        naive.append(paired_mean(a, b, np.arange(len(panoramas)), draws=200, seed=seed).p <= 0.05)
    assert np.mean(naive) > 0.2


@pytest.mark.parametrize("test", [paired_mean, paired_median])
def test_power_grows_with_the_effect(test: Any) -> None:
    power = [float((p_values(test, effect, 200) <= 0.05).mean(axis=0)[0]) for effect in (0.0, 0.4, 0.8, 1.6)]
    assert power == sorted(power)
    assert power[0] < 0.1 < 0.95 < power[-1]


def test_one_sided_p_values_know_the_direction() -> None:
    better = paired_mean(*answers(np.random.default_rng(2), 60, 5, effect=1.0))
    assert better.difference > 0.5
    assert better.p_greater < 0.01 < 0.99 < better.p_less
    a, b, panoramas = answers(np.random.default_rng(2), 60, 5, effect=1.0)
    worse = paired_mean(b, a, panoramas)
    assert (worse.p_less, worse.p_greater, worse.p) == (better.p_greater, better.p_less, better.p)


@pytest.mark.parametrize("test", [paired_mean, paired_median])
def test_results_do_not_depend_on_the_order_of_questions(test: Any) -> None:
    a, b, numbers = answers(np.random.default_rng(3), 30, 4, effect=0.3)
    names = np.array([f"pano_{number}" for number in numbers])
    order = np.random.default_rng(4).permutation(len(a))
    assert test(a[order], b[order], names[order]) == pytest.approx(test(a, b, names), abs=1e-12)


@pytest.mark.parametrize("test", [paired_mean, paired_median])
def test_repeated_questions_are_no_new_evidence(test: Any) -> None:
    a, b, panoramas = answers(np.random.default_rng(5), 50, 3, effect=0.3)
    once, twice = test(a, b, panoramas), test(*(np.tile(x, 2) for x in (a, b, panoramas)))
    assert twice == pytest.approx(once, abs=1e-12)
    # With each question as its own cluster, the interval would be too narrow.
    naive = test(*(np.tile(x, 2) for x in (a, b)), np.arange(2 * len(a)))
    assert naive.high - naive.low < (once.high - once.low) / 1.4


def test_intervals_cover_the_effect() -> None:
    generator = np.random.default_rng(6)
    tests = [paired_mean(*answers(generator, 60, 4, effect=0.5), draws=300, seed=seed) for seed in range(300)]
    assert 0.91 <= np.mean([test.low <= 0.5 <= test.high for test in tests]) <= 0.98


@pytest.mark.parametrize("test", [paired_mean, paired_median])
def test_a_model_does_not_differ_from_itself(test: Any) -> None:
    a, _, panoramas = answers(np.random.default_rng(7), 20, 3)
    same = test(a, a, panoramas)
    assert same == Paired(same.a, same.a, 0, 0, 0, 1, 1, 1)


def test_p_agrees_with_scipy() -> None:
    a, b, panoramas = answers(np.random.default_rng(8), 12, 4, effect=0.6)
    moved = np.bincount(panoramas, weights=b - a)
    ours = paired_mean(a, b, panoramas, draws=20_000)
    for name, alternative in (("p", "two-sided"), ("p_less", "less"), ("p_greater", "greater")):
        theirs = permutation_test(
            (moved,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative=alternative
        )
        assert ours._asdict()[name] == pytest.approx(theirs.pvalue, abs=0.01)


def test_groups_have_equal_weights_and_absent_ones_none() -> None:
    a, b = np.array([0, 0, 0, 1.0]), np.array([1, 1, 1, 1.0])
    test = paired_mean(a, b, ["p", "p", "p", "q"], ["many", "many", "many", "one"])
    assert (test.a, test.b, test.difference) == (0.5, 1, 0.5)
    # Draws of p alone have a difference of 1, of q alone of 0.
    assert (test.low, test.high) == (0, 1)


def test_medians_equal_numpy() -> None:
    generator = np.random.default_rng(9)
    values, clusters = generator.integers(0, 6, size=(2, 30)), generator.integers(0, 7, size=30)
    test = paired_median(*values, clusters)
    assert (test.a, test.b) == tuple(np.median(values, axis=1))

    def median(side: int) -> Any:
        return lambda copies: np.array([np.median(np.repeat(values[side], row)) for row in copies], dtype=float)

    by_hand = paired_statistic(median(0), median(1), clusters, draws=500)
    assert paired_median(*values, clusters, draws=500)[:5] == by_hand[:5]


def test_results_do_not_depend_on_the_memory_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, panoramas = answers(np.random.default_rng(10), 17, 3, effect=0.3)
    whole = [test(a, b, panoramas, draws=1000) for test in (paired_mean, paired_median)]
    monkeypatch.setattr("panollava.metrics.paired._AT_ONCE", 17 * 93)
    assert [test(a, b, panoramas, draws=1000) for test in (paired_mean, paired_median)] == whole


def test_draws_with_an_undefined_statistic_are_left_out() -> None:
    def where_first_is_drawn(value: float) -> Any:
        return lambda copies: np.where(copies[:, 0] > 0, value, np.nan)

    test = paired_statistic(where_first_is_drawn(1.0), where_first_is_drawn(0.0), ["p", "q"], draws=999)
    assert test[:5] == (1, 0, -1, -1, -1)
    assert test.p_less == pytest.approx(1 / 750, rel=0.1)  # a quarter of the draws is undefined
    with pytest.raises(ValueError, match="needs finite ones"):
        paired_statistic(where_first_is_drawn(np.nan), where_first_is_drawn(0.0), ["p"])


def test_holm_equals_a_hand_computation() -> None:
    # Sorted .01 .03 .04 .20 times 4 3 2 1 is .04 .09 .08 .20, and no p may be below the one before it.
    assert holm([0.04, 0.01, 0.2, 0.03]) == pytest.approx([0.09, 0.04, 0.2, 0.09])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], []), "no values"),
        (([1, np.nan], [1, 1], ["p", "q"]), r"value 1 \(cluster 'q'\) of the first model is nan"),
        (([1], [np.inf], ["p"]), "of the second model is inf"),
        (([1, 2], [1], ["p", "q"]), "one value for each question"),
        (([1], [1], ["p", "q"]), "one value for each question"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments: Any, message: str) -> None:
    for test in (paired_mean, paired_median):
        with pytest.raises(ValueError, match=message):
            test(*arguments)


def test_impossible_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="draws is 0"):
        paired_mean([1], [1], ["p"], draws=0)
    with pytest.raises(ValueError, match="level is 1"):
        paired_median([1], [1], ["p"], level=1)
    with pytest.raises(ValueError, match="1 values but 2 groups"):
        paired_mean([1], [1], ["p"], ["x", "y"])
    with pytest.raises(ValueError, match="no items"):
        paired_statistic(lambda copies: copies, lambda copies: copies, [])
