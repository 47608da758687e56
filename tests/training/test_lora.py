"""The fused LoRA layer computes what PEFT's computes, and PEFT reads, merges and switches it off."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.tuners.lora import Linear
from torch import Tensor
from transformers import AutoModel, Phi3Config

from panollava import PanoLlavaForConditionalGeneration
from panollava.training.lora import FusedLinear, lora_config, lora_targets

Make = Callable[..., PanoLlavaForConditionalGeneration]
IDS = torch.arange(3, 33).view(2, 15)


def adapted(make_model: Make, dropout: float = 0.0) -> PeftModel:
    """Return a model whose adapters do something."""
    model = get_peft_model(make_model(), lora_config(rank=2, alpha=6, dropout=dropout, targets=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                weight.normal_(std=0.5)
    return model.train()


def layers(model: PeftModel) -> list[FusedLinear]:
    found = [module for module in model.modules() if isinstance(module, FusedLinear)]
    assert len(found) == 4
    return found


@contextmanager
def as_peft(model: PeftModel) -> Iterator[None]:
    """Let PEFT's own forward run."""
    for layer in layers(model):
        layer.forward = Linear.forward.__get__(layer)
    yield
    for layer in layers(model):
        del layer.forward


def loss_and_gradients(model: PeftModel, *, bf16: bool) -> dict[str, Tensor]:
    torch.manual_seed(5)  # of the dropout
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return {"loss": loss.detach()} | {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("dropout", "bf16"), [(0.0, False), (0.3, False), (0.0, True)])
def test_loss_and_gradients_are_those_of_peft(make_model: Make, dropout: float, bf16: bool) -> None:
    model = adapted(make_model, dropout)
    found = loss_and_gradients(model, bf16=bf16)
    with as_peft(model):
        wanted = loss_and_gradients(model, bf16=bf16)
    assert found.keys() == wanted.keys()
    assert len(found) == 1 + 8  # two factors of two linears in two layers
    tolerance = 0.05 if bf16 else 1e-5
    for name, value in wanted.items():
        assert value.norm() > 0
        assert (found[name] - value).norm() < tolerance * value.norm(), name


@torch.no_grad()
def test_disabled_merged_and_half_precision_layers_are_peft_s(make_model: Make) -> None:
    model = adapted(make_model).eval()
    plain = make_model()
    plain.load_state_dict({n.replace(".base_layer", ""): v for n, v in model.base_model.model.state_dict().items() if
                           "lora_" not in n})  # fmt: skip
    with_lora = model(input_ids=IDS).logits
    with model.disable_adapter():
        assert torch.equal(model(input_ids=IDS).logits, plain(input_ids=IDS).logits)
    assert (with_lora - plain(input_ids=IDS).logits).abs().max() > 1e-3
    model.merge_adapter()
    assert torch.allclose(model(input_ids=IDS).logits, with_lora, atol=1e-5)
    model.unmerge_adapter()
    layer = layers(model)[0]
    layer.base_layer.to(torch.bfloat16)  # the adapters stay float32, as PEFT wants them
    x = torch.randn(3, 32, dtype=torch.bfloat16)
    assert torch.equal(layer(x), Linear.forward(layer, x))


@torch.no_grad()
def test_what_is_saved_is_an_adapter_of_peft(make_model: Make, tmp_path: Path) -> None:
    model = adapted(make_model).eval()
    model.save_pretrained(str(tmp_path))
    wanted = model(input_ids=IDS).logits
    read = PeftModel.from_pretrained(model.unload(), tmp_path).eval()
    assert not any(isinstance(module, FusedLinear) for module in read.modules())
    assert torch.allclose(read(input_ids=IDS).logits, wanted, atol=1e-5)


PHI3 = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "vocab_size": 300}


def fused_projections(make_model: Make) -> PanoLlavaForConditionalGeneration:
    """Return a model of a family whose projections have other names than the usual ones."""
    model = make_model()
    model.model.language_model = AutoModel.from_config(Phi3Config(**PHI3, pad_token_id=0))
    return model


def test_linear_layers_without_adapters_are_named(make_model: Make, capsys: pytest.CaptureFixture[str]) -> None:
    usual = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert lora_targets(make_model(), usual) == usual
    assert not capsys.readouterr().out
    assert lora_targets(fused_projections(make_model), usual) == usual
    said = capsys.readouterr().out
    assert "phi3 has no layers q_proj, k_proj, v_proj, gate_proj, up_proj\n" in said
    assert "4 of 8 linear layers of phi3 get no adapters: gate_up_proj, qkv_proj;" in said


def test_all_are_the_linear_layers_of_the_language_model(make_model: Make, capsys: pytest.CaptureFixture[str]) -> None:
    model = fused_projections(make_model)
    chosen = lora_targets(model, "all")
    assert chosen == ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]
    assert not capsys.readouterr().out
    adapted = get_peft_model(model, lora_config(rank=2, alpha=2, dropout=0.0, targets=chosen))
    names = [name for name, module in adapted.named_modules() if isinstance(module, FusedLinear)]
    assert len(names) == 8
    assert all(".language_model.layers." in name for name in names)


def test_names_that_no_layer_has_are_refused(make_model: Make) -> None:
    with pytest.raises(ValueError, match=r"phi3 has no layers q_proj; its linear layers are down_proj, gate_up_proj"):
        lora_targets(fused_projections(make_model), ["q_proj"])
