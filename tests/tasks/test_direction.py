"""Directions: exact parsing, and the best constant answer."""

import pytest
from task_data import question

from panollava.inference.answer import Answer
from panollava.tasks.block_scores import evaluate
from panollava.tasks.scoring import score
from panollava.tasks.spellings import parse_direction


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("35, -12", (35, -12)),
        ("  35 ,-12\n", (35, -12)),
        ("180, 0", (-180, 0)),
        ("-190.5, +90", (169.5, 90)),
        ("35, 91", None),
        ("35", None),
        ("35, -12, 4", None),
        ("[35, -12]", (35, -12)),
        ("35, -12 or so", None),
        ("nan, 0", None),
        ("1e3, 0", None),
        ("٣٥, 0", None),
        ("9" * 400 + ", 0", None),
        ("", None),
    ],
)
def test_directions(text: str, wanted: tuple[float, float] | None) -> None:
    assert parse_direction(text) == wanted


def test_the_majority_is_the_constant_direction_that_does_best() -> None:
    yaws = (10, 12, 14, 100, -170)
    said = [
        score("model", question("direction", {"yaw_deg": yaw, "pitch_deg": 0}, image_id=f"d{yaw}"), Answer("0, 0", 1))
        for yaw in yaws
    ]
    block = evaluate(said, resamples=5, seed=0, training=said)["en"]["direction"]
    assert block["majority_median_deg"] == pytest.approx(2)  # always 12: off by 0, 2, 2, 88, 178
    assert evaluate(said[3:4], resamples=5, seed=0, training=said)["en"]["direction"]["majority_median_deg"] == (
        pytest.approx(88)
    )
