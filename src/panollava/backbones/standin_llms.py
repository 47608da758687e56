"""Train the stand-in language models: small checkpoints in the Llama and Mistral formats, pretrained on told scenes.

One scene and its questions make one packed row, each question blind to the others; the loss is on the answers. The
result is a folder as a hub checkpoint has it: config, bf16 safetensors, tokenizer with chat template.
"""

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerBase

from panollava.backbones.tokenizer import train_tokenizer
from panollava.backbones.told import ToldScene, tell
from panollava.vlm.packing import IGNORE, Packed, pack, packed_mask, stack

VOCABULARY = 1024
CONTEXT = 4096
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 5,
    "num_attention_heads": 6, "max_position_embeddings": CONTEXT, "tie_word_embeddings": True,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=6, initializer_range=0.04)),
    "vicuna": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=6, initializer_range=0.04)),
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
    mark: a space, the answer, and the end-of-sequence token.
    """
    end = tokenizer.eos_token
    texts, learned, owners = [_template_parts(tokenizer, 1)[0] + told.text + "\n"], [False], [0]
    for number, turns in enumerate(told.dialogues, start=1):
        parts = _template_parts(tokenizer, len(turns))
        for turn, (question, answer) in enumerate(turns):
            before = parts[2 * turn].removeprefix(end) if turn else ""
            texts += [before + question + parts[2 * turn + 1].removesuffix(" "), f" {answer}{end}"]
            learned += [False, True]
            owners += [number, number]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    records: list[tuple[list[int], list[int]]] = [([], []) for _ in told.dialogues]
    for ids, mark, owner in list(zip(encoded, learned, owners, strict=True))[1:]:
        records[owner - 1][0].extend(ids)
        records[owner - 1][1].extend(ids if mark else [IGNORE] * len(ids))
    return pack(encoded[0], records)


class ToldScenes(Dataset):
    """Packed rows of the text corpus, made when asked for."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, seed: int, start: int, count: int) -> None:
        self.tokenizer, self.seed, self.start, self.count = tokenizer, seed, start, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Packed:
        return pack_told(tell(self.seed, self.start + index), self.tokenizer)

    def collate(self, rows: list[Packed]) -> dict[str, torch.Tensor]:
        """Stack rows to one batch; lengths are rounded up to 64."""
        return stack(rows, self.tokenizer.pad_token_id, multiple=64)


def answer_logits(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits `[A, vocabulary]` that predict the answer tokens of a packed batch, and those tokens `[A]`."""
    mask = packed_mask(batch["segments"], batch["position_ids"])
    hidden = model.model(
        input_ids=batch["input_ids"], position_ids=batch["position_ids"], attention_mask=mask, use_cache=False
    ).last_hidden_state
    keep = batch["labels"][:, 1:] != IGNORE
    return model.lm_head(hidden[:, :-1][keep]), batch["labels"][:, 1:][keep]


def train_standin_llm(family: str, folder: Path, *, steps: int, batch: int, workers: int, device: str) -> None:
    """Train one stand-in language model and write its folder with a card.

    Held-out exact-match accuracy of answers given the scene in words, teacher forced, goes into `card.json`.
    """
    torch.manual_seed(SEEDS[family])
    corpus = (text for i in range(4000) for text in _texts(tell(SEEDS[family], 10_000_000 + i)))
    tokenizer = train_tokenizer(corpus, family, vocabulary=VOCABULARY)
    model: Any = FAMILIES[family]()
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, steps))
    rows = ToldScenes(tokenizer, seed=SEEDS[family], start=0, count=steps * batch)
    loader = DataLoader(rows, batch_size=batch, num_workers=workers, collate_fn=rows.collate)
    losses = []
    for data in tqdm(loader, desc=f"{family} on text", mininterval=10):
        data = {k: v.to(device, non_blocking=True) for k, v in data.items()}
        with torch.autocast(device, dtype=torch.bfloat16):
            logits, targets = answer_logits(model, data)
        loss = F.cross_entropy(logits.float(), targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    model = model.to(torch.bfloat16)
    quality = told_accuracy(model.float(), tokenizer, seed=SEEDS[family], device=device)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = {
        "name": family, "parameters": sum(p.numel() for p in model.parameters()), "seed": SEEDS[family],
        "objective": "answers to questions about scenes told in words and degrees, English and Korean; text only",
        "steps": steps, "scenes": steps * batch, "final_loss": torch.stack(losses[-100:]).mean().item(),
        "held_out_answer_accuracy": quality,
    }  # fmt: skip
    (folder / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _texts(told: ToldScene) -> list[str]:
    turns = [f"{question}\n [INST] USER: [/INST] ASSISTANT: {answer}" for d in told.dialogues for question, answer in d]
    return [told.text, *turns]


def _warm_cosine(step: int, steps: int) -> float:
    warm = min(200, steps // 10 + 1)
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def told_accuracy(
    model: Any, tokenizer: PreTrainedTokenizerBase, *, seed: int, device: str, scenes: int = 400
) -> float:
    """Return the share of held-out answers whose every token is the model's first choice, the scene told in words."""
    rows = ToldScenes(tokenizer, seed=seed, start=20_000_000, count=scenes)
    right = total = 0
    for data in DataLoader(rows, batch_size=20, collate_fn=rows.collate):
        data = {k: v.to(device) for k, v in data.items()}
        logits, targets = answer_logits(model, data)
        keep = data["labels"][:, 1:] != IGNORE
        owner = (data["segments"][:, 1:] + 1000 * torch.arange(len(keep), device=device)[:, None])[keep]
        wrong = torch.unique(owner[logits.argmax(-1) != targets]).numel()
        answers = torch.unique(owner).numel()
        right, total = right + answers - wrong, total + answers
    return right / total
