"""Write the result of an importer as a dataset folder: images are checked and copied once, records are checked.

The folder appears only when it is complete and `corpus.reading` finds no problem in it.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import ValidationError
from tqdm import tqdm

from panollava.corpus.data_card import CARD, count, data_card
from panollava.corpus.images import ImageError, check_image
from panollava.corpus.importers.common import Entry, Imported, Origin, refuse, schema_problems
from panollava.corpus.reading import parse_records
from panollava.corpus.records import Record
from panollava.io import new_folder

RECORD_FILE = "annotations.jsonl"
# Of the data card; `layout` is the importer's name.
ABOUT = (
    "Panoramas and dialogues about them, converted by `panollava import {layout}`. "
    f"`{RECORD_FILE}` holds the records, `images/` copies of the images."
)


@dataclass(frozen=True)
class ImportReport:
    """The counts of an import: what was written, and what was left out."""

    folder: Path
    records: int
    images: int
    turns: int
    origin: Origin
    dropped: Counter[str]

    def __str__(self) -> str:
        """Return the report as `panollava import` prints it."""
        lines = [f"{self.folder}: {self.records} records, {self.images} images, {self.turns} turns"]
        lines += [f"source: {self.origin.source}", f"licence: {self.origin.licence}"]
        lines += [f"left out: {count} {what}" for what, count in self.dropped.items()] or ["left out: nothing"]
        return "\n".join(lines)


def _image_files(entries: Sequence[Entry]) -> dict[str, Path]:
    """Return the source file of each image name; raises ValueError for a name outside the folder or of two files."""
    files: dict[str, Path] = {}
    problems = []
    for item in entries:
        first = files.setdefault(item.name, item.image)
        if ".." in PurePosixPath(item.name).parts or not item.name.strip("./"):
            problems.append(f"{item.where}: image {item.name!r}; expected the path of a file below the image folder")
        elif first != item.image:
            problems.append(f"{item.where}: image {item.name!r} is {item.image}, but was {first} before")
    refuse("image names cannot be used", problems)
    return files


def _unusable(files: dict[str, Path], *, allow_any_aspect: bool) -> dict[str, str]:
    """Return the problem of each image that is missing, damaged or no panorama."""
    problems = {}
    for name, file in tqdm(files.items(), desc="images", disable=None):
        try:
            check_image(file, allow_any_aspect=allow_any_aspect)
        except ImageError as error:
            problems[name] = str(error)
    return problems


def _records(entries: Sequence[Entry], origin: Origin) -> list[Record]:
    records, problems = [], []
    for item in entries:
        metadata = {"source": origin.source, "licence": origin.licence} | item.fields.get("metadata", {})
        named = {"image_id": item.name, "image_path": f"images/{item.name}"}
        try:
            records.append(Record.model_validate(named | item.fields | {"metadata": metadata}))
        except ValidationError as error:
            problems += schema_problems(item.where, error)
    refuse("problems in the records (fields count from 0)", problems)
    return records


def _write(folder: Path, records: Sequence[Record], files: dict[str, Path]) -> None:
    for name, file in files.items():
        copy = folder / "images" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    lines = [record.model_dump_json(exclude_unset=True) + "\n" for record in records]
    (folder / RECORD_FILE).write_text("".join(lines), encoding="utf-8")
    # The dataset must pass the project's own reader, which also finds identical records.
    _, problems = parse_records(folder / RECORD_FILE)
    refuse("problems in the dataset (records count from 0)", [str(problem) for problem in problems])


def write_dataset(
    imported: Imported, dst: Path, *, layout: str, allow_any_aspect: bool = False, drop_bad_images: bool = False
) -> ImportReport:
    """Write the records and copies of their images to a new folder and return its counts.

    With `drop_bad_images` the records of images that are missing, damaged or not 2:1 are left out and counted.

    Raises:
        ValueError: with the number of problems and the first five; nothing is written.
    """
    entries, dropped = imported.entries, imported.dropped.copy()
    files = _image_files(entries)
    unusable = _unusable(files, allow_any_aspect=allow_any_aspect)
    if not drop_bad_images:
        refuse(f"of {len(files)} images are missing or cannot be used", list(unusable.values()))
    entries = [item for item in entries if item.name not in unusable]
    if unusable:
        dropped["images missing or not usable"] = len(unusable)
        dropped["records of such images"] = len(imported.entries) - len(entries)
    if not entries:
        raise ValueError(f"{dst}: nothing to write; the source holds no record that can be used ({dict(dropped)})")
    records = _records(entries, imported.origin)
    files = {name: file for name, file in files.items() if name not in unusable}
    card = data_card(dst.resolve().name, ABOUT.format(layout=layout), count(records), dropped=dropped)
    # Without its records nobody takes a folder for a dataset.
    with new_folder(dst, last=RECORD_FILE) as folder:
        _write(folder, records, files)
        (folder / CARD).write_text(card, encoding="utf-8")
    turns = sum(len(record.conversations) for record in records)
    return ImportReport(dst, len(records), len(files), turns, imported.origin, dropped)
