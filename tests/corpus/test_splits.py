"""Splits: by panorama, exact, reproducible, and refused where a panorama would leak."""

from pathlib import Path

import pytest
import yaml
from PIL import Image

from panollava.corpus.records import Record, Turn
from panollava.corpus.splits import PIPELINE_SHARES, share_counts, split_by_panorama, split_note

SHARES = {"train": 3, "validation": 1, "test": 1}


def records_of(folder: Path, count: int, *, per_panorama: int = 2, splits: list[object] | None = None) -> list[Record]:
    """Return records on `count` different images, those of one panorama far apart in the list."""
    for number in range(count):
        Image.new("RGB", (16, 8), (number % 256, number // 256, 1)).save(folder / f"{number}.png")
    return [
        Record(
            image_id=f"pano_{number}",
            image_path=f"{number}.png",
            conversations=[Turn(human=f"question {repeat}", assistant="answer")],
            metadata={} if splits is None or splits[number] is None else {"split": splits[number]},
        )
        for repeat in range(per_panorama)
        for number in range(count)
    ]


def panoramas(splits: dict[str, list[Record]]) -> dict[str, set[str]]:
    return {name: {record.image_id for record in records} for name, records in splits.items()}


def test_five_panoramas_at_3_1_1(tmp_path: Path) -> None:
    records = records_of(tmp_path, 5)
    splits = split_by_panorama(records, tmp_path, shares=SHARES, seed=0)
    found = panoramas(splits)
    assert {name: len(ids) for name, ids in found.items()} == SHARES
    assert set.union(*found.values()) == {f"pano_{number}" for number in range(5)}
    assert sum(map(len, splits.values())) == len(records)
    for split in splits.values():
        assert split == [record for record in records if record in split]  # the order of the file


def test_counts_are_the_largest_remainders() -> None:
    assert share_counts(10, {"train": 0.8, "validation": 0.1, "test": 0.1}) == {"train": 8, "validation": 1, "test": 1}
    assert share_counts(11, {"a": 0.5, "b": 0.3, "c": 0.2}) == {"a": 6, "b": 3, "c": 2}
    assert share_counts(1000, {"a": 0.7, "b": 0.2, "c": 0.1}) == {"a": 700, "b": 200, "c": 100}
    assert share_counts(3, {"a": 9, "b": 9, "c": 9}) == {"a": 1, "b": 1, "c": 1}


def test_the_seed_and_not_the_order_of_the_records_decides(tmp_path: Path) -> None:
    records = records_of(tmp_path, 40)
    first = panoramas(split_by_panorama(records, tmp_path, shares=SHARES, seed=1))
    assert first == panoramas(split_by_panorama(records[::-1], tmp_path, shares=SHARES, seed=1))
    assert first != panoramas(split_by_panorama(records, tmp_path, shares=SHARES, seed=2))
    # Pinned, so that a new Python or NumPy cannot move panoramas between splits.
    assert first["test"] == {f"pano_{number}" for number in (0, 7, 8, 13, 15, 32, 34, 36)}


def test_two_ids_of_one_image_share_a_split(tmp_path: Path) -> None:
    records = records_of(tmp_path, 10, per_panorama=1)
    for number in range(5, 10):
        (tmp_path / f"{number}.png").write_bytes((tmp_path / "0.png").read_bytes())
    for seed in range(5):
        splits = split_by_panorama(records, tmp_path, shares={"train": 4, "test": 2}, seed=seed)
        found = panoramas(splits)
        assert found == panoramas(split_by_panorama(records[::-1], tmp_path, shares={"train": 4, "test": 2}, seed=seed))
        twins = {"pano_0", *(f"pano_{number}" for number in range(5, 10))}
        assert any(twins <= ids for ids in found.values())
        assert len(found["test"] - twins) + bool(found["test"] & twins) == 2  # counted as one panorama


def test_an_empty_split_is_refused_with_the_numbers(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"4 panoramas at shares train 0\.8, .* train 3, validation 1, test 0: split te"
    ):
        split_by_panorama(
            records_of(tmp_path, 4), tmp_path, shares={"train": 0.8, "validation": 0.1, "test": 0.1}, seed=0
        )
    for share in (0, -1, float("nan")):
        with pytest.raises(ValueError, match=f"share of split 'test' is {share}; expected a positive"):
            share_counts(10, {"train": 1, "test": share})


def test_splits_named_by_the_records_are_kept(tmp_path: Path) -> None:
    names: list[object] = ["test", "train", "validation", "train"]
    splits = split_by_panorama(records_of(tmp_path, 4, splits=names), tmp_path, shares=SHARES, seed=0)
    assert panoramas(splits) == {"train": {"pano_1", "pano_3"}, "validation": {"pano_2"}, "test": {"pano_0"}}
    assert list(splits) == list(SHARES)


def test_all_contradicting_split_names_are_in_one_error(tmp_path: Path) -> None:
    records = records_of(tmp_path, 4, splits=["train", None, "val", ["test"]])
    records[4] = records[4].model_copy(update={"metadata": {"split": "test"}})
    with pytest.raises(ValueError, match="7 problems with the splits that the records name:") as error:
        split_by_panorama(records, tmp_path, shares=SHARES, seed=0)
    text = str(error.value)
    assert "record 1 (image_id 'pano_1'): metadata.split: is missing" in text
    assert "record 2 (image_id 'pano_2'): metadata.split: is 'val'; expected one of train, validation, test" in text
    assert "record 3 (image_id 'pano_3'): metadata.split: is ['test']" in text
    many = records_of(tmp_path, 4, splits=["train"] * 3 + ["val"], per_panorama=500)
    with pytest.raises(ValueError, match="500 problems") as error:
        split_by_panorama(many, tmp_path, shares=SHARES, seed=0)
    assert len(str(error.value).splitlines()) == 7
    assert str(error.value).endswith("… and 495 more of this kind")
    assert "record 4 (image_id 'pano_0'): metadata.split: is 'test', but it was in 'train' before" in text


def test_the_same_image_under_two_ids_in_two_named_splits_is_refused(tmp_path: Path) -> None:
    records = records_of(tmp_path, 3, splits=["train", "validation", "test"], per_panorama=1)
    (tmp_path / "2.png").write_bytes((tmp_path / "0.png").read_bytes())
    with pytest.raises(ValueError, match=r"record 2 .*'test', but as image_id 'pano_0', the same image, it was in 'tr"):
        split_by_panorama(records, tmp_path, shares=SHARES, seed=0)


def test_a_named_split_that_is_empty_is_refused(tmp_path: Path) -> None:
    records = records_of(tmp_path, 2, splits=["train", "test"])
    with pytest.raises(ValueError, match="of 2 panoramas gives train 1, validation 0, test 1: validation is empty"):
        split_by_panorama(records, tmp_path, shares=SHARES, seed=0)


def test_the_note_says_what_the_pipeline_lacks(tmp_path: Path) -> None:
    params = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    assert params["dataset"]["shares"] == PIPELINE_SHARES
    for count in range(1, 13):
        records = records_of(tmp_path, count)
        note = split_note(records, tmp_path)
        try:
            split_by_panorama(records, tmp_path, shares=PIPELINE_SHARES, seed=0)
        except ValueError:
            assert note is not None
            assert f"needs at least 7 different panoramas for its splits (dataset.shares), here: {count};" in note
        else:
            assert note is None
    note = split_note(records_of(tmp_path, 3, splits=["train", "test", "val"]), tmp_path)
    assert note is not None
    assert "metadata.split: is 'val'; expected one of train, validation, test" in note
    assert "\n" not in note
    note = split_note(records_of(tmp_path, 2, splits=["train", "test"]), tmp_path)
    assert note is not None
    assert "validation is empty" in note
