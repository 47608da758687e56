"""From a preset to a pointer: folders by content, hub ids by commit, and clear refusals of everything else."""

import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

from panollava.backbones.presets import (
    Backbone,
    check_unchanged,
    folder_fingerprint,
    read_pointer,
    resolve,
    write_pointer,
)


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
    assert set(json.loads((tmp_path / "data/llm.json").read_text())) == set(Backbone.__annotations__)


def test_a_hub_checkpoint_is_known_by_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def model_info(source: str, timeout: float) -> SimpleNamespace:
        return SimpleNamespace(sha=f"commit of {source}")

    monkeypatch.setattr(huggingface_hub, "model_info", model_info)
    backbone = resolve("clip", "openai/clip-vit-base-patch32", feature_layer=-2)
    assert backbone.revision == backbone.fingerprint == "commit of openai/clip-vit-base-patch32"
    check_unchanged(backbone)  # a commit cannot change


@pytest.mark.parametrize("error", [OSError("no route"), OfflineModeIsEnabled("offline"), HTTPError("no name")])
def test_an_unreachable_hub_is_said_clearly(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(source: str, timeout: float) -> None:
        raise error

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
