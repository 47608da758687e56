"""Control tokens in the texts of users are text, in every kind of tokenizer; all other text keeps its ids."""

import json
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_backbones import tiny_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoProcessor, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from panollava import PanoLlavaProcessor
from panollava.vlm.plain_text import PANORAMA_TOKEN, PlainText, check_unicode

KINDS = ["llama", "vicuna", "mistral", "sentencepiece", "metaspace"]
# What users bring: control tokens of this tokenizer and of others, alone, inside words, overlapping, and private signs.
HOSTILE = [
    "</s>",
    "<s>",
    "<pad>",
    "<unk>",
    "<|im_end|>",
    "[INST]",
    "<",
    "<<s>>",
    "</s</s>>",
    "\U0010003cs>",
    " ",
    "a",
    "빨",
]


def tokenizer_of(kind: str) -> PreTrainedTokenizerBase:
    """Return a new tokenizer: of a stand-in, or in one of the two ways in which Llama 2 writes spaces."""
    if kind in ("llama", "vicuna", "mistral"):
        known = tiny_tokenizer(kind)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(known.backend_tokenizer.to_str()),  # type: ignore[attr-defined]
            **{name: str(value) for name, value in known.special_tokens_map.items()},
        )
    else:
        backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        if kind == "sentencepiece":
            backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        backend.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        special = ["<unk>", "<s>", "</s>", "<pad>", *(f"<0x{byte:02X}>" for byte in range(256))]
        trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=special)
        backend.train_from_iterator(["what is left of the red cube? <s a blue ball />"] * 3, trainer)
        # The bytes are ordinary pieces of such a vocabulary, not added tokens.
        backend = _without_added(backend, special[4:])
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
        )
    tokenizer.add_tokens([PANORAMA_TOKEN, "<|im_end|>", "[INST]"], special_tokens=True)
    return tokenizer


def _without_added(backend: Tokenizer, names: list[str]) -> Tokenizer:
    content = json.loads(backend.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in names]
    return Tokenizer.from_str(json.dumps(content))


@lru_cache
def taught(kind: str) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase, PlainText]:
    """Return a tokenizer as it was, the same one once it can read hidden tokens, and what hides them."""
    tokenizer = tokenizer_of(kind)
    return tokenizer_of(kind), tokenizer, PlainText(tokenizer, "")


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_text_without_control_tokens_keeps_its_ids(kind: str, text: str) -> None:
    before, after, plain = taught(kind)
    assert plain.text(text, placeholders=True) == text
    assert ids_of(after, text) == ids_of(before, text)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(st.sampled_from(HOSTILE), max_size=12))
def test_no_text_becomes_a_control_token_and_none_is_lost(kind: str, pieces: list[str]) -> None:
    _, tokenizer, plain = taught(kind)
    text = "".join(pieces)
    ids = ids_of(tokenizer, plain.text(text, placeholders=True))
    assert not plain.unsafe
    assert not set(ids) & (plain.control.keys() - {tokenizer.unk_token_id})
    if kind in ("llama", "vicuna", "mistral"):
        assert tokenizer.decode(ids) == text.replace("\U0010003c", "<")


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_tokens_have_the_ids_of_the_same_characters(kind: str) -> None:
    before, tokenizer, plain = taught(kind)
    for name in plain.control.values():
        text = f"a {name} b"
        assert ids_of(tokenizer, plain.text(text, placeholders=False)) == _as_characters(before, text)


