"""The Arrow store: a file of images and a file of records for each split, one row a panorama, memory-mapped on reading.

`images/SPLIT.arrow` has the columns `image_id` and `image` (encoded, decoded on access), `records/SPLIT.arrow` the
columns `image_id` and `records` (a JSON list of the panorama's records). The files are apart so that new records leave
the images alone. Do not `map` or `filter` an opened split: `datasets` would write its caches beside the store.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import pyarrow as pa
from PIL import Image

from panollava.corpus.records import Record, records_from_json, records_to_json
from panollava.io import replacing

IMAGES, RECORDS = "images", "records"
FEATURES = {
    IMAGES: datasets.Features({"image_id": datasets.Value("string"), "image": datasets.Image()}),
    RECORDS: datasets.Features({"image_id": datasets.Value("string"), "records": datasets.Value("string")}),
}
ROWS_PER_BATCH = 16


@dataclass(frozen=True)
class PanoramaRow:
    """A panorama at working size and all records about it."""

    image_id: str
    image: Image.Image
    records: list[Record]


def encode_image(image: Image.Image, jpeg_quality: int | None) -> bytes:
    """Return the bytes of an image as JPEG with full colour resolution, or as PNG where the quality is None."""
    pixels = image.copy()
    pixels.info = {}  # comments and profiles of the original do not belong in the store
    buffer = io.BytesIO()
    if jpeg_quality is None:
        pixels.save(buffer, format="PNG")
    else:
        pixels.save(buffer, format="JPEG", quality=jpeg_quality, subsampling="4:4:4")
    return buffer.getvalue()


class _Writer:
    """Write the rows of one Arrow file, a batch in memory at a time."""

    def __init__(self, file: BinaryIO, kind: str) -> None:
        self.schema = FEATURES[kind].arrow_schema
        self.stream = pa.ipc.new_stream(file, self.schema)
        self.batch: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        """Add a row, and write the batch once it is full."""
        self.batch.append(row)
        if len(self.batch) == ROWS_PER_BATCH:
            self._flush()

    def close(self) -> None:
        """Write the last batch and the end of the file."""
        if self.batch:
            self._flush()
        self.stream.close()

    def _flush(self) -> None:
        self.stream.write_batch(pa.RecordBatch.from_pylist(self.batch, schema=self.schema))
        self.batch = []


def write_store(store: Path, split: str, rows: Iterable[PanoramaRow], *, jpeg_quality: int | None) -> int:
    """Write the rows to `store`/images/`split`.arrow and `store`/records/`split`.arrow, and return their number.

    The rows are read once, a batch in memory at a time. The same rows give the same bytes. A failed write leaves the
    old files.

    Raises:
        ValueError: no rows, an image_id that comes twice, records of another panorama.
        OSError: the disk is full; the message names the file of images.
    """
    images, records = (store / kind / f"{split}.arrow" for kind in (IMAGES, RECORDS))
    for path in (images, records):
        path.parent.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    with replacing(images) as image_file, replacing(records) as record_file:
        image_writer, record_writer = _Writer(image_file, IMAGES), _Writer(record_file, RECORDS)
        for row in rows:
            if row.image_id in seen:
                raise ValueError(f"{images}: image_id {row.image_id!r} comes twice; expected one row per panorama")
            seen.add(row.image_id)
            for index, record in enumerate(row.records):
                if record.image_id != row.image_id:
                    raise ValueError(f"panorama {row.image_id!r}: record {index} has image_id {record.image_id!r}")
            encoded = {"bytes": encode_image(row.image, jpeg_quality), "path": None}
            image_writer.add({"image_id": row.image_id, "image": encoded})
            record_writer.add({"image_id": row.image_id, "records": records_to_json(row.records)})
        if not seen:
            raise ValueError(f"{images}: no panoramas to write; a split holds at least one")
        image_writer.close()
        record_writer.close()
    return len(seen)


def _open(store: Path, split: str, kind: str) -> datasets.Dataset:
    path = store / kind / f"{split}.arrow"
    if not path.is_file():
        found = ", ".join(sorted(file.stem for file in path.parent.glob("*.arrow"))) or "none"
        raise ValueError(f"{path}: no such split; splits in this folder: {found}")
    try:
        dataset = datasets.Dataset.from_file(str(path))
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: not a complete Arrow file; write the store anew: {error}") from error
    if dataset.features != FEATURES[kind]:
        raise ValueError(f"{path}: columns {dict(dataset.features)}; expected {dict(FEATURES[kind])}")
    return dataset


def open_images(store: Path, split: str) -> datasets.Dataset:
    """Return the columns `image_id` and `image` of a split, memory-mapped.

    Raises:
        ValueError: the file is missing or damaged, or has other columns.
    """
    return _open(store, split, IMAGES)


def open_records(store: Path, split: str) -> datasets.Dataset:
    """Return the columns `image_id` and `records` of a split, memory-mapped.

    Raises:
        ValueError: the file is missing or damaged, or has other columns.
    """
    return _open(store, split, RECORDS)


def open_split(store: Path, split: str) -> datasets.Dataset:
    """Return the columns `image_id`, `image` and `records` of a split, memory-mapped.

    Raises:
        ValueError: a file is missing or damaged, or both files do not hold the same panoramas in the same order.
    """
    images, records = open_images(store, split), open_records(store, split)
    if images.data.column("image_id") != records.data.column("image_id"):
        raise ValueError(
            f"{store}: {IMAGES}/{split}.arrow and {RECORDS}/{split}.arrow hold different panoramas; "
            "write the store anew"
        )
    return datasets.concatenate_datasets([images, records.remove_columns("image_id")], axis=1)


def panorama_records(row: dict[str, Any]) -> list[Record]:
    """Return the records of one row of an opened split."""
    return records_from_json(row["records"])
