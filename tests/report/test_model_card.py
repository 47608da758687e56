"""Model cards: valid for the hub, true to the checkpoint, kept from load to save, without paths of this machine."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from report_data import SCORES
from tiny_backbones import MODEL, write_parts
from tiny_models import write_dataset, write_images, write_resampler_folder

from panollava import PanoDataset, PanoLLaVAModel, PanoLLaVATrainer
from panollava.backbones.assemble import Parts
from panollava.backbones.presets import Backbone
from panollava.cli import main
from panollava.report.model_card import BASES, card_data, model_card, with_scores

METRICS: dict[str, Any] = {
    "evaluate": {"en": SCORES, "ko": SCORES}, "seed": 0, "weights": "standin", "encoder": "clip", "llm": "llama",
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what train_resampler and finetune_lora write, and two datasets."""
    root = tmp_path_factory.mktemp("cards")
    parts = write_parts("clip", "llama", root)
    write_resampler_folder(parts, root / "base", lora=root / "lora")
    for seed, name in enumerate(("train", "val")):
        file = write_dataset(root / name, 2, seed=seed) / "annotations.json"
        origin = {"source": "a survey\nof halls", "licence": "CC BY 4.0"}
        records = [record | {"metadata": origin} for record in json.loads(file.read_text("utf-8"))]
        file.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    return root


def opened(folder: Path) -> PanoLLaVAModel:
    return PanoLLaVAModel.from_pretrained(folder, device="cpu")


def card_of(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def test_a_saved_checkpoint_names_its_base_models_and_views(root: Path, tmp_path: Path) -> None:
    opened(root / "lora").save_pretrained(tmp_path / "out")
    card = card_of(tmp_path / "out")
    data = card.data.to_dict()
    assert data["base_model"] == ["clip", "llama"]
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "image-text-to-text")
    assert data["license"] == "other"
    assert "panorama" in data["tags"]
    parts = json.loads((root / "lora" / "parts.json").read_text())
    for part in ("encoder", "llm"):
        assert data[BASES][part]["fingerprint"] == parts[part]["fingerprint"]
        assert parts[part]["fingerprint"][:12] in card.text
    views = 360 // MODEL.views.stride_deg
    assert f"| language tokens of a panorama | {views * MODEL.tokens_per_side**2} |" in card.text
    assert f"| `views.strategy` | {MODEL.views.strategy} |" in card.text
    assert "No scores are recorded" in card.text
    assert "licences of both base models" in card.text
    assert str(root) not in card.content, "a path of this machine is in the card"
    assert "None" not in card.content