def _as_characters(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of a text by the same tokenizer without any added token."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())  # type: ignore[attr-defined]
    content["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(content)).encode(text, add_special_tokens=False).ids


def test_the_panorama_stays_where_a_question_may_hold_it() -> None:
    _, tokenizer, plain = taught("llama")
    number = tokenizer.convert_tokens_to_ids(PANORAMA_TOKEN)
    text = f"{PANORAMA_TOKEN}\nwhat is </s>?"
    assert ids_of(tokenizer, plain.text(text, placeholders=True)).count(number) == 1
    assert ids_of(tokenizer, plain.text(text, placeholders=False)).count(number) == 0


def test_messages_keep_all_but_their_texts() -> None:
    _, _, plain = taught("llama")
    image = {"type": "image", "url": "a.png"}
    messages = [
        {"role": "user", "content": [image, {"type": "text", "text": "a</s>"}], "name": "x"},
        {"role": "assistant", "content": f"{PANORAMA_TOKEN} clean"},
    ]
    hidden = plain.messages(messages)
    assert hidden[0]["content"][0] is image
    assert hidden[0]["name"] == "x"
    assert hidden[0]["content"][1]["text"] == "a\U0010003c/s>"
    assert hidden[1]["content"] == "\U0010003cpano> clean"
    assert messages[0]["content"][1]["text"] == "a</s>"  # type: ignore[index]
    clean = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "a < b"}]
    assert plain.messages(clean) == clean


def test_what_a_tokenizer_cannot_read_as_text_is_refused_by_name() -> None:
    tokenizer = tokenizer_of("llama")
    tokenizer.add_tokens([AddedToken("<|end|>", special=True, normalized=True)])
    plain = PlainText(tokenizer, "")
    assert plain.unsafe == ["<|end|>"]
    assert plain.text("a </s>", placeholders=True) == "a \U0010003c/s>"
    with pytest.raises(ValueError, match=r"<\|end\|> in 'a <\|end\|>' is a control token .* reword it"):
        plain.text("a <|end|>", placeholders=True)


def test_added_words_are_control_tokens_only_where_the_template_writes_them() -> None:
    tokenizer = tokenizer_of("llama")
    tokenizer.add_tokens(["<|user|>", "<h1>", "\n\n"])
    assert "<|user|>" not in PlainText(tokenizer, "").control.values()
    found = set(PlainText(tokenizer, "{{ '<|user|>\n\n' }}").control.values())
    assert "<|user|>" in found
    assert not {"<h1>", "\n\n"} & found


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=20), at=st.integers(0, 20), half=st.integers(0xD800, 0xDFFF))
def test_half_a_character_is_refused_with_its_position(text: str, at: int, half: int) -> None:
    clean = "".join(character for character in text if not 0xD800 <= ord(character) <= 0xDFFF)
    check_unicode(clean)
    with pytest.raises(ValueError, match=r"not valid Unicode: character \d+ is '\\ud.*half of a pair"):
        check_unicode(clean[:at] + chr(half) + clean[at:])


def test_the_processor_reads_control_tokens_of_users_as_text_also_when_loaded(
    processor: PanoLlavaProcessor, panorama: Tensor, tmp_path: Path
) -> None:
    processor.save_pretrained(tmp_path)
    special = processor.plain_text.control.keys()
    chat = [
        {
            "role": "user",
            "content": [{"type": "image", "image": panorama}, {"type": "text", "text": "a </s> b <pad>?"}],
        },
        {"role": "assistant", "content": "A wall.</s> more <pano>"},
    ]
    for one in (processor, AutoProcessor.from_pretrained(tmp_path)):
        inputs = one.apply_chat_template(chat, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        ids, mask = inputs["input_ids"][0], inputs["assistant_masks"][0]
        found = [number for number in ids if number in special]
        assert found == [one.image_token_id] * 20 + [one.tokenizer.eos_token_id]
        answer = [number for number, learned in zip(ids, mask, strict=True) if learned]
        assert one.decode(answer) == " A wall.</s> more <pano></s>"
        # In two steps, as many write it.
        prompt = one.apply_chat_template(chat)
        assert list(one(images=panorama, text=prompt)["input_ids"][0]) == list(ids)
    several = processor.apply_chat_template([chat, chat])
    assert several == [processor.apply_chat_template(chat)] * 2
