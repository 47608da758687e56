"""Trained folders: what is written loads again; what is missing, damaged or of another model is named in one line."""

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from damage import cut, zero
from safetensors.torch import load_file, save_file
from tiny_backbones import MODEL, write_encoder, write_llm
from tiny_backbones import write_parts as write_backbones
from tiny_models import write_resampler_folder

from panollava import PanoLLaVAModel
from panollava.backbones.adapter import ADAPTER, ADAPTER_WEIGHTS
from panollava.backbones.assemble import Parts, assemble
from panollava.backbones.files import FILES
from panollava.backbones.loading import load_encoder, load_tokenizer
from panollava.backbones.presets import resolve
from panollava.backbones.trained import (
    PARTS,
    TRAINED,
    load_finetuned,
    load_trained,
    read_parts,
    trained_state,
    write_parts,
    write_trained,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Return backbones and what was trained on them: a resampler, an adapter on top, and all of it merged."""
    root = tmp_path_factory.mktemp("made")
    parts = write_backbones("clip", "llama", root)
    write_resampler_folder(parts, root / "resampler", lora=root / "lora")
    PanoLLaVAModel.from_pretrained(root / "lora").save_pretrained(root / "full")
    return SimpleNamespace(root=root, parts=parts)


def build(made: SimpleNamespace, **changes: Any) -> tuple:
    return assemble(made.parts, replace(MODEL, **changes), dtype=torch.float32)


def test_parts_survive_the_round_trip(made: SimpleNamespace, tmp_path: Path) -> None:
    parts = made.parts
    write_parts(parts, tmp_path)
    assert read_parts(tmp_path) == parts
    with pytest.raises(ValueError, match=r"nowhere has no parts\.json: it is not a folder that a training stage"):
        read_parts(tmp_path / "nowhere")


def test_backbones_are_found_from_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    write_encoder("clip", home / "backbones/clip")
    write_llm("llama", home / "backbones/llama")
    monkeypatch.chdir(home)
    parts = Parts(resolve("clip", "backbones/clip"), resolve("llama", "backbones/llama", chat_template="llama"))
    (home / "data/trained").mkdir(parents=True)
    write_parts(parts, home / "data/trained")
    assert read_parts(Path("data/trained")) == parts
    monkeypatch.chdir(tmp_path)
    found = read_parts(Path("home/data/trained"))
    assert Path(found.encoder.source) == home / "backbones/clip"
    load_encoder(found.encoder, torch.float32)
    load_tokenizer(found.llm)
    (home / "backbones").rename(home / "moved")
    with pytest.raises(ValueError, match=r"clip: there is no folder backbones/clip, .*`panollava merge`"):
        load_encoder(read_parts(Path("home/data/trained")).encoder, torch.float32)


def test_trained_parameters_survive_the_round_trip(made: SimpleNamespace, tmp_path: Path) -> None:
    model, _ = build(made)
    names = {name for name in model.state_dict() if "resampler" in name}
    write_trained(trained_state(model, names), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [TRAINED]
    torch.manual_seed(5)
    other, _ = build(made)
    kept = {name: value.clone() for name, value in other.state_dict().items()}
    assert load_trained(other, tmp_path / "out") == sorted(names)
    for name, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[name] if name in names else kept[name]), name


@pytest.mark.parametrize("changes", [{"resampler_hidden_size": 64}, {"resampler": "perceiver"}])
def test_parameters_of_another_model_are_refused(made: SimpleNamespace, tmp_path: Path, changes: dict) -> None:
    model, _ = build(made)
    names = {name for name in model.state_dict() if "resampler" in name}
    write_trained(trained_state(model, names), tmp_path)
    other, _ = build(made, **changes)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match=r"safetensors: model\.resampler\..*, the model has .*another encoder"):
        load_trained(other, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_a_name_that_the_model_lacks_is_refused(made: SimpleNamespace, tmp_path: Path) -> None:
    save_file({"model.resampler.elsewhere": torch.zeros(2)}, tmp_path / TRAINED)
    model, _ = build(made)
    with pytest.raises(
        ValueError, match=r"model\.resampler\.elsewhere has shape \[2\], the model has no such parameter"
    ):
        load_trained(model, tmp_path)


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    write_trained({"a": torch.ones(2)}, tmp_path)
    with pytest.raises(ValueError):
        write_trained({"a": "no tensor"}, tmp_path)  # type: ignore[dict-item]
    assert torch.equal(load_file(tmp_path / TRAINED)["a"], torch.ones(2))


class Evil:
    """What runs when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("ran"),))


