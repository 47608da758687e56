"""Stages behind a language model of 4 bits: they train the same parts, and write what joins the whole weights."""

import importlib.util
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch
from in_processes import ACCUMULATED, LORA, SETTINGS
from safetensors.torch import load_file
from tiny_backbones import write_llm, write_panoramas, write_parts

from panollava.backbones.loading import four_bit_config, load_llm
from panollava.backbones.trained import load_finetuned
from panollava.training import language_stages, vision_stage
from panollava.training.fit import Outcome
from panollava.training.lora import FusedLinear

find_spec = importlib.util.find_spec
installed = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
RECIPE = replace(ACCUMULATED, steps=2)


def pretend(monkeypatch: pytest.MonkeyPatch, spec: ModuleSpec | None) -> None:
    """Let bitsandbytes be found as `spec`, and every other module as it is: coverage looks for modules too."""
    found = lambda name, *args: spec if name == "bitsandbytes" else find_spec(name, *args)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", found)


def test_without_bitsandbytes_the_extra_that_brings_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, None)
    with pytest.raises(ValueError, match=r"4 bits need bitsandbytes; pip install 'panollava\[gpu\]' brings it"):
        load_llm(write_llm("llama", tmp_path), torch.float32, four_bit=torch.float32)


def test_a_model_divided_by_fsdp_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_stages, "divided", lambda: True)
    recipe = replace(RECIPE, load_in_4bit=True)
    folders = [tmp_path / name for name in ("store", "previous", "out", "checkpoints")]
    with pytest.raises(ValueError, match="load_in_4bit is true, but FSDP cannot divide such weights"):
        language_stages.train_resampler(
            write_parts("clip", "llama", tmp_path), *folders, recipe=recipe, records=3, **SETTINGS
        )


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_weights_are_nf4_and_compute_in_the_dtype_of_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compute: torch.dtype
) -> None:
    pretend(monkeypatch, ModuleSpec("bitsandbytes", None))
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.50.2")
    wanted = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    found = four_bit_config(compute).to_dict()
    assert {name: found[name] for name in wanted} == wanted
    assert found["bnb_4bit_compute_dtype"] == str(compute).removeprefix("torch.")


@installed
def test_a_language_model_of_4_bits_is_close_to_the_whole_one_and_says_nothing_of_it(tmp_path: Path) -> None:
    llm = write_llm("llama", tmp_path)
    plain, packed = load_llm(llm, torch.float32).eval(), load_llm(llm, torch.float32, four_bit=torch.float32).eval()
    kinds = {type(module).__name__ for module in packed.model.layers.modules() if isinstance(module, torch.nn.Linear)}
    assert kinds == {"Linear4bit"}
    assert type(packed.lm_head) is torch.nn.Linear
    ids = torch.randint(3, 400, (2, 30))
    with torch.no_grad():
        wanted, found = plain(input_ids=ids).logits, packed(input_ids=ids).logits
    apart = ((found - wanted).norm() / wanted.norm()).item()
    assert 1e-3 < apart < 0.2
    assert packed.config.to_dict() == plain.config.to_dict()


@installed
def test_adapters_trained_behind_4_bits_join_the_whole_weights(tmp_path: Path) -> None:
    parts, store = write_parts("clip", "llama", tmp_path), write_panoramas(tmp_path / "store", 3)
    vision, aligned = tmp_path / "vision", tmp_path / "aligned"
    untrained = replace(RECIPE, overlap=("vicreg", "none"))
    vision_stage.train_vision(parts.encoder, store, vision, tmp_path / "ckpt", recipe=untrained, blocks=1, **SETTINGS)
    outcomes: dict[bool, list[Outcome]] = {}
    for four in (False, True):
        recipe, out = replace(RECIPE, load_in_4bit=four), tmp_path / f"out{four}"
        options: dict[str, Any] = {"recipe": recipe, "records": 3, **SETTINGS}
        folders = (parts, store, vision, aligned / str(four), tmp_path / f"ckpt{four}")
        first = language_stages.train_resampler(*folders, **options)
        folders = (parts, store, aligned / str(four), out, tmp_path / f"ckpt_lora{four}")
        outcomes[four] = [first, language_stages.finetune_lora(*folders, lora=LORA, save_lora_only=False, **options)]
    for plain, packed in zip(outcomes[False], outcomes[True], strict=True):
        assert (packed.trained, packed.total) == (plain.trained, plain.total)
        for one, other in zip(plain.history, packed.history, strict=True):
            assert other["loss"] != one["loss"]
            assert other["loss"] == pytest.approx(one["loss"], rel=0.02)
    for file in ("trained.safetensors", "adapter_model.safetensors"):
        assert load_file(tmp_path / "outTrue" / file).keys() == load_file(tmp_path / "outFalse" / file).keys()
    assert "quantization" not in (tmp_path / "outTrue" / "config.json").read_text()
    adapters, _ = load_finetuned(tmp_path / "outTrue", merge=False)
    merged, _ = load_finetuned(tmp_path / "outTrue")
    ids = torch.randint(3, 300, (2, 30))
    with torch.no_grad():
        one, other = merged(input_ids=ids).logits, adapters(input_ids=ids).logits
        written = type(merged).from_pretrained(tmp_path / "outTrue" / "merged").eval()(input_ids=ids).logits
    assert torch.allclose(one, other, atol=1e-4)
    assert torch.allclose(written, one, atol=1e-4)
    assert not any(isinstance(module, FusedLinear) for module in merged.modules())
