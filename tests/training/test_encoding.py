"""What a frozen encoder makes of views stands in their place, and the model computes the same; on a GPU by a graph."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny_models import on_own_tensors

from panollava import PanoLlavaForConditionalGeneration
from panollava.attention import cuda_graphs as captured
from panollava.training import encoding
from panollava.training.encoding import with_grids
from panollava.training.lora import lora_config

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Make = Callable[..., PanoLlavaForConditionalGeneration]


@pytest.fixture
def model(make_model: Make) -> PanoLlavaForConditionalGeneration:
    model = make_model().to(DEVICE)
    model.model.vision_tower.requires_grad_(False)
    return model.train()


@pytest.fixture
def batch() -> dict[str, Any]:
    ids = torch.tensor([[1, *[300] * 20, 7, 8, 9]], device=DEVICE)
    return {"input_ids": ids, "labels": ids.clamp(max=299), "pixel_values": torch.randn(1, 5, 3, 32, 32, device=DEVICE)}


def test_grids_stand_in_the_place_of_views(model: PanoLlavaForConditionalGeneration, batch: dict[str, Any]) -> None:
    wanted = model(**batch).loss
    adapted = get_peft_model(model, lora_config(rank=2, alpha=4, dropout=0.0, targets=["q_proj"]))
    for whole in (model, adapted):
        found = with_grids(whole, batch)
        assert found.keys() == batch.keys() - {"pixel_values"} | {"patch_grids"}
        assert torch.allclose(whole(**found).loss, wanted)
    assert "pixel_values" in batch


def test_replayed_grids_are_those_of_their_views(
    model: PanoLlavaForConditionalGeneration, batch: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if DEVICE == "cpu":
        monkeypatch.setattr(encoding, "replayed", on_own_tensors)
    every = [batch | {"pixel_values": torch.randn_like(batch["pixel_values"])} for _ in range(4)]
    grids = [with_grids(model, one)["patch_grids"] for one in every]  # all kept, none overwritten
    for one, found in zip(every, grids, strict=True):
        assert torch.allclose(found, model.model.encode_views(one["pixel_values"]), atol=1e-5)
        assert not found.is_inference()
    (kept,) = captured._SHAPES[model.model.vision_tower].known.values()
    assert (kept.replayed.graph is None) == (DEVICE == "cpu")
    captured.forget(model)
    assert model.model.vision_tower not in captured._SHAPES


def test_a_frozen_encoder_computes_in_its_own_precision(
    model: PanoLlavaForConditionalGeneration, batch: dict[str, Any]
) -> None:
    wanted = model.model.encode_views(batch["pixel_values"])
    with torch.autocast(DEVICE, torch.bfloat16):
        assert torch.equal(model.model.encode_views(batch["pixel_values"]), wanted)
        assert torch.equal(with_grids(model, batch)["patch_grids"], wanted)
        model.model.vision_tower.requires_grad_(True)
        assert not torch.equal(model.model.encode_views(batch["pixel_values"]), wanted)


def test_an_encoder_that_trains_is_left_to_the_model(make_model: Make, batch: dict[str, Any]) -> None:
    model = make_model().to(DEVICE)
    assert with_grids(model, batch) is batch
    assert with_grids(torch.nn.Linear(1, 1), batch) is batch


def test_a_batch_without_views_stays_as_it_is(model: PanoLlavaForConditionalGeneration, batch: dict[str, Any]) -> None:
    del batch["pixel_values"]
    assert with_grids(model, batch) is batch
