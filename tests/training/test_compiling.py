"""Compiled decoder layers compute what plain ones do, with one compilation for all lengths, under the same names."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from torch._dynamo.utils import counters

from panollava import PanoLlavaForConditionalGeneration
from panollava.training.compiling import compile_layers
from panollava.training.lora import lora_config
from panollava.training.stages import LORA, RESAMPLER
from panollava.training.trainer import set_trainable
from panollava.vlm.packing import IGNORE, PACKED_ATTENTION, pack, packed_layout, stack

Make = Callable[..., PanoLlavaForConditionalGeneration]
PLACEHOLDERS = [300] * 20


@pytest.fixture
def adapted(make_model: Make) -> PeftModel:
    """A model in finetuning, whose adapters do something; activations are checkpointed, as on a large model."""
    model = make_model()
    model.model.language_model.set_attn_implementation(PACKED_ATTENTION)
    model.activation_checkpointing_enable()
    adapted = get_peft_model(model, lora_config(rank=2, alpha=6, dropout=0.0, targets=["q_proj", "down_proj"]))
    set_trainable(adapted, [LORA, RESAMPLER])
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if ".lora_B." in name:
                weight.normal_(std=0.5)
    return adapted.train()


def batch(rows: int, records: int, tokens: int) -> dict[str, Any]:
    """Return packed rows of so many records of so many tokens."""
    packed = []
    for _ in range(rows):
        texts = torch.randint(3, 299, (records, tokens)).tolist()
        packed.append(pack(PLACEHOLDERS, [(ids, [IGNORE, *ids[1:]]) for ids in texts]))
    made: dict[str, Any] = dict(stack(packed, 0))
    made["layout"] = packed_layout(made.pop("segments"), made["position_ids"])
    return made | {"use_cache": False, "pixel_values": torch.randn(rows, 5, 3, 32, 32)}


def loss_and_gradients(model: PeftModel, made: dict[str, Any]) -> dict[str, Tensor]:
    model.zero_grad()
    loss = model(**made).loss
    loss.backward()
    return {"loss": loss.detach()} | {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_loss_and_gradients_are_those_of_plain_layers_at_every_length(adapted: PeftModel) -> None:
    batches = [batch(2, 2, 8), batch(2, 4, 11), batch(3, 5, 30)]
    wanted = [loss_and_gradients(adapted, made) for made in batches]
    names = [name for name, _ in adapted.named_parameters()], list(adapted.state_dict())
    compile_layers(adapted.get_base_model().model.language_model.layers)
    torch._dynamo.reset()
    counters.clear()
    for made, plain in zip(batches, wanted, strict=True):
        found = loss_and_gradients(adapted, made)
        assert found.keys() == plain.keys()
        assert len(found) > 1 + 8  # two factors of two linears in two layers, and the resampler
        for name, value in plain.items():
            assert value.norm() > 0
            assert (found[name] - value).norm() < 1e-4 * value.norm(), name
        assert counters["stats"]["unique_graphs"] == 1  # for both layers and all lengths
    assert ([name for name, _ in adapted.named_parameters()], list(adapted.state_dict())) == names
