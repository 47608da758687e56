"""Features of a frozen encoder take the place of views, and the model computes the same; on a GPU by a CUDA graph."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny_models import replay_on_cpu

from panollava import PanoLlavaForConditionalGeneration
from panollava.attention.cuda_graphs import GraphCache
from panollava.training.encoding import FrozenEncoder
from panollava.training.lora import lora_config

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Make = Callable[..., PanoLlavaForConditionalGeneration]


@pytest.fixture
def model(make_model: Make) -> PanoLlavaForConditionalGeneration:
    model = make_model().to(DEVICE)
    model.model.vision_tower.requires_grad_(False)
    return model.train()


def encoder_of(model: torch.nn.Module) -> FrozenEncoder:
    encoder = FrozenEncoder.of(model)
    assert encoder is not None
    return encoder


@pytest.fixture
def batch() -> dict[str, Any]:
    ids = torch.tensor([[1, *[300] * 20, 7, 8, 9]], device=DEVICE)
    return {"input_ids": ids, "labels": ids.clamp(max=299), "pixel_values": torch.randn(1, 5, 3, 32, 32, device=DEVICE)}


def test_grids_stand_in_the_place_of_views(model: PanoLlavaForConditionalGeneration, batch: dict[str, Any]) -> None:
    wanted = model(**batch).loss
    adapted = get_peft_model(model, lora_config(rank=2, alpha=4, dropout=0.0, targets=["q_proj"]))
    for whole in (model, adapted):
        found = encoder_of(whole).with_grids(batch)
        assert found.keys() == batch.keys() - {"pixel_values"} | {"patch_grids"}
        assert torch.allclose(whole(**found).loss, wanted)
    assert "pixel_values" in batch


def test_replayed_grids_are_those_of_their_views(
    model: PanoLlavaForConditionalGeneration, batch: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if DEVICE == "cpu":
        monkeypatch.setattr(GraphCache, "replay", replay_on_cpu)
    every = [batch | {"pixel_values": torch.randn_like(batch["pixel_values"])} for _ in range(4)]
    encoder = encoder_of(model)
    grids = [encoder.with_grids(one)["patch_grids"] for one in every]  # all kept, none overwritten
    for one, found in zip(every, grids, strict=True):
        assert torch.allclose(found, model.model.encode_views(one["pixel_values"]), atol=1e-5)
        assert not found.is_inference()
    (entry,) = encoder.graphs._entries.values()
    assert (entry.replayed.graph is None) == (DEVICE == "cpu")


def test_a_frozen_encoder_computes_in_its_own_precision(
    model: PanoLlavaForConditionalGeneration, batch: dict[str, Any]
) -> None:
    wanted = model.model.encode_views(batch["pixel_values"])
    with torch.autocast(DEVICE, torch.bfloat16):
        assert torch.equal(model.model.encode_views(batch["pixel_values"]), wanted)
        assert torch.equal(encoder_of(model).with_grids(batch)["patch_grids"], wanted)
        model.model.vision_tower.requires_grad_(True)
        assert not torch.equal(model.model.encode_views(batch["pixel_values"]), wanted)


def test_an_encoder_that_trains_is_left_to_the_model(make_model: Make, batch: dict[str, Any]) -> None:
    model = make_model().to(DEVICE)
    assert FrozenEncoder.of(model) is None
    assert FrozenEncoder.of(torch.nn.Linear(1, 1)) is None


def test_a_batch_without_views_stays_as_it_is(model: PanoLlavaForConditionalGeneration, batch: dict[str, Any]) -> None:
    del batch["pixel_values"]
    assert encoder_of(model).with_grids(batch) is batch
