"""Greedy answers to many questions, each panorama computed once for all of its questions.

The tokens up to and including the panorama are the same in every prompt. Their keys and values are computed and stored
once per panorama; a row holds the rest of its prompt, padded on the left. Padding is masked and takes no position, so
every answer is the one that its question gets alone.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from panollava.attention.attending import attending
from panollava.attention.shared_prefix import SHARED_ATTENTION
from panollava.corpus.messages import Message
from panollava.inference.decode import Prefix, Row, Said, decode_growing
from panollava.inference.decode_static import decode_static
from panollava.inference.prefill import compute_prefix
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration
from panollava.vlm.processing_panollava import PanoLlavaProcessor

# Own tokens of all rows of one batch, answers included; keys and values of a 7B model take half a megabyte for each.
TOKENS_PER_BATCH = 16384
# How a device decodes.
WAYS = {"cpu": decode_growing, "mps": decode_growing, "cuda": decode_static}


@dataclass(frozen=True)
class Answer:
    """What the model said, and the probability of the whole answer, end of sequence included.

    `patches` `[V, h, w]` are the mask head's scores, for a question that asks for a mask. `parts` are the probabilities
    of the tokens of each part of the text between semicolons, given what is before.
    """

    text: str
    score: float
    patches: Tensor | None = None
    parts: tuple[float, ...] | None = None


def prompt_ids(processor: PanoLlavaProcessor, dialogues: Sequence[list[Message]]) -> list[list[int]]:
    """Return the token ids of dialogues that end with a question, one placeholder for a panorama."""
    texts = processor.apply_chat_template(list(dialogues), tokenize=False, add_generation_prompt=True)
    # The chat template writes the start of sequence itself.
    return processor.tokenizer(texts, add_special_tokens=False)["input_ids"]


def split_prompts(prompts: Sequence[list[int]], image_token_id: int) -> tuple[list[int], list[list[int]]]:
    """Return what all prompts hold before the panorama, and what each holds after it.

    Raises:
        ValueError: a prompt without exactly one panorama, or two beginnings.
    """
    heads, tails = [], []
    for index, ids in enumerate(prompts):
        if ids.count(image_token_id) != 1:
            raise ValueError(f"prompt {index} holds {ids.count(image_token_id)} panoramas; each question needs one")
        place = ids.index(image_token_id)
        heads.append(ids[:place])
        tails.append(ids[place + 1 :])
        if heads[-1] != heads[0]:
            raise ValueError(f"prompts 0 and {index} differ before the panorama, which they should share")
    return heads[0], tails


def answer_dialogues(
    model: PanoLlavaForConditionalGeneration,
    processor: PanoLlavaProcessor,
    panoramas: Sequence[Image.Image],
    dialogues: Sequence[Sequence[list[Message]]],
    *,
    max_new_tokens: Sequence[Sequence[int]],
    masked: Sequence[Sequence[bool]] | None = None,
) -> list[list[Answer]]:
    """Answer `dialogues[p]`, each ending with a question, about panorama p, with at most `max_new_tokens` each.

    Those that are `masked` get scores of patches too; none by default. An answer ends at the latest where the language
    model's context ends.

    Raises:
        ValueError: a dialogue without exactly one panorama, or one that leaves no room for an answer in the context.
    """
    asked = [dialogue for own in dialogues for dialogue in own]
    if not asked:
        return [[] for _ in panoramas]
    owners = [panorama for panorama, own in enumerate(dialogues) for _ in own]
    head, tails = split_prompts(prompt_ids(processor, asked), model.config.image_token_id)
    budgets = [budget for own in max_new_tokens for budget in own]
    wanted = [False] * len(asked) if masked is None else [one for own in masked for one in own]
    prefix = compute_prefix(model, processor, panoramas, head)
    columns = zip(owners, tails, asked, budgets, wanted, strict=True)
    rows = [
        Row(index, owner, tail, _room(model, len(prefix.ids) + len(tail), dialogue, budget), mask)
        for index, (owner, tail, dialogue, budget, mask) in enumerate(columns)
    ]
    answers = iter(answer_rows(model, processor, prefix, rows))
    return [[next(answers) for _ in own] for own in dialogues]


def answer_blind(
    model: PanoLlavaForConditionalGeneration,
    processor: PanoLlavaProcessor,
    dialogues: Sequence[list[Message]],
    *,
    max_new_tokens: Sequence[int],
) -> list[Answer]:
    """Answer dialogues about a panorama without showing it: the same tokens less the placeholder, as in training.

    Equal questions then have equal answers and are asked once.
    """
    head, tails = split_prompts(prompt_ids(processor, dialogues), model.config.image_token_id)
    prompts = [
        ((*head, *tail), _room(model, len(head) + len(tail), dialogue, budget))
        for tail, dialogue, budget in zip(tails, dialogues, max_new_tokens, strict=True)
    ]
    distinct = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompts))}
    rows = [Row(index, 0, list(ids), budget) for (ids, budget), index in distinct.items()]
    answers = answer_rows(model, processor, Prefix([]), rows)
    return [answers[distinct[prompt]] for prompt in prompts]


def _room(model: PanoLlavaForConditionalGeneration, length: int, dialogue: list[Message], budget: int) -> int:
    """Return how long an answer to a prompt of `length` tokens may be, at most `budget`; refuse to leave no room."""
    context = model.config.text_config.max_position_embeddings
    if length >= context:
        question = dialogue[-1]["content"][-1]["text"]
        raise ValueError(
            f"the prompt that ends with {question[:60]!r} has {length} tokens, but the language model's context holds "
            f"{context} with the answer; shorten the dialogue, lower tokens_per_side or take fewer views"
        )
    return min(budget, context - length)


def answer_rows(
    model: PanoLlavaForConditionalGeneration, processor: PanoLlavaProcessor, prefix: Prefix, rows: Sequence[Row]
) -> list[Answer]:
    """Return one answer per row, in the order of `Row.index`."""
    answers: dict[int, Answer] = {}
    for batch in batches(rows):
        found = generate(model, processor, prefix, batch)
        answers |= {row.index: answer for row, answer in zip(batch, found, strict=True)}
    return [answers[index] for index in range(len(rows))]


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


@torch.inference_mode()
def generate(
    model: PanoLlavaForConditionalGeneration,
    processor: PanoLlavaProcessor,
    prefix: Prefix,
    batch: Sequence[Row],
    *,
    min_new_tokens: int = 0,
    compiled: bool = False,
) -> list[Answer]:
    """Return the greedy answers of rows with the same longest answer, at least `min_new_tokens` long; see `decode`."""
    eos = model.generation_config.eos_token_id
    ends = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
    pad = processor.tokenizer.pad_token_id
    said = decode(model, prefix, batch, ends, pad, min_new_tokens, compiled=compiled)
    patches = _patches(model, prefix, batch, said.first)
    tokens = [_until_end(row, ends) for row in said.tokens.tolist()]
    texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    rows = zip(texts, tokens, said.scores.tolist(), patches, strict=True)
    return [
        Answer(text.strip(), math.exp(sum(scores)), scored, part_probabilities(processor.tokenizer, ids, scores))
        for text, ids, scores, scored in rows
    ]


def part_probabilities(tokenizer: Any, ids: Sequence[int], scores: Sequence[float]) -> tuple[float, ...]:
    """Return the probability of each part of an answer between semicolons from its tokens' log-probabilities.

    A token that ends a part counts in it, unless it is a semicolon alone or a special token, which say that a part ends
    but nothing of it.
    """
    parts, special = [0.0], set(tokenizer.all_special_ids)
    for number, token, score in zip(ids, tokenizer.convert_ids_to_tokens(ids), scores, strict=False):
        if token is None or number in special:  # None: beyond the vocabulary, as in one that is padded
            continue
        if token != ";":
            parts[-1] += score
        parts += [0.0] * token.count(";")
    return tuple(math.exp(part) for part in parts)


def decode(
    model: PanoLlavaForConditionalGeneration,
    prefix: Prefix,
    batch: Sequence[Row],
    ends: list[int],
    pad: int,
    min_new_tokens: int = 0,
    *,
    compiled: bool = False,
) -> Said:
    """Return what rows with the same longest answer say behind a prefix, on the model's device. In inference mode.

    What is `compiled`, on a GPU alone, takes half a minute for each new shape of a batch and is faster then.
    """
    options = {"compiled": True} if compiled else {}
    with attending(model, SHARED_ATTENTION):
        return WAYS[model.device.type](model, prefix, batch, ends, pad, min_new_tokens, **options)


def _patches(
    model: PanoLlavaForConditionalGeneration, prefix: Prefix, batch: Sequence[Row], first: Tensor
) -> list[Tensor | None]:
    """Return the scores `[V, h, w]` of patches for rows that ask for a mask, from hidden states `[R, D]` of rows."""
    masked = [number for number, row in enumerate(batch) if row.masked]
    if not masked:
        return [None] * len(batch)
    owners = torch.tensor([batch[number].panorama for number in masked], device=first.device)
    scores = model.score_patches(first[masked], prefix.grids, prefix.poses, owners).cpu()
    found = dict(zip(masked, scores, strict=True))
    return [found.get(number) for number in range(len(batch))]


def _until_end(tokens: list[int], ends: list[int]) -> list[int]:
    """Return an answer's tokens up to its first end of sequence, which is included."""
    return tokens[: next((place + 1 for place, token in enumerate(tokens) if token in ends), len(tokens))]
