"""Grounding: exact parsing, boxes across the seam, boxes without an area, and the best constant answer."""

import pytest
from task_data import question

from panollava.inference.answer import Answer
from panollava.tasks.block_scores import evaluate
from panollava.tasks.scoring import score
from panollava.tasks.spellings import parse_box


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[35, -12, 20, 15]", (35, -12, 20, 15)),
        (" [ 35,-12 ,20.5 , 15 ] ", (35, -12, 20.5, 15)),
        ("[200, 0, 1, 179.9]", (-160, 0, 1, 179.9)),
        ("[35, -12, 20, 180]", None),
        ("[35, -12, 0, 15]", None),
        ("[35, -12, -20, 15]", None),
        ("[35, -95, 20, 15]", None),
        ("[35, -12, nan, 15]", None),
        ("[35, -12, 20]", None),
        ("[35, -12, 20, 15, 3]", None),
        ("35, -12, 20, 15", (35, -12, 20, 15)),
        ("red cube [35, -12, 20, 15]", None),
        ("[35, -12, 20, 15", None),
        (f"[35, -12, {'9' * 400}, 15]", None),
        ("", None),
    ],
)
def test_boxes(text: str, wanted: tuple[float, ...] | None) -> None:
    assert parse_box(text) == wanted


def test_boxes_of_half_the_sphere_are_counted_and_left_out() -> None:
    wide = {"label": "floor", "box_deg": [0, -80, 200, 20]}
    narrow = {"label": "cube", "box_deg": [0, 0, 20, 20]}
    said = [
        score("model", question("grounding", wide), Answer("[0, -80, 170, 20]", 1)),
        score("model", question("grounding", narrow), Answer("[0, 0, 20, 20]", 1)),
        score("model", question("detection", {"objects": [wide, narrow]}), Answer("cube [0, 0, 20, 20]", 1)),
    ]
    blocks = evaluate(said, resamples=5, seed=0)["en"]
    assert (blocks["grounding"]["n"], blocks["grounding"]["iou50"], blocks["grounding"]["too_wide"]) == (1, 1, 1)
    assert blocks["detection"]["ap50"] == pytest.approx(1)
    assert blocks["detection"]["too_wide"] == 1


def test_the_majority_is_the_constant_box_that_does_best() -> None:
    boxes = ([0, 0, 20, 20], [2, 0, 20, 20], [178, 0, 20, 20], [-2, 0, 20, 20])
    said = [
        score("model", question("grounding", {"label": "a", "box_deg": box}, image_id=f"b{box[0]}"), Answer("?", 1))
        for box in boxes
    ]
    block = evaluate(said, resamples=5, seed=0, training=said)["en"]["grounding"]
    assert block["majority"] == 3 / 4  # always [0, 0, 20, 20]
    assert evaluate(said[2:3], resamples=5, seed=0, training=said)["en"]["grounding"]["majority"] == 0
    wide = score("model", question("grounding", {"label": "a", "box_deg": [0, 0, 200, 20]}), Answer("?", 1))
    assert "majority" not in evaluate(said, resamples=5, seed=0, training=[wide])["en"]["grounding"]
