"""The Arrow store: one file per split, one row per panorama, memory-mapped on reading.

Columns: `image_id`, `image` (encoded, decoded on access) and `records` (a JSON list of the panorama's records). Nothing
is tokenised. Do not `map` or `filter` an opened split: `datasets` would write its caches beside the store.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from PIL import Image

from panollava.corpus.records import Record, records_from_json, records_to_json
from panollava.io import replacing

FEATURES = datasets.Features(
    {"image_id": datasets.Value("string"), "image": datasets.Image(), "records": datasets.Value("string")}
)
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


def _columns(row: PanoramaRow, jpeg_quality: int | None) -> dict[str, Any]:
    for index, record in enumerate(row.records):
        if record.image_id != row.image_id:
            raise ValueError(f"panorama {row.image_id!r}: record {index} has image_id {record.image_id!r}")
    image = {"bytes": encode_image(row.image, jpeg_quality), "path": None}
    return {"image_id": row.image_id, "image": image, "records": records_to_json(row.records)}


def write_store(folder: Path, split: str, rows: Iterable[PanoramaRow], *, jpeg_quality: int | None) -> int:
    """Write the rows to `folder`/`split`.arrow, a batch in memory at a time, and return how many there were.

    The same rows give the same bytes. Raises ValueError for no rows at all, an image_id that comes twice and records
    of another panorama; OSError that names the file when the disk is full. A failed write leaves the old file.
    """
    path = folder / f"{split}.arrow"
    folder.mkdir(parents=True, exist_ok=True)
    schema = FEATURES.arrow_schema
    seen: set[str] = set()
    batch: list[dict[str, Any]] = []
    with replacing(path) as file:
        writer = pa.ipc.new_stream(file, schema)
        for row in rows:
            if row.image_id in seen:
                raise ValueError(f"{path}: image_id {row.image_id!r} comes twice; expected one row per panorama")
            seen.add(row.image_id)
            batch.append(_columns(row, jpeg_quality))
            if len(batch) == ROWS_PER_BATCH:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
                batch = []
        if not seen:
            raise ValueError(f"{path}: no panoramas to write; a split holds at least one")
        if batch:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
        writer.close()
    return len(seen)


def open_split(folder: Path, split: str) -> datasets.Dataset:
    """Return a split of the store, memory-mapped; raises ValueError if it is missing or not a store."""
    path = folder / f"{split}.arrow"
    if not path.is_file():
        found = ", ".join(sorted(file.stem for file in folder.glob("*.arrow"))) or "none"
        raise ValueError(f"{path}: no such split; splits in this folder: {found}")
    try:
        dataset = datasets.Dataset.from_file(str(path))
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: not a complete Arrow file; write the store anew: {error}") from error
    if dataset.features != FEATURES:
        raise ValueError(f"{path}: columns {dict(dataset.features)}; expected {dict(FEATURES)}")
    return dataset


def open_images(folder: Path, split: str) -> datasets.Dataset:
    return open_split(folder, split)


def panorama_records(row: dict[str, Any]) -> list[Record]:
    """Return the records of one row of an opened split."""
    return records_from_json(row["records"])
