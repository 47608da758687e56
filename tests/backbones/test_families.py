"""Families of language models: each row of the table is tried, and what no row says would be found out."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_backbones import MODEL, write_encoder, write_llm
from tiny_families import SIZES, family_config
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Gemma3Config,
    Gemma4Config,
    Mistral3Config,
    PreTrainedConfig,
    Qwen2_5_VLConfig,
    Qwen3VLConfig,
)

from panollava import PanoLlavaForConditionalGeneration
from panollava.backbones import families, probe
from panollava.backbones.assemble import Parts, assemble
from panollava.backbones.checkpoint import load_checkpoint
from panollava.backbones.families import check_family
from panollava.backbones.family_table import FAMILIES, Family
from panollava.backbones.language import context_length
from panollava.backbones.loading import load_llm, quiet
from panollava.backbones.presets import Backbone, resolve
from panollava.backbones.probe import composite, differing
from panollava.backbones.shrinking import layers_needed, shrunk
from panollava.inference.decode import Decoded
from panollava.vlm import logits

IDS = torch.arange(3, 33).view(2, 15)


def named(family: Family) -> str:
    return family.model_type


@pytest.mark.parametrize("family", FAMILIES, ids=named)
def test_each_family_is_what_the_table_says(family: Family) -> None:
    found = differing(family_config(family.model_type))
    if family.outcome == "refused":
        assert found is not None
        assert found.startswith(family.remark)
    else:
        assert found is None


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.outcome != "refused"], ids=named)
def test_an_export_of_each_family_computes_what_its_own_model_does(family: Family, tmp_path: Path) -> None:
    with quiet(), torch.no_grad():
        native: Any = AutoModelForCausalLM.from_config(shrunk(family_config(family.model_type))).eval()
        for weight in native.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        wanted = native(input_ids=IDS, use_cache=False).logits
        composite(native).save_pretrained(tmp_path)
        loaded, report = PanoLlavaForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert torch.allclose(loaded(input_ids=IDS).logits, wanted, rtol=1e-4, atol=1e-4)


# What the trial would find if nothing were done for a family, or done wrongly.


@pytest.mark.parametrize("model_type", ["cohere", "gemma3_text", "granite", "hyperclovax", "nanochat"])
def test_logits_of_another_scale_are_found(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logits, "SCALED", {})
    found = differing(family_config(model_type))
    assert found is not None
    assert found.startswith("answers of plain `generate` differ from its own in 0 of")


def test_a_lost_bias_of_the_head_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logits, "BIASED", {})
    assert differing(family_config("phi")) == "an exported model would have no place for lm_head.bias"


def test_records_that_see_each_other_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PURE", (*probe.PURE, "conv"))
    found = differing(family_config("lfm2"))
    assert found is not None
    assert found.startswith("records in one row have the loss ")


def test_wrong_answers_behind_a_prefix_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_off(*arguments: Any) -> Decoded:
        decoded = decode(*arguments)
        return decoded._replace(scores=decoded.scores + 0.01)

    decode: Callable[..., Decoded] = probe.decode_growing
    monkeypatch.setattr(probe, "decode_growing", one_off)
    assert "log-probabilities by up to 0.010" in str(differing(family_config("llama")))


def test_infinite_gradients_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients: Callable[[nn.Module], dict[str, torch.Tensor]] = probe.gradients_of
    monkeypatch.setattr(probe, "gradients_of", lambda model: {n: v * float("nan") for n, v in gradients(model).items()})
    assert "are not finite" in str(differing(family_config("llama")))


def test_a_trial_draws_no_random_numbers_of_the_process() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    with torch.inference_mode():  # nor does it need gradients to be on
        assert differing(family_config("llama")) is None
    assert torch.equal(torch.rand(1), wanted)


@pytest.mark.parametrize("model_type", ["llama", "gemma", "gemma3_text"])
def test_visual_tokens_start_at_the_size_of_embeddings(model_type: str) -> None:
    torch.manual_seed(0)
    with quiet():
        native: Any = AutoModelForCausalLM.from_config(family_config(model_type, hidden_size=256))
        model = composite(native)
    embedded = model.get_input_embeddings()(torch.arange(3, 300))
    tokens = torch.cat([model.get_image_features(torch.randn(1, 9, 3, 16, 16)).pooler_output[0] for _ in range(3)])
    ratio = tokens.square().mean().sqrt() / embedded.square().mean().sqrt()
    assert 0.5 < ratio < 2


# Sizes


def test_a_large_configuration_gets_tiny_and_keeps_how_it_attends() -> None:
    large = family_config(
        "qwen3", vocab_size=150_000, hidden_size=4096, intermediate_size=12_288, num_hidden_layers=36,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, eos_token_id=149_000,
    )  # fmt: skip
    small = shrunk(large)
    assert (small.vocab_size, small.num_hidden_layers, small.head_dim) == (256, 2, 128)
    assert (small.num_attention_heads, small.num_key_value_heads, small.hidden_size) == (4, 2, 512)
    assert small.rope_parameters == large.rope_parameters
    assert large.num_hidden_layers == 36


def test_one_period_of_layers_is_kept() -> None:
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    config = shrunk(family_config("gemma3_text", num_hidden_layers=48, layer_types=kinds * 8))
    assert config.layer_types == kinds
    assert layers_needed({"a": [1, 1, 1, 1], "b": [0, 0, 1, 0]}, 4) == 3


def test_a_context_ends_where_rotary_frequencies_change() -> None:
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    rotary = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 1024, **factors}
    config = family_config("phi3", rope_parameters=rotary, original_max_position_embeddings=1024)
    assert context_length(config) == 1024
    assert context_length(family_config("phi3")) == 4096
    assert differing(config) is None


# Checkpoints


def write_family(config: PreTrainedConfig, folder: Path) -> Backbone:
    """Write a language model of a family with the tiny tokenizer's files."""
    write_llm("llama", folder)
    (folder / "model.safetensors").unlink()
    with quiet():
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return resolve("mine", str(folder), chat_template="llama")


