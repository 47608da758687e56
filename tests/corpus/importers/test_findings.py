"""Counts of an import: sums, floods and lines that a terminal can show."""

import pytest

from panollava.corpus.importers.findings import LINE_CHARACTERS, MOST_BAD, SHOWN, BadSample, Findings, refuse


def test_counts_add_up_and_are_shown_by_reason() -> None:
    findings = Findings("rows", read=10)
    for number in range(SHOWN + 2):
        findings.reject(f"line {number}", BadSample("a fault", "is odd"))
    findings.leave_out("line 8", "without an image")
    findings.besides["images"] += 3
    lines = findings.report(imported=2)
    assert lines[0] == "read: 10 rows, imported: 2, left out: 8"
    assert lines[1:4] == ["left out: 1 rows without an image:", "  line 8", "left out: 7 rows with a fault:"]
    assert lines[4 + SHOWN :] == ["  ... and 2 more", "also left out: 3 images"]
    assert findings.counts().total() == 11
    findings.reject("image 3", BadSample("a fault", "is odd"), samples=0)
    assert findings.report(imported=2)[0] == lines[0]
    assert findings.report(imported=2)[-1] == "also left out: 1 records with a fault"
    assert Findings("rows", read=1).report(imported=1)[1:] == ["left out: nothing"]


def test_lines_are_printable_and_short() -> None:
    findings = Findings("rows", read=1)
    findings.reject("\x1b[2J" + "x" * 9_000, BadSample("a \n fault", "y\u202e"))
    with pytest.raises(ValueError, match="1 odd things") as error:
        refuse("odd things", ["a\tb\n\x07"])
    for line in [*findings.problems(), *str(error.value).split("\n")]:
        assert line.isprintable()
        assert len(line) < 2 * LINE_CHARACTERS


def test_reading_stops_if_no_sample_of_very_many_fits() -> None:
    findings = Findings("rows")
    with pytest.raises(ValueError, match="no sample can be imported, so the rest was not read"):
        for _ in range(2 * MOST_BAD):
            findings.read += 1
            findings.reject("here", BadSample("a fault", "is odd"))
    assert findings.read == MOST_BAD
