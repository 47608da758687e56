"""Dialogues about no panorama, from a JSONL file: what a language model says of other things, so that it keeps it.

One a line: `{"conversations": [{"human": "…", "assistant": "…"}]}`, as in a record.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from panollava.corpus.json_files import line_rows, read_text
from panollava.corpus.problems import Problem, RecordErrors
from panollava.corpus.records import Text

Turns = tuple[tuple[str, str], ...]


class TextTurn(BaseModel):
    """One question and its answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    human: Text
    assistant: Text


class TextDialogue(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    conversations: list[TextTurn] = Field(min_length=1)


@dataclass(frozen=True)
class Texts:
    """Dialogues of which each draw of panorama dialogues takes some, so that they are a `share` of all of them."""

    dialogues: Sequence[Turns]
    share: float
    seed: int

    def drawn(self, index: int, records: int) -> tuple[Turns, ...]:
        """Return those of draw number `index`, which has so many records; a function of these alone."""
        rng = Random(f"{self.seed}/text/{index}")
        count = int(records * self.share / (1 - self.share) + rng.random())
        return tuple(rng.choices(self.dialogues, k=count))


def read_text_chat(file: Path) -> list[Turns]:
    """Return the (question, answer) pairs of each dialogue of a file.

    Raises:
        ValueError: no such file, or no dialogue in it.
        RecordErrors: with every line that is no such dialogue.
    """
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file; it holds a dialogue a line")
    found: list[Turns] = []
    problems: list[Problem] = []
    for row in line_rows(file, read_text(file)):
        if isinstance(row, Problem):
            problems.append(row)
            continue
        location, content = row
        try:
            turns = TextDialogue.model_validate(content).conversations
        except ValidationError as error:
            problems += [
                Problem(location, ".".join(map(str, one["loc"])), one["msg"]) for one in error.errors(include_url=False)
            ]
            continue
        found.append(tuple((turn.human, turn.assistant) for turn in turns))
    if problems:
        raise RecordErrors(problems)
    if not found:
        raise ValueError(f"{file} holds no dialogue; write one a line")
    return found
