"""Prompts: the tokens before and after the panorama, and batches of rows behind a prefix.

The tokens up to and including the panorama are the same in every prompt: they are its prefix. A row holds the rest of
its prompt, padded on the left. Padding is masked and takes no position, so every answer is the one that its question
gets alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from panollava.corpus.messages import Message
from panollava.vlm.plain_text import PANORAMA_TOKEN
from panollava.vlm.processing_panollava import PanoLlavaProcessor

# Own tokens of all rows of one batch, answers included; keys and values of a 7B model take half a megabyte for each.
TOKENS_PER_BATCH = 16384


@dataclass(frozen=True)
class Prefix:
    """The tokens that all prompts begin with, and for P panoramas their keys and values, patch grids and poses.

    `layers` holds keys and values `[P, G, L, d]` of each layer. Without any panorama it is empty, and `grids` and
    `poses` are None.
    """

    ids: list[int]
    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    grids: Tensor | None = None
    poses: Tensor | None = None

    def keys_and_values(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the keys and the values of each layer; a single empty one where there is no prefix."""
        if not self.layers:
            nothing = [torch.empty(1, 1, 0, 1)]  # of no layer: nothing attends to it
            return nothing, nothing
        return [keys for keys, _ in self.layers], [values for _, values in self.layers]


@dataclass(frozen=True)
class Row:
    """One question: its place in the result, its panorama, its tokens after the prefix, its longest answer.

    `masked` says whether it asks for a mask as well.
    """

    index: int
    panorama: int
    ids: list[int]
    max_new_tokens: int
    masked: bool = False


class PromptBatch(NamedTuple):
    """Rows as tensors: token ids and positions `[R, T]`, padded on the left; the padding and prefix of each, `[R]`."""

    ids: Tensor
    positions: Tensor
    padding: Tensor
    owners: Tensor

    @classmethod
    def of(
        cls, rows: Sequence[Row], prefix: Prefix, pad: int, device: torch.device, multiple: int = 1
    ) -> "PromptBatch":
        """Return a batch, padded to the longest row and on to a `multiple` of tokens."""
        longest = -(-max(len(row.ids) for row in rows) // multiple) * multiple
        ids = torch.tensor([[pad] * (longest - len(row.ids)) + row.ids for row in rows], device=device)
        padding = torch.tensor([longest - len(row.ids) for row in rows], device=device)
        positions = len(prefix.ids) + (torch.arange(longest, device=device) - padding[:, None]).clamp(min=0)
        return cls(ids, positions, padding, torch.tensor([row.panorama for row in rows], device=device))


def prompt_ids(processor: PanoLlavaProcessor, dialogues: Sequence[list[Message]]) -> list[list[int]]:
    """Return the token ids of dialogues that end with a question, one placeholder for a panorama.

    Raises:
        ValueError: a text that is not valid Unicode, or a question with the token of the panorama.
    """
    for text in (text for dialogue in dialogues for text in questions_of(dialogue) if PANORAMA_TOKEN in text):
        raise ValueError(f"the question {text[:60]!r} contains {PANORAMA_TOKEN}, the token of the panorama; reword it")
    texts = processor.apply_chat_template(list(dialogues), tokenize=False, add_generation_prompt=True)
    # The chat template writes the start of sequence itself.
    return processor.tokenizer(texts, add_special_tokens=False)["input_ids"]


def questions_of(dialogue: Sequence[Message]) -> list[str]:
    """Return the texts of all questions of a dialogue."""
    parts = [part for message in dialogue if message["role"] == "user" for part in message["content"]]
    return [part["text"] for part in parts if part["type"] == "text"]


def split_prompts(
    processor: PanoLlavaProcessor, dialogues: Sequence[list[Message]]
) -> tuple[list[int], list[list[int]]]:
    """Return the token ids that all dialogues hold before the panorama, and those that each holds after it.

    Raises:
        ValueError: a prompt without exactly one panorama, or two beginnings.
    """
    heads, tails = [], []
    for index, ids in enumerate(prompt_ids(processor, dialogues)):
        count = ids.count(processor.image_token_id)
        if count != 1:
            raise ValueError(f"prompt {index} holds {count} panoramas; each question needs one")
        position = ids.index(processor.image_token_id)
        heads.append(ids[:position])
        tails.append(ids[position + 1 :])
        if heads[-1] != heads[0]:
            raise ValueError(f"prompts 0 and {index} differ before the panorama, which they should share")
    return heads[0], tails


def room_for_answer(processor: PanoLlavaProcessor, dialogue: Sequence[Message], length: int) -> int:
    """Return how many tokens the context has left for the answer to a prompt of `length` tokens.

    Raises:
        ValueError: there is no room for a single token.
    """
    question = dialogue[-1]["content"][-1]["text"]
    processor.require_context(f"the prompt that ends with {question[:60]!r}", length + 1)
    return processor.context_length - length


def batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Yield rows that are answered together: one longest answer, similar lengths, no more tokens than fit.

    Short answers never wait for long ones.
    """
    ordered = sorted(rows, key=lambda row: (row.max_new_tokens, len(row.ids)))
    for budget, group in groupby(ordered, key=lambda row: row.max_new_tokens):
        batch: list[Row] = []
        for row in group:
            if batch and (len(batch) + 1) * (len(row.ids) + budget) > TOKENS_PER_BATCH:
                yield batch
                batch = []
            batch.append(row)
        yield batch