TEXT = SIZES | {"vocab_size": 420}
EYES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
QWEN_EYES = EYES | {"depth": 1, "num_heads": 2, "out_hidden_size": 64}
# Vision-language models by their configuration; their language model lies inside.
COMPOSITES: dict[str, Callable[[], PreTrainedConfig]] = {
    "gemma3": lambda: Gemma3Config(text_config=TEXT | {"head_dim": 16}, vision_config=EYES, tie_word_embeddings=True),
    "gemma4": lambda: Gemma4Config(
        text_config=TEXT | {"head_dim": 16, "global_head_dim": 16, "hidden_size_per_layer_input": 0},
        vision_config=EYES,
        audio_config=None,
    ),
    "mistral3": lambda: Mistral3Config(
        text_config=TEXT | {"model_type": "mistral"}, vision_config=EYES | {"model_type": "pixtral"}
    ),
    "qwen2_5_vl": lambda: Qwen2_5_VLConfig(
        text_config=TEXT | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}},
        vision_config=QWEN_EYES | {"fullatt_block_indexes": [0]},
    ),
    "qwen3_vl": lambda: Qwen3VLConfig(
        text_config=TEXT
        | {"head_dim": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}},
        vision_config=QWEN_EYES | {"deepstack_visual_indexes": [0]},
    ),
}


