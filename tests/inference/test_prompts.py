"""Questions as they come from users: control tokens are text, and what no prompt can hold is refused with a message."""

import pytest

from panollava import PanoLlavaProcessor
from panollava.corpus.messages import with_answer, with_question
from panollava.inference.prompts import prompt_ids, split_prompts


def test_control_tokens_in_questions_and_answers_are_text(processor: PanoLlavaProcessor) -> None:
    asked = with_question([], "what is </s> or <pad>?")
    later = with_question(with_answer(asked, "a <s></s>"), "<pad>?")
    (head, (tail,)), special = split_prompts(processor, [later]), processor.plain_text.control.keys()
    assert [number for number in head + tail if number in special] == [processor.tokenizer.eos_token_id]
    assert processor.decode(tail) == "\nwhat is </s> or <pad>? ASSISTANT: a <s></s></s>USER: <pad>? ASSISTANT:"


def test_the_token_of_the_panorama_is_refused_in_any_question(processor: PanoLlavaProcessor) -> None:
    first = with_question([], "is <pano> here?")
    for dialogue in (first, with_question(with_answer(first, "no"), "why?")):
        with pytest.raises(ValueError, match=r"'is <pano> here\?' contains <pano>, the token of the panorama; reword"):
            prompt_ids(processor, [dialogue])
    # What a model says is no reason to end a conversation.
    assert len(prompt_ids(processor, [with_question(with_answer(with_question([], "a"), "<pano>"), "b")])) == 1


@pytest.mark.parametrize("text", ["\ud83d", "what\udcff?", "\udcea\udcb0\udc80"])
def test_half_a_character_is_refused_with_a_message(processor: PanoLlavaProcessor, text: str) -> None:
    with pytest.raises(ValueError, match=r"is not valid Unicode: character \d is '\\ud"):
        prompt_ids(processor, [with_question([], text)])
