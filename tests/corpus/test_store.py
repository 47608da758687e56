"""The store: rows come back as they went in, the same rows give the same bytes, a failed write leaves nothing."""

import io
import weakref
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from full_disk import full_disk
from PIL import Image

from panollava.corpus import store
from panollava.corpus.records import LabelledBox, ObjectAnnotation, Record, Turn
from panollava.corpus.store import (
    PanoramaRow,
    encode_image,
    open_images,
    open_records,
    open_split,
    panorama_records,
    write_store,
)
from panollava.corpus.world_records import world_row


def row(number: int) -> PanoramaRow:
    pixels = np.random.default_rng(number).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    answer = LabelledBox(label="의자", box_deg=(35, -12, 20, 15))
    turns = [
        Turn(human="어디?", assistant="[35, -12, 20, 15]", task="grounding", language="ko", answer=answer),
        Turn(human=f"And {number}?", assistant="Yes."),
    ]
    objects = [ObjectAnnotation(label="의자", box_deg=(35, -12, 20, 15))]
    name = f"pano_{number}"
    record = Record(image_id=name, image_path=f"{name}.png", conversations=turns, objects=objects)
    second = record.model_copy(update={"metadata": {"scene": number}})
    return PanoramaRow(name, Image.fromarray(pixels), [record, second])


def rows(count: int) -> Iterator[PanoramaRow]:
    return (row(number) for number in range(count))


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder, by relative name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(split: str) -> set[str]:
    return {f"images/{split}.arrow", f"records/{split}.arrow"}


def test_rows_come_back(tmp_path: Path) -> None:
    count = 2 * store.ROWS_PER_BATCH + 3
    assert write_store(tmp_path, "train", rows(count), jpeg_quality=None) == count
    dataset = open_split(tmp_path, "train")
    assert dataset["image_id"] == [f"pano_{number}" for number in range(count)]
    for number in (0, store.ROWS_PER_BATCH, count - 1):
        expected = row(number)
        assert panorama_records(dataset[number]) == expected.records
        assert np.array_equal(dataset[number]["image"], np.asarray(expected.image))  # PNG loses nothing


def test_jpeg_keeps_colour_at_full_resolution() -> None:
    # Red and blue columns: with 4:2:0 neighbours would share their colour.
    stripes = Image.fromarray(np.tile(np.array([[255, 0, 0], [0, 0, 255]], dtype=np.uint8), (16, 16, 1)))
    stripes.info["comment"] = b"not for the store"
    data = encode_image(stripes, 95)
    assert b"not for" not in data
    with Image.open(io.BytesIO(data)) as decoded:
        assert decoded.format == "JPEG"
        assert np.abs(np.asarray(decoded, float) - np.asarray(stripes, float)).max() < 40


@pytest.mark.parametrize("quality", [None, 90])
def test_two_runs_give_the_same_bytes(tmp_path: Path, quality: int | None) -> None:
    for folder in ("a", "b", "b"):
        write_store(tmp_path / folder, "test", rows(20), jpeg_quality=quality)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "b").keys() == names("test")


def test_images_and_records_open_apart_and_joined(tmp_path: Path) -> None:
    write_store(tmp_path, "train", rows(20), jpeg_quality=None)
    images, records, both = (function(tmp_path, "train") for function in (open_images, open_records, open_split))
    assert images.column_names == ["image_id", "image"]
    assert records.column_names == ["image_id", "records"]
    assert both.column_names == ["image_id", "image", "records"]
    for number in (0, 17, 19):
        assert {**images[number], **records[number]} == both[number]


def test_files_of_different_panoramas_are_not_joined(tmp_path: Path) -> None:
    write_store(tmp_path, "train", rows(3), jpeg_quality=90)
    write_store(tmp_path, "other", [row(0), row(2), row(1)], jpeg_quality=90)
    (tmp_path / "records/other.arrow").replace(tmp_path / "records/train.arrow")
    with pytest.raises(ValueError, match=rf"{tmp_path}: images/train.arrow and records/train.arrow hold different"):
        open_split(tmp_path, "train")
    assert len(open_images(tmp_path, "train")) == 3


def test_rewording_questions_leaves_the_images_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(folder: Path) -> dict[str, bytes]:
        made = (world_row(i, seed=0, split="train", height=32, korean_share=0.5) for i in range(2))
        write_store(folder, "train", made, jpeg_quality=95)
        return files(folder)

    def reworded(question: object, language: str, rng: Random) -> dict[str, str]:
        return {"human": f"Pray tell, number {rng.random()}?", "assistant": "Nay."}

    before = write(tmp_path / "before")
    monkeypatch.setattr("panollava.corpus.world_records.turn_json", reworded)
    after = write(tmp_path / "after")
    assert before["images/train.arrow"] == after["images/train.arrow"]
    assert before["records/train.arrow"] != after["records/train.arrow"]
    # The same holds for other questions.
    monkeypatch.setattr("panollava.corpus.world_records.TRAIN_QUESTIONS", {"colour": 1, "existence": 1})
    assert write(tmp_path / "fewer")["images/train.arrow"] == before["images/train.arrow"]


