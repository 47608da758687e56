"""Check before the first step that the language model's context holds every record, and that its tokenizer reads it.

A record's length is that of its whole dialogue with the panorama's tokens. Evaluation asks no longer prompts.
"""

from collections.abc import Iterable
from pathlib import Path

from panollava.corpus.problems import Problem, RecordErrors, RecordLocation
from panollava.corpus.records import Record
from panollava.corpus.store import RECORDS, open_records, panorama_records
from panollava.training.dialogues import Dialogue, dialogue_of, encoded
from panollava.vlm.processing_panollava import PanoLlavaProcessor


class Context:
    """The context of a processor's language model, and which records it holds.

    Raises:
        ValueError: a chat template that cannot write a question and its answer.
    """

    def __init__(self, processor: PanoLlavaProcessor) -> None:
        self.processor, self.tokens = processor, processor.context_length
        self.visual_tokens = processor.tokens_of_panorama(processor.image_processor.poses())
        self._templates: dict[int, int] = {}
        self._template(1)

    def length(self, record: Record) -> int:
        """Return the tokens of a record with its panorama.

        Raises:
            ValueError: a text that the tokenizer cannot read, or an answer that it joins with its prompt.
        """
        return self._longest(dialogue_of(record))

    def holds(self, record: Record) -> bool:
        """Return whether the context holds a record."""
        return self.length(record) <= self.tokens

    def surely_holds(self, record: Record) -> bool:
        """Return whether a record is so short that its tokens need no counting."""
        if self.processor.plain_text.unsafe:
            return False
        texts = [text for pair in dialogue_of(record) for text in pair]
        # What a template might leave out, or a tokenizer join with the prompt, is looked at.
        if any(answer[0].isspace() or "</" in answer for answer in texts[1::2]):
            return False
        return self._template(len(record.conversations)) + sum(map(_most_tokens, texts)) <= self.tokens

    def problems(self, located: Iterable[tuple[RecordLocation | str, Record]]) -> list[Problem]:
        """Return a problem for each record that is too long, at its longest text, or that cannot be read."""
        problems = []
        for where, record in located:
            try:
                if self.surely_holds(record):
                    continue
                length = self.length(record)
            except ValueError as error:
                problems.append(Problem(where, "conversations", str(error)))
                continue
            if length > self.tokens:
                text = (
                    f"the record has {length} tokens with its panorama, but the language model's context holds "
                    f"{self.tokens}; shorten this text, the longest, or divide the dialogue into several records"
                )
                problems.append(Problem(where, _longest_text(record), text))
        return problems

    def _template(self, turns: int) -> int:
        """Return the tokens of the panorama and of a dialogue of so many turns with a letter for each text."""
        if turns not in self._templates:
            self._templates[turns] = self._longest((("a", "a"),) * turns)
        return self._templates[turns]

    def _longest(self, dialogue: Dialogue) -> int:
        """Return the tokens of the longest row of a dialogue, the panorama's in place of the placeholder."""
        return max(len(row.ids) for row in encoded(self.processor, dialogue)) - 1 + self.visual_tokens


def check_store(processor: PanoLlavaProcessor, store: Path) -> None:
    """Check the records of all splits of a store: of those that are trained on, and of those that are asked later.

    Raises:
        RecordErrors: with every record that the context does not hold.
    """
    splits = sorted(file.stem for file in (store / RECORDS).glob("*.arrow"))
    located = (
        (f"{store}: split {split}, image_id {row['image_id']!r}, record {number}", record)
        for split in splits
        for row in open_records(store, split)
        for number, record in enumerate(panorama_records(row))
    )
    problems = Context(processor).problems(located)
    if problems:
        raise RecordErrors(problems)


def _most_tokens(text: str) -> int:
    """Return a number of tokens that no tokenizer exceeds.

    A token holds a byte at least. Unicode's normal forms make at most 11 bytes of one, of ASCII one.
    Spaces before and behind a text may add tokens.
    """
    return 2 + (len(text) if text.isascii() else 11 * len(text.encode()))


def _longest_text(record: Record) -> str:
    """Return the field of the longest text of a dialogue."""
    fields = {
        f"conversations.{number}.{name}": len(text)
        for number, turn in enumerate(record.conversations)
        for name, text in (("human", turn.human), ("assistant", turn.assistant))
    }
    return max(fields, key=lambda name: fields[name])
