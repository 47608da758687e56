"""Greedy answers to many questions, each panorama computed once for all of its questions.

The tokens up to and including the panorama are the same in every prompt. Their keys and values are computed once per
panorama and copied to one row per question; a row is then prefix, padding, rest of the prompt. Padding is masked and
takes no position, so every answer is the one that its question gets alone. The exception is a sliding window that a row
outgrows: it counts padding too, so there only prompts of one length share a batch, and nothing is padded.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicSlidingWindowLayer

from panollava.tasks.prompts import Message
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration
from panollava.vlm.processing_panollava import PanoLlavaProcessor

# Tokens of all rows of one batch, answers included; keys and values of a 7B model take half a megabyte for each.
TOKENS_PER_BATCH = 16384


@dataclass(frozen=True)
class Answer:
    """What the model said, and the probability of the whole answer, end of sequence included."""

    text: str
    score: float


@dataclass(frozen=True)
class Prefix:
    """The tokens that all prompts begin with, and their keys and values for each panorama (None without any)."""

    ids: list[int]
    cache: DynamicCache | None = None

    @property
    def window(self) -> int | None:
        """Return the shortest sliding window of the language model's layers."""
        layers = [] if self.cache is None else self.cache.layers
        return min((x.sliding_window for x in layers if isinstance(x, DynamicSlidingWindowLayer)), default=None)


@dataclass(frozen=True)
class Row:
    """One question: its place in the result, its panorama, its tokens after the prefix, its longest answer."""

    index: int
    panorama: int
    ids: list[int]
    max_new_tokens: int


class GreedyProbability(LogitsProcessor):
    """Record the log-probability of each step's most likely token; the logits of all steps would fill the memory."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores `[R, vocabulary]` as they came."""
        self.steps.append(scores.amax(dim=-1) - scores.logsumexp(dim=-1))
        return scores


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


@torch.inference_mode()
def compute_prefix(
    model: PanoLlavaForConditionalGeneration,
    processor: PanoLlavaProcessor,
    panoramas: Sequence[Image.Image],
    head: list[int],
) -> Prefix:
    """Return the prefix of P panoramas: `head`, the visual tokens, and the keys and values of both."""
    inputs = processor.image_processor(list(panoramas), return_tensors="pt").to(model.device)
    visual = processor.tokens_of_panorama(inputs["view_poses"][0])
    ids = head + [model.config.image_token_id] * visual
    cache = DynamicCache(config=model.config.text_config)
    batch = torch.tensor(ids, device=model.device).expand(len(panoramas), -1)
    model(input_ids=batch, past_key_values=cache, use_cache=True, logits_to_keep=1, **inputs)
    return Prefix(ids, cache)


def answer_dialogues(
    model: PanoLlavaForConditionalGeneration,
    processor: PanoLlavaProcessor,
    panoramas: Sequence[Image.Image],
    dialogues: Sequence[Sequence[list[Message]]],
    *,
    max_new_tokens: Sequence[Sequence[int]],
) -> list[list[Answer]]:
    """Answer `dialogues[p]`, each ending with a question, about panorama p, with at most `max_new_tokens` each.

    An answer ends at the latest where the language model's context ends.

    Raises:
        ValueError: a dialogue without exactly one panorama, or one that leaves no room for an answer in the context.
    """
    asked = [dialogue for own in dialogues for dialogue in own]
    if not asked:
        return [[] for _ in panoramas]
    owners = [panorama for panorama, own in enumerate(dialogues) for _ in own]
    head, tails = split_prompts(prompt_ids(processor, asked), model.config.image_token_id)
    budgets = [budget for own in max_new_tokens for budget in own]
    prefix = compute_prefix(model, processor, panoramas, head)
    rows = [
        Row(index, owner, tail, _room(model, len(prefix.ids) + len(tail), dialogue, budget))
        for index, (owner, tail, dialogue, budget) in enumerate(zip(owners, tails, asked, budgets, strict=True))
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
    for batch in batches(rows, prefix):
        found = generate(model, processor, prefix, batch)
        answers |= {row.index: answer for row, answer in zip(batch, found, strict=True)}
    return [answers[index] for index in range(len(rows))]


def batches(rows: Sequence[Row], prefix: Prefix) -> Iterator[list[Row]]:
    """Yield rows that are answered together: one longest answer, similar lengths, no more tokens than fit.

    Short answers never wait for long ones. Beyond a sliding window all rows of a batch have one length.
    """
    ordered = sorted(rows, key=lambda row: (row.max_new_tokens, len(row.ids)))
    for budget, group in groupby(ordered, key=lambda row: row.max_new_tokens):
        batch: list[Row] = []
        for row in group:
            length = len(prefix.ids) + len(row.ids) + budget
            exceeds_window = prefix.window is not None and length > prefix.window
            longer = bool(batch) and len(row.ids) > len(batch[0].ids)
            if batch and ((len(batch) + 1) * length > TOKENS_PER_BATCH or (exceeds_window and longer)):
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
) -> list[Answer]:
    """Return the greedy answers of rows with the same longest answer, at least `min_new_tokens` long."""
    tokenizer, longest = processor.tokenizer, max(len(row.ids) for row in batch)
    padding = [longest - len(row.ids) for row in batch]
    ids = [prefix.ids + [tokenizer.pad_token_id] * pad + row.ids for pad, row in zip(padding, batch, strict=True)]
    mask = [[1] * len(prefix.ids) + [0] * pad + [1] * (longest - pad) for pad in padding]
    probability = GreedyProbability()
    output = model.generate(  # type: ignore[misc] # the library types `self` as a protocol
        input_ids=torch.tensor(ids, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        past_key_values=None if prefix.cache is None else _cache_rows(prefix.cache, batch, model.device),
        do_sample=False,
        min_new_tokens=min_new_tokens,
        max_new_tokens=batch[0].max_new_tokens,
        logits_processor=LogitsProcessorList([probability]),
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    said = output[:, len(ids[0]) :]
    texts = tokenizer.batch_decode(said, skip_special_tokens=True)
    # Generation on a GPU looks for the end of sequence some steps late and takes those steps back.
    steps = torch.stack(probability.steps[: said.shape[1]], dim=1)
    scores = _until_end(said, steps, model.generation_config.eos_token_id).exp().tolist()
    return [Answer(text.strip(), score) for text, score in zip(texts, scores, strict=True)]


def _cache_rows(cache: DynamicCache, batch: Sequence[Row], device: torch.device) -> DynamicCache:
    """Return a copy of the prefix's cache with the panorama of each row."""
    rows = copy.deepcopy(cache)
    rows.batch_select_indices(torch.tensor([row.panorama for row in batch], device=device))
    return rows


def _until_end(said: Tensor, steps: Tensor, eos_token_id: int | list[int] | None) -> Tensor:
    """Return the sums `[R]` of log-probabilities `[R, T]` up to the first end of sequence in `said` `[R, T]`."""
    ends = torch.isin(said, torch.tensor([] if eos_token_id is None else eos_token_id, device=said.device))
    over = ends.cumsum(dim=1) - ends.long() > 0
    return steps.double().masked_fill(over, 0).sum(dim=1)
