"""Masks of answers: perfect patches reach the ceiling, masks go to their questions, the numbers are those of a hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_configs import poses_of

from panollava.corpus.masks import decoded, encoded
from panollava.corpus.patch_masks import patch_coverage
from panollava.corpus.records import Mask, Record
from panollava.corpus.world_records import world_row
from panollava.inference.answer import Answer
from panollava.tasks.block_scores import evaluate
from panollava.tasks.prediction import Prediction
from panollava.tasks.questions import Question, panorama_questions
from panollava.tasks.scoring import score
from panollava.tasks.segmentation import CONSTANT_ROWS, constant_mask, score_masks

POSES, SIDE = poses_of("anyres_e2p"), 12
NOTHING = torch.zeros(CONSTANT_ROWS, 2 * CONSTANT_ROWS, dtype=torch.bool)


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    """Questions about masks of eight panoramas, of two sizes."""
    rows = [world_row(n, seed=0, split="test", height=64 if n % 2 else 128, korean_share=0.3) for n in range(8)]
    asked = [question for row in rows for question in panorama_questions(row.image_id, row.records)]
    return [question for question in asked if question.mask is not None]


def perfect(question: Question) -> torch.Tensor:
    return patch_coverage(decoded(question.true_mask), POSES, SIDE, SIDE) - 0.5


def test_every_grounding_question_of_the_world_has_the_mask_of_its_object(questions: list[Question]) -> None:
    assert {question.content.task for question in questions} == {"grounding"}
    assert {question.content.language for question in questions} == {"en", "ko"}
    for question in questions:
        rows, columns = decoded(question.true_mask).nonzero(as_tuple=True)
        height, width = question.true_mask.size
        yaw, pitch, *_ = question.content.answer.box_deg
        middle = 90 - (float(rows.float().mean()) + 0.5) * 180 / height
        across = torch.polar(torch.ones(len(columns)), (columns + 0.5) * 2 * torch.pi / width - torch.pi).mean().angle()
        assert abs(middle - pitch) < 8
        assert abs((float(across.rad2deg()) - yaw + 180) % 360 - 180) < 8 / max(np.cos(np.radians(pitch)), 0.2)


def test_perfect_patches_reach_the_ceiling_and_others_do_not(questions: list[Question]) -> None:
    scored = score_masks([(question.true_mask, perfect(question)) for question in questions], POSES, NOTHING)
    assert all(line["mask_iou"] == line["mask_ceiling"] for line in scored)
    assert np.mean([line["mask_iou"] for line in scored]) > 0.4
    mistaken = [
        (question.true_mask, perfect(other)) for question, other in zip(questions, questions[::-1], strict=True)
    ]
    wrong = score_masks(mistaken, POSES, NOTHING)
    assert [line["mask_ceiling"] for line in wrong] == [line["mask_ceiling"] for line in scored]
    assert np.mean([line["mask_iou"] for line in wrong]) < 0.2


def test_each_question_alone_scores_as_among_others(questions: list[Question]) -> None:
    generator = torch.Generator().manual_seed(0)
    asked = [(question.true_mask, torch.randn(len(POSES), SIDE, SIDE, generator=generator)) for question in questions]
    assert score_masks(asked, POSES, NOTHING) == [score_masks([one], POSES, NOTHING)[0] for one in asked]


def test_nothing_drawn_is_no_overlap_and_no_outline(questions: list[Question]) -> None:
    line = score_masks([(questions[0].true_mask, torch.full((len(POSES), SIDE, SIDE), -1.0))], POSES, NOTHING)[0]
    assert (line["mask_iou"], line["boundary_deg"]) == (0, None)


def line(image_id: str, variant: Any, pitch: float, **found: Any) -> Prediction:
    mask = encoded(np.eye(4, 8).astype(bool))
    item = {"label": "cube", "box_deg": [0, pitch, 20, 20]}
    turn = {"human": "Box?", "assistant": "[0, 0, 20, 20]", "task": "grounding", "answer": item}
    record = Record.model_validate(
        {"image_id": image_id, "image_path": "a.png", "conversations": [turn], "objects": [{**item, "mask": mask}]}
    )
    return score(variant, panorama_questions(image_id, [record])[0], Answer("[0, 0, 20, 20]", 0.5)).model_copy(
        update=found
    )


def test_the_numbers_are_those_of_a_hand() -> None:
    lines = [
        line("a", "model", 0, mask_iou=0.6, mask_ceiling=0.8, mask_majority=0.3, boundary_deg=2.0),
        line("b", "model", -20, mask_iou=0.4, mask_ceiling=0.8, mask_majority=0.0, boundary_deg=4.0),
        line("c", "model", 90, mask_iou=0.0, mask_ceiling=0.8, mask_majority=0.0, boundary_deg=None),
        line("a", "shuffled", 0, mask_iou=0.1, mask_ceiling=0.8, mask_majority=0.3, boundary_deg=9.0),
        line("a", "blind", 0),
    ]
    block = evaluate(lines, resamples=20, seed=0)["en"]["segmentation"]
    assert block["miou"] == pytest.approx(1 / 3)
    assert block["share_of_ceiling"] == pytest.approx(1 / 3 / 0.8)
    assert (block["ceiling"], block["boundary_deg"], block["empty"], block["n"]) == (pytest.approx(0.8), 3.0, 1, 3)
    assert (block["shuffled"], block["majority"]) == (pytest.approx(0.1), pytest.approx(0.1))
    assert "blind" not in block
    found = {band: (pytest.approx(inner["miou"]), inner["n"]) for band, inner in block["latitudes"].items()}
    assert found == {"0-15": (0.6, 1), "15-30": (0.4, 1), "60-91": (0.0, 1)}


def test_a_question_without_a_mask_says_so() -> None:
    record = Record.model_validate(
        {"image_id": "p", "image_path": "a.png", "conversations": [{"human": "What?", "assistant": "A room."}]}
    )
    with pytest.raises(ValueError, match=r"p: 'What\?' has no mask"):
        panorama_questions("p", [record])[0].true_mask  # noqa: B018


def test_masks_of_an_8k_panorama_are_compared_at_a_size_that_fits(questions: list[Question]) -> None:
    small = decoded(questions[0].true_mask)
    large = small.repeat_interleave(32, 0).repeat_interleave(32, 1)
    eight = replace(questions[0], mask=Mask.model_validate(encoded(large.numpy())))
    assert eight.true_mask.size[0] >= 2048
    line, own = (
        score_masks([(question.true_mask, perfect(questions[0]))], POSES, NOTHING)[0]
        for question in (eight, questions[0])
    )
    assert line["mask"].size == (512, 1024)
    assert line["mask_iou"] == pytest.approx(own["mask_iou"], abs=0.1)


def band(first: int, last: int) -> Mask:
    """Return the mask of some columns of a panorama as high as the constant mask."""
    mask = NOTHING.clone()
    mask[:, first:last] = True
    return Mask.model_validate(encoded(mask.numpy()))


def test_the_constant_mask_is_the_part_that_overlaps_the_masks_best() -> None:
    masks = [band(0, 40), band(0, 40), band(20, 60), band(200, 210)]
    # What is covered twice: IoU of 1, 1, 20 / 60 and 0. All that is covered would have 40 / 70 at best.
    assert torch.equal(constant_mask(masks), decoded(band(0, 40)))
    assert torch.equal(constant_mask([band(0, 90), band(10, 100)]), decoded(band(0, 100)))
    assert torch.equal(constant_mask([band(3, 9)]), decoded(band(3, 9)))
    assert not constant_mask([]).any()
    assert not constant_mask([band(5, 5)]).any()


def test_the_constant_mask_of_the_world_is_a_poor_guess_but_no_worse_than_one_of_its_masks(
    questions: list[Question],
) -> None:
    usual = constant_mask([question.true_mask for question in questions])
    asked = [(question.true_mask, perfect(question)) for question in questions]
    found = [line["mask_majority"] for line in score_masks(asked, POSES, usual)]
    assert 0.02 < np.mean(found) < 0.4
    single = constant_mask([questions[0].true_mask])
    assert np.mean([line["mask_majority"] for line in score_masks(asked, POSES, single)]) <= np.mean(found) + 0.02
    assert [line["mask_majority"] for line in score_masks(asked, POSES, NOTHING)] == [0] * len(asked)
