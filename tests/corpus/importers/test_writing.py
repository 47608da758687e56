"""Writing an imported dataset, for every importer: images, names, folders, source and licence."""

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from importer_cases import refused, run, write_image, write_json, write_table

from panollava.cli import main
from panollava.cli.data import FORMATS
from panollava.corpus.importers import IMPORTERS, import_dataset
from panollava.corpus.importers.common import Request
from panollava.corpus.problems import Problem

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
    assert message.startswith("8 of 10 images are missing or cannot be used; --drop-bad-images leaves them out:\n")
    assert all(f"train.tsv line {number + 5}: 'gone_{number}.jpg' is missing below" in message for number in range(5))
    assert "gone_5" not in message
    assert message.endswith("... and 3 more")
    records, report = run(tmp_path, "quic360", file, images=folder, drop_bad_images=True)
    assert len(records) == 3
    assert report.dropped == {"rows of images missing or not usable": 8, "images missing or not usable": 8}
    assert "also left out: 8 images missing or not usable" in str(report)
    assert "read: 11 rows, imported: 3, left out: 8\n" in str(report)


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
    records, _ = run(tmp_path, "quic360", write_table(tmp_path / "set/train.tsv", absolute))
    assert [record.image_path for record in records] == ["images/x/1.png", "images/y/1.png"]
    (tmp_path / "out").rename(tmp_path / "kept_too")
    write_image(tmp_path / "secret.png")
    names = ["../set/x/1.png", "", str(tmp_path / "secret.png"), "C:\\secret.png", "s3://b/1.png", "x/../../secret.png"]
    rows = [(name, "art", "C") for name in names]
    message = refused(tmp_path, "quic360", write_table(tmp_path / "set/train.tsv", rows))
    assert message.startswith("6 of 6 rows cannot be imported")
    assert "train.tsv line 2: image '../set/x/1.png'; expected the path of a file below the image folder" in message
    assert "name the folder that holds it with --images" in message
    assert "image 's3://b/1.png' is a link; download it" in message


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
    assert records[0].metadata == {"source": "our walks", "licence": "CC0", "id": "1"}
    assert "licence: CC0" in str(report)


def test_unicode_forms_of_a_name_are_one_image(tmp_path: Path) -> None:
    name = "파노라마.png"
    folder = tmp_path / unicodedata.normalize("NFD", "사진")
    write_image(folder / unicodedata.normalize("NFD", name))
    samples = [SAMPLE | {"id": form, "image": unicodedata.normalize(form, name)} for form in ("NFC", "NFD")]
    write_json(folder / "talk.json", samples)
    records, report = run(tmp_path, "llava", tmp_path / "사진/talk.json", images=tmp_path / "사진")
    assert [record.image_id for record in records] == [name, name]
    assert report.images == 1


def test_a_missing_image_folder_is_told_at_once(tmp_path: Path) -> None:
    file = write_json(tmp_path / "talk.json", [SAMPLE])
    message = refused(tmp_path, "llava", file, images=tmp_path / "gone")
    assert message.startswith(f"--images {tmp_path / 'gone'}: no such folder")


def test_images_may_be_links_to_another_folder(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.png").symlink_to(write_image(tmp_path / "cache/blob.png"))
    run(tmp_path, "llava", write_json(tmp_path / "set/talk.json", [SAMPLE]))
    assert not (tmp_path / "out/images/a.png").is_symlink()


def test_what_a_further_check_refuses_is_named_by_its_place_in_the_source(tmp_path: Path) -> None:
    def check(located: Any) -> list[Problem]:
        found = [where for where, record in located if record.metadata["id"] == "bad"]
        return [Problem(where, "conversations.0.human", "is odd") for where in found]

    for name in ("a.png", "b.png"):
        write_image(tmp_path / name)
    samples = [SAMPLE | {"id": "good"}, SAMPLE | {"id": "bad", "image": "b.png"}]
    file = write_json(tmp_path / "talk.json", samples)
    expected = (
        "1 samples with a bad conversations.human:\n  talk.json entry 1 (id 'bad'): conversations.0.human: is odd"
    )
    assert expected in refused(tmp_path, "llava", file, checks=[check])
    records, report = run(tmp_path, "llava", file, checks=[check], drop_bad_records=True)
    assert [record.metadata["id"] for record in records] == ["good"]
    assert "left out: " + expected in str(report)
    assert [image.name for image in (tmp_path / "out/images").iterdir()] == ["a.png"]


def test_bad_samples_and_bad_images_are_in_one_message(tmp_path: Path) -> None:
    file = write_json(tmp_path / "talk.json", [SAMPLE, SAMPLE | {"image": ["a", "b"]}])
    message = refused(tmp_path, "llava", file)
    assert "1 samples with several images" in message
    assert "1 of 1 images are missing or cannot be used" in message
    assert "1 of 1 images" in refused(tmp_path, "llava", file, drop_bad_records=True)
    assert "1 samples with" in refused(tmp_path, "llava", file, drop_bad_images=True)
    message = refused(tmp_path, "llava", file, drop_bad_images=True, drop_bad_records=True)
    assert "nothing to write; the source holds no record that can be used (1 samples of images" in message


def test_the_command_leaves_out_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "a.png")
    file = write_json(tmp_path / "talk.json", [SAMPLE, SAMPLE | {"image": ["a", "b"]}])
    assert main(["import", "llava", str(file), str(tmp_path / "out")]) == 1
    assert main(["import", "llava", str(file), str(tmp_path / "out"), "--drop-bad-records"]) == 0
    assert "read: 2 samples, imported: 1, left out: 1\n" in capsys.readouterr().out
