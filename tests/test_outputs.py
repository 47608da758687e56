"""What every command writes is checked before its work begins; a folder that was written can be compared later."""

import os
import stat
from pathlib import Path
from typing import NoReturn

import pytest
from damage import flip
from tiny_backbones import write_parts
from tiny_models import write_dataset, write_resampler_folder

from panollava import PanoDataset, PanoLLaVAModel, PanoLLaVATrainer
from panollava.cli import main

QUESTION = "Give the box of the red cube."


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a LoRA folder and a dataset."""
    root = tmp_path_factory.mktemp("outputs")
    write_resampler_folder(write_parts("clip", "llama", root), root / "base", lora=root / "lora")
    write_dataset(root / "set", 2)
    return root


def work(*args: object, **kwargs: object) -> NoReturn:
    pytest.fail("work began")


@pytest.mark.parametrize("out", ["pipe", "folder", "/dev/null", "file/mask.png", "x" * 256])
@pytest.mark.parametrize(
    "command",
    [
        ["segment", "panorama.jpg", QUESTION, "OUT"],
        ["compare", "main", "vicuna", "--json", "OUT"],
        ["bench", "views", "--json", "OUT"],
        ["view", "panorama.jpg", "--out", "OUT"],
    ],
)
def test_files_that_cannot_be_written_are_refused_before_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str], out: str
) -> None:
    works = ("cli.model.open_chat", "experiments.compare.compare_sources", "bench.running.run")
    for name in (*works, "viewer.panoramas.find_panoramas"):
        monkeypatch.setattr(f"panollava.{name}", work)
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("file").touch()
    assert main([out if argument == "OUT" else argument for argument in command]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert out in line
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_folders_that_cannot_be_written_are_refused_before_work(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = PanoLLaVAModel.from_pretrained(root / "base"), PanoDataset(root / "set")
    for name in ("cli.model.open_model", "corpus.importers.llava.read"):
        monkeypatch.setattr(f"panollava.{name}", work)
    (tmp_path / "file").touch()
    capsys.readouterr()  # what loading printed
    for out in (root / "set", tmp_path / "file", tmp_path / "file/out", tmp_path / ("x" * 256)):
        for command in (["merge", str(root / "lora")], ["import", "llava", "talk.json"]):
            assert main([*command, str(out)]) == 1
            (line,) = capsys.readouterr().err.splitlines()
            assert str(out) in line
        with pytest.raises((ValueError, OSError), match=f"{out}"):
            PanoLLaVATrainer(model=model, train_dataset=data, output_dir=out)
        with pytest.raises((ValueError, OSError), match=f"{out}"):
            model.save_pretrained(out)


def test_validate_compares_a_folder_with_the_list_of_its_files(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "merged"
    assert main(["merge", str(root / "lora"), str(out)]) == 0
    (tmp_path / "new").touch()
    assert {file.stat().st_mode for file in out.iterdir()} == {(tmp_path / "new").stat().st_mode}
    monkeypatch.setattr("panollava.backbones.files.HASHED_BYTES", 0)
    assert main(["validate", str(out)]) == 0
    assert "all files are as they were written" in capsys.readouterr().out
    flip(out / "model.safetensors")
    assert main(["validate", str(out)]) == 1
    assert f"{out}/model.safetensors has another content" in capsys.readouterr().err
