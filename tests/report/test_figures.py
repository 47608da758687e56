"""Figures: outlines on the sphere and across the seam, confusion counts, chosen panoramas, wrapped text, fonts."""

import math
import random
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from panollava.report.outlines import box_outline, box_polylines, direction_pixel
from panollava.report.panorama_figures import (
    answer_lines,
    cells,
    choose_detections,
    choose_questions,
    detection_score,
    wrap,
)
from panollava.report.score_figures import OTHER, class_order, confusion
from panollava.report.style import png_bytes, styled
from panollava.tasks.prediction import Prediction
from panollava.vlm.geometry import angular_distance, box_corners, box_solid_angle, rotation

HEIGHT, WIDTH = 256, 512


def prediction(**fields: object) -> Prediction:
    base = {
        "variant": "model", "image_id": "p", "record": 0, "turn": 0, "language": "en", "task": "choice",
        "type": "existence", "question": "Is it?", "reference": "yes", "references": ["yes"], "answer": {"text": "yes"},
        "prediction": "yes", "score": 0.5,
    }  # fmt: skip
    return Prediction.model_validate(base | fields)


def random_boxes(count: int) -> list[list[float]]:
    rng = random.Random(0)
    return [
        [rng.uniform(-180, 180), rng.uniform(-89, 89), rng.uniform(5, 120), rng.uniform(5, 120)] for _ in range(count)
    ]


@pytest.mark.parametrize("box_deg", [[0, 0, 30, 20], [179, -10, 40, 30], [-60, 75, 50, 40], [10, -88, 20, 20]])
def test_outline_runs_through_the_corners_along_the_sides_of_the_tangent_rectangle(box_deg: list[float]) -> None:
    box = torch.tensor([math.radians(v) for v in box_deg], dtype=torch.float64)
    points = 17
    outline = box_outline(box_deg, points)
    assert outline.shape == (4 * (points - 1) + 1, 3)
    torch.testing.assert_close(outline[: -1 : points - 1], box_corners(box))
    torch.testing.assert_close(outline[0], outline[-1])
    # On a side of the rectangle x = +-z tan(width / 2) or y = +-z tan(height / 2): planes through the centre.
    x, y, z = (outline @ rotation(box[0], box[1], torch.zeros((), dtype=torch.float64))).unbind(-1)
    across, along = z * (box[2] / 2).tan(), z * (box[3] / 2).tan()
    assert (z > 0).all()
    torch.testing.assert_close(torch.minimum((x.abs() - across).abs(), (y.abs() - along).abs()), torch.zeros_like(x))
    assert (x.abs() <= across + 1e-12).all() and (y.abs() <= along + 1e-12).all()


def test_outline_encloses_the_solid_angle_of_the_box() -> None:
    # Girard: the area of a spherical polygon is the sum of its inner angles minus (n - 2) pi.
    box_deg = [35.0, -12.0, 60.0, 40.0]
    outline = box_outline(box_deg, 9)
    corners, before, after = outline[0:-1:8], outline[torch.tensor([-2, 7, 15, 23])], outline[1:-1:8]
    excess = 0.0
    for corner, a, b in zip(corners, before, after, strict=True):
        p, q = torch.linalg.cross(corner, a), torch.linalg.cross(corner, b)
        excess += float(angular_distance(p / p.norm(), q / q.norm()))
    box = torch.tensor([math.radians(v) for v in box_deg], dtype=torch.float64)
    assert excess - 2 * math.pi == pytest.approx(float(box_solid_angle(box)), abs=1e-9)


def test_polylines_never_cross_the_image() -> None:
    for box_deg in random_boxes(300):
        for piece in box_polylines(box_deg, HEIGHT, WIDTH):
            assert np.abs(np.diff(piece[:, 0])).max(initial=0) <= WIDTH / 2
            assert piece[:, 0].min() >= -0.5 and piece[:, 0].max() <= WIDTH - 0.5


def test_a_box_astride_the_seam_leaves_at_one_edge_and_returns_at_the_other() -> None:
    pieces = box_polylines([178, 0, 30, 20], HEIGHT, WIDTH)
    assert len(pieces) == 3  # the outline starts on one side, crosses to the other one and comes back
    for left, right in pairwise(pieces):
        assert {left[-1, 0], right[0, 0]} == {-0.5, WIDTH - 0.5}
        assert left[-1, 1] == pytest.approx(right[0, 1])
    # Rolled away from the seam, the same box is one piece of the same extent.
    whole = np.concatenate(box_polylines([0, 0, 30, 20], HEIGHT, WIDTH))
    unrolled = np.concatenate([np.where(p[:, 0] < WIDTH / 2, p[:, 0] + WIDTH, p[:, 0]) for p in pieces])
    assert np.ptp(unrolled) == pytest.approx(np.ptp(whole[:, 0]))


def test_a_box_around_the_pole_spans_all_yaws_and_a_very_wide_one_can_be_drawn() -> None:
    pole = np.concatenate(box_polylines([0, 90, 30, 30], HEIGHT, WIDTH))
    assert np.ptp(pole[:, 0]) == pytest.approx(WIDTH)
    assert np.isfinite(np.concatenate(box_polylines([0, 0, 300, 200], HEIGHT, WIDTH))).all()


