"""Train the stand-in language models: small checkpoints in the Llama and Mistral formats, pretrained on told scenes.

One scene and its questions make one packed row, each question blind to the others; the loss is on the answers. A scene
in glances takes one position for each glance, filled by a `Merger`, which is thrown away after training. The result is
a folder as a hub checkpoint has it: config, bf16 safetensors, tokenizer with chat template.
"""

import json
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerBase

from panollava.attention.packing import Packed, pack
from panollava.attention.stacking import packed_mask, stack
from panollava.backbones.standins.glances import SCENERY, SLOTS, Glance
from panollava.backbones.standins.told import PLAIN_SHARE, ToldScene, tell
from panollava.backbones.tokenizer import NUMBERS, train_tokenizer
from panollava.vlm.labels import IGNORE

VOCABULARY = 1280
CONTEXT = 4096
# The scatter of a merged embedding about what its words say, relative to its own size.
NOISE = 0.25
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 5,
    "num_attention_heads": 4, "max_position_embeddings": CONTEXT, "tie_word_embeddings": True,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=4, initializer_range=0.04)),
    "vicuna": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=4, initializer_range=0.04)),
    "mistral": lambda: MistralForCausalLM(
        MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=CONTEXT, initializer_range=0.04)
    ),
}
SEEDS = {"llama": 101, "vicuna": 102, "mistral": 103}


@lru_cache
def _template_parts(tokenizer: PreTrainedTokenizerBase, turns: int) -> list[str]:
    """Return the literal text of the chat template before, between and after `turns` questions and answers."""
    messages = [{"role": role, "content": "\0"} for _ in range(turns) for role in ("user", "assistant")]
    return str(tokenizer.apply_chat_template(messages, tokenize=False)).split("\0")


def pack_told(told: ToldScene, tokenizer: PreTrainedTokenizerBase) -> Packed:
    """Tokenise a told scene with the tokenizer's chat template and pack its dialogues behind the scene.

    The pieces of a dialogue are tokenised apart, much faster than the whole template for each; the tokenizer never
    joins across them, and a test holds the result equal to the template's own. What is learned is what the templates
    mark: a space, the answer, and the end-of-sequence token. Glances are padding tokens, to be filled.
    """
    end = tokenizer.eos_token
    head = _template_parts(tokenizer, 1)[0]
    texts, learned, owners = [head + told.text, "\n"], [False] * 2, [0] * 2
    for number, turns in enumerate(told.dialogues, start=1):
        parts = _template_parts(tokenizer, len(turns))
        for turn, (question, answer) in enumerate(turns):
            before = parts[2 * turn].removeprefix(end) if turn else ""
            texts += [before + question + parts[2 * turn + 1].removesuffix(" "), f" {answer}{end}"]
            learned += [False, True]
            owners += [number, number]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    records: list[tuple[list[int], list[int]]] = [([], []) for _ in told.dialogues]
    for ids, mark, owner in list(zip(encoded, learned, owners, strict=True))[2:]:
        records[owner - 1][0].extend(ids)
        records[owner - 1][1].extend(ids if mark else [IGNORE] * len(ids))
    return pack([*encoded[0], *[tokenizer.pad_token_id] * len(told.glances), *encoded[1]], records)


@lru_cache(maxsize=4096)
def _word_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def merged_words(glances: list[Glance], tokenizer: PreTrainedTokenizerBase) -> tuple[Tensor, Tensor]:
    """Return rows of the `Merger`'s table and their weights, both `[G, K]`, for G glances; a weight of 0 fills up.

    A word of several tokens is their mean.
    """
    size, rows = len(tokenizer), []
    for glance in glances:
        row: list[tuple[int, float]] = []
        for slot, text, weight in glance:
            ids = _word_ids(tokenizer, text)
            row += [(slot * size + token, weight / len(ids)) for token in ids]
        rows.append(row)
    longest = max(map(len, rows), default=1)
    filled = np.array([row + [(0, 0.0)] * (longest - len(row)) for row in rows]).reshape(len(rows), longest, 2)
    return torch.from_numpy(filled[..., 0]).long(), torch.from_numpy(filled[..., 1]).float()


class Merger(nn.Module):
    """Read the words of a glance as one embedding: each slot turns its words by a matrix, and the results add up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.slots = nn.Parameter(torch.randn(len(SLOTS), width, width) / math.sqrt(width * len(SLOTS)))

    def forward(self, embeddings: Tensor, words: Tensor, weights: Tensor) -> Tensor:
        """Return merged embeddings `[G, D]` of `words` and `weights` `[G, K]`, given the embeddings `[words, D]`."""
        turned = torch.einsum("vd,sde->sve", embeddings, self.slots).flatten(0, 1)
        return F.embedding_bag(words, turned, per_sample_weights=weights, mode="sum")


class ToldScenes(Dataset):
    """Packed rows of the text corpus with the words of their glances, made when asked for."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        seed: int,
        start: int,
        count: int,
        plain_share: float = PLAIN_SHARE,
    ) -> None:
        self.tokenizer, self.seed, self.start, self.count = tokenizer, seed, start, count
        self.plain_share = plain_share

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Packed, Tensor, Tensor]:
        told = tell(self.seed, self.start + index, plain_share=self.plain_share)
        return pack_told(told, self.tokenizer), *merged_words(told.glances, self.tokenizer)

    def collate(self, rows: list[tuple[Packed, Tensor, Tensor]]) -> dict[str, Tensor]:
        """Stack rows to one batch; lengths are rounded up to 64."""
        packed, words, weights = zip(*rows, strict=True)
        longest = max(ids.shape[1] for ids in words)
        return stack(packed, self.tokenizer.pad_token_id, multiple=64) | {
            name: torch.cat([F.pad(rows, (0, longest - rows.shape[1])) for rows in values])
            for name, values in (("words", words), ("weights", weights))
        }


