"""Read CSV and TSV files with a header: one row a line, unless a quoted cell spans lines.

A quote at the start of a cell that is never closed would swallow the rows below it. Such a row is bad, the others are
read. A cell whose quotes do not quote all of it, `"Welcome" sign`, stays as it is.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from panollava.corpus.importers.findings import BadSample, Findings
from panollava.corpus.importers.sources import text_of
from panollava.corpus.problems import shorten

# A quoted cell with more lines than this is taken for an unbalanced quote; it keeps the reading linear.
MOST_LINES = 100
QUOTE = "a quote that is not closed"


@dataclass(frozen=True)
class TableRow:
    """A row: its number below the header, its place, and its cells by column."""

    number: int
    where: str
    cells: dict[str, str]


def _plain(line: str, separator: str) -> list[str]:
    """Return the cells of one line without quoting rules; raises BadSample if a cell opens a quote that stays open."""
    cells = line.removesuffix("\n").removesuffix("\r").split(separator)
    for cell in cells:
        if cell.startswith('"') and cell.count('"') % 2:
            text = f"the cell {shorten(cell)} opens a quote that is not closed; double the quotes or remove them"
            raise BadSample(QUOTE, text)
    # A cell that is quoted as a whole, beside one that is not.
    whole = [len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', "") for cell in cells]
    return [cell[1:-1].replace('""', '"') if quoted else cell for cell, quoted in zip(cells, whole, strict=True)]


def _next_row(lines: Sequence[str], start: int, separator: str, width: int) -> tuple[list[str], int]:
    """Return the cells of the row that starts at a line, and the number of its lines.

    Raises:
        BadSample: a quote is not closed, or it is closed only after lines that are rows themselves.
    """
    reader = csv.reader(lines[start : start + MOST_LINES], delimiter=separator, strict=True)
    try:
        cells = next(reader)
    except csv.Error:
        return _plain(lines[start], separator), 1
    inner = lines[start + 1 : start + reader.line_num]
    for number, line in enumerate(inner, start=start + 2):
        # In prose a comma is followed by a space, between the cells of a row it is not.
        if sum(not cell.startswith(" ") for cell in line.split(separator)) >= width:
            text = f"a quote that opens here is closed on line {start + reader.line_num}, but line {number} is a row"
            raise BadSample(QUOTE, f"{text} of its own; double the quotes or remove them")
    return cells, reader.line_num


def _header(file: Path, lines: Sequence[str], separator: str, columns: Sequence[str]) -> list[str]:
    try:
        found = next(csv.reader(lines[:1], delimiter=separator), [])
    except csv.Error as error:
        raise ValueError(f"{file}: line 1: no header of columns separated by {separator!r}: {error}") from None
    missing = [name for name in columns if name not in found]
    if missing:
        raise ValueError(
            f"{file}: missing columns {', '.join(map(repr, missing))}; found {shorten(found)}, "
            f"expected {list(columns)} separated by {separator!r}"
        )
    twice = [name for name in columns if found.count(name) > 1]
    if twice:
        raise ValueError(f"{file}: line 1: columns {', '.join(map(repr, twice))} occur twice; expected them once")
    return found


def read_table(file: Path, separator: str, columns: Sequence[str], findings: Findings) -> list[TableRow]:
    """Return the rows of a CSV or TSV file; an empty cell is an empty text, and "None" is a word.

    Rows with another number of cells than the header or an unbalanced quote are counted as bad.

    Raises:
        ValueError: the header lacks a column or has it twice.
    """
    # Not `splitlines`: it would also split at U+2028, which texts may contain.
    lines = [line + "\n" for line in text_of(file).split("\n")]
    header = _header(file, lines, separator, columns)
    rows: list[TableRow] = []
    number, start = 0, 1
    while start < len(lines):
        if not lines[start].strip("\r\n "):
            start += 1
            continue
        number += 1
        findings.read += 1
        where, count = f"{file.name} line {start + 1}", 1
        try:
            cells, count = _next_row(lines, start, separator, len(header))
            if len(cells) != len(header):
                text = f"{len(cells)} cells separated by {separator!r}, the header has {len(header)}"
                raise BadSample("another number of columns", text)
            if any("\0" in cell for cell in cells):
                raise BadSample("a zero byte", f"a zero byte in {shorten(cells)}; expected text")
            rows.append(TableRow(number, where, dict(zip(header, cells, strict=True))))
        except BadSample as error:
            findings.reject(where, error)
        start += count
    return rows
