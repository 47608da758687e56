"""Robustness numbers: cases counted by hand, and agreement with the plain means and their intervals."""

import math

import numpy as np
import pytest

from panollava.metrics.intervals import clustered_bootstrap
from panollava.metrics.robustness_scores import Outcome, latitude_bands, mean_score, seam_gap, yaw_scores

DRAWS = {"resamples": 50, "seed": 0}


def outcome(question: int, value: float, rotation: float = 0.0, *, group: str = "a", agrees: bool = True) -> Outcome:
    return Outcome(f"panorama {question % 3}", question, group, rotation, value, agrees)


def at_yaws(table: dict[int, list[float | None]], yaws: list[float], **fields: str) -> list[Outcome]:
    """Return the outcomes of questions at each yaw; None if there is no unambiguous answer."""
    return [
        outcome(question, value, yaw, **fields)  # type: ignore[arg-type]
        for question, row in table.items()
        for yaw, value in zip(yaws, row, strict=True)
        if value is not None
    ]


def value(block: dict, name: str) -> float:
    assert block[name]["low"] <= block[name]["high"]
    return block[name]["value"]


def test_scores_over_yaws_equal_a_hand_computation() -> None:
    plain = [outcome(0, 1), outcome(1, 1), outcome(2, 0), outcome(3, 1)]
    rotated = at_yaws({0: [1, 1, 1, 1], 1: [1, 0, 0, 1], 2: [0, 0, 0, 0], 3: [1, None, 1, None]}, [90, 10, 30, 270])
    block = yaw_scores(plain, rotated, **DRAWS)
    assert value(block, "plain") == 0.75
    assert value(block, "mean") == (1 + 0.5 + 0 + 1) / 4
    assert value(block, "ratio") == pytest.approx(0.625 / 0.75)
    assert value(block, "all") == 0.5
    assert value(block, "worst") == pytest.approx(1 / 3)
    assert {yaw: block["yaws"][yaw]["value"] for yaw in block["yaws"]} == pytest.approx(
        {"10": 1 / 3, "30": 0.5, "90": 0.75, "270": 2 / 3}
    )
    assert list(block["yaws"]) == ["10", "30", "90", "270"]
    assert [block["yaws"][yaw]["n"] for yaw in block["yaws"]] == [3, 4, 4, 3]
    assert block["n"] == 4


def test_groups_have_equal_weights() -> None:
    plain = [outcome(q, 1) for q in range(6)] + [outcome(6, 0, group="b")]
    rotated = at_yaws({q: [1, 1] for q in range(6)}, [1, 2]) + at_yaws({6: [0, 1]}, [1, 2], group="b")
    block = yaw_scores(plain, rotated, **DRAWS)
    assert value(block, "plain") == 0.5
    assert value(block, "mean") == 0.75
    assert value(block, "all") == 0.5
    assert value(block, "worst") == 0.5
    assert value(block, "ratio") == 1.5


def test_agreement_is_the_share_of_answers_that_agree_right_or_wrong() -> None:
    plain = [outcome(0, 0), outcome(1, 1)]
    rotated = [outcome(0, 0, 1), outcome(0, 1, 2, agrees=False), outcome(1, 1, 1), outcome(1, 1, 2)]
    assert value(yaw_scores(plain, rotated, **DRAWS), "agreement") == 0.75


def test_questions_without_a_rotated_answer_do_not_count() -> None:
    plain = [outcome(0, 1), outcome(1, 0), outcome(2, 0)]
    block = yaw_scores(plain, at_yaws({0: [1, 1]}, [5, 6]), **DRAWS)
    assert (value(block, "plain"), block["n"]) == (1, 1)


def test_a_plain_score_of_zero_has_no_ratio() -> None:
    block = yaw_scores([outcome(0, 0)], at_yaws({0: [1, 0]}, [5, 6]), **DRAWS)
    assert "ratio" not in block
    assert value(block, "mean") == 0.5


