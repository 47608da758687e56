"""Questions: later turns see the true dialogue, and no panorama stands in its own place."""

import pytest

from panollava.corpus.records import Record
from panollava.tasks.questions import derangement, panorama_questions
from panollava.tasks.text import OPEN


def test_later_turns_see_the_true_dialogue_and_the_panorama_comes_first() -> None:
    turns = [{"human": "a", "assistant": "b"}, {"human": "c", "assistant": "d"}]
    record = Record.model_validate({"image_id": "p", "image_path": "a.png", "conversations": turns})
    first, second = panorama_questions("p", [record])
    assert [part["type"] for part in first.messages[0]["content"]] == ["image", "text"]
    assert [message["role"] for message in second.messages] == ["user", "assistant", "user"]
    assert second.messages[:1] == first.messages
    assert [m["content"][-1]["text"] for m in second.messages] == ["a", "b", "c"]
    assert (second.record, second.turn, second.max_new_tokens) == (0, 1, OPEN.max_new_tokens)


@pytest.mark.parametrize("count", [2, 3, 10, 321])
def test_a_derangement_moves_every_panorama(count: int) -> None:
    order = derangement(count, 3)
    assert sorted(order) == list(range(count))
    assert all(place != shown for place, shown in enumerate(order))
    assert order == derangement(count, 3)
    assert count < 10 or order != derangement(count, 4)


def test_a_single_panorama_cannot_be_deranged() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        derangement(1, 0)