def test_the_code_in_the_card_runs(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened(root / "lora").save_pretrained(tmp_path / "out")
    Image.open(write_images(tmp_path, 1)[0]).save(tmp_path / "panorama.jpg")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", card_of(tmp_path / "out").text, flags=re.DOTALL)
    assert len(blocks) == 2
    said = []
    for block in blocks:
        exec(compile(block.replace('"..."', '"out"'), "README.md", "exec"), {})
        said.append(capsys.readouterr().out.strip())
    assert said[0]
    assert said[1].startswith(said[0])  # the first one writes fewer tokens


def test_hub_models_are_named_by_id_and_commit(root: Path) -> None:
    commit = "0123456789abcdef"
    parts = Parts(
        Backbone("clip", "openai/clip-vit-base-patch32", commit, commit),
        Backbone("mine", "/models/mine", None, "f" * 64),
    )
    data, model = card_data(parts), opened(root / "base")
    assert data.base_model == ["openai/clip-vit-base-patch32", "mine"]
    text = model_card(data, model.model.config, model.processor, full=True)
    assert "[openai/clip-vit-base-patch32](https://huggingface.co/openai/clip-vit-base-patch32)" in text
    assert "commit 0123456789ab |" in text
    assert "/models" not in text


def test_a_card_survives_loading_and_saving(root: Path, tmp_path: Path) -> None:
    opened(root / "lora").save_pretrained(tmp_path / "first", metrics=METRICS)
    first = card_of(tmp_path / "first")
    opened(tmp_path / "first").save_pretrained(tmp_path / "second")
    assert card_of(tmp_path / "second").content == first.content
    first.data["license"], first.data["datasets"] = "cc-by-4.0", ["mine/halls"]
    first.save(tmp_path / "second" / "README.md")
    opened(tmp_path / "second").save_pretrained(tmp_path / "third")
    assert card_of(tmp_path / "third").data.to_dict() == first.data.to_dict()


def test_scores_are_the_headline_numbers_of_the_metrics(root: Path, tmp_path: Path) -> None:
    data = with_scores(opened(root / "lora").card, METRICS)
    model = opened(root / "lora")
    text = model_card(data, model.model.config, model.processor, full=True)
    row = "| en | 12 | 0.713 | [0.691, 0.735] | 0.281 | 0.302 | 0.333 |"
    assert row in text
    assert row.replace("| en |", "| ko |") in text
    assert "existence" not in text
    assert data.language == ["en", "ko"]
    with pytest.raises(ValueError, match="the metrics are of the llm 'vicuna', the model has 'llama'"):
        model.save_pretrained(tmp_path / "out", metrics=METRICS | {"llm": "vicuna"})
    with pytest.raises(ValueError, match="the metrics lack encoder, evaluate, llm"):
        model.save_pretrained(tmp_path / "out", metrics={"latency": {}})
    assert not (tmp_path / "out").exists()


def test_other_weights_lose_the_scores_and_keep_the_base_models(root: Path, tmp_path: Path) -> None:
    opened(root / "base").save_pretrained(tmp_path / "full", metrics=METRICS)
    model = opened(tmp_path / "full")
    assert "panollava_scores" in model.card.to_dict()
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(root / "lora" / name, bare)
    model.load_lora_weights(bare)
    model.save_pretrained(tmp_path / "out")
    card = card_of(tmp_path / "out")
    assert card.data.base_model == ["clip", "llama"]
    assert "panollava_scores" not in card.data.to_dict()
    assert "No scores are recorded" in card.text


def test_the_trainer_says_what_it_trained_on(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    for start, full in (("base", False), ("lora", True)):
        model, out = opened(root / start), tmp_path / f"from_{start}"
        PanoLLaVATrainer(
            model=model, train_dataset=PanoDataset(root / "train"), output_dir=out, steps=1, batch_size=1, rank=2
        ).train()
        card = card_of(out)
        assert "- 6 records with 6 turns about 2 panoramas" in card.text
        assert "  - a survey of halls; licence: CC BY 4.0" in card.text
        assert "[More Information Needed]" not in card.text
        assert ("AutoModelForImageTextToText" in card.text) == full
        opened(out).save_pretrained(tmp_path / f"again_{start}")
        again = card_of(tmp_path / f"again_{start}")
        assert again.data.to_dict() | {"library_name": ""} == card.data.to_dict() | {"library_name": ""}
        assert "AutoModelForImageTextToText" in again.text
    joined = opened(root / "base")
    joined.load_lora_weights(tmp_path / "from_base")
    assert joined.card.to_dict() == card_of(tmp_path / "from_base").data.to_dict()


def test_merge_takes_the_metrics_of_the_run(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evaluate.json").write_text(json.dumps(METRICS))
    for name, options in (("plain", []), ("scored", ["--metrics", str(tmp_path / "evaluate.json")])):
        assert main(["merge", str(root / "lora"), str(tmp_path / name), *options]) == 0
        assert ("0.713" in card_of(tmp_path / name).text) == bool(options)
    assert capsys.readouterr().out.count("a full checkpoint") == 2
    (tmp_path / "evaluate.json").write_text("{")
    assert (
        main(["merge", str(root / "lora"), str(tmp_path / "broken"), "--metrics", str(tmp_path / "evaluate.json")]) == 1
    )
    assert "evaluate.json: not a JSON file" in capsys.readouterr().err
    assert not (tmp_path / "broken").exists()


def test_a_checkpoint_without_a_card_opens_and_is_given_one(root: Path, tmp_path: Path) -> None:
    model = opened(root / "lora")
    model.save_pretrained(tmp_path / "full")
    (tmp_path / "full" / "README.md").unlink()
    bare = opened(tmp_path / "full")
    bare.save_pretrained(tmp_path / "out")
    assert "The base models are not recorded." in card_of(tmp_path / "out").text
    assert card_of(tmp_path / "out").data.pipeline_tag == "image-text-to-text"
    for name, weight in model.model.state_dict().items():
        assert torch.equal(weight, bare.model.state_dict()[name])
