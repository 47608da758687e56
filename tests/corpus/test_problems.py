"""Messages: one printable line a problem, every kind shown, repetition cut with its count."""

from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from panollava.corpus.problems import (
    SHOWN_CHARACTERS,
    SHOWN_KINDS,
    SHOWN_PLACES,
    Problem,
    RecordErrors,
    RecordLocation,
    listed,
    printable,
    shorten,
)


def problem(index: int, field: str, text: str) -> Problem:
    return Problem(RecordLocation(Path("a.json"), index), field, text)


def test_a_kind_that_repeats_is_cut_and_every_kind_is_shown() -> None:
    many = [problem(index, f"conversations.{index % 7}.human", f"got '{index}': too short") for index in range(20_000)]
    message = str(RecordErrors([*many, problem(3, "image_path", "is missing")]))
    assert message.startswith("20001 problems in the dataset")
    lines = message.splitlines()
    assert lines[1:6] == [str(item) for item in many[:SHOWN_PLACES]]
    assert lines[6] == "  … and 19995 more of this kind"
    assert lines[7:] == ["a.json: record 3: image_path: is missing"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 80), min_size=1, max_size=400))
def test_the_counts_of_a_message_add_up(kinds: list[int]) -> None:
    lines = str(RecordErrors([problem(i, "x" * (kind + 1), "text") for i, kind in enumerate(kinds)])).splitlines()
    shown = [line for line in lines[1:] if not line.lstrip().startswith("…")]
    more = [int(line.split()[2]) for line in lines[1:] if line.lstrip().startswith("…")]
    assert len(shown) + sum(more) == len(kinds)
    assert len(lines) <= 2 * SHOWN_KINDS + 2
    assert len({line.split(":")[2] for line in shown}) == min(len(set(kinds)), SHOWN_KINDS)


def test_the_kind_of_a_hostile_text_is_found_at_once() -> None:
    text = "'" + "\\'" * 100_000
    assert problem(0, "a", text).group() == "a: #"
    assert problem(0, "objects.3", "got 'it…: 12 is wrong").group() == "objects.#: got #: # is wrong"


def test_a_line_holds_nothing_that_a_terminal_obeys() -> None:
    text = str(Problem(RecordLocation(Path("a\x1b[2J.json"), 0, 1), "k\u202e\n", "\x07 값 é"))
    assert text == "a\\x1b[2J.json: record 0 (line 1): k\\u202e\\n: \\x07 값 é"
    assert printable("\udcff") == "\\udcff"
    assert len(str(Problem("a", "b" * 10**6, "c"))) <= 1000


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=20), inner),
    )
)
def test_a_short_value_is_shown_as_python_writes_it(value: object) -> None:
    whole = repr(value)
    assert shorten(value) == (whole if len(whole) <= SHOWN_CHARACTERS else whole[: SHOWN_CHARACTERS - 1] + "…")


def test_the_most_frequent_names_are_listed() -> None:
    counts = Counter({f"type {number}": 100 - number for number in range(50)})
    text = listed(counts, shown=3)
    assert text == "type 0 100, type 1 99, type 2 98, … and 47 more"
    assert listed(Counter({"a\n": 1})) == "a\\n 1"
