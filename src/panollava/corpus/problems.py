"""The problems of a dataset and their message: one line a problem, whatever the data holds.

A message groups the problems by kind and shows the first of each kind; counts are exact. Characters that a terminal
obeys (escapes, line breaks, directional marks) are shown as Python writes them in a string.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SHOWN_CHARACTERS = 100
# A problem in a message: a path and a few values.
SHOWN_LINE = 1000
# Of a message: the places of one kind, all lines, the kinds.
SHOWN_PLACES, SHOWN_LINES, SHOWN_KINDS = 5, 60, 60
# What differs between two problems of one kind: quoted values and numbers.
_VALUES = re.compile(r"'(?:[^'\\…]|\\.)*(?:['…]|$)|\"(?:[^\"\\…]|\\.)*(?:[\"…]|$)|\d+")


@dataclass(frozen=True)
class RecordLocation:
    """The location of a record: its file, its index and, in JSONL, its line."""

    file: Path
    index: int
    line: int | None = None

    def __str__(self) -> str:
        """Return the text used in messages."""
        return f"{self.file}: record {self.index}" + (f" (line {self.line})" if self.line is not None else "")


@dataclass(frozen=True)
class Problem:
    """A problem of a dataset: its location, its dotted field, and what would be right.

    Problems are of one kind if their `kind` is equal but for quoted values and numbers. By default it is field and
    text.
    """

    where: RecordLocation | str
    field: str
    text: str
    kind: str = ""

    def __str__(self) -> str:
        """Return one line of a message."""
        field = f"{printable(self.field)}: " if self.field else ""
        line = printable(f"{self.where}: {field}{self.text}")
        return line if len(line) <= SHOWN_LINE else line[: SHOWN_LINE - 1] + "…"

    def group(self) -> str:
        """Return the kind."""
        return _VALUES.sub("#", self.kind or f"{self.field}: {self.text}")


class RecordErrors(ValueError):
    """All problems of a dataset; the message shows each kind, its first places and its count."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        header = f"{count} in the dataset (records and fields count from 0):"
        # Of a file that is no record file there is one thing to say.
        alone = len(problems) == 1 and isinstance(problems[0].where, str) and not problems[0].field
        super().__init__("\n".join([*([] if alone else [header]), *message_lines(problems)]))


def message_lines(problems: Sequence[Problem]) -> Iterator[str]:
    """Yield the lines of a message: the kinds in the order of their first problem, the problems of a kind in theirs."""
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.group(), []).append(problem)
    places = max(1, min(SHOWN_PLACES, SHOWN_LINES // max(1, len(kinds))))
    shown = list(kinds.values())[:SHOWN_KINDS]
    for group in shown:
        yield from map(str, group[:places])
        if len(group) > places:
            yield f"  … and {len(group) - places} more of this kind"
    if len(kinds) > len(shown):
        yield f"… and {len(problems) - sum(map(len, shown))} problems of {len(kinds) - len(shown)} more kinds"


def listed(counts: Counter[str], shown: int = 20) -> str:
    """Return the most frequent names with their counts in one line, and how many more names there are."""
    names = [f"{printable(name[:SHOWN_CHARACTERS])} {count}" for name, count in counts.most_common(shown)]
    return ", ".join([*names, f"… and {len(counts) - shown} more"] if len(counts) > shown else names)


def printable(text: str) -> str:
    """Return a text in one line, with the escapes of Python for what a terminal would obey or cannot show."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def shorten(value: object) -> str:
    """Return a value for a message in at most `SHOWN_CHARACTERS`; the time does not grow with the value."""
    text = ""
    for piece in _pieces(value):
        text += piece
        if len(text) > SHOWN_CHARACTERS:
            return text[: SHOWN_CHARACTERS - 1] + "…"
    return text


def _pieces(value: object) -> Iterator[str]:
    """Yield the `repr` of a JSON value piece by piece; texts are cut."""
    if isinstance(value, dict):
        yield "{"
        for number, (key, item) in enumerate(value.items()):
            yield ", " if number else ""
            yield from _pieces(key)
            yield ": "
            yield from _pieces(item)
        yield "}"
    elif isinstance(value, list):
        yield "["
        for number, item in enumerate(value):
            yield ", " if number else ""
            yield from _pieces(item)
        yield "]"
    else:
        yield repr(value[: SHOWN_CHARACTERS + 1] if isinstance(value, str) else value)
