"""The documents tell the truth: commands exist, Python runs, examples are valid, links lead somewhere."""

import importlib.util
import json
import re
import shlex
import shutil
import tomllib
from itertools import pairwise, takewhile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML
from tiny_backbones import write_parts
from tiny_models import write_dataset, write_images, write_resampler_folder

from panollava.cli import build_parser
from panollava.corpus.records import Record

ROOT = Path(__file__).parents[1]
PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8")
    for page in (*sorted(ROOT.glob("*.md")), ROOT / "data/raw/README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if page.name != "CHANGELOG.md"  # history names what is no more
}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], flags=re.DOTALL)


def with_blocks(language: str) -> list[str]:
    return [page for page in PAGES if blocks(page, language)]


def block_commands() -> list[tuple[str, str]]:
    """Return the commands of all bash blocks with their page."""
    found = [(page, line) for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()]
    return list(dict.fromkeys((page, line) for page, line in found if line.strip()))


def inline_commands() -> list[tuple[str, str]]:
    """Return the commands of make and panollava within the text, with their page."""
    found = [(page, code) for page, text in PAGES.items() for code in re.findall(r"`([^`\n]+)`", text)]
    return list(dict.fromkeys((page, code) for page, code in found if re.match(r"(make|panollava) [a-z]", code)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with what the examples need: trained models, a panorama, two record files."""
    folder = tmp_path_factory.mktemp("documents")
    parts = write_parts("clip", "llama", folder / "backbones")
    write_resampler_folder(parts, folder / "data/train_resampler", lora=folder / "data/finetune_lora")
    Image.open(write_images(folder / "images", 1)[0]).save(folder / "panorama.jpg")
    for seed, name in enumerate(("train", "val")):
        dataset = write_dataset(folder / name, 2, seed=seed)
        records = json.loads((dataset / "annotations.json").read_text("utf-8"))
        moved = [record | {"image_path": f"{name}/{record['image_path']}"} for record in records]
        (folder / f"{name}.json").write_text(json.dumps(moved, ensure_ascii=False), encoding="utf-8")
    return folder


@pytest.mark.parametrize("page", with_blocks("python"))
def test_python_blocks_run(page, trained, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), {})
    assert bool(capsys.readouterr().out.strip()) == any("print(" in block for block in blocks(page, "python"))


@pytest.mark.parametrize(("page", "command"), block_commands())
def test_commands_work(page, command):
    program, *given = shlex.split(command, comments=True)
    arguments = list(takewhile(lambda argument: argument not in ("<", ">"), given))
    name = Path(program).name
    if name == "make":
        check_make(arguments)
    elif name == "panollava":
        build_parser().parse_args(arguments)
    elif name == "dvc":
        check_dvc(arguments)
    else:
        assert name == "git" or (ROOT / program).is_file(), f"{page} names a program that nothing checks: {command}"


@pytest.mark.parametrize(("page", "command"), inline_commands())
def test_commands_within_the_text_exist(page, command):
    program, name, *arguments = shlex.split(command)
    if program == "make":
        check_make([name, *arguments])
        return
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args([name, "--help"])
    assert ended.value.code == 0, f"{page}: there is no `panollava {name}`"


def check_make(arguments: list[str]) -> None:
    for argument in arguments:
        variable, equals, _ = argument.partition("=")
        pattern = rf"\$\(.*\b{variable}\b" if equals else rf"^{variable}:"
        assert re.search(pattern, MAKEFILE, flags=re.MULTILINE), f"the Makefile knows no {argument}"


def check_dvc(arguments: list[str]) -> None:
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text("utf-8"))
    for change in (value for flag, value in pairwise(arguments) if flag == "-S"):
        key, value = change.split("=", 1)
        section = params
        for part in key.split("."):
            assert part in section, f"{change}: params.yaml has no {key}"
            section = section[part]
        if key in ("encoder", "llm"):
            assert value in params[f"{key}s"]


@pytest.mark.parametrize("page", with_blocks("json"))
def test_record_examples_are_valid(page):
    for block in blocks(page, "json"):
        for record in json.loads(block):
            Record.model_validate_json(json.dumps(record))


def test_readme_is_one_screen():
    assert len(PAGES["README.md"].splitlines()) <= 150


def test_tree_names_what_exists():
    tree = PAGES["README.md"].split("## The tree")[1].split("```")[1].strip()
    for line in tree.splitlines():
        for name in line.split():
            if "/" not in name and "." not in name:
                break
            places = [ROOT / name, ROOT / "src/panollava" / name]
            assert any(place.exists() for place in places), f"the README's tree names {name}, which does not exist"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path = target.partition("#")[0]
        if path and not target.startswith("https://"):
            assert ((ROOT / page).parent / path).exists(), f"{page} links to {target}, which does not exist"


def test_files_that_pages_name_exist():
    code = {found for text in PAGES.values() for found in re.findall(r"`([\w./-]+\.(?:py|ipynb|yaml|yml|cff))`", text)}
    written = {"annotations.json"}
    for name in sorted(code - written):
        places = [ROOT / name, ROOT / "src/panollava" / name]
        assert any(place.exists() for place in places), f"a page names {name}, which does not exist"


def test_versions_agree():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    citation = YAML(typ="safe").load((ROOT / "CITATION.cff").read_text("utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert citation["version"] == version
    assert re.search(r"^## (\S+)", changelog, flags=re.MULTILINE)[1] == version


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8").split("\nnav:")[1]
    for page in sorted((ROOT / "docs").rglob("*.md")):
        assert page.relative_to(ROOT / "docs").as_posix() in navigation


def test_picture_is_drawn_from_a_finished_run(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("draw_answer", ROOT / "docs/assets/draw_answer.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    said = {key: {"question": "빨간 공은?", "prediction": "red", "iou": None} for key in script.TALK}
    said[script.BOX] |= {"prediction": "[179, -38, 31, 33]", "iou": 0.8}
    panorama = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    monkeypatch.setattr(script, "answers", lambda: said)
    monkeypatch.setattr(script, "panorama", lambda: panorama)
    monkeypatch.setattr(script, "OUT", tmp_path / "answer.jpg")
    script.main()
    assert Image.open(tmp_path / "answer.jpg").size == (1210, 594)
