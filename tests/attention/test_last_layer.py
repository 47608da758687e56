"""The last layer's feed-forward part sees the tokens that are read alone, and nothing that is read changes by it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, GPTNeoXConfig

from panollava import PanoLlavaForConditionalGeneration, PanoLlavaModel
from panollava.attention import packing, shared_prefix
from panollava.attention.attending import attending
from panollava.attention.packing import PACKED_ATTENTION, flatten, pack
from panollava.attention.shared_prefix import SHARED_ATTENTION
from panollava.vlm.labels import IGNORE, next_labels, places_read
from panollava.vlm.last_layer import ReadAlone, last_of_rows

Make = Callable[..., PanoLlavaForConditionalGeneration]
PREFIX = [7, *[300] * 20]


def packed(*lengths: int) -> dict[str, Any]:
    """Return a flattened row of a panorama with records of so many tokens, of which the last three are learned."""
    texts = [torch.randint(3, 299, (count,)).tolist() for count in lengths]
    records = [(ids, [IGNORE] * (len(ids) - 3) + ids[-3:]) for ids in texts]
    return flatten([pack(PREFIX, records)], 0) | {"pixel_values": torch.randn(1, 5, 3, 32, 32), "use_cache": False}


@pytest.fixture(params=["llama", "mistral"])
def model(make_model: Make, request: pytest.FixtureRequest) -> PanoLlavaForConditionalGeneration:
    model = make_model(language=request.param).train()
    model.model.language_model.set_attn_implementation(PACKED_ATTENTION)
    return model


@pytest.fixture
def seen(model: PanoLlavaForConditionalGeneration) -> list[list[int]]:
    """How many tokens the feed-forward part of each layer saw, pass by pass."""
    counts: list[list[int]] = [[] for _ in model.model.language_model.layers]
    for layer, own in zip(model.model.language_model.layers, counts, strict=True):
        layer.mlp.gate_proj.register_forward_pre_hook(lambda _, args, own=own: own.append(args[0].shape[-2]))
    return counts


def loss_and_gradients(model: PanoLlavaForConditionalGeneration, *batches: dict[str, Any]) -> dict[str, Tensor]:
    model.zero_grad()
    outputs = [model(**batch) for batch in batches]
    sum((output.loss for output in outputs), torch.zeros(())).backward()
    losses = {f"loss {number}": output.loss.detach() for number, output in enumerate(outputs)}
    return losses | {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_are_those_of_all_tokens(
    model: PanoLlavaForConditionalGeneration, seen: list[list[int]], checkpointing: bool
) -> None:
    """Also of two passes before one backward, where activation checkpointing runs the layers again in another order."""
    batches = [packed(9, 14), packed(20, 5, 8)]
    sizes = [batch["input_ids"].numel() for batch in batches]
    wanted = loss_and_gradients(model, *({**batch, "output_hidden_states": True} for batch in batches))
    assert [own[:2] for own in seen] == [sizes, sizes]
    for own in seen:
        own.clear()
    if checkpointing:
        model.activation_checkpointing_enable()
    found = loss_and_gradients(model, *batches)
    assert [own[:2] for own in seen] == [sizes, [6, 9]]
    assert len(seen[-1]) == (4 if checkpointing else 2)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, atol=1e-6), name


def test_prefixes_do_not_attend_where_nothing_of_them_is_read(
    model: PanoLlavaForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, attend = [], packing._prefixes
    monkeypatch.setattr(packing, "_prefixes", lambda *args: calls.append(1) or attend(*args))
    layers = model.config.text_config.num_hidden_layers
    model(**packed(9, 14))
    assert len(calls) == layers - 1
    model(**packed(9, 14), output_hidden_states=True)
    assert len(calls) == 2 * layers - 1


def test_a_panorama_alone_does_not_attend_where_nothing_of_it_is_read(
    model: PanoLlavaForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, attend = [], shared_prefix.attend_causally
    monkeypatch.setattr(shared_prefix, "attend_causally", lambda *args: calls.append(1) or attend(*args))
    layers, embedded = model.config.text_config.num_hidden_layers, torch.randn(1, 8, 32)
    with attending(model, SHARED_ATTENTION):
        wanted = model.model(inputs_embeds=embedded).last_hidden_state
        assert len(calls) == layers
        last = model.model(inputs_embeds=embedded, read=torch.tensor([7])).last_hidden_state
        assert len(calls) == 2 * layers
        model.model(inputs_embeds=embedded, read=torch.empty(0, dtype=torch.long))
        assert len(calls) == 3 * layers - 1
    assert torch.allclose(last[:, 7], wanted[:, 7], atol=1e-6)


def test_tokens_that_ask_for_masks_are_read_too(
    model: PanoLlavaForConditionalGeneration, seen: list[list[int]]
) -> None:
    batch = packed(9, 14)
    learned = batch.pop("read")
    queries = torch.tensor([[0, int(learned[0]), 0], [0, len(PREFIX) + 2, 0], [0, len(PREFIX) + 2, 0]])
    wanted = model(**batch, mask_queries=queries, output_hidden_states=True)
    found = model(**batch, mask_queries=queries)
    assert seen[-1][-1] == 6 + 1  # one query asks where an answer is learned, two ask at one other place
    assert torch.allclose(found.mask_logits, wanted.mask_logits, atol=1e-5)
    gradients = [
        torch.autograd.grad(out.mask_logits.sum(), model.get_input_embeddings().weight) for out in (wanted, found)
    ]
    assert torch.allclose(gradients[0][0], gradients[1][0], atol=1e-5)


def test_what_is_read_may_be_given(model: PanoLlavaForConditionalGeneration, seen: list[list[int]]) -> None:
    batch = packed(9, 14)
    queries = torch.tensor([[0, int(batch["read"][0]), 0], [0, len(PREFIX) + 2, 0]])
    read = places_read(next_labels(batch.pop("labels")), queries)
    labels = torch.randint(3, 299, batch["input_ids"].shape)  # those that are not read are not learned
    only = torch.full_like(labels, IGNORE).flatten().index_copy(0, read, labels.flatten()[read]).view_as(labels)
    del batch["read"]
    wanted = model(**batch, shift_labels=only, mask_queries=queries)
    found = model(**batch, shift_labels=labels, mask_queries=queries, read=read)
    assert seen[-1] == [7, 7]
    for name in ("loss", "logits", "mask_logits"):
        assert torch.equal(found[name], wanted[name]), name


def test_a_language_model_in_two_models_is_hooked_once(
    model: PanoLlavaForConditionalGeneration, seen: list[list[int]]
) -> None:
    batch = packed(9, 14)
    wanted = model(**batch).loss
    parts = model.model.vision_tower, copy.deepcopy(model.model.language_model)
    again = PanoLlavaModel(model.config, *parts)
    again.load_state_dict(model.model.state_dict())
    model.model = again
    assert torch.allclose(model(**batch).loss, wanted)
    assert seen[-1] == [6, 6]  # a copy carries its hooks along, those that count too


def test_a_language_model_of_other_parts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'gpt_neox' is not supported: its layers have no self_attn and mlp"):
        ReadAlone(AutoModel.from_config(GPTNeoXConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)))


def test_hidden_states_that_are_asked_for_are_those_of_all_tokens(
    model: PanoLlavaForConditionalGeneration, seen: list[list[int]]
) -> None:
    batch = packed(9, 14)
    model.config.text_config.output_hidden_states = True
    try:
        model(**batch)
    finally:
        model.config.text_config.output_hidden_states = False
    model(**batch)
    assert seen[-1] == [batch["input_ids"].numel(), 6]


def test_without_labels_all_tokens_are_read(model: PanoLlavaForConditionalGeneration, seen: list[list[int]]) -> None:
    batch = packed(9, 14)
    del batch["labels"]
    model(**batch)
    assert seen[0] == seen[-1] == [batch["input_ids"].numel()]


def test_the_last_tokens_of_rows() -> None:
    places = last_of_rows(torch.zeros(3, 5))
    assert places is not None
    assert places.tolist() == [4, 9, 14]
    assert last_of_rows(torch.zeros(2, 1)) is None
