"""Recognise files and folders of other layouts than records, and say in one line what to do with them.

The layouts are those of `corpus.importers`. The keys of the first object decide, since a file has one layout.
"""

import shlex
from pathlib import Path

from panollava.corpus.json_files import decoded, skip_space

# The keys of an object that records do not have, and the importer that reads it.
OBJECTS: tuple[tuple[set[str], str], ...] = (
    ({"images", "annotations"}, "coco"),
    ({"images", "categories"}, "coco"),
    ({"questions"}, "vqa"),
    ({"annotations"}, "vqa"),
    ({"file_name"}, "imagefolder"),
    ({"conversations", "image"}, "llava"),
    ({"conversations", "id"}, "llava"),
    ({"messages"}, "llava"),
)
# The files of a folder, and the importer that reads the folder.
FOLDERS = {
    "metadata.jsonl": "imagefolder",
    "*/metadata.jsonl": "imagefolder",
    "*questions.json": "vqa",
    "area_*/pano": "stanford2d3d",
}
# The importers of tables. Both have columns of their own; importing names the ones that are missing.
TABLES = {".tsv": ("quic360", "bench360"), ".csv": ("quic360",)}
# The first characters of what stands where the data should be.
NO_DATA = {
    "version https://git-lfs": "is a pointer of git-lfs, not the data; run `git lfs pull`",
    "<": "is a web page or XML, not JSON; download the data itself",
}
# Records have both.
RECORD_KEYS = {"image_id", "image_path"}


def _import_hint(path: Path, *importers: str) -> str:
    """Return the commands that convert a file or folder."""
    # VQA's files belong together; its importer reads their folder.
    source = path.parent if importers == ("vqa",) and path.is_file() else path
    commands = (f"`panollava import {importer} {shlex.quote(str(source))} NEW_FOLDER`" for importer in importers)
    return f"convert it with {' or '.join(commands)}"


def table_hint(file: Path) -> str:
    """Return a hint for a file that is not named as records are: the importers of such tables, if there are any."""
    importers = TABLES.get(file.suffix.lower(), ())
    return f"; {_import_hint(file, *importers)}" if importers else ""


def folder_hint(folder: Path) -> str:
    """Return a hint for a folder without a record file: the importer of its layout, if it has one."""
    found = [importer for pattern, importer in FOLDERS.items() if next(folder.glob(pattern), None) is not None]
    if found:
        return f"; if it is the data set that it looks like, {_import_hint(folder, found[0])}"
    others = [file for pattern in ("*.json", "*.jsonl") for file in sorted(folder.glob(pattern)) if file.is_file()]
    return f"; if its records are in {str(others[0])!r}, give that file" if others else ""


def foreign_row(file: Path, row: object) -> str | None:
    """Return what to do with a file whose first row belongs to another layout; None if it does not."""
    if not isinstance(row, dict) or RECORD_KEYS & row.keys():
        return None
    for keys, importer in OBJECTS:
        if keys <= row.keys():
            return f"is in the layout of {importer}, not of records; {_import_hint(file, importer)}"
    return None


def _foreign_object(file: Path, content: object) -> str:
    """Return what to do with a file that is one JSON value instead of a list."""
    if not isinstance(content, dict):
        return "expected a list of records"
    if content.keys() >= RECORD_KEYS:
        return "is a single record; expected a list of records, so put it into [ ]"
    return foreign_row(file, content) or (
        f"expected a list of records, found an object with {', '.join(map(repr, list(content)[:5])) or 'no keys'}"
    )


def foreign_text(file: Path, text: str) -> str | None:
    """Return what to do with a file whose form is not that of its name; None if it is.

    Raises:
        ValueError: a .json file does not begin with JSON.
    """
    start = skip_space(text)
    if start == len(text):
        return "is empty; expected at least one record"
    for beginning, what in NO_DATA.items():
        if text.startswith(beginning, start):
            return what
    if file.suffix == ".jsonl":
        return _foreign_lines(file, text, start)
    if text[start] == "[":
        return None
    content, end = decoded(text, start)
    if isinstance(content, dict) and text.startswith("{", skip_space(text, end)):
        return "holds one object after the other, not a list; if each has a line, name the file *.jsonl"
    return _foreign_object(file, content)


def _foreign_lines(file: Path, text: str, start: int) -> str | None:
    if text[start] == "[":
        return "holds a list, not one record a line; name the file *.json"
    line_end = text.find("\n", start)
    try:
        content, end = decoded(text, start)
    except ValueError:
        return None  # told with its line
    if line_end < 0 or end <= line_end:
        return None
    if skip_space(text, end) < len(text):
        return "has records over several lines; expected each on a line of its own"
    return _foreign_object(file, content)