def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    alive: list[weakref.ref[PanoramaRow]] = []
    most = 0

    def watched() -> Iterator[PanoramaRow]:
        nonlocal most
        for number in range(3 * store.ROWS_PER_BATCH):
            made = row(number)
            alive.append(weakref.ref(made))
            most = max(most, sum(reference() is not None for reference in alive))
            yield made

    write_store(tmp_path, "train", watched(), jpeg_quality=None)
    assert most <= 2  # the row in hand and the one that the writer has just finished


def test_batches_reach_the_disk_as_they_fill(tmp_path: Path) -> None:
    """At no time does more than a batch wait in memory, and a little in the file's buffer."""
    encoded: list[int] = []

    def watched() -> Iterator[PanoramaRow]:
        for number in range(4 * store.ROWS_PER_BATCH):
            on_disk = sum(path.stat().st_size for path in (tmp_path / "images").rglob("*"))
            assert on_disk + io.DEFAULT_BUFFER_SIZE >= sum(encoded[: -store.ROWS_PER_BATCH])
            made = row(number)
            encoded.append(len(encode_image(made.image, None)))
            yield made

    write_store(tmp_path, "train", watched(), jpeg_quality=None)
    assert len(encoded) == 4 * store.ROWS_PER_BATCH


def test_reading_takes_no_memory_for_what_is_not_asked_for(tmp_path: Path) -> None:
    write_store(tmp_path, "train", rows(60), jpeg_quality=None)
    size, before = (tmp_path / "images/train.arrow").stat().st_size, pa.total_allocated_bytes()
    dataset, most = open_split(tmp_path, "train"), 0
    for index in (*range(60), 0):
        assert dataset[index]["image_id"] == f"pano_{index}"
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < size / 10


def test_reading_writes_nothing(tmp_path: Path) -> None:
    write_store(tmp_path, "train", rows(3), jpeg_quality=90)
    before = {path: path.stat() for path in tmp_path.rglob("*.arrow")}
    dataset = open_split(tmp_path, "train")
    mapped = [{"filename": str(tmp_path / kind / "train.arrow")} for kind in ("images", "records")]
    assert dataset.cache_files == mapped  # memory-mapped
    assert len([example["image"].size for example in dataset]) == 3
    assert files(tmp_path).keys() == names("train")
    assert {path: path.stat() for path in before} == before


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    write_store(tmp_path, "train", rows(2), jpeg_quality=90)
    before = files(tmp_path)
    with full_disk(10_000), pytest.raises(OSError, match="nothing was written") as error:
        write_store(tmp_path, "train", rows(40), jpeg_quality=90)
    assert error.value.filename == str(tmp_path / "images/train.arrow")  # both files lie on one disk
    assert files(tmp_path) == before


def test_an_error_in_the_rows_leaves_the_old_store(tmp_path: Path) -> None:
    def broken() -> Iterator[PanoramaRow]:
        yield from rows(20)
        raise KeyboardInterrupt

    write_store(tmp_path, "train", rows(2), jpeg_quality=90)
    before = files(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path, "train", broken(), jpeg_quality=90)
    assert files(tmp_path) == before
    assert len(open_split(tmp_path, "train")) == 2


def test_bad_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "images/train.arrow"
    with pytest.raises(ValueError, match=rf"{path}: image_id 'pano_1' comes twice"):
        write_store(tmp_path, "train", [row(0), row(1), row(1)], jpeg_quality=90)
    with pytest.raises(ValueError, match=rf"{path}: no panoramas"):
        write_store(tmp_path, "train", [], jpeg_quality=90)
    with pytest.raises(ValueError, match="panorama 'pano_0': record 0 has image_id 'pano_1'"):
        write_store(tmp_path, "train", [PanoramaRow("pano_0", row(0).image, row(1).records)], jpeg_quality=90)
    assert not files(tmp_path)


@pytest.mark.parametrize("kind", ["images", "records"])
def test_a_missing_or_cut_split_is_named(tmp_path: Path, kind: str) -> None:
    write_store(tmp_path, "train", rows(40), jpeg_quality=90)
    write_store(tmp_path, "test", rows(40), jpeg_quality=90)
    path = tmp_path / kind / "test.arrow"
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(ValueError, match=rf"{path}: no such split; splits in this folder: train"):
        open_split(tmp_path, "test")
    for kept in (0, 10, len(data) // 2):
        path.write_bytes(data[:kept])
        with pytest.raises(ValueError, match=rf"{path}: not a complete Arrow file"):
            open_split(tmp_path, "test")
