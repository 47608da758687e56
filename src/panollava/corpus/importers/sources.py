"""Read the JSON of public files: a list or lines of samples, or one object.

A file that is no JSON, or of another layout, is refused whole. A sample that does not fit is counted as bad: what the
keys of its shape hold must be of their type and such that records can carry it; other keys are ignored.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, ValidationError

from panollava.corpus.importers.findings import BadSample, Findings, misfit
from panollava.corpus.json_files import decoded, line_rows, list_rows, read_text, skip_space
from panollava.corpus.json_values import RepeatedKeys, value_faults
from panollava.corpus.layouts import RECORD_KEYS
from panollava.corpus.problems import Problem, RecordErrors, shorten


class Source(BaseModel):
    """A part of a public file: the declared keys must be of their type; other keys are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


Shape = TypeVar("Shape", bound=Source)


@lru_cache
def _keys(shape: type[Source]) -> frozenset[str]:
    """Return the keys of an object that a shape reads."""
    keys: set[str] = set()
    for name, field in shape.model_fields.items():
        alias = field.validation_alias
        keys.update(map(str, alias.choices) if isinstance(alias, AliasChoices) else [name])
    return frozenset(keys)


def fitted(shape: type[Shape], row: object) -> Shape:
    """Return a sample in its shape.

    Raises:
        BadSample: it has another shape, a key twice, or a value that no record can carry, such as NaN.
    """
    if not isinstance(row, dict):
        raise BadSample("no object", f"got {shorten(row)}; expected an object")
    keys = _keys(shape)
    if isinstance(row, RepeatedKeys) and not keys.isdisjoint(row.repeated):
        raise BadSample("a key that comes twice", f"{shorten(row.repeated)} comes twice in one object; keep one")
    for path, text in value_faults({key: value for key, value in row.items() if key in keys}):
        raise BadSample("a value that no record can carry", f"{'.'.join(map(str, path))}: {text}")
    try:
        return shape.model_validate(row)
    except ValidationError as error:
        raise misfit(error) from None


def fitting(shape: type[Shape], row: object, where: str, findings: Findings) -> Shape | None:
    """Return a sample in its shape; one that does not fit is counted as bad, and None."""
    try:
        return fitted(shape, row)
    except BadSample as error:
        findings.reject(where, error)
        return None


def text_of(file: Path) -> str:
    """Return the text of a UTF-8 file; raises ValueError with the line of the first invalid byte."""
    try:
        return read_text(file)
    except RecordErrors as error:
        raise ValueError("; ".join(map(str, error.problems))) from None


def read_document(file: Path) -> object:
    """Return the value of a JSON file; raises ValueError with the line of what is no JSON."""
    text = text_of(file)
    try:
        content, end = decoded(text, skip_space(text))
        if skip_space(text, end) < len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: line {error.lineno} column {error.colno}: invalid JSON, {error.msg}") from None
    except ValueError as error:
        raise ValueError(f"{file}: {str(error).partition(';')[0]}") from None
    return content


def read_object(file: Path, *lists: str) -> dict[str, object]:
    """Return the object of a JSON file that holds these lists; raises ValueError."""
    content = read_document(file)
    expected = f"expected an object with the lists {', '.join(map(repr, lists))}"
    if not isinstance(content, dict):
        raise ValueError(f"{file}: found {shorten(content)}; {expected}")
    if isinstance(content, RepeatedKeys):
        raise ValueError(f"{file}: {shorten(content.repeated)} comes twice in the object; keep one")
    missing = [name for name in lists if not isinstance(content.get(name), list)]
    if missing:
        found = shorten(list(content)) if missing[0] not in content else f"{missing[0]} {shorten(content[missing[0]])}"
        raise ValueError(f"{file}: found {found}; {expected}")
    return content


def _check_form(file: Path, text: str, unit: str) -> None:
    """Raise ValueError if a list of samples is named *.jsonl, or a file of another form *.json."""
    start = skip_space(text)
    if start == len(text):
        raise ValueError(f"{file}: is empty; expected {unit}")
    if file.suffix == ".jsonl":
        if text[start] == "[":
            raise ValueError(f"{file}: holds a list, not one object a line; name the file *.json")
        return
    if text[start] == "[":
        return
    if text[start] == "{" and "\n{" in text.rstrip():
        raise ValueError(f"{file}: expected a list of {unit}; if each line holds one, name the file *.jsonl")
    raise ValueError(f"{file}: expected a list of {unit}, found {shorten(read_document(file))}")


def read_samples(file: Path, findings: Findings) -> Iterator[tuple[str, object]]:
    """Yield the samples of a *.json list or of the lines of a *.jsonl with their places, and count them.

    Entries of a list count from 0, lines from 1. A line that is no JSON is counted as bad.

    Raises:
        ValueError: the file has another form, or its list is no JSON.
    """
    text = text_of(file)
    _check_form(file, text, findings.unit)
    lines = file.suffix == ".jsonl"
    for row in line_rows(file, text) if lines else list_rows(file, text):
        if not isinstance(row, Problem):
            findings.read += 1
            location, content = row
            if location.index == 0 and isinstance(content, dict) and content.keys() >= RECORD_KEYS:
                raise ValueError(f"{file}: holds records already; use it as it is, `panollava validate` checks it")
            yield (
                f"{file.name} {'entry' if location.line is None else 'line'} {location.line or location.index}",
                content,
            )
        elif lines:
            findings.read += 1
            findings.reject(f"{file.name} {row.field}", BadSample("invalid JSON", row.text))
        else:
            raise ValueError(str(row))
