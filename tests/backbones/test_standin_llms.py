"""Training of the stand-in language models: packed rows equal the chat template, and a tiny run works."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from tiny_backbones import tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from panollava.attention.packing import Packed
from panollava.backbones.loading import load_llm, load_tokenizer
from panollava.backbones.presets import resolve
from panollava.backbones.standins import llms as standin_llms
from panollava.backbones.standins.described_scenes import describe_scene
from panollava.backbones.standins.llms import (
    DescribedScenes,
    ObservationEmbedder,
    answer_logits,
    observation_words,
    pack_scene,
    scene_embeddings,
    train_standin_llm,
)
from panollava.vlm.labels import IGNORE

FAMILIES = ["llama", "vicuna", "mistral"]


def by_dialogue(packed: Packed) -> list[tuple[list[int], list[int]]]:
    """Return the ids, the scene included, and the labels of each dialogue of a packed row."""
    found = []
    for number in range(max(packed.segments) + 1):
        positions = [i for i, segment in enumerate(packed.segments) if segment == number]
        found.append(([packed.ids[i] for i in positions], [packed.labels[i] for i in positions]))
    (scene, ignored), *dialogues = found
    assert set(ignored) == {IGNORE}
    return [(scene + ids, ignored + labels) for ids, labels in dialogues]


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_scenes_equal_the_chat_template(family: str) -> None:
    tokenizer = tiny_tokenizer(family)
    turns = set()
    for index in range(25):
        scene = describe_scene(7, index, text_share=1.0)
        packed = by_dialogue(pack_scene(scene, tokenizer))
        assert len(packed) == len(scene.dialogues)
        for dialogue, (ids, labels) in zip(scene.dialogues, packed, strict=True):
            chat = []
            for number, (question, answer) in enumerate(dialogue):
                text = f"{scene.text}\n{question}" if number == 0 else question
                chat += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
            wanted = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
            assert ids == wanted["input_ids"]
            learned = wanted["assistant_masks"]
            assert labels == [token if own else IGNORE for token, own in zip(ids, learned, strict=True)]
            turns.add(len(dialogue))
    assert turns == {1, 3}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = standin_llms.SHAPE | {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    llama = lambda: LlamaForCausalLM(LlamaConfig(**shape))  # noqa: E731
    mistral = lambda: MistralForCausalLM(MistralConfig(**shape, sliding_window=standin_llms.CONTEXT))  # noqa: E731
    monkeypatch.setattr(standin_llms, "FAMILIES", {"llama": llama, "vicuna": llama, "mistral": mistral})
    measure, describe = standin_llms.answer_accuracy, standin_llms.describe_scene
    monkeypatch.setattr(standin_llms, "answer_accuracy", lambda *args, **kwargs: measure(*args, **kwargs, scenes=2))
    # The tokenizer is trained on thousands of scenes; twenty are enough here.
    few = cache(lambda seed, index, **kwargs: describe(seed, index, **kwargs))
    monkeypatch.setattr(standin_llms, "describe_scene", lambda seed, index, **kwargs: few(seed, index % 20, **kwargs))


@pytest.mark.parametrize("family", ["llama", "mistral"])  # vicuna is a llama with a template of its own, tested above
def test_training_writes_a_checkpoint_that_loads(tiny: None, tmp_path: Path, family: str) -> None:
    train_standin_llm(family, tmp_path, steps=2, batch=2, workers=0, device="cpu")
    card = json.loads((tmp_path / "card.json").read_text("utf-8"))
    assert 5 < card["final_loss"] < 8  # untrained: the logarithm of the vocabulary
    assert set(card["held_out_answer_accuracy"]) == {"text", "observations"}
    assert all(0 <= share < 0.2 for share in card["held_out_answer_accuracy"].values())
    assert card["scenes"] == 4
    backbone = resolve(family, str(tmp_path), chat_template=family)
    model, tokenizer = load_llm(backbone, torch.float32), load_tokenizer(backbone)
    assert model.config.model_type == family
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert tokenizer.decode(tokenizer("왼쪽 뒤 [-12, 3, 9, 8]")["input_ids"]) == "왼쪽 뒤 [-12, 3, 9, 8]"


def tiny_llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=420, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            pad_token_id=0,
        )
    )  # fmt: skip


def test_only_answers_are_predicted() -> None:
    tokenizer = tiny_tokenizer("llama")
    rows = DescribedScenes(tokenizer, seed=0, start=3, count=2)
    batch = rows.collate([rows[0], rows[1]])
    assert batch["input_ids"].shape[1] % 64 == 0
    model = tiny_llama()
    logits, targets = answer_logits(model, batch, scene_embeddings(model, ObservationEmbedder(16), batch))
    assert logits.shape == (len(targets), 420)
    text = tokenizer.decode(targets)
    answers = [answer for index in (3, 4) for dialogue in describe_scene(0, index).dialogues for _, answer in dialogue]
    assert text == "".join(f" {answer}</s>" for answer in answers)


def test_an_observation_is_the_sum_of_its_words_times_their_slot_matrices() -> None:
    tokenizer, embedder = tiny_tokenizer("llama"), ObservationEmbedder(16)
    embeddings = torch.randn(len(tokenizer), 16)
    scene = describe_scene(0, 1, text_share=0.0)
    observed = embedder(embeddings, *observation_words(scene.observations, tokenizer))
    assert observed.shape == (len(scene.observations), 16)
    for observation, found in zip(scene.observations, observed, strict=True):
        wanted = torch.zeros(16)
        for slot, text, weight in observation:
            word = embeddings[tokenizer(text)["input_ids"]].mean(0)
            wanted += weight * word @ embedder.slots[slot]
        assert torch.allclose(found, wanted, atol=1e-5)


def test_observations_are_at_the_positions_of_the_panorama() -> None:
    tokenizer, model, embedder = tiny_tokenizer("llama"), tiny_llama(), ObservationEmbedder(16)
    rows = DescribedScenes(tokenizer, seed=0, start=0, count=3, text_share=0.0)
    batch = rows.collate([rows[index] for index in range(3)])
    inputs = scene_embeddings(model, embedder, batch)
    plain = model.get_input_embeddings()(batch["input_ids"])
    head = len(tokenizer("<s>[INST] ")["input_ids"])
    observed = embedder(model.get_input_embeddings().weight, batch["words"], batch["weights"])
    for row in range(3):
        count = len(rows[row][1])
        assert torch.equal(inputs[row, head : head + count], observed[:count])
        observed = observed[count:]
        assert torch.equal(inputs[row, :head], plain[row, :head])
        assert torch.equal(inputs[row, head + count :], plain[row, head + count :])
    noisy = scene_embeddings(model, embedder, batch, noise=0.5) - inputs
    assert ((noisy != 0).any(-1).sum() == sum(len(rows[row][1]) for row in range(3))).item()
