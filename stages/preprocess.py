"""Stage preprocess: write the Arrow store from the synthetic world or the user's records, split by panorama."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from panollava.corpus.images import open_panorama, to_working_size
from panollava.corpus.records import Record
from panollava.corpus.splits import split_by_panorama
from panollava.corpus.store import PanoramaRow, write_store
from panollava.corpus.validation import read_dataset
from panollava.corpus.world_records import world_rows
from panollava.io import write_json
from panollava.params import Dataset, Preprocess, Strict, Weights, read_params

SPLITS = ("train", "validation", "test")
STORE = Path("data/store")


class PreprocessParams(Strict):
    """What this stage reads from params.yaml."""

    seed: int
    weights: Weights
    dataset: Dataset
    preprocess: dict[Weights, Preprocess]


def main() -> None:
    """Write data/store/images, data/store/records and metrics/preprocess.json."""
    params = read_params(PreprocessParams, stage="preprocess")
    settings = params.preprocess[params.weights]
    rows = _from_world(params, settings) if params.dataset.source == "world" else _from_records(params, settings)
    report: dict[str, Any] = {}
    started = time.perf_counter()
    for split in SPLITS:
        counter = _Counting(rows[split])
        count = write_store(
            STORE, split, tqdm(counter, desc=split, unit=" panoramas"), jpeg_quality=settings.jpeg_quality
        )
        report[split] = counter.summary(count)
    total = sum(report[split]["panoramas"] for split in SPLITS)
    rate = total / (time.perf_counter() - started)
    print(f"{total} panoramas of height {settings.image_height} at {rate:.0f} a second, {os.cpu_count()} cores")
    write_json(Path("metrics/preprocess.json"), {"preprocess": report})


def _from_world(params: PreprocessParams, settings: Preprocess) -> dict[str, Iterator[PanoramaRow]]:
    world = params.dataset.world
    return {
        split: world_rows(
            split,
            world.panoramas.model_dump()[split],
            seed=params.seed,
            height=settings.image_height,
            korean_share=world.korean_share,
            min_latitude_deg=world.min_latitude_deg,
            workers=os.cpu_count() or 1,
        )
        for split in SPLITS
    }


def _from_records(params: PreprocessParams, settings: Preprocess) -> dict[str, Iterator[PanoramaRow]]:
    folder = Path(params.dataset.path)
    records = read_dataset(folder, allow_any_aspect=params.dataset.allow_any_aspect)
    splits = split_by_panorama(records, folder, shares=params.dataset.shares.model_dump(), seed=params.seed)
    return {split: _rows(splits[split], folder, params, settings) for split in SPLITS}


def _rows(records: list[Record], folder: Path, params: PreprocessParams, settings: Preprocess) -> Iterator[PanoramaRow]:
    by_image: dict[str, list[Record]] = {}
    for record in records:
        by_image.setdefault(record.image_id, []).append(record)
    for image_id, group in by_image.items():
        path = folder / group[0].image_path
        image = open_panorama(
            path, allow_any_aspect=params.dataset.allow_any_aspect, working_height=settings.image_height
        )
        yield PanoramaRow(image_id, to_working_size(image, settings.image_height), group)


class _Counting:
    """Pass rows on and count their turns."""

    def __init__(self, rows: Iterator[PanoramaRow]) -> None:
        self.rows = rows
        self.types: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.answers: dict[str, list[str]] = {}

    def __iter__(self) -> Iterator[PanoramaRow]:
        for row in self.rows:
            for record in row.records:
                for turn in record.conversations:
                    self.types[turn.type] += 1
                    self.languages[turn.language] += 1
                    if turn.task == "choice":
                        self.answers.setdefault(f"{turn.language}.{turn.type}", []).append(turn.assistant)
            yield row

    def summary(self, panoramas: int) -> dict[str, Any]:
        """Return counts, and the share of the most frequent answer of each closed question type."""
        return {
            "panoramas": panoramas,
            "turns": sum(self.types.values()),
            "types": dict(sorted(self.types.items())),
            "languages": dict(sorted(self.languages.items())),
            "majority": {
                name: max(Counter(answers).values()) / len(answers) for name, answers in sorted(self.answers.items())
            },
        }


if __name__ == "__main__":
    main()
