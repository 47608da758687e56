"""The mask head within the model: it reads the hidden state of its token and the patches of its panorama alone."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import BatchFeature

from panollava import PanoLlavaForConditionalGeneration, PanoLlavaProcessor

Make = Callable[..., PanoLlavaForConditionalGeneration]


@pytest.fixture
def inputs(processor: PanoLlavaProcessor, panorama: Tensor) -> BatchFeature:
    texts = ["USER: <pano>\nwhat? ASSISTANT: a red cube", "USER: <pano>\nwhere? ASSISTANT: a big ball"]
    return processor(images=[panorama, panorama.flip(-1)], text=texts, padding=True, return_tensors="pt")


def test_scores_follow_from_the_hidden_state_and_the_patches(make_model: Make, inputs: BatchFeature) -> None:
    model = make_model()
    queries = torch.tensor([[1, 30, 1], [0, 25, 0], [1, 20, 0]])
    scores = model(**inputs, mask_queries=queries).mask_logits
    hidden = model.model(**inputs).last_hidden_state[queries[:, 0], queries[:, 1]]
    grids = model.model.encode_views(inputs["pixel_values"])
    assert scores.shape == (3, *grids.shape[1:4])
    wanted = model.score_patches(hidden, grids, None, queries[:, 2])
    assert torch.allclose(scores, wanted, atol=1e-6)
    others = {name: value for name, value in inputs.items() if name != "pixel_values"}
    assert torch.allclose(model(**others, patch_grids=grids, mask_queries=queries).mask_logits, scores, atol=1e-6)
    changed = grids.clone()
    changed[0] += torch.randn_like(changed[0])
    moved = (model.score_patches(hidden, changed, None, queries[:, 2]) - wanted).abs().amax((1, 2, 3))
    assert moved[[1, 2]].min() > 1e-3
    assert moved[0] == 0


def test_a_batch_without_any_query_reaches_every_weight_of_the_head(make_model: Make, inputs: BatchFeature) -> None:
    """Processes that exchange gradients wait for those of all weights."""
    model = make_model()
    scores = model(**inputs, mask_queries=torch.zeros(0, 3, dtype=torch.long)).mask_logits
    assert scores.numel() == 0
    scores.sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().max() == 0 for weight in model.mask_head.parameters())


@pytest.mark.parametrize("code", ["none", "yaw", "ray"])
def test_only_position_codes_tell_the_head_where_a_patch_lies(
    make_model: Make, inputs: BatchFeature, code: str
) -> None:
    model = make_model(position_code=code)
    grids = model.model.encode_views(inputs["pixel_values"])
    turned = inputs["view_poses"] + torch.tensor([1.0, 0, 0, 0, 0, 0])
    hidden, rows = torch.randn(1, model.config.text_config.hidden_size), torch.tensor([0])
    here, there = (model.score_patches(hidden, grids, poses, rows) for poses in (inputs["view_poses"], turned))
    assert torch.allclose(here, there, atol=1e-6) == (code == "none")


def test_masks_need_the_panorama(make_model: Make, inputs: BatchFeature) -> None:
    text = {"input_ids": torch.full((1, 8), 7)}
    with pytest.raises(ValueError, match="masks need the panorama"):
        make_model()(**text, mask_queries=torch.tensor([[0, 3, 0]]))
