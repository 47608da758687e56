"""Average precision against pycocotools on the same overlaps, overall and by size, cases done by hand, the seam."""

import contextlib
import io
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from panollava.metrics.detection import (
    SIZES,
    Prediction,
    Reference,
    average_precision,
    match_detections,
    precision_of_images,
    resampled_precision,
)
from panollava.metrics.spherical_iou import pairwise_iou
from panollava.vlm.geometry import box_solid_angle

LABELS = ["cube", "ball", "나무"]


def random_scene(
    seed: int, images: int = 12, sides: tuple[float, float] = (20, 40)
) -> tuple[list[list[Prediction]], list[list[Reference]]]:
    """Return predictions that are shifted, missing, doubled, mislabelled and tied in score, and their references."""
    random = np.random.default_rng(seed)
    predictions: list[list[Prediction]] = []
    references: list[list[Reference]] = []
    for _ in range(images):
        wanted: list[Reference] = []
        found: list[Prediction] = []
        for _ in range(random.integers(0, 9)):
            label = LABELS[random.integers(len(LABELS))]
            # Crowded, so that one box overlaps several references, and astride the seam.
            box = [random.uniform(165, 195), random.uniform(50, 70), *random.uniform(*sides, 2)]
            wanted.append((label, box))
            for _ in range(random.integers(0, 3)):
                predicted = label if random.random() < 0.8 else LABELS[random.integers(len(LABELS))]
                shifted = list(np.array(box) + random.normal(0, 3 * sides[0] / 20, 4))
                found.append((predicted, shifted, round(float(random.random()), 1)))
        predictions.append(found)
        references.append(wanted)
    return predictions, references


def area(box_deg: Sequence[float]) -> float:
    return float(box_solid_angle(torch.tensor([list(box_deg)], dtype=torch.float64).deg2rad())[0])


def coco_result(predictions: list[list[Prediction]], references: list[list[Reference]]) -> dict[str, float]:
    """Return the scores of pycocotools for the same boxes with spherical overlaps."""
    categories = [{"id": number, "name": label} for number, label in enumerate(LABELS, start=1)]
    annotations = [
        {"image_id": image, "category_id": LABELS.index(label) + 1, "bbox": list(box), "area": area(box), "iscrowd": 0}
        for image, row in enumerate(references)
        for label, box in row
    ]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": image} for image in range(len(references))],
        "categories": categories,
        "annotations": [{**annotation, "id": number} for number, annotation in enumerate(annotations, start=1)],
    }

    class SphericalEval(COCOeval):
        def computeIoU(self, imgId: int, catId: int) -> object:
            found, wanted = self._dts[imgId, catId], self._gts[imgId, catId]
            order = np.argsort([-item["score"] for item in found], kind="mergesort")
            boxes = [torch.tensor([item["bbox"] for item in items]).reshape(-1, 4) for items in (found, wanted)]
            return pairwise_iou(*(box.double().deg2rad() for box in boxes)).numpy()[order]

    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found = truth.loadRes(
            [
                {"image_id": image, "category_id": LABELS.index(label) + 1, "bbox": list(box), "score": score}
                for image, row in enumerate(predictions)
                for label, box, score in row
            ]
        )
        for annotation in found.dataset["annotations"]:
            annotation["area"] = area(annotation["bbox"])  # not width times height
        evaluation = SphericalEval(truth, found, "bbox")
        evaluation.params.areaRng = [[0, 1e10], *([low, min(high, 1e10)] for low, high in SIZES.values())]
        evaluation.params.areaRngLbl = ["all", *SIZES]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]

    def mean(part: np.ndarray) -> float:
        return float(part[part > -1].mean())

    whole = precision[:, :, :, 0]
    sizes = {f"ap_{name}": precision[:, :, :, number] for number, name in enumerate(SIZES, start=1)}
    return {"ap": mean(whole), "ap50": mean(whole[0]), "ap75": mean(whole[5])} | {
        name: mean(part) for name, part in sizes.items() if (part > -1).any()
    }


def test_agrees_with_pycocotools_on_the_same_overlaps() -> None:
    for seed in range(5):
        predictions, references = random_scene(seed)
        expected = coco_result(predictions, references)
        assert 0.05 < expected["ap"] < expected["ap50"] < 1, f"seed {seed}"
        assert average_precision(predictions, references) == pytest.approx(expected, abs=1e-9), f"seed {seed}"


@pytest.mark.parametrize("sides", [(5, 15), (5, 45), (20, 40)], ids=["small and medium", "all", "medium and large"])
def test_sizes_agree_with_pycocotools_on_the_same_areas(sides: tuple[float, float]) -> None:
    for seed in range(5):
        predictions, references = random_scene(seed, 30, sides)
        expected = coco_result(predictions, references)
        assert len(expected) == (6 if sides == (5, 45) else 5), f"seed {seed}"
        assert average_precision(predictions, references) == pytest.approx(expected, abs=1e-9), f"seed {seed}"


def test_sizes_are_solid_angles_without_a_gap() -> None:
    bounds = [bound for size in SIZES.values() for bound in size]
    assert bounds == [0, *sorted(bounds[1:-1]), math.inf]
    assert bounds[1::2][:2] == bounds[2::2] == pytest.approx([area((0, 0, 10, 10)), area((50, 80, 30, 30))])
    assert bounds[2::2] == pytest.approx([0.03036, 0.26813], abs=1e-4)
    # Near the pole an ERP image shows the same box many times as large; its size is that of the sphere.
    for pitch in (0, 60, 88):
        box = (30, pitch, 9.9, 9.9)
        assert set(average_precision([[]], [[("a", box)]])) == {"ap", "ap50", "ap75", "ap_small"}


