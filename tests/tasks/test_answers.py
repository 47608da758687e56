"""Parsing: every answer that the wording writes comes back as it was meant, and nothing else is taken for an answer."""

from random import Random

import pytest

from panollava.corpus.vocabulary import LANGUAGES, label
from panollava.corpus.wording import answer_text
from panollava.corpus.world.scenes import sample_scene
from panollava.corpus.world_questions import sample_dialogues
from panollava.tasks.answers import parse_box, parse_detection, parse_direction


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_the_wording_writes_is_read_back(language: str) -> None:
    seen = 0
    for seed in range(20):
        scene = sample_scene(0, split="test", index=seed)
        for (question,) in sample_dialogues(
            scene, Random(seed), per_type={"pointing": 3, "grounding": 3, "detection": 1}
        ):
            text = answer_text(question, language)
            if question.type == "pointing":
                assert parse_direction(text) == question.answer
            elif question.type == "grounding":
                assert parse_box(text) == tuple(question.answer)
            else:
                wanted = [(label(item, language), tuple(box)) for item, box in question.answer]
                assert parse_detection(text) == (wanted, 0)
            seen += 1
    assert seen > 100


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
        ("[35, -12]", None),
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
        ("35, -12, 20, 15", None),
        ("red cube [35, -12, 20, 15]", None),
        ("[35, -12, 20, 15", None),
        (f"[35, -12, {'9' * 400}, 15]", None),
        ("", None),
    ],
)
def test_boxes(text: str, wanted: tuple[float, ...] | None) -> None:
    assert parse_box(text) == wanted


def test_a_bad_part_of_a_detection_does_not_spoil_the_others() -> None:
    good, other = ("Red Cube", (1, 2, 3, 4)), ("빨간색 정육면체", (-5, 6, 7, 8))
    assert parse_detection("Red Cube [1, 2, 3, 4];빨간색 정육면체[-5,6,7,8] ; ") == ([good, other], 0)
    assert parse_detection("Red Cube [1, 2, 3, 4]; blue ball [1, 2, 3]; [1, 2, 3, 4]; cone") == ([good], 3)
    assert parse_detection("a [1, 2, 3, 200]; Red Cube [1, 2, 3, 4] b [1, 2, 3, 4]") == ([], 2)
    assert parse_detection("  ") == ([], 1)
