"""Writing an imported dataset, for every importer: images, names, folders, source and licence."""

from pathlib import Path

import pytest
from importer_cases import refused, run, write_image, write_json, write_table

from panollava.cli.data import FORMATS
from panollava.corpus.importers import IMPORTERS, import_dataset
from panollava.corpus.importers.common import Request

SAMPLE = {
    "id": 1,
    "image": "a.png",
    "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "A room."}],
}


def test_the_command_line_offers_every_importer() -> None:
    assert tuple(IMPORTERS) == FORMATS


def test_missing_images_are_counted_and_named_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for name in ("a.jpg", "b.jpg"):
        write_image(folder / name)
    present = [("a.jpg", "art", "A wall."), ("b.jpg", "art", "A wall."), ("a.jpg", "people", "Nobody.")]
    rows = [*present, *((f"gone_{number}.jpg", "art", "A wall.") for number in range(7))]
    write_image(folder / "square.jpg", (8, 8))
    file = write_table(tmp_path / "train.tsv", [*rows, ("square.jpg", "art", "A wall.")])
    message = refused(tmp_path, "quic360", file, images=folder)
    assert message.startswith("8 of 10 images are missing or cannot be used:\n")
    assert all(f"{folder / f'gone_{number}.jpg'}: no such image file" in message for number in range(5))
    assert "gone_5" not in message
    assert message.endswith("... and 3 more")
    records, report = run(tmp_path, "quic360", file, images=folder, drop_bad_images=True)
    assert len(records) == 3
    assert dict(report.dropped) == {"images missing or not usable": 8, "records of such images": 8}
    assert "left out: 8 images missing or not usable" in str(report)


def test_images_of_another_aspect_need_the_option(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", (12, 8))
    file = write_table(tmp_path / "train.tsv", [("a.png", "art", "A wall.")])
    assert "1 of 1 images are missing or cannot be used" in refused(tmp_path, "quic360", file)
    assert "nothing to write" in refused(tmp_path, "quic360", file, drop_bad_images=True)
    report = import_dataset("quic360", Request(file), tmp_path / "out", allow_any_aspect=True)
    assert report.records == 1


def test_image_names_keep_their_folders_and_stay_inside(tmp_path: Path) -> None:
    for name in ("x/1.png", "y/1.png"):
        write_image(tmp_path / "set" / name)
    rows = [("x/1.png", "art", "A wall."), ("./y/1.png", "art", "A door.")]
    records, _ = run(tmp_path, "quic360", write_table(tmp_path / "set/train.tsv", rows))
    assert [record.image_path for record in records] == ["images/x/1.png", "images/y/1.png"]
    (tmp_path / "out").rename(tmp_path / "kept")
    absolute = [(str(tmp_path / "set/x/1.png"), "art", "A"), (str(tmp_path / "set/y/1.png"), "art", "B")]
    rows = [*absolute, ("../set/x/1.png", "art", "C"), ("", "art", "D")]
    message = refused(tmp_path, "quic360", write_table(tmp_path / "set/train.tsv", rows))
    assert message.startswith("3 image names cannot be used:")
    assert f"row 2 below the header: image '1.png' is {tmp_path / 'set/y/1.png'}, but was" in message
    assert "'../set/x/1.png'; expected the path of a file below the image folder" in message


def test_a_folder_that_is_not_empty_and_an_unknown_importer_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    file = write_table(tmp_path / "train.tsv", [("a.png", "art", "A wall.")])
    write_json(tmp_path / "out/annotations.json", [])
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        import_dataset("quic360", Request(file), tmp_path / "out")
    with pytest.raises(ValueError, match=r"no importer 'quic'; there are quic360, llava"):
        import_dataset("quic", Request(file), tmp_path / "other")


def test_the_folder_may_be_the_working_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "a.png")
    file = write_table(tmp_path / "train.tsv", [("a.png", "art", "A wall.")])
    (tmp_path / "walks").mkdir()
    monkeypatch.chdir(tmp_path / "walks")
    import_dataset("quic360", Request(file), Path())
    assert {path.name for path in Path().iterdir()} == {"README.md", "annotations.jsonl", "images"}
    assert "# walks" in Path("README.md").read_text()


def test_a_failed_copy_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("disk full")

    write_image(tmp_path / "a.png")
    file = write_table(tmp_path / "train.tsv", [("a.png", "art", "A wall.")])
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="disk full"):
        import_dataset("quic360", Request(file), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "train.tsv"]


def test_source_and_licence_can_be_replaced(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    file = write_json(tmp_path / "talk.json", [SAMPLE])
    records, report = run(tmp_path, "llava", file, source="our walks", licence="CC0")
    assert records[0].metadata == {"source": "our walks", "licence": "CC0", "id": 1}
    assert "licence: CC0" in str(report)
