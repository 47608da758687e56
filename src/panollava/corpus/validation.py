"""Check a whole dataset, records and images, before anything is computed from it.

All problems are found in one pass, so that one run of `panollava validate` shows everything to fix.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from panollava.corpus.images import ImageError, check_image, image_size
from panollava.corpus.reading import Problem, RecordErrors, RecordLocation, image_file, parse_records, record_file
from panollava.corpus.records import Record

# A further check of well-formed records, such as that of their answers (`tasks.checks`).
Check = Callable[[Sequence[tuple[RecordLocation, Record]]], list[Problem]]


@dataclass(frozen=True)
class ValidationReport:
    """The counts of a dataset's well-formed records, and all its problems."""

    file: Path
    records: int
    images: int
    turns: int
    tasks: dict[str, int]
    types: dict[str, int]
    languages: dict[str, int]
    problems: list[Problem]

    def __str__(self) -> str:
        """Return the report as `panollava validate` prints it."""
        lines = [f"{self.file}: {self.records} records, {self.images} images, {self.turns} turns"]
        for title, counts in (("tasks", self.tasks), ("types", self.types), ("languages", self.languages)):
            lines.append(f"{title}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
        lines.append(str(RecordErrors(self.problems)) if self.problems else "no problems")
        return "\n".join(lines)


def check_images(
    located: list[tuple[RecordLocation, Record]], folder: Path, *, allow_any_aspect: bool
) -> list[Problem]:
    """Return a problem per unusable image file, at the first record that names it, and per mask of another size.

    `parse_records` reports files that are missing or outside the folder, so they are skipped here.
    """
    problems: list[Problem] = []
    checked: set[Path] = set()
    sizes: dict[Path, tuple[int, int]] = {}
    for location, record in located:
        try:
            file = image_file(folder, record.image_path)
        except ValueError:
            continue
        if file not in checked:
            checked.add(file)
            try:
                check_image(file, allow_any_aspect=allow_any_aspect)
                sizes[file] = image_size(file)
            except ImageError as error:
                problems.append(Problem(location, "image_path", str(error)))
        for number, item in enumerate(record.objects):
            if item.mask is not None and file in sizes and item.mask.size != sizes[file]:
                text = f"size is {list(item.mask.size)}, but {file} is {list(sizes[file])} ([height, width])"
                problems.append(Problem(location, f"objects.{number}.mask.size", text))
    return problems


def _inspect(
    path: Path, checks: Sequence[Check], *, allow_any_aspect: bool
) -> tuple[Path, list[Record], list[Problem]]:
    file = record_file(path)
    located, problems = parse_records(file)
    problems = problems + check_images(located, file.parent, allow_any_aspect=allow_any_aspect)
    problems += [problem for check in checks for problem in check(located)]
    return file, [record for _, record in located], problems


def read_dataset(path: Path, *checks: Check, allow_any_aspect: bool = False) -> list[Record]:
    """Return the records of a dataset after decoding every image once; raises RecordErrors with every problem.

    `path` is a record file, or a folder with one.
    """
    _, records, problems = _inspect(path, checks, allow_any_aspect=allow_any_aspect)
    if problems:
        raise RecordErrors(problems)
    return records


def validate_dataset(path: Path, *checks: Check, allow_any_aspect: bool = False) -> ValidationReport:
    """Return the counts of a dataset and all its problems; raises RecordErrors if there is no record file to read."""
    file, records, problems = _inspect(path, checks, allow_any_aspect=allow_any_aspect)
    turns = [turn for record in records for turn in record.conversations]
    return ValidationReport(
        file=file,
        records=len(records),
        images=len({record.image_id for record in records}),
        turns=len(turns),
        tasks=dict(Counter(turn.task for turn in turns).most_common()),
        types=dict(Counter(turn.type for turn in turns).most_common()),
        languages=dict(Counter(turn.language for turn in turns).most_common()),
        problems=problems,
    )