def changed(change: Callable[[dict[str, torch.Tensor], str], Any]) -> Callable[[Path], None]:
    """Return what changes the tensors of a file, given with the name of the first one."""

    def harm(path: Path) -> None:
        state = load_file(path)
        # Of a full CLIP the text half is not used.
        change(state, min((name for name in state if name.startswith("vision_model")), default=min(state)))
        save_file(state, path, metadata={"format": "pt"})

    return harm


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Evil()))


def in_a_pickle(path: Path) -> None:
    """Offer a pickle under the name that older versions of the libraries used."""
    path.with_name({"model": "pytorch_model"}.get(path.stem, path.stem) + ".bin").write_bytes(pickle.dumps(Evil()))
    path.unlink()


HARMS = {
    "cut": cut,
    "zero": zero,
    "missing": Path.unlink,
    "pickled": pickled,
    "in a pickle": in_a_pickle,
    "nan": changed(lambda state, name: state[name].view(-1)[0].fill_(torch.nan)),
    "incomplete": changed(lambda state, name: state.pop(name)),
    "other shape": changed(lambda state, name: state.update({name: torch.zeros(3, 5, 2)})),
    "too much": changed(lambda state, name: state.update({"x.y": torch.zeros(3)})),
}


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("file", [f"lora/{TRAINED}", f"lora/{ADAPTER_WEIGHTS}", "full/model.safetensors"])
def test_harmed_weights_are_refused_in_one_line(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, harm: str, listed: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    kind, name = file.split("/")
    folder = shutil.copytree(made.root / kind, tmp_path / kind)
    HARMS[harm](folder / name)
    if not listed:  # as in folders of version 0.9
        (folder / FILES).unlink()
    with pytest.raises(ValueError, match=rf"^{folder}") as error:
        PanoLLaVAModel.from_pretrained(folder)
    assert "\n" not in str(error.value)
    assert not Path("ran").exists()


TEXTS = [b"[]", b"{}", b"null", b"\xff", b"", b"[" * 100_000, None]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", [PARTS, ADAPTER, "config.json"])
def test_harmed_settings_are_refused_in_one_line(
    made: SimpleNamespace, tmp_path: Path, name: str, text: bytes | None
) -> None:
    folder = shutil.copytree(made.root / "lora", tmp_path / "lora")
    (folder / FILES).unlink()
    (folder / name).unlink() if text is None else (folder / name).write_bytes(text)
    with pytest.raises(ValueError, match=rf"{folder}") as error:
        PanoLLaVAModel.from_pretrained(folder)
    assert "\n" not in str(error.value)
    # An empty configuration is that of a model with the default settings, which the weights do not fit.
    assert name in str(error.value) or (name, text) == ("config.json", b"{}")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "tokenizer.json"])
def test_a_full_checkpoint_with_harmed_settings_is_refused_in_one_line(
    made: SimpleNamespace, tmp_path: Path, name: str, text: bytes | None
) -> None:
    folder = shutil.copytree(made.root / "full", tmp_path / "full")
    (folder / FILES).unlink()
    (folder / name).unlink() if text is None else (folder / name).write_bytes(text)
    with pytest.raises(ValueError, match=rf"{folder}") as error:
        PanoLLaVAModel.from_pretrained(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more": 1}, "field 'more'"),
        ({"llm": {"name": "llama"}}, r"field 'llm.source': Field required"),
        ({"llm": 3}, "field 'llm'"),
        ({"encoder": {"name": "a", "source": "b", "revision": None, "fingerprint": "c", "feature_layer": "2"}},
         r"field 'encoder.feature_layer.int': Input should be a valid integer"),
    ],
)  # fmt: skip
def test_the_field_that_is_wrong_is_named(made: SimpleNamespace, tmp_path: Path, change: dict, message: str) -> None:
    content = json.loads((made.root / "lora" / PARTS).read_text())
    (tmp_path / PARTS).write_text(json.dumps(content | change))
    with pytest.raises(ValueError, match=rf"^{tmp_path / PARTS}: {message}"):
        read_parts(tmp_path)


@pytest.mark.parametrize("names", [(ADAPTER,), (ADAPTER_WEIGHTS,), (ADAPTER, ADAPTER_WEIGHTS)])
@pytest.mark.parametrize("listed", [True, False])
def test_a_folder_without_its_adapter_is_not_taken_for_another_model(
    made: SimpleNamespace, tmp_path: Path, names: tuple[str, ...], listed: bool
) -> None:
    folder = shutil.copytree(made.root / "lora", tmp_path / "lora")
    for name in names if listed else (*names, FILES):
        (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"^{folder}/{names[0]} is missing"):
        load_finetuned(folder)


