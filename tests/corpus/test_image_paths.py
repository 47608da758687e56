"""Image paths: found in either Unicode form, never outside the folder, and a hint where a name is nearly right."""

import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from panollava.corpus.image_paths import as_on_disk, image_file
from panollava.corpus.reading import read_records, record_file

NAME = "폴더/서울 é.png"


def touch(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 8)).save(file)
    return file


@pytest.mark.parametrize(("disk", "written"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_are_found_in_either_unicode_form(tmp_path: Path, disk: str, written: str) -> None:
    name, path = unicodedata.normalize(disk, NAME), unicodedata.normalize(written, NAME)
    assert name != path
    file = touch(tmp_path / name)
    assert image_file(tmp_path, path) == file
    assert image_file(tmp_path, name) == file
    # The dataset folder itself, as it is typed on the command line.
    (file.parent / "records.json").write_text("[]")
    assert record_file(tmp_path / Path(path).parent) == file.parent / "records.json"
    assert as_on_disk(tmp_path / "없음") == tmp_path / "없음"


def test_the_folder_of_the_dataset_may_be_a_relative_path_that_leads_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "data" / unicodedata.normalize("NFD", NAME))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for folder in (Path("../data"), Path("../data/../data"), tmp_path / "here/../data"):
        assert image_file(folder, unicodedata.normalize("NFC", NAME)).is_file()


def test_the_exact_name_wins_over_its_other_form(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        touch(tmp_path / unicodedata.normalize(form, "é.png"))
    for form in ("NFC", "NFD"):
        name = unicodedata.normalize(form, "é.png")
        assert image_file(tmp_path, name).name == name


def test_two_forms_of_one_path_are_one_image(tmp_path: Path) -> None:
    touch(tmp_path / "é.png")
    row = '{"image_id": "a", "image_path": "%s", "conversations": [{"human": "%s", "assistant": "a"}]}'
    rows = ",".join(row % (unicodedata.normalize(form, "é.png"), form) for form in ("NFC", "NFD"))
    (tmp_path / "records.json").write_text(f"[{rows}]", encoding="utf-8")
    assert len(read_records(tmp_path)) == 2


def test_a_file_that_appears_is_found_though_it_was_missing_before(tmp_path: Path) -> None:
    path = unicodedata.normalize("NFC", NAME)
    folder = tmp_path / Path(unicodedata.normalize("NFD", NAME)).parent
    folder.mkdir()
    os.utime(folder, (1, 1))
    with pytest.raises(ValueError, match="is missing"):
        image_file(tmp_path, path)
    touch(tmp_path / unicodedata.normalize("NFD", NAME))
    assert image_file(tmp_path, path).is_file()


@pytest.mark.parametrize(
    "path",
    ["images\\a.jpg", "images/A.JPG", "Images/a.jpg", "images/a.jpg ", "images/a.jpeg", "images/a.png", "images/a",
     "a.jpg", "/images/a.jpg", "C:\\data\\images\\a.jpg", "other/images/a.jpg", "https://example.org/images/a.jpg",
     "https://example.org/a.jpg", "file:///images/a.jpg", "file://images/a.jpg", "s3://bucket/images/a.jpg"],
)  # fmt: skip
def test_a_hint_names_the_file_that_was_meant(tmp_path: Path, path: str) -> None:
    touch(tmp_path / "images" / "a.jpg")
    with pytest.raises(ValueError, match=r"; did you mean 'images/a\.jpg'\?$") as error:
        image_file(tmp_path, path)
    assert str(error.value).startswith(repr(path))
    with pytest.raises(ValueError) as error:
        image_file(tmp_path, path, hint=False)
    assert "did you mean" not in str(error.value)


@pytest.mark.parametrize("path", ["./images/a.jpg", "images//a.jpg", "images/./a.jpg", "images/../images/a.jpg"])
def test_other_spellings_of_a_relative_path_are_found(tmp_path: Path, path: str) -> None:
    file = touch(tmp_path / "images" / "a.jpg")
    assert image_file(tmp_path, path).samefile(file)


def test_what_is_no_file_is_called_what_it_is(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "a.jpg")
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    said = {
        "images/": "is a folder; expected an image file",
        "fifo.jpg": "is no regular file",
        "zero.jpg": "leads to '/dev/zero', outside",
        "images/a.jpg/b.jpg": "is missing below",
        "loop/a.jpg": "loop",
        "https://example.org/b.jpg": "is a URL, and nothing is downloaded",
        "../a.jpg": "outside the dataset folder",
        "a/" * 2048 + "b": "at most 4096 characters",
        "a/" * 1024 + "b": "is missing",
        "a\0b": "no path",
    }
    for path, text in said.items():
        with pytest.raises(ValueError) as error:
            image_file(tmp_path, path)
        assert text in str(error.value)
        assert "\n" not in str(error.value)
