"""Read record files, JSON (a list) or JSONL, and report every bad record in one error.

A dataset is a record file, or a folder with exactly one of `RECORD_FILES`. Image paths are relative to the folder of
the record file and never lead out of it. Record indices count from 0, lines and columns from 1.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ValidationError

from panollava.corpus.image_paths import as_on_disk, image_file, normal
from panollava.corpus.json_files import Row, line_rows, list_rows, read_text, skip_space, syntax_problem
from panollava.corpus.json_values import holds_more, value_faults
from panollava.corpus.layouts import folder_hint, foreign_row, foreign_text, table_hint
from panollava.corpus.problems import SHOWN_CHARACTERS, Problem, RecordErrors, RecordLocation, shorten
from panollava.corpus.records import ObjectAnnotation, Record, Turn

RECORD_FILES = ("annotations.json", "annotations.jsonl", "records.json", "records.jsonl")
KNOWN_KEYS: dict[str, type[BaseModel]] = {"": Record, "conversations": Turn, "objects": ObjectAnnotation}
# Reading ends there: a file with so many is not worth the memory.
MAX_PROBLEMS = 100_000
# Of a record, about 5,000 objects: every value may be a problem. Its metadata may hold more.
MAX_VALUES, MAX_METADATA = 50_000, 1_000_000

Located = tuple[RecordLocation, Record]


def record_file(path: Path) -> Path:
    """Return the record file of a dataset given as a file or a folder; raises RecordErrors."""
    path = as_on_disk(path)
    if path.is_file():
        if path.suffix not in (".json", ".jsonl"):
            text = f"a record file is named *.json (a list) or *.jsonl{table_hint(path)}"
            raise RecordErrors([Problem(str(path), "", text)])
        return path
    names = " or ".join(RECORD_FILES)
    if not path.is_dir():
        what = "is neither a file nor a folder" if os.path.lexists(path) else "no such file or folder"
        raise RecordErrors([Problem(str(path), "", f"{what}; expected a record file or {names} in it")])
    found = [path / name for name in RECORD_FILES if (path / name).is_file()]
    if len(found) != 1:
        holds = ", ".join(file.name for file in found) or f"none of them{folder_hint(path)}"
        raise RecordErrors([Problem(str(path), "", f"expected exactly one of {names}, found {holds}")])
    return found[0]


def _dotted(path: tuple[str | int, ...]) -> str:
    """Return the field of a path, in time that does not grow with the keys."""
    return ".".join(str(part)[:SHOWN_CHARACTERS] or "''" for part in path)


def _value_problems(location: RecordLocation, row: object) -> Iterator[Problem]:
    """Yield what the store cannot hold."""
    for path, text in value_faults(row):
        yield Problem(location, _dotted(path), text, f"{path[0] if path else ''}: {text}")


def _schema_problems(location: RecordLocation, error: ValidationError) -> Iterator[Problem]:
    for item in error.errors(include_url=False, include_context=False):
        field = _dotted(item["loc"])
        parent = ".".join(str(part) for part in item["loc"][:-1] if isinstance(part, str))
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "default_factory_not_called":  # a consequence of another error of the same turn
            continue
        if item["type"] == "missing":
            yield Problem(location, field, "is missing")
        elif item["type"] == "extra_forbidden":
            known = f"; known keys: {', '.join(KNOWN_KEYS[parent].model_fields)}" if parent in KNOWN_KEYS else ""
            text = f"unknown key with value {shorten(item['input'])}{known}"
            yield Problem(location, field, text, f"{parent}: unknown key")
        else:
            yield Problem(location, field, f"got {shorten(item['input'])}: {message}", f"{field}: {message}")


def _image_fault(folder: Path, image_path: str) -> str | None:
    try:
        image_file(folder, image_path)
    except ValueError as error:
        return str(error)
    return None


def _cross_problems(located: list[Located], folder: Path) -> list[Problem]:
    """Return the problems between records: duplicates, one image_id with two paths, paths without a file."""
    problems: list[Problem] = []
    seen: dict[bytes, RecordLocation] = {}
    paths: dict[str, tuple[str, RecordLocation]] = {}
    faults: dict[str, str | None] = {}
    for location, record in located:
        identity = hashlib.sha256(json.dumps(record.model_dump(mode="json"), sort_keys=True).encode()).digest()
        first = seen.setdefault(identity, location)
        if first is not location:
            text = f"{shorten(record.image_id)} is identical to record {first.index}; remove one of the two"
            problems.append(Problem(location, "image_id", text))
        path = normal(str(PurePosixPath(record.image_path)))
        first_path, path_location = paths.setdefault(record.image_id, (path, location))
        if path != first_path:
            text = (
                f"{record.image_path!r}, but image_id {shorten(record.image_id)} has {first_path!r} in record "
                f"{path_location.index}; one image_id means one image"
            )
            problems.append(Problem(location, "image_path", text))
        if record.image_path not in faults:
            faults[record.image_path] = _image_fault(folder, record.image_path)
        fault = faults[record.image_path]
        if fault is not None:
            problems.append(Problem(location, "image_path", fault))
    return problems


def _record(location: RecordLocation, row: object) -> Record | list[Problem]:
    """Return the record of a row, or everything that is wrong in it."""
    if not isinstance(row, dict):
        return [Problem(location, "", f"got {shorten(row)}: expected an object", "no object")]
    if holds_more({key: value for key, value in row.items() if key != "metadata"}, MAX_VALUES):
        text = f"holds more than {MAX_VALUES} values besides the metadata; divide it into several records"
        return [Problem(location, "", text)]
    if holds_more(row.get("metadata"), MAX_METADATA):
        return [
            Problem(location, "metadata", f"holds more than {MAX_METADATA} values; keep them in a file of their own")
        ]
    problems = list(islice(_value_problems(location, row), MAX_PROBLEMS))
    try:
        record = Record.model_validate(row)
    except ValidationError as error:
        told = {problem.field for problem in problems}
        # The schema refuses the metadata as a whole for what is told with its place already.
        told |= {"metadata"} if any(field.startswith("metadata.") for field in told) else set()
        return problems + [problem for problem in _schema_problems(location, error) if problem.field not in told]
    return problems or record


def _rows(file: Path) -> Iterator[Row]:
    """Return the rows of a file; raises RecordErrors with one problem if it is no file of records."""
    text = read_text(file)
    try:
        foreign = foreign_text(file, text)
    except ValueError as error:
        raise RecordErrors([syntax_problem(file, text, skip_space(text), error)]) from None
    rows = line_rows(file, text) if file.suffix == ".jsonl" else list_rows(file, text)
    first = next(rows, None) if foreign is None else None
    if isinstance(first, tuple):
        foreign = foreign_row(file, first[1])
    elif foreign is None and first is None:
        foreign = "holds no records; expected at least one"
    if foreign is not None:
        raise RecordErrors([Problem(str(file), "", foreign)])
    return chain(filter(None, [first]), rows)


def parse_records(path: Path) -> tuple[list[Located], list[Problem]]:
    """Return the well-formed records of a dataset with their locations, and all its problems.

    Reading stops after `MAX_PROBLEMS`. Raises RecordErrors only if there is no file of records to read.
    """
    file = record_file(path)
    located: list[Located] = []
    problems: list[Problem] = []
    for row in _rows(file):
        if len(problems) >= MAX_PROBLEMS:
            problems.append(Problem(str(file), "", f"more than {MAX_PROBLEMS} problems; the rest was not read"))
            break
        if isinstance(row, Problem):
            problems.append(row)
            continue
        read = _record(*row)
        if isinstance(read, Record):
            located.append((row[0], read))
        else:
            problems += read
    return located, problems + _cross_problems(located, file.parent)


def read_records(path: Path) -> list[Record]:
    """Return the records of a JSON or JSONL file, or of a folder with one; raises RecordErrors with every problem.

    Image files must exist inside the dataset folder, but are not opened: see `corpus.validation.read_dataset`.
    """
    located, problems = parse_records(path)
    if problems:
        raise RecordErrors(problems)
    return [record for _, record in located]
