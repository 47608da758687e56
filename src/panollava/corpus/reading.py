"""Read record files, JSON (a list) or JSONL, and report every bad record in one error.

A dataset is a record file, or a folder with exactly one of `RECORD_FILES`. Image paths are relative to the folder of
the record file and never lead out of it. Record indices count from 0, lines and columns from 1.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from pydantic import BaseModel, ValidationError

from panollava.corpus.records import ObjectAnnotation, Record, Turn

RECORD_FILES = ("annotations.json", "annotations.jsonl", "records.json", "records.jsonl")
KNOWN_KEYS: dict[str, type[BaseModel]] = {"": Record, "conversations": Turn, "objects": ObjectAnnotation}
SHOWN_CHARACTERS = 100


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
    """A problem of a dataset: its location, its dotted field, and what would be right."""

    where: RecordLocation | str
    field: str
    text: str

    def __str__(self) -> str:
        """Return one line of a message."""
        return f"{self.where}: {self.field}: {self.text}" if self.field else f"{self.where}: {self.text}"


class RecordErrors(ValueError):
    """All problems of a dataset; the message lists every one."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{count} in the dataset (records and fields count from 0):", *map(str, problems)]))


def shorten(value: object) -> str:
    """Return a value for a message, cut at `SHOWN_CHARACTERS`."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def record_file(path: Path) -> Path:
    """Return the record file of a dataset given as a file or a folder; raises RecordErrors."""
    if path.is_file():
        if path.suffix not in (".json", ".jsonl"):
            raise RecordErrors([Problem(str(path), "", "a record file is named *.json (a list) or *.jsonl")])
        return path
    names = " or ".join(RECORD_FILES)
    if not path.is_dir():
        raise RecordErrors([Problem(str(path), "", f"no such file or folder; expected a record file or {names} in it")])
    found = [path / name for name in RECORD_FILES if (path / name).is_file()]
    if len(found) != 1:
        holds = ", ".join(file.name for file in found) or "none of them"
        raise RecordErrors([Problem(str(path), "", f"expected exactly one of {names}, found {holds}")])
    return found[0]


def read_text(file: Path) -> str:
    """Return the text of a UTF-8 file; raises RecordErrors with the line of the first invalid byte."""
    try:
        # The byte-order mark that some editors write is dropped.
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        problem = Problem(str(file), f"line {line}", f"byte {error.object[error.start]:#04x} is not UTF-8")
        raise RecordErrors([problem]) from None


def _json_problem(file: Path, error: json.JSONDecodeError, *, line: int) -> Problem:
    excerpt = shorten(error.doc[error.pos : error.pos + 30])
    return Problem(str(file), f"line {line} column {error.colno}", f"invalid JSON, {error.msg}, at {excerpt}")


def _parse(file: Path) -> tuple[list[tuple[RecordLocation, object]], list[Problem]]:
    """Return the raw records of a file with their locations, and a problem for each line that is not JSON."""
    text = read_text(file)
    if file.suffix == ".json":
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            return [], [_json_problem(file, error, line=error.lineno)]
        if not isinstance(rows, list):
            return [], [Problem(str(file), "", f"expected a list of records, found {shorten(rows)}")]
        return [(RecordLocation(file, index), row) for index, row in enumerate(rows)], []
    located: list[tuple[RecordLocation, object]] = []
    problems: list[Problem] = []
    index = 0
    # `splitlines` would also split at U+2028, which JSON strings may contain.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            located.append((RecordLocation(file, index, number), json.loads(line)))
        except json.JSONDecodeError as error:
            problems.append(_json_problem(file, error, line=number))
        index += 1
    return located, problems


def _schema_problems(location: RecordLocation, error: ValidationError) -> Iterator[Problem]:
    for item in error.errors(include_url=False, include_context=False):
        field = ".".join(map(str, item["loc"]))
        value = shorten(item["input"])
        if item["type"] == "default_factory_not_called":  # a consequence of another error of the same turn
            continue
        if item["type"] == "missing":
            yield Problem(location, field, "is missing")
        elif item["type"] == "extra_forbidden":
            parent = ".".join(str(part) for part in item["loc"][:-1] if isinstance(part, str))
            known = f"; known keys: {', '.join(KNOWN_KEYS[parent].model_fields)}" if parent in KNOWN_KEYS else ""
            yield Problem(location, field, f"unknown key with value {value}{known}")
        else:
            yield Problem(location, field, f"got {value}: {item['msg'].removeprefix('Value error, ')}")


def image_file(folder: Path, image_path: str) -> Path:
    """Return the image file of a record; raises ValueError if it is outside the dataset folder or missing."""
    # A Windows path is refused on every system, so that a dataset is equally valid everywhere.
    if PurePosixPath(image_path).is_absolute() or PureWindowsPath(image_path).drive or "\0" in image_path:
        raise ValueError(f"{image_path!r} is not a relative path; expected one below the dataset folder {folder}")
    file = folder / image_path
    try:
        inside = file.resolve().is_relative_to(folder.resolve())
        exists = file.is_file()
    except (OSError, RuntimeError) as error:  # a name too long, or a loop of links
        raise ValueError(f"{image_path!r} cannot be looked up: {error}") from None
    if not inside:
        raise ValueError(f"{image_path!r} leads to {file.resolve()}, outside the dataset folder {folder}")
    if not exists:
        raise ValueError(f"{image_path!r} is missing: there is no file {file}")
    return file


def _cross_problems(located: list[tuple[RecordLocation, Record]], folder: Path) -> list[Problem]:
    """Return the problems between records: duplicates, one image_id with two paths, paths without a file."""
    problems: list[Problem] = []
    seen: dict[str, RecordLocation] = {}
    paths: dict[str, tuple[PurePosixPath, RecordLocation]] = {}
    for location, record in located:
        identity = json.dumps(record.model_dump(mode="json"), sort_keys=True)
        first = seen.setdefault(identity, location)
        if first is not location:
            text = f"{shorten(record.image_id)} is identical to record {first.index}; remove one of the two"
            problems.append(Problem(location, "image_id", text))
        path, path_location = paths.setdefault(record.image_id, (PurePosixPath(record.image_path), location))
        if path != PurePosixPath(record.image_path):
            text = (
                f"{record.image_path!r}, but image_id {record.image_id!r} has {str(path)!r} in record "
                f"{path_location.index}; one image_id means one image"
            )
            problems.append(Problem(location, "image_path", text))
        try:
            image_file(folder, record.image_path)
        except ValueError as error:
            problems.append(Problem(location, "image_path", str(error)))
    return problems


def parse_records(path: Path) -> tuple[list[tuple[RecordLocation, Record]], list[Problem]]:
    """Return the well-formed records of a dataset with their locations, and all its problems.

    Raises RecordErrors only if there is no record file to read.
    """
    file = record_file(path)
    raw, problems = _parse(file)
    if not raw and not problems:
        problems.append(Problem(str(file), "", "holds no records; expected at least one"))
    located: list[tuple[RecordLocation, Record]] = []
    for location, row in raw:
        try:
            located.append((location, Record.model_validate(row)))
        except ValidationError as error:
            problems.extend(_schema_problems(location, error))
    return located, problems + _cross_problems(located, file.parent)


def read_records(path: Path) -> list[Record]:
    """Return the records of a JSON or JSONL file, or of a folder with one; raises RecordErrors with every problem.

    Image files must exist inside the dataset folder, but are not opened: see `corpus.validation.read_dataset`.
    """
    located, problems = parse_records(path)
    if problems:
        raise RecordErrors(problems)
    return [record for _, record in located]
