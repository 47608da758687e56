"""Compiled decoder layers compute what plain ones do, with one compilation for all lengths, under the same names."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate.utils import send_to_device
from peft import PeftModel, get_peft_model
from tiny_families import family_config
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM

from panollava import PanoLlavaForConditionalGeneration
from panollava.attention import packed
from panollava.attention.compiling import compile_layers
from panollava.attention.packing import flatten, pack
from panollava.attention.plan import planned_attention, use_plans
from panollava.backbones.probe import composite
from panollava.backbones.shrinking import shrunk
from panollava.training.fit import RESAMPLER
from panollava.training.language_stages import LORA
from panollava.training.lora import lora_config
from panollava.training.trainer import set_trainable
from panollava.vlm.labels import IGNORE

Make = Callable[..., PanoLlavaForConditionalGeneration]
PLACEHOLDERS = [300] * 20


@pytest.fixture
def adapted(make_model: Make) -> PeftModel:
    """A model in finetuning, whose adapters do something; activations are checkpointed, as on a large model."""
    model = make_model(text={"num_hidden_layers": 3})  # two that are compiled, and the last one
    use_plans(model.model.language_model)
    model.activation_checkpointing_enable()
    adapted = get_peft_model(model, lora_config(rank=2, alpha=6, dropout=0.0, targets=["q_proj", "down_proj"]))
    set_trainable(adapted, [LORA, RESAMPLER])
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if ".lora_B." in name:
                weight.normal_(std=0.5)
    return adapted.train()


def batch(*rows: tuple[int, ...]) -> dict[str, Any]:
    """Return a flattened batch of rows with records of so many tokens."""
    packed = []
    for lengths in rows:
        texts = [torch.randint(3, 299, (tokens,)).tolist() for tokens in lengths]
        packed.append(pack(PLACEHOLDERS, [(ids, [IGNORE, *ids[1:]]) for ids in texts]))
    return flatten(packed, 0) | {"use_cache": False, "pixel_values": torch.randn(len(rows), 5, 3, 32, 32)}


def loss_and_gradients(model: PeftModel, made: dict[str, Any]) -> dict[str, Tensor]:
    model.zero_grad()
    loss = model(**made).loss
    loss.backward()
    return {"loss": loss.detach()} | {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_loss_and_gradients_are_those_of_plain_layers_at_every_length(adapted: PeftModel) -> None:
    batches = [batch((8, 9), (7,)), batch((11,) * 4, (3, 12)), batch((30, 5, 2), (16,) * 5), batch((10, 4), (8,) * 2)]
    wanted = [loss_and_gradients(adapted, made) for made in batches]
    names = [name for name, _ in adapted.named_parameters()], list(adapted.state_dict())
    layers, rows = adapted.get_base_model().model.language_model.layers, list[int]()
    layers[-1].mlp.gate_proj.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[-2]))
    compile_layers(layers)
    torch._dynamo.reset()
    counters.clear()
    for made, plain in zip(batches, wanted, strict=True):
        found = loss_and_gradients(adapted, made)
        assert found.keys() == plain.keys()
        assert len(found) > 1 + 12  # two factors of two linears in three layers, and the resampler
        for name, value in plain.items():
            assert value.norm() > 0
            assert (found[name] - value).norm() < 1e-4 * value.norm(), name
        assert rows[-1] == (made["labels"] != IGNORE).sum()  # the last layer still does less
        assert counters["stats"]["unique_graphs"] == 1  # for both layers and all lengths
    assert ([name for name, _ in adapted.named_parameters()], list(adapted.state_dict())) == names


def test_experts_compile(make_model: Make) -> None:
    """A configuration of two parts forgets how experts are computed; the eager loop over them has no graph."""
    torch._dynamo.reset()
    with torch.random.fork_rng():
        experts = AutoModelForCausalLM.from_config(shrunk(family_config("qwen3_moe", num_hidden_layers=3)))
    model = composite(experts)
    use_plans(model.model.language_model)
    made = flatten([pack([3, 4, 5], [(list(range(6, 6 + n)), [IGNORE, *range(7, 6 + n)]) for n in (8, 5)])], 0)
    wanted = model(**made, use_cache=False).loss
    compile_layers(model.model.language_model.layers, backend="aot_eager")
    found = model(**made, use_cache=False).loss
    assert torch.allclose(found, wanted, rtol=1e-5)
    found.backward()
    assert counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("texts", [False, True])
def test_fused_attention_is_one_graph_at_every_length(monkeypatch: pytest.MonkeyPatch, texts: bool) -> None:
    """Forwards and backwards; tensors without content stand in for a GPU's."""
    monkeypatch.setattr(packed, "fused_on_gpu", lambda *tensors: True)
    torch._dynamo.reset()
    counters.clear()
    attend = torch.compile(planned_attention, backend="aot_eager", dynamic=True, fullgraph=True)
    paddings = set()
    for lengths in [(8, 9), (11, 3, 5), (30, 2), (16, 16), (4, 6), (5, 6), (6, 6), (7, 6)]:
        rows = [pack(PLACEHOLDERS, [([1] * n, [1] * n) for n in lengths])] * 2
        alone = pack([], [([1] * n, [1] * n) for n in lengths[::-1]]) if texts else None
        plan = send_to_device(flatten(rows, 0, texts=alone), "meta")["plan"]
        size = len(plan.segments)
        paddings.add(size - 2 * (len(PLACEHOLDERS) + sum(lengths)) - plan.texts)
        tokens = [torch.empty(1, h, size, 8, device="meta", dtype=torch.half, requires_grad=True) for h in (4, 2, 2)]
        output, _ = attend(torch.nn.Identity(), *tokens, None, plan=plan, scaling=0.3)
        assert output.shape == (1, size, 4, 8)
        gradients = torch.autograd.grad(output, tokens, torch.empty_like(output))
        assert [one.shape for one in gradients] == [one.shape for one in tokens]
        assert counters["stats"]["unique_graphs"] == 1
    assert len(paddings) > 4
