"""Robustness numbers: cases counted by hand, and agreement with the plain means and their intervals."""

import math

import numpy as np
import pytest

from panollava.metrics.intervals import clustered_bootstrap
from panollava.metrics.robustness_scores import Outcome, latitude_bands, mean_score, roll_scores, seam_gap

DRAWS = {"resamples": 50, "seed": 0}


def outcome(question: int, value: float, turn: float = 0.0, *, group: str = "a", agrees: bool = True) -> Outcome:
    return Outcome(f"panorama {question % 3}", question, group, turn, value, agrees)


def rolled(table: dict[int, list[float | None]], rolls: list[float], **fields: str) -> list[Outcome]:
    """Return the outcomes of questions at each roll; None: no unambiguous answer there."""
    return [
        outcome(question, value, roll, **fields)  # type: ignore[arg-type]
        for question, row in table.items()
        for roll, value in zip(rolls, row, strict=True)
        if value is not None
    ]


def value(block: dict, name: str) -> float:
    assert block[name]["low"] <= block[name]["high"]
    return block[name]["value"]


def test_rolls_counted_by_hand() -> None:
    plain = [outcome(0, 1), outcome(1, 1), outcome(2, 0), outcome(3, 1)]
    turned = rolled({0: [1, 1, 1, 1], 1: [1, 0, 0, 1], 2: [0, 0, 0, 0], 3: [1, None, 1, None]}, [90, 10, 30, 270])
    block = roll_scores(plain, turned, **DRAWS)
    assert value(block, "plain") == 0.75
    assert value(block, "mean") == (1 + 0.5 + 0 + 1) / 4
    assert value(block, "ratio") == pytest.approx(0.625 / 0.75)
    assert value(block, "all") == 0.5
    assert value(block, "worst") == pytest.approx(1 / 3)
    assert {roll: block["rolls"][roll]["value"] for roll in block["rolls"]} == pytest.approx(
        {"10": 1 / 3, "30": 0.5, "90": 0.75, "270": 2 / 3}
    )
    assert list(block["rolls"]) == ["10", "30", "90", "270"]
    assert [block["rolls"][roll]["n"] for roll in block["rolls"]] == [3, 4, 4, 3]
    assert block["n"] == 4


def test_groups_count_alike_however_many_questions_they_have() -> None:
    plain = [outcome(q, 1) for q in range(6)] + [outcome(6, 0, group="b")]
    turned = rolled({q: [1, 1] for q in range(6)}, [1, 2]) + rolled({6: [0, 1]}, [1, 2], group="b")
    block = roll_scores(plain, turned, **DRAWS)
    assert value(block, "plain") == 0.5
    assert value(block, "mean") == 0.75
    assert value(block, "all") == 0.5
    assert value(block, "worst") == 0.5
    assert value(block, "ratio") == 1.5


def test_agreement_is_the_share_of_answers_that_say_the_same_right_or_wrong() -> None:
    plain = [outcome(0, 0), outcome(1, 1)]
    turned = [outcome(0, 0, 1), outcome(0, 1, 2, agrees=False), outcome(1, 1, 1), outcome(1, 1, 2)]
    assert value(roll_scores(plain, turned, **DRAWS), "agreement") == 0.75


def test_questions_that_are_never_turned_do_not_count() -> None:
    plain = [outcome(0, 1), outcome(1, 0), outcome(2, 0)]
    block = roll_scores(plain, rolled({0: [1, 1]}, [5, 6]), **DRAWS)
    assert (value(block, "plain"), block["n"]) == (1, 1)


def test_nothing_right_without_a_roll_has_no_ratio() -> None:
    block = roll_scores([outcome(0, 0)], rolled({0: [1, 0]}, [5, 6]), **DRAWS)
    assert "ratio" not in block
    assert value(block, "mean") == 0.5


def test_intervals_are_those_of_the_means_by_panorama() -> None:
    generator = np.random.default_rng(0)
    plain = [outcome(q, float(generator.random() < 0.7), group="ab"[q % 2]) for q in range(90)]
    table = {q: list((generator.random(3) < 0.6).astype(float)) for q in range(90)}
    turned = [o for q, row in table.items() for o in rolled({q: row}, [1, 2, 3], group="ab"[q % 2])]
    block = roll_scores(plain, turned, resamples=200, seed=4)
    assert block["plain"] == pytest.approx(
        {k: v for k, v in mean_score(plain, resamples=200, seed=4).items() if k != "n"}
    )
    assert block["mean"]["value"] == pytest.approx(mean_score(turned, resamples=1, seed=0)["value"])
    assert block["worst"]["value"] == pytest.approx(min(roll["value"] for roll in block["rolls"].values()))
    # In each resample the worst roll is at most any given one.
    assert block["worst"]["low"] <= min(roll["low"] for roll in block["rolls"].values())


@pytest.mark.parametrize("rolls", [[], [90], [90, math.nan], [math.inf, 3]])
def test_fewer_than_two_finite_rolls_are_refused(rolls: list[float]) -> None:
    with pytest.raises(ValueError, match=r"rolls of .* at least two finite ones"):
        roll_scores([outcome(0, 1)], rolled({0: [1.0] * len(rolls)}, rolls), **DRAWS)


def test_a_rolled_question_without_a_plain_outcome_is_refused() -> None:
    with pytest.raises(ValueError, match="question 7 of panorama 'panorama 1' has no plain outcome"):
        roll_scores([outcome(0, 1)], rolled({7: [1, 1]}, [1, 2]), **DRAWS)


def test_the_seam_gap_is_the_mean_of_the_pairs_differences() -> None:
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


def test_bands_hold_their_lower_edge_and_the_last_one_the_pole() -> None:
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
