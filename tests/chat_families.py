"""Tokenizers and chat templates of families, rebuilt small: the same control tokens, the same way to write a dialogue.

The templates are short forms of those that the checkpoints carry; what they do with a dialogue is the same.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tiny_backbones import LLM
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXT = [
    "What is left of the red cube? It has 360 degrees. In which direction is it? front left, 어디에? 왼쪽에 있습니다",
    "system\n\nYou are a helpful assistant user\n\nassistant\n\n\n\n<think>\n\n</think>\n\n [-35, 12, 20, 15] \n\n\n",
] * 3
# As GPT-4's and Llama 3's: line breaks join the white space before them.
PIECES = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

CHATML = (
    "{%- for message in messages %}"
    "{%- if loop.first and message['role'] != 'system' %}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{%- endif %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
# What was thought is left out of all answers but those behind the last question.
QWEN3 = (
    "{%- set ns = namespace(last=0) %}"
    "{%- for message in messages %}{%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}"
    "{%- endfor %}"
    "{%- for message in messages %}"
    "{%- set content = message.content if message.content is string else '' %}"
    "{%- if message.role == 'assistant' %}"
    "{%- if '</think>' in content %}{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if loop.index0 > ns.last %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{{- content.lstrip('\\n') }}"
    "{%- else %}{{- '<|im_start|>' + message.role + '\\n' + content }}{%- endif %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
# Whose prompt opens the thoughts, which nobody can switch off.
THINKING = QWEN3.replace("{%- if enable_thinking is defined and enable_thinking is false %}", "{%- if true %}").replace(
    "'<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}", "'<think>\\n' }}{%- endif %}{%- endif %}"
)
LLAMA3 = (
    "{{- bos_token }}"
    "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string + '\\n\\n<|eot_id|>' }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
# The names of its control tokens are joined from parts, and a dialogue that is whole ends a document.
PHI3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + '\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A tokenizer's template and control tokens; `end` ends an answer, `loose` tokens are added, but not special."""

    template: str
    control: tuple[str, ...]
    end: str
    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    loose: tuple[str, ...] = ()


FAMILIES = {
    "qwen2": Family(CHATML, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|im_end|>", eos="<|endoftext|>"),
    "smollm2": Family(
        CHATML,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    ),
    "qwen3": Family(
        QWEN3,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
        eos="<|im_end|>",
        pad="<|endoftext|>",
        loose=("<think>", "</think>"),
    ),
    "thinking": Family(
        THINKING,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
        eos="<|im_end|>",
        pad="<|endoftext|>",
        loose=("<think>", "</think>"),
    ),
    "llama3": Family(
        LLAMA3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        "<|begin_of_text|>",
        "<|end_of_text|>",
    ),
    "gemma": Family(
        GEMMA,
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
        "<bos>",
        "<eos>",
        "<pad>",
        loose=("\n\n", "<h1>"),
    ),
    "phi3": Family(
        PHI3,
        ("<s>", "</s>", "<|endoftext|>"),
        "<|end|>",
        "<s>",
        "<|endoftext|>",
        "<|endoftext|>",
        loose=("<|user|>", "<|assistant|>", "<|end|>"),
    ),
}


def write_family(name: str, folder: Path, **changes: Any) -> Path:
    """Write a tiny random language model with the tokenizer of a family; as a base model it ends documents alone."""
    tokenizer = family_tokenizer(name)
    torch.manual_seed(0)
    config = LlamaConfig(**LLM | {"pad_token_id": None, "bos_token_id": None} | changes, vocab_size=len(tokenizer))
    config.eos_token_id = tokenizer.eos_token_id
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@lru_cache
def _trained(name: str) -> str:
    family = FAMILIES[name]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(TEXT, trainer)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in family.control])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.loose])
    return backend.to_str()


def family_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Return a new tokenizer of a family with its own chat template."""
    family = FAMILIES[name]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(name)),
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token=family.pad,
        chat_template=family.template,
    )
