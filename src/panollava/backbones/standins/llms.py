"""Train the stand-in language models: small checkpoints in the Llama and Mistral formats, pretrained on text.

A scene and its dialogues form one packed row, in which no dialogue sees another; the loss is on the answers. Each
observation of a scene takes one position. An `ObservationEmbedder` fills it and is discarded after training. The result
is a folder in the layout of a hub checkpoint: config, bf16 safetensors, tokenizer with chat template.
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

from panollava.attention.packing import Packed, pack, packed_mask, stack
from panollava.backbones.standins.described_scenes import TEXT_SHARE, DescribedScene, describe_scene
from panollava.backbones.standins.observations import SCENERY, SLOTS, Observation
from panollava.backbones.tokenizer import NUMBERS, train_tokenizer
from panollava.vlm.labels import IGNORE

VOCABULARY = 1280
CONTEXT = 4096
# Noise on the embedding of an observation, relative to its root mean square.
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


def pack_scene(scene: DescribedScene, tokenizer: PreTrainedTokenizerBase) -> Packed:
    """Tokenise a described scene with the tokenizer's chat template and pack its dialogues behind the scene.

    The pieces of a dialogue are tokenised separately, which is much faster than applying the template to each. The
    tokenizer never merges across pieces, and a test holds the result equal to the template's own. Labels are the spans
    that the templates mark: a space, the answer, and the end-of-sequence token. An observation is a padding token,
    whose embedding is filled later.
    """
    end = tokenizer.eos_token
    head = _template_parts(tokenizer, 1)[0]
    texts, learned, owners = [head + scene.text, "\n"], [False] * 2, [0] * 2
    for number, turns in enumerate(scene.dialogues, start=1):
        parts = _template_parts(tokenizer, len(turns))
        for turn, (question, answer) in enumerate(turns):
            before = parts[2 * turn].removeprefix(end) if turn else ""
            texts += [before + question + parts[2 * turn + 1].removesuffix(" "), f" {answer}{end}"]
            learned += [False, True]
            owners += [number, number]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    records: list[tuple[list[int], list[int]]] = [([], []) for _ in scene.dialogues]
    for ids, has_labels, owner in list(zip(encoded, learned, owners, strict=True))[2:]:
        records[owner - 1][0].extend(ids)
        records[owner - 1][1].extend(ids if has_labels else [IGNORE] * len(ids))
    return pack([*encoded[0], *[tokenizer.pad_token_id] * len(scene.observations), *encoded[1]], records)


@lru_cache(maxsize=4096)
def _word_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def observation_words(observations: list[Observation], tokenizer: PreTrainedTokenizerBase) -> tuple[Tensor, Tensor]:
    """Return rows of the `ObservationEmbedder`'s table and their weights, both `[O, K]`, for O observations.

    A word of several tokens is their mean. Rows are padded with a weight of 0.
    """
    size, rows = len(tokenizer), []
    for observation in observations:
        row: list[tuple[int, float]] = []
        for slot, text, weight in observation:
            ids = _word_ids(tokenizer, text)
            row += [(slot * size + token, weight / len(ids)) for token in ids]
        rows.append(row)
    longest = max(map(len, rows), default=1)
    filled = np.array([row + [(0, 0.0)] * (longest - len(row)) for row in rows]).reshape(len(rows), longest, 2)
    return torch.from_numpy(filled[..., 0]).long(), torch.from_numpy(filled[..., 1]).float()


class ObservationEmbedder(nn.Module):
    """Embed the words of an observation as one vector: the sum of their embeddings, each times its slot's matrix."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.slots = nn.Parameter(torch.randn(len(SLOTS), width, width) / math.sqrt(width * len(SLOTS)))

    def forward(self, embeddings: Tensor, words: Tensor, weights: Tensor) -> Tensor:
        """Return embeddings `[O, D]` of `words` and `weights` `[O, K]`, given the word embeddings `[vocabulary, D]`."""
        table = torch.einsum("vd,sde->sve", embeddings, self.slots).flatten(0, 1)
        return F.embedding_bag(words, table, per_sample_weights=weights, mode="sum")


