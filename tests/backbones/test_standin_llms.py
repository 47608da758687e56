"""The text training of the stand-in language models: the packed rows are the template's own, and a tiny run works."""

import json
from pathlib import Path

import pytest
import torch
from tiny_backbones import tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from panollava.attention.packing import Packed
from panollava.backbones.assemble import load_llm, load_tokenizer
from panollava.backbones.presets import resolve
from panollava.backbones.standins.llms import (
    Merger,
    ToldScenes,
    answer_logits,
    merged_words,
    pack_told,
    scene_embeddings,
    train_standin_llm,
)
from panollava.backbones.standins.described_scenes import tell
from panollava.backbones.standins.train import llms as standin_llms
from panollava.vlm.labels import IGNORE

FAMILIES = ["llama", "vicuna", "mistral"]


def by_dialogue(packed: Packed) -> list[tuple[list[int], list[int]]]:
    """Return the ids, the scene included, and the labels of each dialogue of a packed row."""
    found = []
    for number in range(max(packed.segments) + 1):
        place = [i for i, segment in enumerate(packed.segments) if segment == number]
        found.append(([packed.ids[i] for i in place], [packed.labels[i] for i in place]))
    (scene, unlearned), *dialogues = found
    assert set(unlearned) == {IGNORE}
    return [(scene + ids, unlearned + labels) for ids, labels in dialogues]


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_scenes_are_the_chat_templates_own(family: str) -> None:
    tokenizer = tiny_tokenizer(family)
    turns = set()
    for index in range(25):
        told = tell(7, index, plain_share=1.0)
        packed = by_dialogue(pack_told(told, tokenizer))
        assert len(packed) == len(told.dialogues)
        for dialogue, (ids, labels) in zip(told.dialogues, packed, strict=True):
            chat = []
            for number, (question, answer) in enumerate(dialogue):
                asked = f"{told.text}\n{question}" if number == 0 else question
                chat += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
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
    measure, tell_one = standin_llms.told_accuracy, standin_llms.tell
    monkeypatch.setattr(standin_llms, "told_accuracy", lambda *args, **kwargs: measure(*args, **kwargs, scenes=2))
    # The tokenizer is trained on scenes from ten million on; twenty will do.
    monkeypatch.setattr(standin_llms, "tell", lambda seed, index, **kwargs: tell_one(seed, index % 20, **kwargs))


@pytest.mark.parametrize("family", ["llama", "mistral"])  # vicuna is a llama with a template of its own, tested above
def test_training_writes_a_checkpoint_that_loads(tiny: None, tmp_path: Path, family: str) -> None:
    train_standin_llm(family, tmp_path, steps=2, batch=2, workers=0, device="cpu")
    card = json.loads((tmp_path / "card.json").read_text("utf-8"))
    assert 5 < card["final_loss"] < 8  # untrained: the logarithm of the vocabulary
    assert set(card["held_out_answer_accuracy"]) == {"text", "glances"}
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
    rows = ToldScenes(tokenizer, seed=0, start=3, count=2)
    batch = rows.collate([rows[0], rows[1]])
    assert batch["input_ids"].shape[1] % 64 == 0
    model = tiny_llama()
    logits, targets = answer_logits(model, batch, scene_embeddings(model, Merger(16), batch))
    assert logits.shape == (len(targets), 420)
    text = tokenizer.decode(targets)
    answers = [answer for index in (3, 4) for dialogue in tell(0, index).dialogues for _, answer in dialogue]
    assert text == "".join(f" {answer}</s>" for answer in answers)


def test_a_glance_is_the_sum_of_its_turned_words() -> None:
    tokenizer, merger = tiny_tokenizer("llama"), Merger(16)
    embeddings = torch.randn(len(tokenizer), 16)
    told = tell(0, 1, plain_share=0.0)
    merged = merger(embeddings, *merged_words(told.glances, tokenizer))
    assert merged.shape == (len(told.glances), 16)
    for glance, found in zip(told.glances, merged, strict=True):
        wanted = torch.zeros(16)
        for slot, text, weight in glance:
            word = embeddings[tokenizer(text)["input_ids"]].mean(0)
            wanted += weight * word @ merger.slots[slot]
        assert torch.allclose(found, wanted, atol=1e-5)


def test_glances_stand_where_the_panorama_will() -> None:
    tokenizer, model, merger = tiny_tokenizer("llama"), tiny_llama(), Merger(16)
    rows = ToldScenes(tokenizer, seed=0, start=0, count=3, plain_share=0.0)
    batch = rows.collate([rows[index] for index in range(3)])
    inputs = scene_embeddings(model, merger, batch)
    plain = model.get_input_embeddings()(batch["input_ids"])
    head = len(tokenizer("<s>[INST] ")["input_ids"])
    merged = merger(model.get_input_embeddings().weight, batch["words"], batch["weights"])
    for row in range(3):
        count = len(rows[row][1])
        assert torch.equal(inputs[row, head : head + count], merged[:count])
        merged = merged[count:]
        assert torch.equal(inputs[row, :head], plain[row, :head])
        assert torch.equal(inputs[row, head + count :], plain[row, head + count :])
    noisy = scene_embeddings(model, merger, batch, noise=0.5) - inputs
    assert ((noisy != 0).any(-1).sum() == sum(len(rows[row][1]) for row in range(3))).item()