@pytest.mark.parametrize("family", COMPOSITES)
def test_the_language_model_of_a_vision_language_checkpoint_is_loaded(
    family: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    llm = write_llm("llama", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with quiet(), torch.no_grad():
        whole = AutoModelForImageTextToText.from_config(COMPOSITES[family]()).eval()
        whole.save_pretrained(tmp_path)
        wanted = whole(input_ids=IDS).logits
    llm = resolve("mine", str(tmp_path), chat_template="llama")
    check_family(llm)
    capfd.readouterr()
    model = load_llm(llm, torch.float32)
    assert "UNEXPECTED" not in "".join(capfd.readouterr())
    with torch.no_grad():
        assert torch.allclose(model(input_ids=IDS).logits, wanted, atol=1e-5)


@pytest.mark.parametrize("layout", ["language_model.", "model.language_model."])
def test_older_layouts_of_such_checkpoints_are_read(layout: str, tmp_path: Path) -> None:
    llm = write_llm("llama", tmp_path)
    native = load_llm(llm, torch.float32)
    moved = load_file(tmp_path / "model.safetensors")
    old = layout == "language_model."
    moved = {layout + (name if old else name.removeprefix("model.")): value for name, value in moved.items()}
    save_file(moved | {"vision_tower.a": torch.ones(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    inside = json.loads((tmp_path / "config.json").read_text())
    outside = {"model_type": "llava", "text_config": inside, "vision_config": {"model_type": "clip_vision_model"}}
    (tmp_path / "config.json").write_text(json.dumps(outside | {"tie_word_embeddings": True}))
    found = load_llm(resolve("mine", str(tmp_path), chat_template="llama"), torch.float32)
    assert torch.equal(found(input_ids=IDS).logits, native(input_ids=IDS).logits)


def test_a_head_of_its_own_is_kept_where_the_configuration_would_share_the_embeddings(tmp_path: Path) -> None:
    llm = write_family(family_config("llama", vocab_size=420, tie_word_embeddings=False), tmp_path / "llm")
    content = json.loads((tmp_path / "llm/config.json").read_text()) | {"tie_word_embeddings": True}
    (tmp_path / "llm/config.json").write_text(json.dumps(content))
    llm = resolve("mine", llm.source, chat_template="llama")
    native = load_llm(llm, torch.float32)
    model, _ = assemble(Parts(write_encoder("clip", tmp_path / "clip"), llm), MODEL, dtype=torch.float32)
    model.save_pretrained(tmp_path / "export")
    loaded = PanoLlavaForConditionalGeneration.from_pretrained(tmp_path / "export")
    with torch.no_grad():
        wanted = native(input_ids=IDS).logits
        assert torch.allclose(model.eval()(input_ids=IDS).logits, wanted, atol=1e-5)
        assert torch.allclose(loaded.eval()(input_ids=IDS).logits, wanted, atol=1e-5)


def test_a_family_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    llm = write_family(family_config("stablelm", vocab_size=420), tmp_path / "llm")
    (tmp_path / "llm/model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"^mine: .*llm is of the family 'stablelm', .*: its layers do not pass on"):
        assemble(Parts(write_encoder("clip", tmp_path / "clip"), llm), MODEL, dtype=torch.float32)


def test_a_full_checkpoint_of_such_a_family_is_refused(tmp_path: Path) -> None:
    with quiet():
        composite(AutoModelForCausalLM.from_config(shrunk(family_config("diffllama")))).save_pretrained(tmp_path)
    for name in ("processor_config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=r"of the family 'diffllama', .*: its layers change values after the cache"):
        load_checkpoint(tmp_path)


def test_an_unknown_family_and_no_language_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemini"}))
    with pytest.raises(ValueError, match=r"transformers 5\..* knows no family 'gemini'"):
        check_family(resolve("mine", str(tmp_path)))
    with pytest.raises(ValueError, match=r"the family 'dinov2' has no language model"):
        check_family(write_encoder("dinov2", tmp_path / "encoder"))


def test_weights_of_another_width_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    llm = write_llm("llama", tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"hidden_size": 64}))
    found = [content["vocab_size"], 32]
    with pytest.raises(ValueError, match=re.escape(f"has shape {found}, but [{found[0]}, 64] by config.json")):
        check_family(llm)
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs")
    check_family(llm)  # loading says what is wrong with such a file


def test_what_was_found_out_needs_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = write_llm("llama", tmp_path)
    monkeypatch.setattr(families, "FOUND", {})
    check_family(llm)
    code = "import sys; from panollava.backbones.families import check_family; "
    code += "from panollava.backbones.presets import resolve; check_family(resolve('a', sys.argv[1])); "
    code += "sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == 0
    changed = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "gemini"}
    (tmp_path / "config.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="gemini"):
        check_family(llm)