class DescribedScenes(Dataset):
    """Packed rows of the text corpus with the words of their observations, made on access."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        seed: int,
        start: int,
        count: int,
        text_share: float = TEXT_SHARE,
    ) -> None:
        self.tokenizer, self.seed, self.start, self.count = tokenizer, seed, start, count
        self.text_share = text_share

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Packed, Tensor, Tensor]:
        scene = describe_scene(self.seed, self.start + index, text_share=self.text_share)
        return pack_scene(scene, self.tokenizer), *observation_words(scene.observations, self.tokenizer)

    def collate(self, rows: list[tuple[Packed, Tensor, Tensor]]) -> dict[str, Tensor]:
        """Stack rows to one batch; lengths are rounded up to a multiple of 64."""
        packed, words, weights = zip(*rows, strict=True)
        longest = max(ids.shape[1] for ids in words)
        return stack(packed, self.tokenizer.pad_token_id, multiple=64) | {
            name: torch.cat([F.pad(rows, (0, longest - rows.shape[1])) for rows in values])
            for name, values in (("words", words), ("weights", weights))
        }


def scene_embeddings(model: Any, embedder: ObservationEmbedder, batch: dict[str, Tensor], noise: float = 0.0) -> Tensor:
    """Return the input embeddings `[B, S, D]` of a batch, with observations embedded and `noise` added to them.

    `noise` is relative to the root mean square of the observations' embeddings.
    """
    embeddings = model.get_input_embeddings()
    inputs = embeddings(batch["input_ids"])
    observed = embedder(embeddings.weight, batch["words"], batch["weights"])
    observed = observed + noise * observed.detach().square().mean().sqrt() * torch.randn_like(observed)
    is_observation = (batch["input_ids"] == model.config.pad_token_id) & (batch["segments"] == 0)
    return inputs.masked_scatter(is_observation[..., None], observed.to(inputs))


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

    `card.json` holds the teacher-forced exact-match accuracy of held-out answers, for scenes as texts and for scenes as
    observations.
    """
    torch.manual_seed(SEEDS[family])
    tokenizer = train_tokenizer(_corpus(SEEDS[family]), family, vocabulary=VOCABULARY)
    model: Any = FAMILIES[family]()
    model.to(device)
    embedder = ObservationEmbedder(model.config.hidden_size).to(device)
    parameters = [*model.parameters(), *embedder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, steps))
    rows = DescribedScenes(tokenizer, seed=SEEDS[family], start=0, count=steps * batch)
    loader = DataLoader(rows, batch_size=batch, num_workers=workers, collate_fn=rows.collate)
    losses: list[Tensor] = []
    with tqdm(loader, desc=f"{family} on text", mininterval=10) as progress:
        for data in progress:
            data = {k: v.to(device, non_blocking=True) for k, v in data.items()}
            inputs = scene_embeddings(model, embedder, data, NOISE)
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
        name: answer_accuracy(model, embedder, tokenizer, seed=seed, device=device, text_share=share)
        for name, share in (("text", 1.0), ("observations", 0.0))
    }
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = {
        "name": family, "parameters": sum(p.numel() for p in model.parameters()), "seed": seed,
        "objective": "answers to questions about scenes in words and degrees, English and Korean; text only: a quarter "
        "of the scenes as texts, the others as observations, the words of an observation merged into one position",
        "steps": steps, "scenes": steps * batch, "final_loss": torch.stack(losses[-100:]).mean().item(),
        "held_out_answer_accuracy": quality,
    }  # fmt: skip
    (folder / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _corpus(seed: int, scenes: int = 4000) -> Iterator[str]:
    """Yield the training text of the tokenizer."""
    for index in range(scenes):
        scene = describe_scene(seed, 10_000_000 + index, text_share=1.0)
        yield scene.text
        for dialogue in scene.dialogues:
            yield from (f"{question}\n [INST] USER: [/INST] ASSISTANT: {answer}" for question, answer in dialogue)
        if index % 40 == 0:
            yield "".join((NUMBERS, *SCENERY["en"], *SCENERY["ko"]))


def _warm_cosine(step: int, steps: int) -> float:
    warm = min(200, steps // 10 + 1)
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def answer_accuracy(
    model: Any,
    embedder: ObservationEmbedder,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    device: str,
    text_share: float,
    scenes: int = 400,
) -> float:
    """Return the share of held-out answers whose every token has the highest logit, given the scene."""
    rows = DescribedScenes(tokenizer, seed=seed, start=20_000_000, count=scenes, text_share=text_share)
    right = total = 0
    for data in DataLoader(rows, batch_size=20, collate_fn=rows.collate):
        data = {k: v.to(device) for k, v in data.items()}
        logits, targets = answer_logits(model, data, scene_embeddings(model, embedder, data))
        keep = data["labels"][:, 1:] != IGNORE
        owner = (data["segments"][:, 1:] + 1000 * torch.arange(len(keep), device=device)[:, None])[keep]
        wrong = torch.unique(owner[logits.argmax(-1) != targets]).numel()
        answers = torch.unique(owner).numel()
        right, total = right + answers - wrong, total + answers
    return right / total
