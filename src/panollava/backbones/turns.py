"""What is learned of a dialogue: each answer, and the token that ends it, behind exactly the prompt of its question.

A chat template writes prompts (dialogues that end with a question, with `add_generation_prompt`) and whole dialogues.
What a whole dialogue has behind the prompt is the answer, whatever the template; marks are not needed. A template may
write earlier answers otherwise than the last one, as Qwen3 leaves out what was thought. No row then holds all prompts,
and each answer is learned in a row of its own.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, NamedTuple, Self

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from panollava.vlm.labels import IGNORE
from panollava.vlm.plain_text import PlainText
from panollava.vlm.processing_panollava import PanoLlavaProcessor

Message = dict[str, Any]
# Characters of a text that are shown.
SHOWN = 60
# A text that no template holds.
ANSWER = "It has 360 degrees."
ANOTHER = "name another template as chat_template of the preset"


class Learned(NamedTuple):
    """The token ids of a dialogue up to the end of its last answer, and their labels."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]


class ChatFormat:
    """How a tokenizer's chat template writes dialogues, and the token `end` that ends an answer.

    Raises:
        ValueError: a template that cannot write a question and its answer, with the reason.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str, plain_text: PlainText) -> None:
        self.tokenizer, self.template, self.plain_text = tokenizer, template, plain_text
        self.end = self._end_of_turn()

    @classmethod
    def of(cls, processor: PanoLlavaProcessor) -> Self:
        """Return the format of a processor."""
        return cls(processor.tokenizer, str(processor.chat_template), processor.plain_text)

    def learned(self, messages: Sequence[Message]) -> list[Learned]:
        """Return a dialogue of questions and answers as one row; or as one a turn, where no row holds all prompts.

        Raises:
            ValueError: an answer that the template or the tokenizer does not keep apart from its prompt.
        """
        plain = self.plain_text.messages(messages)
        ends = range(2, len(plain) + 1, 2)
        prompts = self._written([plain[: end - 1] for end in ends], prompt=True)
        (whole,) = self._written([plain], prompt=False)
        if all(map(whole.startswith, prompts)):
            return [self._row(whole, prompts, plain)]
        rows = zip(self._written([plain[:end] for end in ends], prompt=False), prompts, ends, strict=True)
        return [self._row(text, [prompt], plain[:end]) for text, prompt, end in rows]

    def _row(self, whole: str, prompts: Sequence[str], messages: Sequence[Message]) -> Learned:
        """Return what is learned of a whole text behind each of its last prompts."""
        answers = [_text(message) for message in messages if message["role"] == "assistant"][-len(prompts) :]
        ids, *before = self.tokenizer([whole, *prompts], add_special_tokens=False)["input_ids"]
        labels = [IGNORE] * len(ids)
        stop = 0
        for prompt, prompt_ids, answer in zip(prompts, before, answers, strict=True):
            behind = _behind(whole, prompt)
            self._check_answer(behind, answer)
            start = len(prompt_ids)
            if ids[:start] != prompt_ids:
                raise ValueError(
                    f"the tokenizer joins the end of a prompt, {prompt[-SHOWN // 3 :]!r}, with what the dialogue has "
                    f"behind it, {behind[:SHOWN]!r}; take white space from the beginning of the answer, or {ANOTHER}"
                )
            stop = ids.index(self.end, start) + 1
            labels[start:stop] = ids[start:stop]
        return Learned(tuple(ids[:stop]), tuple(labels[:stop]))

    def _check_answer(self, behind: str, answer: str) -> None:
        """Refuse what stands behind a prompt where it is not the whole answer and its end."""
        said, end, _ = behind.partition(self.plain_text.control[self.end])
        if not end:
            raise ValueError(
                f"the chat template does not end the answer {answer[:SHOWN]!r} with "
                f"{self.plain_text.control[self.end]}, as it ends others; {ANOTHER}"
            )
        if answer.strip() not in said:
            raise ValueError(
                f"the chat template writes the answer {answer[:SHOWN]!r} as {said[:SHOWN]!r}; reword it, or {ANOTHER}"
            )

    def _end_of_turn(self) -> int:
        messages = self.plain_text.messages([{"role": role, "content": ANSWER} for role in ("user", "assistant")])
        (prompt,), (whole,) = self._written([messages[:1]], prompt=True), self._written([messages], prompt=False)
        behind = _behind(whole, prompt)
        if ANSWER not in behind:
            raise ValueError(f"the chat template writes the answer {ANSWER!r} as {behind[:SHOWN]!r}; {ANOTHER}")
        rest = behind.rpartition(ANSWER)[2]
        ids: list[int] = self.tokenizer(rest, add_special_tokens=False)["input_ids"]
        found = next((number for number in ids if number in self.plain_text.control), None)
        if found is None:
            raise ValueError(
                f"the chat template writes {rest[:SHOWN]!r} behind an answer, and no control token, so no answer would "
                "end; write {{ eos_token }} there"
            )
        return found

    def _written(self, dialogues: Sequence[Sequence[Message]], *, prompt: bool) -> list[str]:
        try:
            written: Any = self.tokenizer.apply_chat_template(
                [list(one) for one in dialogues],
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=prompt,
            )
        except TemplateError as error:
            raise ValueError(f"the chat template cannot write a question and its answer: {error}; {ANOTHER}") from error
        return written


def _behind(whole: str, prompt: str) -> str:
    """Return what a whole dialogue has behind the prompt of a question."""
    if whole.startswith(prompt):
        return whole[len(prompt) :]
    same = next(i for i, (one, other) in enumerate(zip_longest(prompt, whole)) if one != other)
    raise ValueError(
        f"the chat template writes {prompt[same:][:SHOWN]!r} in the prompt of a question, but "
        f"{whole[same:][:SHOWN]!r} in the dialogue with its answer, so it cannot be told what is learned; {ANOTHER}"
    )


def _text(message: Message) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content if "text" in part)
