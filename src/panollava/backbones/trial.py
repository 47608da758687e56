"""What a tiny random model of a family makes of random records by itself: losses, gradients, greedy answers."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from panollava.backbones.shrinking import VOCABULARY
from panollava.vlm.labels import IGNORE

# Longer than the sliding window of a shrunk configuration.
PREFIX, RECORDS, ANSWER = 11, ((9, 5), (7, 12)), 5
# The spread of weights, over the square root of their inputs: far enough from zero that caps and scales show.
SPREAD = 2.0

# The tokens of an answer, and their log-probabilities.
Answer = tuple[list[int], list[float]]


@dataclass(frozen=True)
class Trial:
    """Random token ids: of two prefixes, and of the records behind each."""

    prefixes: list[list[int]]
    records: list[list[list[int]]]

    @classmethod
    def of(cls, generator: torch.Generator) -> "Trial":
        """Return a new trial."""

        def ids(length: int) -> list[int]:
            return torch.randint(3, VOCABULARY // 2, (length,), generator=generator).tolist()

        return cls([ids(PREFIX) for _ in RECORDS], [[ids(length) for length in own] for own in RECORDS])

    def sequences(self) -> list[tuple[list[int], list[int]]]:
        """Return each record behind its prefix, and the record."""
        both = zip(self.prefixes, self.records, strict=True)
        return [(prefix + record, record) for prefix, records in both for record in records]


@dataclass(frozen=True)
class Alone:
    """A tiny random model of a family, and what it makes of a trial by itself, each sequence alone.

    The loss is the mean over all learned tokens, the gradients are its; an answer follows each sequence.
    """

    model: PreTrainedModel
    trial: Trial
    loss: float
    gradients: dict[str, Tensor]
    answers: list[Answer]

    @classmethod
    def of(cls, config: PreTrainedConfig) -> "Alone":
        """Return what a new model of a configuration makes of a new trial."""
        generator = torch.Generator().manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        _stir(model, generator)
        trial = Trial.of(generator)
        learned = sum(len(record) - 1 for _, record in trial.sequences())
        total = torch.zeros(())
        for ids, record in trial.sequences():
            labels = [IGNORE] * (len(ids) - len(record) + 1) + record[1:]
            state = {"input_ids": torch.tensor([ids]), "labels": torch.tensor([labels]), "use_cache": False}
            total = total + model(**state).loss * ((len(record) - 1) / learned)
        total.backward()
        answers = [greedy_answer(model, ids) for ids, _ in trial.sequences()]
        return cls(model, trial, float(total), gradients_of(model), answers)


@torch.no_grad()
def _stir(model: nn.Module, generator: torch.Generator) -> None:
    """Give a model weights by which everything in it shows."""
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.normal_(std=SPREAD * weight.shape[-1] ** -0.5, generator=generator)
        else:
            weight.add_(torch.empty_like(weight).uniform_(-0.3, 0.3, generator=generator))


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the gradients of a model's parameters, by name."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@torch.no_grad()
def greedy_answer(model: Any, ids: list[int]) -> Answer:
    """Return the tokens of a greedy answer by `generate`, and their log-probabilities."""
    found = model.generate(
        torch.tensor([ids]), max_new_tokens=ANSWER, do_sample=False, eos_token_id=None, pad_token_id=0,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    tokens, logits = found.sequences[0, len(ids) :], torch.cat(found.logits).float()
    return tokens.tolist(), logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0].tolist()
