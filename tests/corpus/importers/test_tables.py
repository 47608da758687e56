"""Tables: quotes, rows of another width, headers, and what every table of plain cells gives back."""

import csv
import io
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from importer_cases import refused, run, write_image

from panollava.corpus.importers.findings import Findings
from panollava.corpus.importers.tables import read_table

COLUMNS = ("url", "query", "annotation")


def table(tmp_path: Path, *lines: str, name: str = "train.tsv") -> Path:
    for image in ("a.png", "b.png"):
        write_image(tmp_path / image)
    file = tmp_path / name
    separator = "," if name.endswith("csv") else "\t"
    file.write_text("\n".join([separator.join(COLUMNS), *lines, ""]), encoding="utf-8", newline="")
    return file


def cells(file: Path, separator: str = "\t") -> tuple[list[tuple[str, ...]], Findings]:
    findings = Findings("rows")
    rows = read_table(file, separator, COLUMNS, findings)
    assert findings.read == len(rows) + findings.bad.total()
    return [tuple(row.cells.values()) for row in rows], findings


def test_an_unbalanced_quote_is_refused_with_its_line(tmp_path: Path) -> None:
    file = table(
        tmp_path,
        'a.png\tsign\t"Exit sign on the left',
        "b.png\tsign\tA red door",
        'a.png\tdoor\tthe "big" door"',
        "b.png\twall\tA wall",
    )
    message = refused(tmp_path, "quic360", file)
    assert message.startswith("1 of 4 rows cannot be imported")
    assert "train.tsv line 2: the cell '\"Exit sign on the left' opens a quote that is not closed" in message
    records, report = run(tmp_path, "quic360", file, drop_bad_records=True)
    assert [record.conversations[0].assistant for record in records] == ["A red door", 'the "big" door"', "A wall"]
    assert report.dropped == {"rows with a quote that is not closed": 1}


@pytest.mark.parametrize(("name", "separator"), [("t.tsv", "\t"), ("t.csv", ",")])
def test_a_quote_that_another_row_closes_swallows_nothing(tmp_path: Path, name: str, separator: str) -> None:
    rows = [
        ("a.png", "sign", '"Exit'),
        ("b.png", "sign", "A door"),
        ("a.png", "x", 'says "hi"'),
        ("b.png", "x", 'ends"'),
    ]
    read, findings = cells(table(tmp_path, *map(separator.join, rows), name=name), separator)
    assert read == rows[1:]
    assert findings.bad == {"rows with a quote that is not closed": 1}
    ends = [rows[0], rows[3]]
    read, findings = cells(table(tmp_path, *map(separator.join, ends), name=name), separator)
    assert read == [rows[3]]
    places = findings.places["rows with a quote that is not closed"]
    assert places == [f"{name} line 2: a quote that opens here is closed on line 3, but line 3 is a row of its own; "
                      "double the quotes or remove them"]  # fmt: skip


def test_quotes_that_are_part_of_the_text_stay(tmp_path: Path) -> None:
    lines = ['a.png\tsign\t"Welcome" sign', 'a.png\t24" screen\tA', 'a.png\t"quoted"\t"a ""b"" c"', 'a.png\t"Q" x\t"A"']
    read, _ = cells(table(tmp_path, *lines))
    assert read == [
        ("a.png", "sign", '"Welcome" sign'),
        ("a.png", '24" screen', "A"),
        ("a.png", "quoted", 'a "b" c'),
        ("a.png", '"Q" x', "A"),
    ]


def test_a_quoted_cell_may_span_lines(tmp_path: Path) -> None:
    read, _ = cells(table(tmp_path, 'a.png,sign,"A wall, and\na door, and\n""more"""', "b.png,x,B", name="t.csv"), ",")
    assert read == [("a.png", "sign", 'A wall, and\na door, and\n"more"'), ("b.png", "x", "B")]


def test_rows_of_another_width_and_zero_bytes_are_bad(tmp_path: Path) -> None:
    read, findings = cells(table(tmp_path, "a.png\tart", "a.png\tart\tA\troom", "", "a.png\tart\tA\0", "a.png\tart\tA"))
    assert read == [("a.png", "art", "A")]
    assert findings.bad == {"rows with another number of columns": 2, "rows with a zero byte": 1}
    assert findings.places["rows with another number of columns"][1].startswith("train.tsv line 3: 4 cells separated")


def test_a_byte_order_mark_and_windows_line_ends_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "t.tsv"
    file.write_bytes(b"\xef\xbb\xbfurl\tquery\tannotation\r\na.png\tart\tA\r\nb.png\tart\tB")
    assert cells(file)[0] == [("a.png", "art", "A"), ("b.png", "art", "B")]


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("url\tannotation", "missing columns 'query'; found ['url', 'annotation'], expected ['url', 'query'"),
        ("url,query,annotation", "missing columns"),
        ("url\tquery\tannotation\tquery", "line 1: columns 'query' occur twice"),
        ("", "missing columns"),
    ],
)
def test_a_header_without_the_columns_is_refused(tmp_path: Path, header: str, reason: str) -> None:
    file = tmp_path / "t.tsv"
    file.write_text(f"{header}\na.png\tart\tA\n")
    with pytest.raises(ValueError, match=r"t\.tsv") as error:
        cells(file)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]))] * 3), min_size=1, max_size=6))
def test_every_quoted_table_gives_back_its_cells(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]]
) -> None:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([COLUMNS, *rows])
    file = tmp_path_factory.mktemp("table") / "t.csv"
    file.write_text(text.getvalue(), encoding="utf-8", newline="")
    assert cells(file, ",")[0] == rows


@pytest.mark.parametrize("line", ['a\tb\t"x', '"', '""\t"', "a\tb\tc" * 20, '"a""'])
def test_hostile_lines_take_linear_time(tmp_path: Path, line: str) -> None:
    file = table(tmp_path, *[line] * 5_000, '"')
    start = time.process_time()
    cells(file)
    assert time.process_time() - start < 2