def test_intervals_equal_those_of_the_means() -> None:
    generator = np.random.default_rng(0)
    plain = [outcome(q, float(generator.random() < 0.7), group="ab"[q % 2]) for q in range(90)]
    table = {q: list((generator.random(3) < 0.6).astype(float)) for q in range(90)}
    rotated = [o for q, row in table.items() for o in at_yaws({q: row}, [1, 2, 3], group="ab"[q % 2])]
    block = yaw_scores(plain, rotated, resamples=200, seed=4)
    assert block["plain"] == pytest.approx(
        {k: v for k, v in mean_score(plain, resamples=200, seed=4).items() if k != "n"}
    )
    assert block["mean"]["value"] == pytest.approx(mean_score(rotated, resamples=1, seed=0)["value"])
    assert block["worst"]["value"] == pytest.approx(min(yaw["value"] for yaw in block["yaws"].values()))
    # In each resample the worst yaw is at most any single one.
    assert block["worst"]["low"] <= min(yaw["low"] for yaw in block["yaws"].values())


@pytest.mark.parametrize("yaws", [[], [90], [90, math.nan], [math.inf, 3]])
def test_fewer_than_two_finite_yaws_are_refused(yaws: list[float]) -> None:
    with pytest.raises(ValueError, match=r"yaws of .* at least two finite ones"):
        yaw_scores([outcome(0, 1)], at_yaws({0: [1.0] * len(yaws)}, yaws), **DRAWS)


def test_a_rotated_question_without_a_plain_outcome_is_refused() -> None:
    with pytest.raises(ValueError, match="question 7 of panorama 'panorama 1' has no plain outcome"):
        yaw_scores([outcome(0, 1)], at_yaws({7: [1, 1]}, [1, 2]), **DRAWS)


def test_the_seam_gap_is_the_mean_difference_of_the_pairs() -> None:
    away = [outcome(q, v) for q, v in enumerate([1, 1, 1, 0])]
    seam = [outcome(q, v) for q, v in reversed(list(enumerate([1, 0, 0, 1])))]
    block = seam_gap(away, seam, **DRAWS)
    assert (block["away"], block["seam"], block["gap"], block["n"]) == (0.75, 0.5, 0.25, 4)
    paired = clustered_bootstrap([0, 1, 1, -1], [o.panorama for o in away], **DRAWS)
    assert (block["low"], block["high"]) == (paired.low, paired.high)
    assert seam_gap(seam, away, **DRAWS)["gap"] == -0.25


@pytest.mark.parametrize(
    ("away", "seam"), [([0, 1], [0]), ([0], [0, 1]), ([0, 1], [0, 2]), ([0, 1], [0, 0]), ([0, 0], [0, 1])]
)
def test_questions_without_their_pair_are_refused(away: list[int], seam: list[int]) -> None:
    with pytest.raises(ValueError, match="they must be pairs"):
        seam_gap([outcome(q, 1) for q in away], [outcome(q, 1) for q in seam], **DRAWS)


def test_bands_include_their_lower_edge_and_the_last_one_the_pole() -> None:
    latitudes = [0, -14.9, 15, -29, 44.9, 45, -50, 60, -90]
    values = [1, 0, 1, 1, 0, 1, 0, 1, 0]
    bands = latitude_bands([outcome(q, v) for q, v in enumerate(values)], latitudes, **DRAWS)
    assert {name: (band["value"], band["n"]) for name, band in bands.items()} == {
        "0-15": (0.5, 2), "15-30": (1, 2), "30-45": (0, 1), "45-60": (0.5, 2), "60-90": (0.5, 2),
    }  # fmt: skip


def test_a_band_without_objects_is_absent_and_a_latitude_beyond_the_pole_refused() -> None:
    assert list(latitude_bands([outcome(0, 1)], [-20], **DRAWS)) == ["15-30"]
    for latitude in (90.5, math.nan):
        with pytest.raises(ValueError, match="it must be within 90"):
            latitude_bands([outcome(0, 1)], [latitude], **DRAWS)
