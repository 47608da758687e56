"""Scoring: predictions hold what the answer said, and every answer of the wording is read back."""

import json
from random import Random

import pytest
from task_data import question

from panollava.corpus.records import DirectionAnswer, LabelledBox
from panollava.corpus.vocabulary import LANGUAGES, label
from panollava.corpus.wording import answer_text
from panollava.corpus.world.scenes import sample_scene
from panollava.corpus.world_questions import sample_dialogues
from panollava.inference.answer import Answer
from panollava.tasks.scoring import score
from panollava.tasks.spellings import parse_box, parse_detection, parse_direction


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_the_wording_writes_is_read_back(language: str) -> None:
    seen = 0
    for seed in range(20):
        scene = sample_scene(0, split="test", index=seed)
        for (asked,) in sample_dialogues(scene, Random(seed), per_type={"pointing": 3, "grounding": 3, "detection": 1}):
            text = answer_text(asked, language)
            if asked.type == "pointing":
                assert parse_direction(text) == asked.answer
            elif asked.type == "grounding":
                assert parse_box(text) == tuple(asked.answer)
            else:
                wanted = [(label(item, language), tuple(box)) for item, box in asked.answer]
                assert parse_detection(text) == (wanted, 0)
            seen += 1
    assert seen > 100


def test_predictions_hold_the_scores_of_their_task() -> None:
    asked = question("grounding", {"label": "red cube", "box_deg": [179, 0, 20, 20]}, "[179, 0, 20, 20]")
    found = score("blind", asked, Answer("[-171, 0, 20, 20]", 0.25))
    assert found.boxes is not None and found.boxes[0].box_deg == (-171, 0, 20, 20)
    assert found.iou == pytest.approx(1 / 3, abs=0.01)  # half of each box, across the seam
    assert (found.variant, found.score, found.parsed, found.correct) == ("blind", 0.25, True, None)
    assert found.truth(LabelledBox).box_deg == (179, 0, 20, 20)
    with pytest.raises(TypeError, match="needs one with yaw_deg, pitch_deg"):
        found.truth(DirectionAnswer)
    json.dumps(found.as_line(), allow_nan=False)
    pointed = score("model", question("direction", {"yaw_deg": 170, "pitch_deg": 0}), Answer("-170, 0", 1))
    assert pointed.direction == (-170, 0)
    assert pointed.error_deg == pytest.approx(20)
    chosen = score("model", question("choice", {"text": "Front left"}), Answer("front  LEFT.", 1))
    assert chosen.correct is True
    told = score("model", question("open", None), Answer("anything", 1))
    assert (told.correct, told.error_deg, told.iou, told.boxes, told.answer, told.parsed) == (*[None] * 5, True)
