"""Detection and grounding questions about imported objects."""

from random import Random

import pytest

from panollava.corpus.importers.findings import BadSample
from panollava.corpus.importers.object_questions import check_label, object_dialogues


def test_a_label_of_several_but_not_all_objects_gets_a_question() -> None:
    def described(*objects: tuple[str, float]) -> list[str]:
        content = [{"label": label, "box_deg": [10.0 * n, 0, width, 9]} for n, (label, width) in enumerate(objects)]
        turns = [turn for (turn,) in object_dialogues(content, Random(0))]
        return [turn["assistant"] for turn in turns if turn.get("type") == "detection_described"]

    assert described(("a", 9), ("b", 9), ("a", 9)) == ["a [0, 0, 9, 9]; a [20, 0, 9, 9]"]
    assert described(("a", 9), ("a", 9)) == described(("a", 9), ("b", 9)) == []
    assert described(("a", 9), ("b", 9), ("a", 9), ("a", 200)) == []  # the third would be missing


def test_a_label_with_a_reserved_character_is_refused() -> None:
    for label in ("a; b", "[a", " ", "a <pano>", "<image>", "\0"):
        with pytest.raises(BadSample, match="label") as error:
            check_label(label)
        assert error.value.kind == "a bad label"
    assert check_label("a, b") == "a, b"
