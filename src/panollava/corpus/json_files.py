"""Read the rows of a JSON list or a JSONL file one by one, with the location of each and a problem for what is no row.

Lines and columns count from 1. Keys that come twice are kept for `json_values` to report.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from panollava.corpus.json_values import MAX_DEPTH, json_object
from panollava.corpus.problems import Problem, RecordErrors, RecordLocation, shorten

# A row and its location, or a problem in its place.
Row = tuple[RecordLocation, object] | Problem
_DECODER = json.JSONDecoder(object_pairs_hook=json_object)
_SPACE = re.compile(r"[ \t\n\r]*")
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def _is_cp949(content: bytes) -> bool:
    try:
        content.decode("cp949")
    except UnicodeDecodeError:
        return False
    return True


def read_text(file: Path) -> str:
    """Return the text of a UTF-8 file; raises RecordErrors with the line of the first invalid byte."""
    content = file.read_bytes()
    try:
        # The byte-order mark that some editors write is dropped.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        known = "the file looks like UTF-16; " if content.startswith(UTF_16) else ""
        if not known and _is_cp949(content):
            known = "the file looks like cp949, which Korean Windows writes; "
        text = f"byte {content[error.start]:#04x} is not UTF-8; {known}save it as UTF-8"
        raise RecordErrors([Problem(str(file), f"line {line}", text)]) from None
    if "\0" in text[:4]:
        raise RecordErrors([Problem(str(file), "", "the file looks like UTF-16 or UTF-32; save it as UTF-8")])
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def skip_space(text: str, position: int = 0) -> int:
    """Return the position of the next character that is no white space of JSON."""
    found = _SPACE.match(text, position)
    return position if found is None else found.end()


def decoded(text: str, position: int = 0) -> tuple[object, int]:
    """Return the JSON value at a position and the position after it.

    Raises:
        ValueError: JSONDecodeError, or a value that Python cannot hold: nested too deeply, a number too long.
    """
    try:
        return _DECODER.raw_decode(text, position)
    except RecursionError:
        raise ValueError(f"nested far more than {MAX_DEPTH} levels deep") from None


def syntax_problem(file: Path, text: str, start: int, error: ValueError, *, line: int = 1, what: str = "") -> Problem:
    """Return the problem of a value that starts at a position of a text; the text starts at `line`."""
    reason, at = "holds an integer of thousands of digits; write it as text, in quotes", start
    if isinstance(error, json.JSONDecodeError):
        at = error.pos
        reason = f"invalid JSON, {error.msg}, at {shorten(text[at : at + 30])}"
    elif "nested" in str(error):
        reason = str(error)
    column = at - text.rfind("\n", 0, at)
    line += text.count("\n", 0, at)
    kind = reason.partition(", at ")[0]
    return Problem(str(file), f"line {line} column {column}", what + reason, kind)


def list_rows(file: Path, text: str) -> Iterator[Row]:
    """Yield the rows of a JSON list; a problem of its syntax is the last one."""
    position, index = skip_space(text, skip_space(text) + 1), 0
    closed = text[position : position + 1] == "]"
    try:
        while not closed:
            row, position = decoded(text, position)
            yield RecordLocation(file, index), row
            position, index = skip_space(text, position), index + 1
            closed = text[position : position + 1] == "]"
            if not closed and text[position : position + 1] != ",":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
            position = position if closed else skip_space(text, position + 1)
        end = skip_space(text, position + 1)
        if end < len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except ValueError as error:
        yield syntax_problem(file, text, position, error, what=f"record {index}: ")


def line_rows(file: Path, text: str) -> Iterator[Row]:
    """Yield the rows of a JSONL file, one a line that is not empty."""
    index = start = 0
    number = 1
    while start <= len(text):
        # `splitlines` would also split at U+2028, which JSON strings may contain.
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        line = text[start:end]
        if line.strip():
            yield _line_row(RecordLocation(file, index, number), line)
            index += 1
        start, number = end + 1, number + 1


def _line_row(location: RecordLocation, line: str) -> Row:
    start = skip_space(line)
    try:
        row, end = decoded(line, start)
        if skip_space(line, end) < len(line):
            raise json.JSONDecodeError("Extra data", line, end)
    except ValueError as error:
        return syntax_problem(location.file, line, start, error, line=location.line or 1)
    return location, row
