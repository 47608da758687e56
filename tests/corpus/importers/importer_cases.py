"""Helpers for the importers' tests: tiny files, an import that succeeds, and an import that fails."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from panollava.corpus.importers import import_dataset
from panollava.corpus.importers.common import Request
from panollava.corpus.importers.writing import ImportReport
from panollava.corpus.records import Record
from panollava.corpus.validation import read_dataset
from panollava.tasks.checks import answer_problems


def write_image(file: Path, size: tuple[int, int] = (16, 8)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Each file name has its own colour, so that copies can be distinguished.
    Image.new("RGB", size, tuple(file.name.encode()[:3])).save(file)
    return file


def write_json(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return file


def write_table(file: Path, rows: list[tuple[str, ...]], separator: str = "\t") -> Path:
    """Write rows of (url, query, annotation) under a header, in the layout of QuIC-360."""
    file.parent.mkdir(parents=True, exist_ok=True)
    cell = '"{}"' if separator == "," else "{}"
    lines = [separator.join(cell.format(value) for value in row) for row in rows]
    file.write_text("\n".join(["url,query,annotation".replace(",", separator), *lines, ""]), encoding="utf-8")
    return file


def run(tmp_path: Path, name: str, src: Path, **options: Any) -> tuple[list[Record], ImportReport]:
    """Import into `tmp_path`/out and return the records as the project itself reads and checks them, and the report."""
    request = Request(src, options.pop("images", None), options.pop("seed", 0))
    report = import_dataset(name, request, tmp_path / "out", **options)
    records = read_dataset(tmp_path / "out", answer_problems)
    assert report.records == len(records)
    assert report.images == len({record.image_path for record in records})
    assert all({"source", "licence"} <= record.metadata.keys() for record in records)
    return records, report


def refused(tmp_path: Path, name: str, src: Path, **options: Any) -> str:
    """Return the message of an import that fails and writes nothing."""
    request = Request(src, options.pop("images", None))
    with pytest.raises(ValueError) as error:
        import_dataset(name, request, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*")), "a temporary folder remains"
    return str(error.value)
