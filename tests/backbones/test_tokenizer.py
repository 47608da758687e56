"""The stand-ins' tokenizer: whole numbers, lossless text, and prompts that do not depend on the answer."""

import pytest
from tiny_backbones import tiny_tokenizer
from transformers import PreTrainedTokenizerBase

from panollava.backbones.templates import CHAT_TEMPLATES, chat_template
from panollava.backbones.tokenizer import NUMBERS, train_tokenizer

FAMILIES = ["llama", "vicuna", "mistral"]
TEXTS = [
    "In which direction is the red cube?",
    "빨간색 정육면체는 어느 방향에 있나요? 뒤, 왼쪽",
    "[-135, 8, 20, 15]; blue ball [170, -41, 9, 33]",
    "쀍 is no word, ☂ neither;\n\ttabs  and   spaces ",
]
QUESTIONS = [
    "Is there a red cube?",
    "What is at yaw -12, pitch 7?",
    "공은 몇 도에 있나요",
    "Count",
    "it ends in a space ",
]
ANSWERS = ["yes", "-35, 12", "[-35, 12, 20, 15]", "오른쪽 뒤", "3", "(odd)", "?"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return tiny_tokenizer("llama")


@pytest.mark.parametrize("text", TEXTS)
def test_encoding_any_text_is_lossless(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_every_whole_degree_is_one_token_in_any_context() -> None:
    tokenizer = train_tokenizer([NUMBERS] * 3, "llama", vocabulary=1000)
    for number in range(-180, 181):
        (token,) = tokenizer(str(number))["input_ids"]
        for text in (f" {number}, 5", f"[{number}, 3]", f" [5, {number}, 7]; red", f"yaw {number}?"):
            assert token in tokenizer(text)["input_ids"], text
    assert len(tokenizer("1234")["input_ids"]) == 2  # pieces of three digits, as in Llama 3


def test_special_tokens_come_from_the_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.convert_tokens_to_ids(["<pad>", "<s>", "</s>"]) == [0, 1, 2]
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == ("<pad>", "<s>", "</s>")
    # The chat template writes them all; the tokenizer adds none.
    assert tokenizer("a")["input_ids"] == tokenizer("a", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokens_of_a_prompt_do_not_depend_on_the_answer(family: str) -> None:
    tokenizer = tiny_tokenizer(family)
    for question in QUESTIONS:
        prompt_chat = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(prompt_chat, add_generation_prompt=True)["input_ids"]
        for answer in ANSWERS:
            chat = [*prompt_chat, {"role": "assistant", "content": answer}]
            encoded = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
            ids, learned = encoded["input_ids"], encoded["assistant_masks"]
            assert ids[: len(prompt)] == prompt
            assert learned == [0] * len(prompt) + [1] * (len(ids) - len(prompt))
            assert tokenizer.decode(ids[len(prompt) :]) == f" {answer}</s>"


@pytest.mark.parametrize("family", FAMILIES)
def test_templates_render_parts_and_plain_text_alike(family: str) -> None:
    tokenizer = tiny_tokenizer(family)
    plain = [{"role": "user", "content": "<pano>\nwhat?"}, {"role": "assistant", "content": "a ball"}]
    parts = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a ball"}]},
    ]
    rendered = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in (plain, parts)]
    assert rendered[0] == rendered[1]
    wanted = {
        "llama": "<s>[INST] <pano>\nwhat? [/INST] a ball</s>",
        "mistral": "<s>[INST] <pano>\nwhat? [/INST] a ball</s>",
        "vicuna": (
            "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
            "detailed, and polite answers to the user's questions. USER: <pano>\nwhat? ASSISTANT: a ball</s>"
        ),
    }
    assert rendered[0] == wanted[family]


def test_the_templates_are_those_of_the_presets() -> None:
    assert {path.stem for path in CHAT_TEMPLATES.glob("*.jinja")} == set(FAMILIES)
    second = [{"role": r, "content": "x"} for r in ("user", "assistant", "user", "assistant")]
    bos = {
        family: tiny_tokenizer(family).apply_chat_template(second, tokenize=False).count("<s>") for family in FAMILIES
    }
    assert bos == {"llama": 2, "mistral": 1, "vicuna": 1}  # Llama starts every turn with it
    assert all("{%- generation -%}" in chat_template(family) for family in FAMILIES)
