"""The committed stand-ins: small, with a card, and loaded by the code that loads hub checkpoints."""

import json
from pathlib import Path

import pytest
import torch
from tiny_backbones import MODEL

from panollava.backbones.assemble import load_image_processor
from panollava.backbones.loading import load_encoder, load_llm, load_tokenizer
from panollava.backbones.presets import PRETRAINED, resolve
from panollava.backbones.standins import train as standins
from panollava.params import load_params

PROJECT = Path(__file__).resolve().parents[2]
PARAMS = load_params(PROJECT / "params.yaml")
LIMIT = 6 * 2**20
ENCODERS, LLMS = sorted(standins.ENCODERS), sorted(standins.LLMS)


def folder(source: str) -> Path:
    path = PROJECT / source
    assert (path / "card.json").is_file(), f"{source} is not committed with its card"
    return path


def card(path: Path) -> dict:
    """Return the card of a stand-in, after the checks that all of them share."""
    assert sum(file.stat().st_size for file in path.iterdir()) <= LIMIT
    content = json.loads((path / "card.json").read_text("utf-8"))
    assert content["name"] == path.name
    assert {"objective", "seed", "steps", "parameters", "final_loss"} <= set(content)
    return content


def test_the_presets_name_the_standins_that_the_command_trains() -> None:
    presets = PARAMS.encoders | PARAMS.llms
    named = [preset.standin for preset in presets.values() if Path(preset.standin).parent != PRETRAINED]
    assert {Path(source).name for source in named} == {*ENCODERS, *LLMS} <= set(presets)
    assert sorted(named) == sorted(f"data/standins/{name}" for name in [*ENCODERS, *LLMS])


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_loads_and_is_described_by_its_card(name: str) -> None:
    preset = PARAMS.encoders[name]
    path = folder(preset.standin)
    content = card(path)
    assert {"colour", "shape"} <= set(content["linear_probe"])
    backbone = resolve(name, str(path), feature_layer=preset.feature_layer)
    encoder = load_encoder(backbone, torch.float32)
    assert encoder.config.model_type.startswith(name)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == content["parameters"]
    size = encoder.config.image_size
    images = load_image_processor(backbone, encoder.config, MODEL)
    assert list(images.image_mean) == [0.5] * 3
    with torch.no_grad():
        hidden = encoder(pixel_values=torch.zeros(1, 3, size, size)).last_hidden_state
    assert torch.isfinite(hidden).all()


@pytest.mark.parametrize("name", LLMS)
def test_a_language_model_loads_answers_and_is_described_by_its_card(name: str) -> None:
    preset = PARAMS.llms[name]
    path = folder(preset.standin)
    content = card(path)
    assert "held_out_answer_accuracy" in content
    backbone = resolve(name, str(path), chat_template=preset.chat_template)
    model, tokenizer = load_llm(backbone, torch.float32), load_tokenizer(backbone)
    assert model.config.model_type == ("mistral" if name == "mistral" else "llama")
    assert sum(parameter.numel() for parameter in model.parameters()) == content["parameters"]
    assert len(tokenizer) <= model.config.vocab_size
    text = "빨간색 공 [-135, 8, 20, 15]"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    question = [{"role": "user", "content": "a room: red ball [-90, 3, 20, 20].\nIs there a red ball?"}]
    ids = torch.tensor([tokenizer.apply_chat_template(question)["input_ids"]])
    answer = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    assert tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True).strip() in ("yes", "no")
