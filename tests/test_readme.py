"""The README tells the truth: its Python runs, its commands exist."""

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image
from ruamel.yaml import YAML
from tiny_backbones import write_parts
from tiny_models import write_dataset, write_images, write_resampler_folder

from panollava.cli import build_parser
from panollava.corpus.records import Record

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    parts = write_parts("clip", "llama", tmp_path / "backbones")
    write_resampler_folder(parts, tmp_path / "data/train_resampler", lora=tmp_path / "data/finetune_lora")
    Image.open(write_images(tmp_path / "images", 1)[0]).save(tmp_path / "panorama.jpg")
    for seed, name in enumerate(("train", "val")):
        folder = write_dataset(tmp_path / name, 2, seed=seed)
        records = json.loads((folder / "annotations.json").read_text("utf-8"))
        moved = [record | {"image_path": f"{name}/{record['image_path']}"} for record in records]
        (tmp_path / f"{name}.json").write_text(json.dumps(moved, ensure_ascii=False), encoding="utf-8")
    found = blocks("python")
    assert len(found) == 2
    for block in found:
        exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "my_model").is_dir()
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("command", commands(), ids=shlex.join)
def test_commands_exist(command):
    program, arguments = Path(command[0]).name, command[1:]
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE)
    elif program == "panollava":
        build_parser().parse_args(arguments)
    elif program == "dvc":
        params = YAML(typ="safe").load((ROOT / "params.yaml").read_text("utf-8"))
        changes = [value for flag, value in pairwise(arguments) if flag == "-S"]
        for change in changes:
            key, value = change.split("=", 1)
            section = params
            for part in key.split("."):
                assert part in section, f"{change}: params.yaml has no {key}"
                section = section[part]
            if key in ("encoder", "llm"):
                assert value in params[f"{key}s"]
    else:
        pytest.fail(f"the README names a program that nothing checks: {command}")


def test_record_example_is_valid():
    for block in blocks("json"):
        for record in json.loads(block):
            Record.model_validate(record)


def test_tree_names_what_exists():
    tree = TEXT.split("## The tree")[1].split("```")[1].strip()
    for line in tree.splitlines():
        for name in line.split():
            if "/" not in name and "." not in name:
                break
            places = [ROOT / name, ROOT / "src/panollava" / name]
            assert any(place.exists() for place in places), f"the README's tree names {name}, which does not exist"
