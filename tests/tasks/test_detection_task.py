"""Detection: parsing by parts, labels, scores of boxes, detection by description, and the best constant answer."""

from typing import Any

import numpy as np
import pytest
from task_data import question

from panollava.inference.answer import Answer
from panollava.tasks.block_scores import evaluate
from panollava.tasks.degrees import box_iou
from panollava.tasks.detection import TRIED_BOXES, constant_detections, parse_detection, reference_objects
from panollava.tasks.prediction import Prediction
from panollava.tasks.scoring import score


def test_a_bad_part_of_a_detection_does_not_spoil_the_others() -> None:
    good, other = ("Red Cube", (1, 2, 3, 4)), ("빨간색 정육면체", (-5, 6, 7, 8))
    assert parse_detection("Red Cube [1, 2, 3, 4];빨간색 정육면체[-5,6,7,8] ; ") == ([good, other], 0)
    assert parse_detection("Red Cube [1, 2, 3, 4]; blue ball [1, 2, 3]; [1, 2, 3, 4]; cone") == ([good], 3)
    assert parse_detection("a [1, 2, 3, 200]; Red Cube [1, 2, 3, 4] b [1, 2, 3, 4]") == ([], 2)
    assert parse_detection("  ") == ([], 1)


def test_detections_are_compared_in_the_language_of_the_answer() -> None:
    objects = [{"label": "red cube", "box_deg": [10.4, 0, 20, 20]}, {"label": "blue ball", "box_deg": [90, 0, 9, 9]}]
    text = "빨간색 정육면체 [10, 0, 20, 20]; 파란색 공 [90, 0, 9, 9]"
    line = score("model", question("detection", {"objects": objects}, text, language="ko"), Answer(text, 0.5))
    assert reference_objects(line) == [("빨간색 정육면체", (10.4, 0, 20, 20)), ("파란색 공", (90, 0, 9, 9))]
    assert evaluate([line], resamples=5, seed=0)["ko"]["detection"]["ap50"] == pytest.approx(1)
    free = score("model", question("detection", {"objects": objects}, "A cube and a ball."), Answer(text, 0.5))
    assert [label for label, _ in reference_objects(free)] == ["red cube", "blue ball"]


def test_detection_by_description_has_numbers_of_its_own() -> None:
    red, blue = ({"label": label, "box_deg": [yaw, 0, 20, 20]} for label, yaw in (("red cube", 10), ("blue ball", 90)))
    texts = {"red": "red cube [10, 0, 20, 20]", "both": "red cube [10, 0, 20, 20]; blue ball [90, 0, 20, 20]"}

    def said(variant: Any, objects: list[dict[str, Any]], text: str, **fields: Any) -> Prediction:
        return score(variant, question("detection", {"objects": objects}, text, **fields), Answer(text, 0.5))

    plain = [said("model", [red, blue], texts["both"])]
    described = [
        said("model", [red], texts["red"], type="detection_described"),
        # A right box of what was not asked for counts as a wrong one.
        said("model", [blue], texts["both"], type="detection_described", image_id="q"),
        said("shuffled", [red], "red cube [99, 0, 20, 20]", type="detection_described"),
    ]
    alone, both = (evaluate(lines, resamples=5, seed=0)["en"] for lines in (plain, plain + described))
    assert list(alone) == ["detection"]
    assert list(both) == ["detection", "detection_described"]
    assert both["detection"] == alone["detection"]
    block = both["detection_described"]
    assert (block["n"], block["ap50"], block["shuffled_ap50"]) == (2, pytest.approx(1), 0)
    boxes = described[1].boxes or []
    surer = [boxes[0].model_copy(update={"score": 0.9}), *boxes[1:]]
    described[1] = described[1].model_copy(
        update={"boxes": surer}
    )  # the surplus red cube now comes before the right one
    assert evaluate(described, resamples=5, seed=0)["en"]["detection_described"]["ap50"] == pytest.approx((0.5 + 1) / 2)


def test_a_box_has_the_probability_of_its_own_part() -> None:
    truth = {"objects": [{"label": "cube", "box_deg": [0, 0, 20, 20]}, {"label": "ball", "box_deg": [90, 0, 20, 20]}]}
    text = "cube [0, 0, 20, 20]; nonsense; ball [90, 0, 20, 20]"
    asked = question("detection", truth, text)
    line = score("model", asked, Answer(text, 0.06, parts=(0.6, 0.2, 0.5)))
    assert [box.score for box in line.boxes] == [0.6, 0.5]
    assert line.unparsed == 1
    for unknown in (None, (0.6, 0.5)):  # parts of another number are not those of the text
        whole = score("model", asked, Answer(text, 0.06, parts=unknown))
        assert [box.score for box in whole.boxes] == [0.06, 0.06]


def test_the_majority_of_detections_is_one_box_for_each_label() -> None:
    def line(number: int, *boxes: tuple[str, float]) -> Prediction:
        objects = [{"label": label, "box_deg": [yaw, 0, 20, 20]} for label, yaw in boxes]
        return score(
            "model",
            question("detection", {"objects": objects}, "?", image_id=f"p{number}"),
            Answer("a [1, 2, 3, 4]", 1),
        )

    lines = [line(0, ("a", 0), ("b", 90)), line(1, ("a", 2)), line(2, ("a", -2)), line(3, ("a", 178), ("b", -90))]
    said = constant_detections(lines)
    assert said == [("a", (0, 0, 20, 20), 3 / 4), ("b", (90, 0, 20, 20), 1 / 4)]
    # Label a is right in the first three panoramas; b in the first, of two true ones and four said.
    block = evaluate(lines, resamples=5, seed=0, training=lines)["en"]["detection"]
    assert block["majority_ap50"] == pytest.approx((76 / 101 + 51 / 101) / 2)
    # Questions by description are another kind, and do not count.
    described = [one.model_copy(update={"type": "detection_described"}) for one in lines]
    assert "majority_ap50" not in evaluate(lines, resamples=5, seed=0, training=described)["en"]["detection"]
    crowd = [line(number, ("a", 0.1 * number)) for number in range(3 * TRIED_BOXES)]
    ((label, box, share),) = constant_detections(crowd)
    assert (label, share) == ("a", np.mean([box_iou(box, (0.1 * n, 0, 20, 20)) >= 0.5 for n in range(300)]))
    assert 0.4 < share < 0.5  # from 6.7 degrees on either side of it