def scene_embeddings(model: Any, merger: Merger, batch: dict[str, Tensor], noise: float = 0.0) -> Tensor:
    """Return the input embeddings `[B, S, D]` of a batch, glances merged, `noise` times their own size added."""
    embeddings = model.get_input_embeddings()
    inputs = embeddings(batch["input_ids"])
    merged = merger(embeddings.weight, batch["words"], batch["weights"])
    merged = merged + noise * merged.detach().square().mean().sqrt() * torch.randn_like(merged)
    glance = (batch["input_ids"] == model.config.pad_token_id) & (batch["segments"] == 0)
    return inputs.masked_scatter(glance[..., None], merged.to(inputs))


def answer_logits(model: Any, batch: dict[str, Tensor], inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits `[A, vocabulary]` that predict the answer tokens of a packed batch, and those tokens `[A]`."""
    mask = packed_mask(batch["segments"], batch["position_ids"])
    hidden = model.model(
        inputs_embeds=inputs, position_ids=batch["position_ids"], attention_mask=mask, use_cache=False
    ).last_hidden_state
    keep = batch["labels"][:, 1:] != IGNORE
    return model.lm_head(hidden[:, :-1][keep]), batch["labels"][:, 1:][keep]


def train_standin_llm(family: str, folder: Path, *, steps: int, batch: int, workers: int, device: str) -> None:
    """Train one stand-in language model and write its folder with a card.

    Held-out exact-match accuracy of answers, teacher forced, goes into `card.json`: of scenes told as a text, and of
    scenes told in glances.
    """
    torch.manual_seed(SEEDS[family])
    tokenizer = train_tokenizer(_corpus(SEEDS[family]), family, vocabulary=VOCABULARY)
    model: Any = FAMILIES[family]()
    model.to(device)
    merger = Merger(model.config.hidden_size).to(device)
    parameters = [*model.parameters(), *merger.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, steps))
    rows = ToldScenes(tokenizer, seed=SEEDS[family], start=0, count=steps * batch)
    loader = DataLoader(rows, batch_size=batch, num_workers=workers, collate_fn=rows.collate)
    losses: list[Tensor] = []
    with tqdm(loader, desc=f"{family} on text", mininterval=10) as progress:
        for data in progress:
            data = {k: v.to(device, non_blocking=True) for k, v in data.items()}
            inputs = scene_embeddings(model, merger, data, NOISE)
            with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
                logits, targets = answer_logits(model, data, inputs)
            loss = F.cross_entropy(logits.float(), targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
            if len(losses) % 100 == 0:
                progress.set_postfix(loss=f"{torch.stack(losses[-100:]).mean().item():.3f}", refresh=False)
    model = model.to(torch.bfloat16).float()
    seed = SEEDS[family]
    quality = {
        name: told_accuracy(model, merger, tokenizer, seed=seed, device=device, plain_share=share)
        for name, share in (("text", 1.0), ("glances", 0.0))
    }
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = {
        "name": family, "parameters": sum(p.numel() for p in model.parameters()), "seed": seed,
        "objective": "answers to questions about scenes told in words and degrees, English and Korean; text only: "
        "a quarter of the scenes as a text, the others in glances, the words of a glance merged into one position",
        "steps": steps, "scenes": steps * batch, "final_loss": torch.stack(losses[-100:]).mean().item(),
        "held_out_answer_accuracy": quality,
    }  # fmt: skip
    (folder / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _corpus(seed: int, scenes: int = 4000) -> Iterator[str]:
    """Yield the text that the tokenizer learns from."""
    for index in range(scenes):
        told = tell(seed, 10_000_000 + index, plain_share=1.0)
        yield told.text
        for dialogue in told.dialogues:
            yield from (f"{question}\n [INST] USER: [/INST] ASSISTANT: {answer}" for question, answer in dialogue)
        if index % 40 == 0:
            yield "".join((NUMBERS, *SCENERY["en"], *SCENERY["ko"]))


def _warm_cosine(step: int, steps: int) -> float:
    warm = min(200, steps // 10 + 1)
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def told_accuracy(
    model: Any,
    merger: Merger,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    device: str,
    plain_share: float,
    scenes: int = 400,
) -> float:
    """Return the share of held-out answers whose every token is the model's first choice, given the scene."""
    rows = ToldScenes(tokenizer, seed=seed, start=20_000_000, count=scenes, plain_share=plain_share)
    right = total = 0
    for data in DataLoader(rows, batch_size=20, collate_fn=rows.collate):
        data = {k: v.to(device) for k, v in data.items()}
        logits, targets = answer_logits(model, data, scene_embeddings(model, merger, data))
        keep = data["labels"][:, 1:] != IGNORE
        owner = (data["segments"][:, 1:] + 1000 * torch.arange(len(keep), device=device)[:, None])[keep]
        wrong = torch.unique(owner[logits.argmax(-1) != targets]).numel()
        answers = torch.unique(owner).numel()
        right, total = right + answers - wrong, total + answers
    return right / total
