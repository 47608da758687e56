"""From a preset to a pointer: folders by content, hub ids by commit, and clear refusals of everything else."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled
from tiny_backbones import write_encoder, write_llm

from panollava.backbones.presets import (
    Backbone,
    check_unchanged,
    folder_fingerprint,
    hub_reachable,
    read_pointer,
    resolve,
    write_pointer,
)


@pytest.fixture(autouse=True)
def _ask_the_hub_anew() -> Iterator[None]:
    hub_reachable.cache_clear()
    yield
    hub_reachable.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint"
    path.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "card.json", "README.md"):
        (path / name).write_text(f"{{}} {name}")
    return path


def test_a_folder_is_known_by_its_content(folder: Path) -> None:
    backbone = resolve("clip", str(folder), feature_layer=-2)
    assert backbone == Backbone("clip", str(folder), None, folder_fingerprint(folder), feature_layer=-2)
    check_unchanged(backbone)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"):
        content = (folder / name).read_text()
        (folder / name).write_text(content + " ")
        with pytest.raises(
            ValueError, match=r"clip: the checkpoint in .* has the hash \w{12}, but \w{12} was expected"
        ):
            check_unchanged(backbone)
        (folder / name).write_text(content)
    check_unchanged(backbone)


def test_cards_do_not_count_and_names_do(folder: Path) -> None:
    before = folder_fingerprint(folder)
    (folder / "card.json").write_text("another")
    (folder / "README.md").unlink()
    assert folder_fingerprint(folder) == before
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    assert folder_fingerprint(folder) != before


def test_a_folder_that_is_gone_is_refused(folder: Path) -> None:
    backbone = resolve("llama", str(folder))
    folder.rename(folder.with_name("moved"))
    with pytest.raises(ValueError, match=r"llama: there is no folder .*checkpoint, .*`panollava merge`"):
        check_unchanged(backbone)


def test_a_folder_without_configuration_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"llama: the folder .* has no config\.json"):
        resolve("llama", str(folder))


def test_pointers_survive_the_round_trip(folder: Path, tmp_path: Path) -> None:
    backbone = resolve("vicuna", str(folder), chat_template="vicuna")
    write_pointer(backbone, tmp_path / "data/llm.json")
    assert read_pointer(tmp_path / "data/llm.json") == backbone
    content = json.loads((tmp_path / "data/llm.json").read_text())
    assert set(content) == set(Backbone.__annotations__)
    several = resolve("clip", str(folder), feature_layer=[-2, -6], view_size=336)
    write_pointer(several, tmp_path / "data/encoder.json")
    assert read_pointer(tmp_path / "data/encoder.json") == several
    # Pointers of version 0.10 and before know of no size.
    del content["view_size"]
    (tmp_path / "data/llm.json").write_text(json.dumps(content))
    assert read_pointer(tmp_path / "data/llm.json") == backbone


def test_a_hub_checkpoint_is_known_by_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def model_info(source: str, timeout: float) -> SimpleNamespace:
        return SimpleNamespace(sha=f"commit of {source}")

    monkeypatch.setattr("panollava.backbones.presets.hub_reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "model_info", model_info)
    backbone = resolve("clip", "openai/clip-vit-base-patch32", feature_layer=-2)
    assert backbone.revision == backbone.fingerprint == "commit of openai/clip-vit-base-patch32"
    check_unchanged(backbone)  # a commit cannot change


@pytest.mark.parametrize("error", [OSError("no route"), OfflineModeIsEnabled("offline"), HTTPError("no name")])
def test_an_unreachable_hub_is_said_clearly(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(source: str, timeout: float) -> None:
        raise error

    monkeypatch.setattr("panollava.backbones.presets.hub_reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "model_info", fail)
    with pytest.raises(ValueError, match=r"clip: 'openai/clip' is neither a folder nor a checkpoint .* params\.yaml"):
        resolve("clip", "openai/clip")


@pytest.mark.parametrize("source", ["no such folder/with spaces", "a/b/c/d", "data/standins/typo"])
def test_a_misspelt_folder_is_said_clearly(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=f"clip: '{source}' is neither a folder nor a checkpoint available from"):
        resolve("clip", source)


def test_an_offline_hub_is_said_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"clip: 'openai/clip-vit-base-patch32' is neither .*the network"):
        resolve("clip", "openai/clip-vit-base-patch32")


def test_a_cached_checkpoint_is_used_where_the_hub_is_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commit, cache = "0123456789" * 4, tmp_path / "models--some--encoder"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/main").write_text(commit)
    (cache / "snapshots" / commit).mkdir(parents=True)
    (cache / "snapshots" / commit / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert resolve("clip", "some/encoder").revision == commit
    assert f"some/encoder is taken from the cache, at commit {commit[:12]}" in capsys.readouterr().out


# Resolves and loads a hub id, where connections to the hub fail in the given way.
LOADING = """
import sys
from pathlib import Path
import torch
from panollava.backbones.assemble import load_image_processor
from panollava.backbones.loading import load_encoder, load_llm, load_tokenizer
from panollava.backbones.presets import resolve
from tiny_backbones import MODEL
encoder = resolve("clip", "some/encoder", feature_layer=-2)
tower = load_encoder(encoder, torch.float32)
llm = resolve("llama", "some/llm", chat_template="llama")
load_llm(llm, torch.float32), load_tokenizer(llm)
print(*load_image_processor(encoder, tower.config, MODEL).image_mean)
try:
    resolve("other", "some/other")
except ValueError as error:
    print(error)
"""


def test_a_cached_checkpoint_loads_at_once_without_the_network(tmp_path: Path) -> None:
    """Not every checkpoint has all kinds of files: for each that is missing, the hub would be asked again and again."""
    commit = "0123456789" * 4
    for name, write in (("encoder", write_encoder), ("llm", write_llm)):
        cache = tmp_path / f"hub/models--some--{name}"
        write({"encoder": "clip", "llm": "llama"}[name], cache / "snapshots" / commit)
        (cache / "refs").mkdir()
        (cache / "refs/main").write_text(commit)
    environment = {**os.environ, "HF_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", LOADING], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"some/llm is taken from the cache, at commit {commit[:12]}\n0.48 0.46 0.41" in done.stdout
    assert "some/other' is neither a folder nor a checkpoint available from the hub (the hub cannot be" in done.stdout
    assert "Retrying" not in done.stderr
