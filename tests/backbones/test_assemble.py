"""Checkpoints as a hub has them, full CLIP and SigLIP models among them, become one model, for every pair."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_backbones import CONTEXT, ENCODERS, LLMS, MEANS, MODEL, write_encoder, write_llm
from transformers import AutoModel, AutoModelForCausalLM

from panollava import PanoLLaVAModel
from panollava.backbones.assemble import Parts, assemble
from panollava.backbones.loading import load_encoder, load_llm, load_tokenizer
from panollava.backbones.presets import Backbone, resolve
from panollava.backbones.templates import chat_template

PAIRS = [(encoder, llm) for encoder in ENCODERS for llm in LLMS]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Backbone]:
    folder = tmp_path_factory.mktemp("hub")
    encoders = {name: write_encoder(name, folder / name) for name in ENCODERS}
    return encoders | {name: write_llm(name, folder / name) for name in LLMS}


@pytest.fixture
def image() -> Image.Image:
    return Image.radial_gradient("L").resize((128, 64)).convert("RGB")


def build(backbones: dict[str, Backbone], encoder: str = "clip", llm: str = "llama", **changes: Any) -> tuple:
    parts = Parts(backbones[encoder], backbones[llm])
    return assemble(parts, replace(MODEL, **changes), dtype=torch.float32)


@pytest.mark.parametrize(("encoder", "llm"), PAIRS)
def test_every_pair_becomes_a_model_that_answers(
    backbones: dict[str, Backbone], image: Image.Image, encoder: str, llm: str
) -> None:
    model, processor = build(backbones, encoder, llm)
    chat = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "What is it?"}]}]
    inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 6 * 16
    asked = processor.decode(inputs["input_ids"][0], skip_special_tokens=False)
    wanted = chat_template(llm)
    assert ("USER: " in asked) == ("USER: " in wanted)
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
        answer = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert torch.isfinite(logits).all()
    assert 1 <= answer.shape[1] - inputs["input_ids"].shape[1] <= 3


@pytest.mark.parametrize("llm", LLMS)
def test_the_language_model_computes_what_it_computed_alone(backbones: dict[str, Backbone], llm: str) -> None:
    model, _ = build(backbones, "clip", llm)
    ids = torch.randint(3, 400, (2, 90))
    with torch.no_grad():
        wanted = AutoModelForCausalLM.from_pretrained(backbones[llm].source).eval()(ids).logits
        found = model.eval()(input_ids=ids).logits
        start = model(input_ids=ids[:, :40]).logits
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose(found[:, :40], start, atol=1e-5)  # nothing looks ahead


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_encoder_is_the_image_half_with_its_feature_layer(backbones: dict[str, Backbone], encoder: str) -> None:
    backbone = backbones[encoder]
    model, processor = build(backbones, encoder)
    whole = AutoModel.from_pretrained(backbone.source).eval()
    half = whole if encoder == "dinov2" else whole.vision_model
    pixels = torch.randn(1, 2, 3, 32, 32)
    with torch.no_grad():
        states = half(pixel_values=pixels[0], output_hidden_states=True)
        hidden = states.hidden_states[-2] if encoder == "clip" else states.last_hidden_state
        grid = model.eval().model.encode_views(pixels)
    assert backbone.feature_layer == model.config.vision_feature_layer == (-2 if encoder == "clip" else -1)
    assert torch.allclose(grid[0].flatten(1, 2), hidden[:, -16:], atol=1e-5)
    assert not any("text_model" in name for name in model.state_dict())
    assert list(processor.image_processor.image_mean) == MEANS[encoder]
    assert processor.image_processor.size["height"] == 32


def test_the_tokenizer_takes_the_template_and_the_model_the_context(backbones: dict[str, Backbone]) -> None:
    assert load_tokenizer(backbones["vicuna"]).chat_template == chat_template("vicuna")
    _, processor = build(backbones, llm="mistral")
    assert processor.tokenizer.model_max_length == CONTEXT


def test_a_changed_checkpoint_is_refused(backbones: dict[str, Backbone], tmp_path: Path) -> None:
    encoder, llm = write_encoder("dinov2", tmp_path / "dinov2"), write_llm("mistral", tmp_path / "mistral")
    write_encoder("dinov2", tmp_path / "dinov2", seed=1)
    write_llm("mistral", tmp_path / "mistral", seed=1)
    with pytest.raises(ValueError, match=r"dinov2: the checkpoint in .*dinov2 has the hash"):
        load_encoder(encoder, torch.float32)
    with pytest.raises(ValueError, match=r"mistral: the checkpoint in .*mistral has the hash"):
        load_llm(llm, torch.float32)
    changed = resolve("dinov2", str(tmp_path / "dinov2"))
    assert changed.fingerprint != encoder.fingerprint


@pytest.mark.parametrize("consent", ["y", "n"])
def test_code_in_a_checkpoint_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, consent: str) -> None:
    monkeypatch.setattr("builtins.input", lambda prompt="": consent)
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n"
    encoder, llm = tmp_path / "encoder", tmp_path / "llm"
    write_llm("llama", llm)
    encoder.mkdir()
    (encoder / "config.json").write_text('{"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}')
    settings = json.loads((llm / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (llm / "tokenizer_config.json").write_text(json.dumps(settings))
    for folder in (encoder, llm):
        (folder / "evil.py").write_text(code)
    with pytest.raises(ValueError, match="encoder needs Python code of its own, and code in a checkpoint is never run"):
        load_encoder(resolve("clip", str(encoder)), torch.float32)
    with pytest.raises(ValueError, match="llm needs Python code of its own"):
        load_tokenizer(resolve("llama", str(llm)))
    with pytest.raises(ValueError, match="encoder needs Python code of its own, and code in a checkpoint is never run"):
        PanoLLaVAModel.from_pretrained(encoder)
    assert not (tmp_path / "ran").exists()
