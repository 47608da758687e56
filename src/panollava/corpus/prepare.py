"""From the user's records to the rows of a store: read, checked, divided by panorama, at working resolution."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from panollava.corpus.image_paths import image_file
from panollava.corpus.images import open_panorama, to_working_size
from panollava.corpus.reading import record_file
from panollava.corpus.records import Record
from panollava.corpus.splits import split_by_panorama
from panollava.corpus.store import PanoramaRow
from panollava.corpus.validation import Check, read_dataset


def prepared_splits(
    dataset: Path, check: Check, *, shares: Mapping[str, float] | None, seed: int, image_height: int,
    allow_any_aspect: bool,
) -> dict[str, Iterator[PanoramaRow]]:  # fmt: skip
    """Return the rows of each split of a dataset of records; without `shares`, all of it as the split `test`.

    All records are read and checked before the first row is made.

    Raises:
        RecordErrors: with everything that is wrong in the dataset.
        ValueError: a split is empty, or the splits that records name contradict each other.
    """
    file = record_file(dataset)
    records = read_dataset(file, check, allow_any_aspect=allow_any_aspect)
    splits = {"test": records}
    if shares is not None:
        splits = split_by_panorama(records, file.parent, shares=shares, seed=seed)
    return {
        name: panorama_rows(own, file.parent, image_height=image_height, allow_any_aspect=allow_any_aspect)
        for name, own in splits.items()
    }


def panorama_rows(
    records: Sequence[Record], folder: Path, *, image_height: int, allow_any_aspect: bool
) -> Iterator[PanoramaRow]:
    """Yield each panorama of a dataset's folder with its records, at most `image_height` high."""
    by_image: dict[str, list[Record]] = {}
    for record in records:
        by_image.setdefault(record.image_id, []).append(record)
    for image_id, group in by_image.items():
        path = image_file(folder, group[0].image_path)
        image = open_panorama(path, allow_any_aspect=allow_any_aspect, working_height=image_height)
        yield PanoramaRow(image_id, to_working_size(image, image_height), group)