def test_direction_pixel_is_the_centre_of_the_image_and_wraps() -> None:
    assert direction_pixel(0, 0, HEIGHT, WIDTH) == (WIDTH / 2 - 0.5, HEIGHT / 2 - 0.5)
    assert direction_pixel(190, 0, HEIGHT, WIDTH) == direction_pixel(-170, 0, HEIGHT, WIDTH)


def test_detection_score_counts_missing_surplus_and_misnamed_boxes_as_zero() -> None:
    objects = [{"label": "a", "box_deg": [0, 0, 20, 20]}, {"label": "b", "box_deg": [90, 0, 20, 20]}]
    answer = {"task": "detection", "answer": {"objects": objects}}
    assert detection_score(prediction(**answer, boxes=objects)) == pytest.approx(1)
    assert detection_score(prediction(**answer, boxes=objects[:1])) == pytest.approx(0.5)
    assert detection_score(prediction(**answer, boxes=objects[:1] * 4)) == pytest.approx(0.25)
    assert detection_score(prediction(**answer, boxes=[objects[0] | {"label": "b"}])) == 0
    assert detection_score(prediction(**answer, boxes=None)) == 0


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 20])
def test_best_median_and_worst_panoramas_are_distinct_and_in_order(count: int) -> None:
    answer = {"task": "detection", "answer": {"objects": [{"label": "a", "box_deg": [0, 0, 20, 20]}]}}
    predictions = [
        prediction(image_id=str(i), **answer, boxes=[{"label": "a", "box_deg": [i, 0, 20, 20]}]) for i in range(count)
    ]
    chosen = choose_detections(predictions, 2)
    images = [p.image_id for _, _, p in chosen]
    scores = [score for _, score, _ in chosen]
    assert len(set(images)) == len(images) == min(count, 6)
    assert scores == sorted(scores, reverse=True)
    assert images[0] == "0" and images[-1] == str(count - 1)


def test_confusion_keeps_every_question_and_gathers_unknown_answers() -> None:
    answers = [("yes", "Yes."), ("yes", "no"), ("no", "no"), ("no", "maybe"), ("no", "")]
    predictions = [prediction(answer={"text": true}, prediction=given) for true, given in answers]
    result = confusion(predictions, "en")
    assert result is not None
    labels, counts = result
    assert labels == ["no", "yes", OTHER]
    assert counts.tolist() == [[1, 0, 2], [1, 1, 0]]
    assert confusion(predictions[:2], "en") is None
    assert confusion([prediction(answer={"text": str(i)}) for i in range(40)], "en") is None


def test_classes_come_in_their_natural_order() -> None:
    assert class_order(["10", "9", "0"], "en") == ["0", "9", "10"]
    assert class_order(["left", "back", "front right", "front"], "en") == ["front", "front right", "back", "left"]
    assert class_order(["왼쪽", "앞"], "ko") == ["앞", "왼쪽"]


def test_chosen_questions_are_first_turns_of_distinct_types_in_both_languages() -> None:
    predictions = [
        prediction(language=language, type=f"type {kind}", turn=turn, record=kind)
        for language in ("en", "ko")
        for kind in range(9)
        for turn in range(2)
    ]
    chosen = choose_questions(predictions, ["en", "ko"], random.Random(0))
    assert [p.language for p in chosen] == ["en"] * 5 + ["ko"] * 3
    assert len({(p.language, p.type) for p in chosen}) == 8 and all(p.turn == 0 for p in chosen)
    assert chosen == choose_questions(predictions, ["en", "ko"], random.Random(0))


@pytest.mark.parametrize("text", ["a fairly long question " * 9, "파노라마에서 무엇이 보이나요? " * 9, "x" * 300])
def test_wrapped_lines_fit_and_the_cut_is_marked(text: str) -> None:
    lines = wrap(f"    {text}", lines=3, columns=40)
    assert len(lines) == 3 and lines[-1].endswith(" …")
    assert all(cells(line.removesuffix(" …")) <= 40 and line.startswith("    ") for line in lines)
    kept = "".join("".join(wrap(text, lines=99, columns=40)).split())
    assert kept == "".join(text.split())


def test_a_right_answer_needs_no_truth_and_a_wrong_one_shows_it() -> None:
    right = [text for text, _, _ in answer_lines(1, prediction(correct=True))]
    wrong = [text for text, _, _ in answer_lines(1, prediction(correct=False, prediction="no"))]
    assert right == ["1 Is it?", "    ✓ yes"]
    assert wrong == ["1 Is it?", "    ✗ no", "    true: yes"]


def test_korean_dollars_and_signs_are_drawn_with_the_bundled_fonts_and_give_equal_bytes() -> None:
    @styled
    def figure() -> Figure:
        figure = Figure(figsize=(4, 1))
        figure.text(0.1, 0.6, r"빨간색 정육면체 ✓ ✗ 35°, $\frac{ or $6", weight="bold")
        figure.text(0.1, 0.2, "하얀색 원기둥")
        return figure

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph is a warning
        png = png_bytes(figure())
        assert png == png_bytes(figure())
    assert b"matplotlib" not in png  # its version would change the bytes
