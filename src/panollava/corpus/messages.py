"""Chat messages, as the processor's chat template takes them: the panorama stands before the first question."""

from collections.abc import Iterable, Sequence
from typing import Any

Message = dict[str, Any]


def with_question(history: Sequence[Message], question: str) -> list[Message]:
    """Return a dialogue with its next question; the first one brings the panorama."""
    panorama = [] if history else [{"type": "image"}]
    return [*history, {"role": "user", "content": [*panorama, {"type": "text", "text": question}]}]


def with_answer(history: Sequence[Message], answer: str) -> list[Message]:
    """Return a dialogue with the answer to its last question."""
    return [*history, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]


def without_first_turn(history: Sequence[Message]) -> list[Message]:
    """Return a dialogue without its first question and answer; the next question brings the panorama then."""
    if len(history) <= 2:
        return []
    question = {**history[2], "content": [{"type": "image"}, *history[2]["content"]]}
    return [question, *history[3:]]


def dialogue(turns: Iterable[tuple[str, str]]) -> list[Message]:
    """Return a dialogue of (question, answer) pairs."""
    messages: list[Message] = []
    for question, answer in turns:
        messages = with_answer(with_question(messages, question), answer)
    return messages


def without_panorama(messages: Sequence[Message]) -> list[Message]:
    """Return a dialogue as one about nothing that is seen."""
    return [{**one, "content": [part for part in one["content"] if part["type"] == "text"]} for one in messages]
