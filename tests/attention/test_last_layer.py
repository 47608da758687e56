"""The last layer's feed-forward part runs for the needed tokens alone, and nothing that is needed changes by it."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, Gemma2Config

from panollava import PanoLlavaForConditionalGeneration, PanoLlavaModel
from panollava.attention import shared_prefix as prefix_module
from panollava.attention.packed import PackedPlan
from panollava.attention.packing import flatten, pack
from panollava.attention.plan import LastLayer, last_of_rows, use_plans
from panollava.attention.shared_prefix import PrefixPlan
from panollava.vlm.labels import IGNORE, needed_positions, next_labels

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
    use_plans(model.model.language_model)
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


def test_prefixes_do_not_attend_where_nothing_of_them_is_needed(
    model: PanoLlavaForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, attend = [], PackedPlan._prefixes
    monkeypatch.setattr(PackedPlan, "_prefixes", lambda *args: calls.append(1) or attend(*args))
    layers = model.config.text_config.num_hidden_layers
    model(**packed(9, 14))
    assert len(calls) == layers - 1
    model(**packed(9, 14), output_hidden_states=True)
    assert len(calls) == 2 * layers - 1


def test_a_panorama_alone_does_not_attend_where_nothing_of_it_is_needed(
    model: PanoLlavaForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, attend = [], prefix_module.attend_causally
    monkeypatch.setattr(prefix_module, "attend_causally", lambda *args: calls.append(1) or attend(*args))
    layers, embedded = model.config.text_config.num_hidden_layers, torch.randn(1, 8, 32)

    def states(needed: Tensor | None) -> Tensor:
        return model.model(inputs_embeds=embedded, plan=PrefixPlan(needed=needed)).last_hidden_state

    wanted = states(None)
    assert len(calls) == layers
    last = states(torch.tensor([7]))
    assert len(calls) == 2 * layers
    states(torch.empty(0, dtype=torch.long))
    assert len(calls) == 3 * layers - 1
    assert torch.allclose(last[:, 7], wanted[:, 7], atol=1e-6)


def test_mask_queries_are_needed_too(model: PanoLlavaForConditionalGeneration, seen: list[list[int]]) -> None:
    batch = packed(9, 14)
    learned = batch["plan"].needed
    queries = torch.tensor([[0, int(learned[0]), 0], [0, len(PREFIX) + 2, 0], [0, len(PREFIX) + 2, 0]])
    wanted = model(**batch, mask_queries=queries, output_hidden_states=True)
    needed = needed_positions(next_labels(batch["labels"]), queries)
    batch["plan"] = replace(batch["plan"], needed=needed)
    found = model(**batch, mask_queries=queries)
    assert seen[-1][-1] == 6 + 1  # one query asks where an answer is learned, two ask at one other place
    assert torch.allclose(found.mask_logits, wanted.mask_logits, atol=1e-5)
    gradients = [
        torch.autograd.grad(out.mask_logits.sum(), model.get_input_embeddings().weight) for out in (wanted, found)
    ]
    assert torch.allclose(gradients[0][0], gradients[1][0], atol=1e-5)


def test_only_needed_positions_are_learned(model: PanoLlavaForConditionalGeneration, seen: list[list[int]]) -> None:
    batch = packed(9, 14)
    plan, labels = batch["plan"], torch.randint(3, 299, batch["input_ids"].shape)
    queries = torch.tensor([[0, int(plan.needed[0]), 0], [0, len(PREFIX) + 2, 0]])
    needed = needed_positions(next_labels(batch.pop("labels")), queries)
    batch["plan"] = replace(plan, needed=needed)
    only = torch.full_like(labels, IGNORE).flatten().index_copy(0, needed, labels.flatten()[needed]).view_as(labels)
    wanted = model(**batch, shift_labels=only, mask_queries=queries)
    found = model(**batch, shift_labels=labels, mask_queries=queries)
    assert seen[-1] == [7, 7]
    for name in ("loss", "logits", "mask_logits"):
        assert torch.equal(found[name], wanted[name]), name


def test_a_language_model_may_take_plans_twice(model: PanoLlavaForConditionalGeneration, seen: list[list[int]]) -> None:
    batch = packed(9, 14)
    wanted = model(**batch).loss
    parts = model.model.vision_tower, copy.deepcopy(model.model.language_model)
    again = PanoLlavaModel(model.config, *parts)
    again.load_state_dict(model.model.state_dict())
    use_plans(again.language_model)
    model.model = again
    assert torch.allclose(model(**batch).loss, wanted)
    assert seen[-1] == [6, 6]  # a copy carries its hooks along, those that count too


def test_parameters_keep_their_names_and_the_layer_its_class(make_model: Make) -> None:
    model = make_model()
    names, kind = list(model.state_dict()), type(model.model.language_model.layers[-1])
    use_plans(model.model.language_model)
    assert list(model.state_dict()) == names
    assert isinstance(model.model.language_model.layers[-1], kind)


def test_other_kinds_of_blocks_compute_all_tokens() -> None:
    """Gemma 2 normalises after its feed-forward part, too."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    language = AutoModel.from_config(Gemma2Config(**sizes, num_key_value_heads=1, head_dim=16, vocab_size=60)).eval()
    embedded = torch.randn(1, 8, 32)
    wanted = language(inputs_embeds=embedded).last_hidden_state
    use_plans(language)
    assert not isinstance(language.layers[-1], LastLayer)
    plan = PrefixPlan(needed=torch.tensor([7]))
    found = language(inputs_embeds=embedded, attention_mask=plan.mask, plan=plan).last_hidden_state
    assert torch.allclose(found, wanted, atol=1e-5)


def test_without_a_plan_a_prepared_model_is_the_plain_one(make_model: Make) -> None:
    model = make_model(language="mistral", text={})
    model.config.text_config.sliding_window = 5
    ids = torch.randint(3, 299, (2, 12))
    padded = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    padded["attention_mask"][1, :4] = 0
    with torch.no_grad():
        wanted = model(**padded).logits
        use_plans(model.model.language_model)
        assert torch.allclose(model(**padded).logits[0], wanted[0], atol=1e-6)
        assert torch.allclose(model(**padded).logits[1, 4:], wanted[1, 4:], atol=1e-6)


def test_output_hidden_states_are_those_of_all_tokens(
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


def test_without_labels_all_tokens_are_needed(model: PanoLlavaForConditionalGeneration, seen: list[list[int]]) -> None:
    batch = packed(9, 14)
    del batch["labels"]
    model(**batch)
    assert seen[0] == seen[-1] == [batch["input_ids"].numel()]


def test_the_last_tokens_of_rows() -> None:
    positions = last_of_rows(torch.zeros(3, 5))
    assert positions is not None
    assert positions.tolist() == [4, 9, 14]
    assert last_of_rows(torch.zeros(2, 1)) is None
