"""Write the result of an importer as a dataset folder: images are checked and copied once, records are checked.

The folder appears only when it is complete and `corpus.reading` finds no problem in it.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from panollava.corpus.data_card import CARD, count, data_card
from panollava.corpus.image_paths import image_file
from panollava.corpus.images import ImageError, check_image
from panollava.corpus.importers.checking import records_of
from panollava.corpus.importers.common import Entry, Imported, Origin
from panollava.corpus.importers.findings import SHOWN, BadSample, Findings, listed
from panollava.corpus.problems import Problem, RecordLocation
from panollava.corpus.reading import parse_records
from panollava.corpus.records import Record
from panollava.io import new_folder

RECORD_FILE = "annotations.jsonl"
# Of the data card; `layout` is the importer's name.
ABOUT = (
    "Panoramas and dialogues about them, converted by `panollava import {layout}`. "
    f"`{RECORD_FILE}` holds the records, `images/` copies of the images."
)
# A further check of well-formed records, such as that of their answers.
Check = Callable[[Sequence[tuple[RecordLocation, Record]]], list[Problem]]
# The entries to write, each with its record.
Located = list[tuple[Entry, Record]]


@dataclass(frozen=True)
class ImportReport:
    """The counts of an import: what was written, and what was left out."""

    folder: Path
    records: int
    images: int
    turns: int
    samples: int
    origin: Origin
    findings: Findings

    @property
    def dropped(self) -> Counter[str]:
        """Return what was left out, by reason."""
        return self.findings.counts()

    def __str__(self) -> str:
        """Return the report as `panollava import` prints it."""
        lines = [f"{self.folder}: {self.records} records, {self.images} images, {self.turns} turns"]
        lines += [f"source: {self.origin.source}", f"licence: {self.origin.licence}"]
        return "\n".join(lines + self.findings.report(self.samples))


def _image_files(folder: Path, names: Sequence[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the file of each image name, and the problem of each that has none."""
    files: dict[str, Path] = {}
    problems: dict[str, str] = {}
    for name in names:
        try:
            # A link that the image folder holds may lead anywhere: caches of data sets consist of such links.
            file = folder / name
            files[name] = file if file.is_file() else image_file(folder, name, hint=len(problems) < SHOWN)
        except (ValueError, OSError) as error:
            problems[name] = str(error)
    return files, problems


def _unusable(files: dict[str, Path], *, allow_any_aspect: bool) -> dict[str, str]:
    """Return the problem of each image that is damaged or no panorama."""
    problems = {}
    for name, file in tqdm(files.items(), desc="images", disable=None):
        try:
            check_image(file, allow_any_aspect=allow_any_aspect)
        except ImageError as error:
            problems[name] = str(error)
    return problems


def _write(folder: Path, kept: Located, files: dict[str, Path], findings: Findings, checks: Sequence[Check]) -> Located:
    """Write records and copies of their images; return the entries that the project's own reader finds right."""
    copied = {entry.image for entry, _ in kept}
    for name in copied:
        copy = folder / "images" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(files[name], copy)
    while kept:
        lines = [record.model_dump_json(exclude_unset=True) + "\n" for _, record in kept]
        (folder / RECORD_FILE).write_text("".join(lines), encoding="utf-8")
        located, problems = parse_records(folder / RECORD_FILE)
        problems = problems + [problem for check in checks for problem in check(located)]
        bad: dict[int, BadSample] = {}
        for problem in problems:
            if not isinstance(problem.where, RecordLocation):
                raise ValueError(str(problem))
            names = ".".join(part for part in problem.field.split(".") if not part.isdigit())
            bad.setdefault(problem.where.index, BadSample(f"a bad {names}", f"{problem.field}: {problem.text}"))
        if not bad:
            break
        for index, error in bad.items():
            findings.reject(kept[index][0].where, error, kept[index][0].samples)
        kept = [item for index, item in enumerate(kept) if index not in bad]
    for name in copied - {entry.image for entry, _ in kept}:
        (folder / "images" / name).unlink()
    return kept


def _refuse(findings: Findings, *, drop_bad_records: bool, unusable: Sequence[str] = (), images: int = 0) -> None:
    """Raise ValueError with all problems that are not to be left out."""
    lines = [] if drop_bad_records else findings.problems()
    if unusable:
        lines += [
            f"{len(unusable)} of {images} images are missing or cannot be used; --drop-bad-images leaves them out:"
        ]
        lines += listed(unusable)
    if lines:
        raise ValueError("\n".join(lines))


def write_dataset(
    imported: Imported,
    dst: Path,
    *,
    layout: str,
    checks: Sequence[Check] = (),
    allow_any_aspect: bool = False,
    drop_bad_images: bool = False,
    drop_bad_records: bool = False,
) -> ImportReport:
    """Write the records and copies of their images to a new folder and return its counts.

    With `drop_bad_images` the records of images that are missing, damaged or not 2:1 are left out and counted, with
    `drop_bad_records` the samples that no record can carry.

    Raises:
        ValueError: with the number of problems by kind and the first five of each; nothing is written.
    """
    findings = imported.findings
    kept = records_of(imported.entries, imported.origin, findings)
    names = list(dict.fromkeys(entry.image for entry, _ in kept))
    files, missing = _image_files(imported.folder, names)
    unusable = missing | _unusable(files, allow_any_aspect=allow_any_aspect)
    first = {entry.image: entry.where for entry, _ in reversed(kept)}
    problems = [] if drop_bad_images else [f"{first[name]}: {unusable[name]}" for name in names if name in unusable]
    _refuse(findings, drop_bad_records=drop_bad_records, unusable=problems, images=len(names))
    for entry, _ in kept:
        if entry.image in unusable:
            findings.left_out[f"{findings.unit} of images missing or not usable"] += entry.samples
    if unusable:
        findings.besides["images missing or not usable"] = len(unusable)
    kept = [(entry, record) for entry, record in kept if entry.image not in unusable]
    # Without its records nobody takes a folder for a dataset.
    with new_folder(dst, last=RECORD_FILE) as folder:
        kept = _write(folder, kept, files, findings, checks) if kept else []
        _refuse(findings, drop_bad_records=drop_bad_records)
        if not kept:
            left = "; ".join(f"{number} {reason}" for reason, number in findings.counts().items())
            raise ValueError(f"{dst}: nothing to write; the source holds no record that can be used ({left or 'none'})")
        records = [record for _, record in kept]
        card = data_card(dst.resolve().name, ABOUT.format(layout=layout), count(records), dropped=findings.counts())
        (folder / CARD).write_text(card, encoding="utf-8")
    turns = sum(len(record.conversations) for record in records)
    used = {entry.image for entry, _ in kept}
    samples = sum(entry.samples for entry, _ in kept)
    return ImportReport(dst, len(records), len(used), turns, samples, imported.origin, findings)