def test_a_prediction_of_another_size_counts_only_with_a_reference() -> None:
    small, large = (0, 0, 9, 9), (90, 0, 40, 40)
    stray, barely_medium = (-90, 0, 60, 60), (0, 0, 10.2, 10.2)
    result = average_precision(
        [[("a", stray, 0.9), ("a", large, 0.8), ("a", barely_medium, 0.7)]], [[("a", small), ("a", large)]], (0.5,)
    )
    # Among the small, the stray and the found large one are left out; among the large, the stray is wrong, and the
    # medium one, which found a small one, is left out.
    assert (result["ap_small"], result["ap_large"]) == pytest.approx((1, 0.5))
    assert "ap_medium" not in result


def test_perfect_and_hopeless_predictions() -> None:
    _, references = random_scene(0)
    perfect = [[(label, box, 0.5) for label, box in row] for row in references]
    names = ("ap", "ap50", "ap75", "ap_medium", "ap_large")
    assert average_precision(perfect, references) == pytest.approx(dict.fromkeys(names, 1))
    nothing: list[list[Prediction]] = [[] for _ in references]
    assert average_precision(nothing, references) == dict.fromkeys(names, 0)
    mislabelled = [[("nobody", box, score) for _, box, score in row] for row in perfect]
    assert average_precision(mislabelled, references)["ap"] == 0


def test_precision_equals_a_hand_computation() -> None:
    box, elsewhere = (0, 0, 20, 20), (90, 0, 20, 20)
    # Ranked: hit, miss, hit; two of the two references found. Precision 1 up to recall 1/2, then 2/3.
    predictions = [[("a", box, 0.9), ("a", (0, 60, 20, 20), 0.8), ("a", elsewhere, 0.7)]]
    expected = (51 * 1 + 50 * 2 / 3) / 101
    assert average_precision(predictions, [[("a", box), ("a", elsewhere)]])["ap50"] == pytest.approx(expected)


def test_a_reference_is_matched_once_by_the_best_score() -> None:
    box = (170, 0, 20, 20)
    twice = [[("a", box, 0.2), ("a", (171, 0, 20, 20), 0.9)]]
    matches = match_detections(twice, [[("a", box)]], (0.5, 0.95))
    # The better score takes it at 0.5; at 0.95 it is too far off, and the exact box gets it.
    assert matches[0].hit.tolist() == [[True, False], [False, True]]


def test_an_object_astride_the_seam_is_found_from_either_side() -> None:
    result = average_precision([[("a", (-179, 5, 20, 20), 1.0)]], [[("a", (179.5, 5, 20, 20))]])
    assert result["ap75"] == 1


def test_thresholds_change_the_mean_but_not_ap50() -> None:
    predictions, references = random_scene(3)
    usual = average_precision(predictions, references)
    loose = average_precision(predictions, references, (0.5,))
    assert {name: loose[name] for name in ("ap", "ap50", "ap75")} == pytest.approx(
        {"ap": usual["ap50"], "ap50": usual["ap50"], "ap75": usual["ap75"]}
    )


def test_resampled_images_score_like_copies() -> None:
    tied, references = random_scene(4)
    # Copies keep their order only where no two scores are equal.
    random = np.random.default_rng(0)
    predictions = [[(label, box, float(random.random())) for label, box, _ in row] for row in tied]
    matches = match_detections(predictions, references, (0.5, 0.75))
    drawn = np.array([3, 3, 1, 7, 7, 7, 0])
    copies = average_precision([predictions[i] for i in drawn], [references[i] for i in drawn], (0.5, 0.75))
    assert precision_of_images(matches, drawn).mean() == pytest.approx(copies["ap"], abs=1e-9)


def test_all_resamples_at_once_equal_single_resamples() -> None:
    for seed in range(5):
        predictions, references = random_scene(seed)
        matches = match_detections(predictions, references, (0.5,))
        drawn = np.random.default_rng(seed).integers(len(references), size=(40, 3 + seed))
        copies = np.array([np.bincount(images, minlength=len(references)) for images in drawn])
        one_by_one = [precision_of_images(matches, images)[0] for images in drawn]
        assert resampled_precision(matches, copies) == pytest.approx(one_by_one, abs=1e-12, nan_ok=True)
    missed = match_detections([[], []], [[("a", (0, 0, 9, 9))], []], (0.5,))
    assert resampled_precision(missed, np.array([[0, 2], [1, 1]])) == pytest.approx([np.nan, 0], nan_ok=True)


def test_images_without_references_have_no_precision() -> None:
    matches = match_detections([[], []], [[("a", (0, 0, 9, 9))], []], (0.5, 0.75))
    assert np.isnan(precision_of_images(matches, np.array([1, 1]))).all()
    assert precision_of_images(matches, np.array([0, 1])).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([[]], [[], []], "1 images have predictions but 2"),
        ([[], []], [[], []], "none of the 2 images has a reference box"),
        ([[], [("cube", (0, 0, 200, 9), 1.0)]], [[("a", (0, 0, 9, 9))], []], r"image 1: the predicted box .*'cube'"),
        ([[]], [[("cube", (0, math.nan, 9, 9))]], r"image 0: the reference box .*'cube'"),
        ([[("cube", (0, 0, 9, 9), math.nan)]], [[("cube", (0, 0, 9, 9))]], "image 0: 'cube' at .* has the score nan"),
    ],
)
def test_boxes_and_scores_that_cannot_be_scored_are_refused(
    predictions: list[list[Prediction]], references: list[list[Reference]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        average_precision(predictions, references)
