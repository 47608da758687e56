"""What belongs to a folder, and whether each file is what its name says; missing and changed files are named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from damage import HARMS, flip
from safetensors.torch import save_file

from panollava.backbones import files
from panollava.backbones.files import FILES, check_files, check_finite, check_weights, load_weights, new_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with new_checkpoint(tmp_path / "out") as new:
        save_file({"a": torch.arange(100.0)}, new / "model.safetensors")
        (new / "config.json").write_text('{"a": 1}\n')
        (new / "README.md").write_text("# Card\n")
        (new / "part").mkdir()
        (new / "part/x.py").write_text("x = 1\n")
    return tmp_path / "out"


def test_all_files_but_documents_are_listed_with_size_and_hash(folder: Path) -> None:
    listed = json.loads((folder / FILES).read_text())
    assert list(listed) == ["config.json", "model.safetensors", "part/x.py"]
    digest = "9e26bf369911c45c243c684147b23fc9e1dcfcf257d299a1c632016a6fcd33f4"  # as sha256sum prints it
    assert listed["part/x.py"] == {"bytes": 6, "sha256": digest}
    check_files(folder)


def test_the_same_files_give_the_same_list(folder: Path, tmp_path: Path) -> None:
    with new_checkpoint(tmp_path / "again") as new:
        for file in folder.rglob("*"):
            if file.is_file() and file.name != FILES:
                (new / file.relative_to(folder)).parent.mkdir(exist_ok=True)
                (new / file.relative_to(folder)).write_bytes(file.read_bytes())
    assert (tmp_path / "again" / FILES).read_bytes() == (folder / FILES).read_bytes()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "part/x.py"])
@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_file_is_named(folder: Path, name: str, harm: Callable[[Path], None]) -> None:
    harm(folder / name)
    with pytest.raises(ValueError, match=rf"^{folder / name} (is missing|has).*copy the folder anew"):
        check_files(folder)


def test_documents_and_other_files_may_change(folder: Path) -> None:
    (folder / "README.md").write_bytes(b"\xff edited")
    (folder / "notes.txt").write_text("mine")
    (folder / "part/__pycache__").mkdir()
    check_files(folder)
    (folder / "README.md").unlink()
    check_files(folder)


def test_large_files_are_known_by_their_size_unless_all_shall_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "HASHED_BYTES", 100)
    flip(folder / "model.safetensors")
    check_files(folder, hashed_bytes=100)
    with pytest.raises(ValueError, match=r"model\.safetensors has another content"):
        check_files(folder, hashed_bytes=2**30)


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"config.json": None},
        {"config.json": {"bytes": "9", "sha256": "0"}},
        {"../config.json": {"bytes": 9, "sha256": "0"}},
        {"/etc/passwd": {"bytes": 9, "sha256": "0"}},
        {"config.json\x1b[31m\n": 1},
        {"config.json\x1b[31m\n": {"bytes": 9, "sha256": "0"}},
    ],
)
def test_a_list_that_is_none_is_refused_in_one_line(folder: Path, entries: dict) -> None:
    (folder / FILES).write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=rf"^{folder / FILES}") as error:
        check_files(folder)
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)


def test_a_folder_in_which_a_temporary_one_lies_is_not_whole(folder: Path) -> None:
    (folder / ".panollava-killed.tmp").mkdir()
    with pytest.raises(ValueError, match="out is incomplete"):
        check_files(folder)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 1648456\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", POINTER, "is the git-lfs pointer of a file; `git lfs pull` fetches it"),
        ("pytorch_model.bin", POINTER, "is the git-lfs pointer"),
        ("tokenizer.json", POINTER, "is the git-lfs pointer"),
        ("chat_template.jinja", POINTER, "is the git-lfs pointer"),
        ("model.safetensors", b"", "no complete file of safetensors"),
        ("model.safetensors", b"\xff" * 100, "no complete file of safetensors"),
        ("model.safetensors", b"\x80\x02cposix\nsystem\n", "a pickle, which is never loaded"),
        ("model.safetensors", b"PK\x03\x04archive", "a pickle, which is never loaded"),
        ("config.json", b"[]", r"expected a JSON object, found \[\]"),
        ("tokenizer.json", b"", "not a JSON file"),
        ("model.safetensors.index.json", b"{}", "has no weight_map"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": 1}}', "has no weight_map"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "model-2.safetensors"}}', "is missing"),
    ],
)
def test_without_a_list_each_file_is_what_its_name_says(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / FILES).unlink()
    check_files(folder)
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        check_files(folder)
    assert "\n" not in str(error.value)


def test_weights_of_any_header_length_are_no_pickle(tmp_path: Path) -> None:
    for length in range(1, 40):  # the first bytes of a file are the length of its header
        save_file({"a" * 40 * length: torch.ones(1)}, tmp_path / "a.safetensors")
        check_weights(tmp_path / "a.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_named(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    weights = {"empty": torch.ones(0), "whole": torch.arange(3), "fine": torch.ones(7, 5), "bad": torch.ones(7, 5)}
    weights = {name: weight.to(dtype) if weight.is_floating_point() else weight for name, weight in weights.items()}
    check_finite(weights.items(), "here")
    weights["bad"][3, 2] = value
    save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"a\.safetensors: bad holds NaN or infinity"):
        load_weights(tmp_path / "a.safetensors")