@pytest.mark.parametrize("listed", [True, False])
def test_an_adapter_without_its_resampler_is_not_loaded(made: SimpleNamespace, tmp_path: Path, listed: bool) -> None:
    model = PanoLLaVAModel.from_pretrained(made.root / "resampler")
    folder = shutil.copytree(made.root / "lora", tmp_path / "lora")
    for name in (TRAINED,) if listed else (TRAINED, FILES):
        (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"^{folder}/{TRAINED} is missing"):
        model.load_lora_weights(folder)


def test_folders_of_version_0_9_load(made: SimpleNamespace, tmp_path: Path) -> None:
    for kind in ("resampler", "lora", "full"):
        folder = shutil.copytree(made.root / kind, tmp_path / kind)
        wanted = PanoLLaVAModel.from_pretrained(folder).model.state_dict()
        (folder / FILES).unlink()
        (folder / "README.md").unlink(missing_ok=True)
        found = PanoLLaVAModel.from_pretrained(folder).model.state_dict()
        assert all(torch.equal(value, wanted[name]) for name, value in found.items()), kind


def test_an_edited_card_does_not_matter(made: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = shutil.copytree(made.root / "lora", tmp_path / "lora")
    (folder / "README.md").write_bytes(b"\xff\xfe")
    PanoLLaVAModel.from_pretrained(folder)
    assert f"{folder}/README.md is no model card" in capsys.readouterr().err
    (folder / "README.md").write_text("---\na: [\n---\n")
    PanoLLaVAModel.from_pretrained(folder)
    assert f"{folder}/README.md is no model card" in capsys.readouterr().err


@pytest.mark.parametrize("pattern", ["(a+)+$", ".*.*.*.*x", "(a|a)*b"])
def test_patterns_that_take_years_to_match_are_refused(made: SimpleNamespace, tmp_path: Path, pattern: str) -> None:
    folder = shutil.copytree(made.root / "lora", tmp_path / "lora")
    (folder / FILES).unlink()
    settings = json.loads((folder / ADAPTER).read_text())
    (folder / ADAPTER).write_text(json.dumps(settings | {"target_modules": pattern}))
    with pytest.raises(ValueError, match="is too complex; list the names of the layers instead"):
        load_finetuned(folder)


def test_what_is_no_folder_is_said(made: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"file is a file; expected the folder of a checkpoint"):
        PanoLLaVAModel.from_pretrained(tmp_path / "file")
    with pytest.raises(ValueError, match=r"nowhere is neither a folder nor a checkpoint available from the hub"):
        PanoLLaVAModel.from_pretrained(tmp_path / "nowhere")


def test_harmed_lora_weights_change_nothing(made: SimpleNamespace, tmp_path: Path) -> None:
    model = PanoLLaVAModel.from_pretrained(made.root / "resampler")
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    for name in (TRAINED, ADAPTER_WEIGHTS):
        for harm in ("nan", "cut"):
            folder = shutil.copytree(made.root / "lora", tmp_path / f"{name}-{harm}")
            (folder / FILES).unlink()
            HARMS[harm](folder / name)
            with pytest.raises(ValueError, match=f"{folder / name}"):
                model.load_lora_weights(folder)
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())


@pytest.mark.parametrize("text", TEXTS[:-1])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_harmed_encoder_is_refused_in_one_line(tmp_path: Path, name: str, text: bytes) -> None:
    write_encoder("clip", tmp_path / "clip")
    parts = Parts(resolve("clip", str(tmp_path / "clip")), write_llm("llama", tmp_path / "llama"))
    (tmp_path / "clip" / name).write_bytes(text)
    parts = replace(parts, encoder=resolve("clip", str(tmp_path / "clip")))
    with pytest.raises(ValueError, match=rf"{tmp_path}/clip") as error:
        assemble(parts, MODEL, dtype=torch.float32)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("harm", ["cut", "pickled", "nan", "incomplete", "other shape"])
@pytest.mark.parametrize("kind", ["clip", "llama"])
def test_harmed_backbones_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, harm: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_backbones("clip", "llama", tmp_path)
    HARMS[harm](tmp_path / kind / "model.safetensors")
    parts = Parts(resolve("clip", str(tmp_path / "clip")), resolve("llama", str(tmp_path / "llama")))
    with pytest.raises(ValueError, match=rf"{tmp_path}/{kind}") as error:
        assemble(parts, MODEL, dtype=torch.float32)
    assert "\n" not in str(error.value)
    assert not Path("ran").exists()
