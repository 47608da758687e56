"""Chat templates are chosen and checked before a training; answers end where the template ends them."""

from pathlib import Path

import pytest
import torch
from chat_families import CHATML, FAMILIES, family_tokenizer, write_family
from tiny_backbones import MODEL, write_encoder, write_llm

from panollava.backbones import template_check
from panollava.backbones.assemble import Parts, assemble
from panollava.backbones.loading import load_tokenizer
from panollava.backbones.presets import resolve
from panollava.backbones.template_check import check_template
from panollava.backbones.templates import chosen_template
from panollava.backbones.turns import ChatFormat
from panollava.corpus.messages import with_question
from panollava.inference.engine import Engine


def test_a_choice_is_a_name_the_models_own_or_the_text_of_a_file(tmp_path: Path) -> None:
    assert chosen_template("own") is None
    assert chosen_template("vicuna") == "vicuna"
    file = tmp_path / "mine.jinja"
    with pytest.raises(ValueError, match=r"mine.jinja', but there is no such file; it may be own .*, llama, vicuna"):
        chosen_template(str(file))
    file.write_text("hello")
    with pytest.raises(ValueError, match="no Jinja template"):
        chosen_template(str(file))
    file.write_bytes(b"{{ \xff")
    with pytest.raises(ValueError, match="byte 3 is not UTF-8"):
        chosen_template(str(file))
    file.write_text(CHATML)
    llm = resolve("mine", str(write_family("gemma", tmp_path / "llm")), chat_template=chosen_template(str(file)))
    file.unlink()
    assert load_tokenizer(llm).chat_template == CHATML


def test_families_pass_by_their_own_template(tmp_path: Path) -> None:
    for name in FAMILIES:
        llm = resolve(name, str(write_family(name, tmp_path / name)))
        if name == "thinking":
            with pytest.raises(ValueError, match="thinking: the tokenizer joins the end of a prompt"):
                check_template(llm)
        else:
            check_template(llm)


@pytest.mark.parametrize("family", ["llama", "vicuna", "mistral"])
def test_shipped_templates_need_no_start_of_sequence(family: str, tmp_path: Path) -> None:
    folder = write_family("qwen2", tmp_path / "qwen2")
    check_template(resolve("qwen2", str(folder), chat_template=family))


def test_what_passed_is_remembered_for_this_template_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str | None] = []
    monkeypatch.setattr(template_check, "_check", lambda llm: checked.append(llm.chat_template))
    folder = str(write_family("qwen2", tmp_path / "qwen2"))
    for template in (None, None, "llama", None, "llama"):
        check_template(resolve("qwen2", folder, chat_template=template))
    assert checked == [None, "llama"]


def test_a_base_model_without_a_template_is_told_what_helps(tmp_path: Path) -> None:
    write_llm("llama", tmp_path / "base")
    llm = resolve("base", str(tmp_path / "base"))
    with pytest.raises(ValueError, match=r"base: .*base has no chat template.* \(llama, vicuna, mistral\), or a"):
        check_template(llm)
    check_template(resolve("base", str(tmp_path / "base"), chat_template="llama"))


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    folder = write_family("qwen2", tmp_path / "qwen2")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"mine: .*qwen2 has no tokenizer, neither tokenizer.json nor tokenizer.model"):
        check_template(resolve("mine", str(folder)))


def test_no_end_of_sequence_is_refused(tmp_path: Path) -> None:
    folder = write_family("qwen2", tmp_path / "qwen2")
    tokenizer = family_tokenizer("qwen2")
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="neither a pad token nor an end of sequence"):
        check_template(resolve("mine", str(folder)))


@pytest.mark.parametrize("name", ["qwen2", "llama3", "phi3"])
def test_answers_end_at_the_end_of_a_turn(name: str, tmp_path: Path) -> None:
    """The checkpoint names the end of its documents alone."""
    llm = resolve(name, str(write_family(name, tmp_path / name, tie_word_embeddings=False)))
    parts = Parts(write_encoder("clip", tmp_path / "clip"), llm)
    model, processor = assemble(parts, MODEL, dtype=torch.float32)
    end = ChatFormat.of(processor).end
    named = processor.tokenizer.eos_token_id
    assert processor.tokenizer.convert_ids_to_tokens(end) == FAMILIES[name].end
    assert model.generation_config.eos_token_id == [named, end]
    assert model.generation_config.pad_token_id == processor.tokenizer.pad_token_id
    engine = Engine(model, processor)
    question = [with_question([], "What is there?")]
    prompt = processor(
        text=[
            processor.apply_chat_template([{"role": "user", "content": "What is there?"}], add_generation_prompt=True)
        ],
        add_special_tokens=False,
        return_tensors="pt",
    )
    with torch.no_grad():
        state = model.model(input_ids=prompt["input_ids"]).last_hidden_state[0, -1]
        model.lm_head.weight.zero_()[end] = state
    generated = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert generated[0, prompt["input_ids"].shape[1] :].tolist() == [end]
    (answer,) = engine.answer_blind(question, max_new_tokens=[8])
    assert answer.text == ""
    model.save_pretrained(tmp_path / "out")
    assert type(model).from_pretrained(tmp_path / "out").generation_config.eos_token_id == [named, end]


def test_an_end_that_the_checkpoint_names_stays_as_it_is(tmp_path: Path) -> None:
    parts = Parts(write_encoder("clip", tmp_path / "clip"), write_llm("llama", tmp_path / "llama"))
    model, _ = assemble(parts, MODEL, dtype=torch.float32)
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (2, 0)
