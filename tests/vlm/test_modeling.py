"""The model by itself: loss on supervised positions, packed rows, building from two checkpoints, and refusals."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_configs import VISION_CONFIGS
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, BatchFeature

from panollava import (
    PanoLlavaConfig,
    PanoLlavaForConditionalGeneration,
    PanoLlavaImageProcessor,
    PanoLlavaProcessor,
)

Make = Callable[..., PanoLlavaForConditionalGeneration]


@pytest.fixture
def inputs(processor: PanoLlavaProcessor, panorama: Tensor) -> BatchFeature:
    return processor(images=panorama, text="USER: <pano>\nwhat? ASSISTANT: a red cube", return_tensors="pt")


def supervised(inputs: BatchFeature, count: int = 9) -> Tensor:
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -count:] = inputs["input_ids"][:, -count:]
    return labels


def test_the_loss_on_supervised_positions_is_the_plain_loss(make_model: Make, inputs: BatchFeature) -> None:
    model, labels = make_model(), supervised(inputs)
    plain = F.cross_entropy(model(**inputs).logits[0, :-1], labels[0, 1:])
    output = model(**inputs, labels=labels)
    assert torch.allclose(output.loss, plain, rtol=1e-6)
    assert torch.allclose(output.logits, model(**inputs).logits[0, -10:-1], atol=1e-6)
    shifted = F.pad(labels[:, 1:], (0, 1), value=-100)
    assert torch.equal(model(**inputs, shift_labels=shifted).loss, output.loss)
    assert torch.allclose(model(**inputs, labels=labels, num_items_in_batch=36).loss, plain * 9 / 36, rtol=1e-6)
    plain.backward()
    wanted = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    model.zero_grad()
    output.loss.backward()
    for name, parameter in model.named_parameters():
        if name in wanted:
            assert torch.allclose(parameter.grad, wanted[name], atol=1e-7), name


def test_places_of_placeholders_may_be_given(make_model: Make, inputs: BatchFeature) -> None:
    model = make_model()
    places = (inputs["input_ids"] == 300).flatten().nonzero()[:, 0]
    results = []
    for given in ({}, {"placeholders": places}):
        model.zero_grad()
        logits = model(**inputs, **given).logits
        logits.square().sum().backward()
        results.append([logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert len(results[0]) > 10
    for wanted, found in zip(*results, strict=True):
        assert torch.equal(found, wanted)
    with pytest.raises(ValueError, match="19 placeholders for 20 visual tokens"):
        model(**inputs, placeholders=places[1:])
    with pytest.raises(ValueError, match="the prompt holds placeholder tokens"):
        model(input_ids=inputs["input_ids"], placeholders=places)


def test_logits_to_keep_selects_positions(make_model: Make, inputs: BatchFeature) -> None:
    model = make_model()
    logits = model(**inputs).logits
    assert torch.allclose(model(**inputs, logits_to_keep=3).logits, logits[:, -3:], atol=1e-6)
    chosen = torch.tensor([0, 5, 21])
    assert torch.allclose(model(**inputs, logits_to_keep=chosen).logits, logits[:, chosen], atol=1e-6)
    with pytest.raises(ValueError, match="logits_to_keep cannot go with labels"):
        model(**inputs, labels=supervised(inputs), logits_to_keep=1)


@pytest.mark.parametrize("language", ["llama", "mistral"])
def test_packed_dialogues_equal_separate_ones(
    make_model: Make, inputs: BatchFeature, processor: PanoLlavaProcessor, panorama: Tensor, language: str
) -> None:
    """Two questions behind one visual prefix, isolated by a 4-D mask and restarted positions."""
    model = make_model("clip", language)
    texts = ["<pano>where?", "<pano>is it a red cube"]
    separate = [processor(images=panorama, text=text, return_tensors="pt") for text in texts]
    tails = [row["input_ids"][0, 20:] for row in separate]
    ids = torch.cat((separate[0]["input_ids"][0, :20], *tails))[None]
    positions = torch.cat((torch.arange(20), *(20 + torch.arange(len(tail)) for tail in tails)))[None]
    owner = torch.cat((torch.zeros(20), *(torch.full((len(tail),), index + 1.0) for index, tail in enumerate(tails))))
    mask = (owner[:, None] == owner) | (owner == 0)
    mask &= torch.ones(len(owner), len(owner)).tril().bool()
    visual = {name: separate[0][name] for name in ("pixel_values", "view_poses")}
    packed = model(input_ids=ids, attention_mask=mask[None, None], position_ids=positions, **visual).logits[0]
    start = 20
    for row, tail in zip(separate, tails, strict=True):
        assert torch.allclose(packed[start : start + len(tail)], model(**row).logits[0, 20:], atol=1e-5)
        start += len(tail)


def test_poses_default_to_the_configured_strategy(make_model: Make, inputs: BatchFeature) -> None:
    model = make_model()
    given = model.get_image_features(inputs["pixel_values"], inputs["view_poses"]).pooler_output[0]
    assert torch.equal(model.get_image_features(inputs["pixel_values"]).pooler_output[0], given)
    turned = inputs["view_poses"] + torch.tensor([0.5, 0, 0, 0, 0, 0])
    assert not torch.allclose(model.get_image_features(inputs["pixel_values"], turned).pooler_output[0], given)


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "anyres_e2p", "pitches_deg": [-30.0, 30.0], "roll_deg": 20.0},
        {"strategy": "sphere", "fov_deg": 80.0},
        {"strategy": "adaptive", "token_budget": 40, "panorama_height": 64},
    ],
)
def test_every_view_setting_reaches_the_default_poses(
    make_model: Make, image_processor: PanoLlavaImageProcessor, panorama: Tensor, settings: dict[str, Any]
) -> None:
    settings = {"stride_deg": 90.0, **settings}
    views = image_processor(panorama, return_tensors="pt", views=settings, tokens_per_side=2)
    model = make_model(tokens_per_side=2, views=settings)
    given = model.get_image_features(views["pixel_values"], views["view_poses"]).pooler_output[0]
    assert torch.equal(model.get_image_features(views["pixel_values"]).pooler_output[0], given)


@pytest.mark.parametrize("code", ["none", "yaw", "ray"])
def test_only_position_codes_see_where_a_view_points(make_model: Make, inputs: BatchFeature, code: str) -> None:
    model = make_model(position_code=code)
    pixels = inputs["pixel_values"]
    tokens, circled, turned = (
        model.get_image_features(pixels, inputs["view_poses"] + torch.tensor([turn, 0, 0, 0, 0, 0])).pooler_output[0]
        for turn in (0, 2 * torch.pi, 1.0)
    )
    assert torch.allclose(tokens, circled, atol=1e-5)
    assert torch.allclose(tokens, turned, atol=1e-5) == (code == "none")


def test_a_hidden_layer_can_be_chosen(make_model: Make, inputs: BatchFeature) -> None:
    pixels = inputs["pixel_values"]
    last = make_model("siglip")
    before = make_model("siglip", vision_feature_layer=-2)
    before.load_state_dict(last.state_dict())
    tower = last.model.vision_tower(pixels[0], output_hidden_states=True)
    assert torch.allclose(last.model.encode_views(pixels)[0].flatten(1, 2), tower.last_hidden_state, atol=1e-6)
    assert torch.allclose(before.model.encode_views(pixels)[0].flatten(1, 2), tower.hidden_states[-2], atol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("vision", VISION_CONFIGS)
def test_from_parts_takes_both_checkpoints_over(
    make_config: Callable[..., PanoLlavaConfig], inputs: BatchFeature, vision: str, tied: bool
) -> None:
    config = make_config(vision, "mistral", text={"tie_word_embeddings": tied})
    tower = AutoModel.from_config(config.vision_config)
    language = AutoModelForCausalLM.from_config(config.text_config)
    with torch.no_grad():
        language.get_input_embeddings().weight.mul_(7)  # as a trained model's, not of the initial size
    language.generation_config.eos_token_id = 42
    wanted = copy.deepcopy(tower.state_dict()), copy.deepcopy(language.state_dict())
    ids = inputs["input_ids"].masked_fill(inputs["input_ids"] == 300, 5)
    logits = language(input_ids=ids).logits
    config.vision_config, config.text_config = tower.config, language.config
    model = PanoLlavaForConditionalGeneration.from_parts(tower, language, config).eval()
    for part, state in zip((model.model.vision_tower, language), wanted, strict=True):
        for name, value in part.state_dict().items():
            assert torch.equal(value, state[name]), name
    assert torch.equal(model(input_ids=ids).logits, logits)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    assert model.generation_config.eos_token_id == 42
    tokens = torch.cat(model.get_image_features(inputs["pixel_values"]).pooler_output)
    size = model.get_input_embeddings().weight.square().mean().sqrt()
    assert 0.5 < tokens.square().mean().sqrt() / size < 2


def test_parts_must_belong_together(make_config: Callable[..., PanoLlavaConfig]) -> None:
    config = make_config()
    tower = AutoModel.from_config(config.vision_config)
    language = AutoModelForCausalLM.from_config(config.text_config)
    with pytest.raises(ValueError, match="must be the config objects of the two models"):
        PanoLlavaForConditionalGeneration.from_parts(tower, language, make_config())
    config.vision_config, config.text_config = tower.config, language.config
    with pytest.raises(ValueError, match="load both alike"):
        PanoLlavaForConditionalGeneration.from_parts(tower.bfloat16(), language, config)


def test_contradictory_inputs_are_refused(make_model: Make, inputs: BatchFeature) -> None:
    model = make_model()
    images = model.get_image_features(inputs["pixel_values"])
    with pytest.raises(ValueError, match="not both"):
        model(**inputs, mm_encoder_outputs={"image": images})
    with pytest.raises(ValueError, match="exactly one"):
        model(pixel_values=inputs["pixel_values"])
    with pytest.raises(ValueError, match="need input_ids"):
        model(inputs_embeds=torch.zeros(1, 30, 32), pixel_values=inputs["pixel_values"])
    with pytest.raises(ValueError, match=r"must be \[panoramas, views"):
        model.get_image_features(inputs["pixel_values"][0])
    with pytest.raises(ValueError, match=r"\[1, 4\] panoramas and views.*\[1, 5\]"):
        model.get_image_features(inputs["pixel_values"][:, :4], inputs["view_poses"])
