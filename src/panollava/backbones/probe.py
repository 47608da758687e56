"""A trial of a language model's family: does it compute, inside PanoLLaVA, what it computes by itself?

On a tiny random model of the checkpoint's own configuration: records packed in one row have the loss and the gradients
that the family's own model has for each alone; answers behind a shared prefix are those of its own `generate`; the head
is the one that an exported model builds. What differs would train and answer wrongly without any error.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, CLIPVisionConfig, CLIPVisionModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from panollava.attention.cuda_graphs import GraphCache
from panollava.attention.packing import flatten, pack
from panollava.attention.plan import use_plans
from panollava.backbones.shrinking import VOCABULARY, shrunk
from panollava.inference.decode import Decoded, Limits, decode_growing
from panollava.inference.decode_static import decode_static
from panollava.inference.prefill import keys_and_values
from panollava.inference.prompts import Prefix, Row
from panollava.vlm.configuration_panollava import PanoLlavaConfig
from panollava.vlm.labels import IGNORE
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration

# Relative errors of float32; what is wrong is wrong by far more.
LOSS_TOLERANCE, GRADIENT_TOLERANCE, SCORE_TOLERANCE = 1e-4, 1e-2, 1e-3
PURE = ("full_attention", "sliding_attention")
# Longer than the sliding window of a shrunk configuration.
PREFIX, RECORDS, ANSWER = 11, ((9, 5), (7, 12)), 5
# The spread of weights, over the square root of their inputs: far enough from zero that caps and scales show.
SPREAD = 2.0


class Differing(Exception):
    """What a family does otherwise, with the number."""


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


def differing(config: PreTrainedConfig) -> str | None:
    """Return what a language model of this configuration would do otherwise inside PanoLLaVA; None for nothing."""
    if odd := sorted(set(config.to_dict().get("layer_types") or ()) - set(PURE)):
        return f"it has layers of the kind {', '.join(odd)}, which cannot tell apart the records of a packed row"
    try:
        return _tried(shrunk(config))
    except Exception:
        pass
    try:
        return _tried(shrunk(config, fewer_heads=False))
    # Foreign code on unforeseen configurations raises whatever comes.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        return f"a tiny model of its configuration cannot be run: {type(error).__name__}: {reason}"


def _tried(config: PreTrainedConfig) -> str | None:
    generator = torch.Generator().manual_seed(0)
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        native = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        _stir(native, generator)
        trial = Trial.of(generator)
        losses, gradients = _native_losses(native, trial)
        answers = [_native_answer(native, ids) for ids, _ in trial.sequences()]
        try:
            model = composite(native)
            _check_head(model)
            _check_plain(model, trial, answers)
            use_plans(model.model.language_model)
            _check_packed(model, native, trial, losses, gradients)
            _check_answers(model, trial, answers)
        except Differing as found:
            return str(found)
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Let transformers say nothing of a model that nobody sees."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


@torch.no_grad()
def _stir(model: nn.Module, generator: torch.Generator) -> None:
    """Give a model weights by which everything in it shows."""
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.normal_(std=SPREAD * weight.shape[-1] ** -0.5, generator=generator)
        else:
            weight.add_(torch.empty_like(weight).uniform_(-0.3, 0.3, generator=generator))


def composite(native: PreTrainedModel) -> PanoLlavaForConditionalGeneration:
    """Return a PanoLLaVA around a tiny language model; panoramas are not looked at."""
    sides = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision = CLIPVisionModel(CLIPVisionConfig(**sides, image_size=16, patch_size=8))
    settings: dict[str, Any] = {"tokens_per_side": 1, "resampler_hidden_size": 8, "mask_hidden_size": 8}
    config = PanoLlavaConfig(
        vision_config=vision.config, text_config=native.config, image_token_id=VOCABULARY, **settings
    )
    return PanoLlavaForConditionalGeneration.from_parts(vision, native, config).eval()


def _targets(ids: list[int], record: list[int]) -> list[int]:
    return [IGNORE] * (len(ids) - len(record) + 1) + record[1:]


def _native_losses(native: Any, trial: Trial) -> tuple[list[float], dict[str, Tensor]]:
    """Return the summed loss of each sequence alone, and the gradients of their mean over all learned tokens."""
    native.zero_grad()
    sums = []
    for ids, record in trial.sequences():
        loss = native(input_ids=torch.tensor([ids]), labels=torch.tensor([_targets(ids, record)]), use_cache=False).loss
        sums.append(loss * (len(record) - 1))
    learned = sum(len(record) - 1 for _, record in trial.sequences())
    (torch.stack(sums).sum() / learned).backward()
    return [float(one) / learned for one in sums], _gradients(native)


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@torch.no_grad()
def _native_answer(native: Any, ids: list[int]) -> tuple[list[int], list[float]]:
    """Return the greedy answer of the family's own `generate`, and the log-probabilities of its tokens."""
    found = native.generate(
        torch.tensor([ids]), max_new_tokens=ANSWER, do_sample=False, eos_token_id=None, pad_token_id=0,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    tokens, logits = found.sequences[0, len(ids) :], torch.cat(found.logits).float()
    return tokens.tolist(), logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0].tolist()


def _check_head(model: PanoLlavaForConditionalGeneration) -> None:
    """Refuse a language model of which an exported checkpoint would have no place for a weight."""
    with torch.device("meta"):
        fresh = PanoLlavaForConditionalGeneration(model.config)
    shapes = [{name: value.shape for name, value in each.state_dict().items()} for each in (model, fresh)]
    if lost := sorted(name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name)):
        raise Differing(f"an exported model would have no place for {lost[0]}")


@torch.no_grad()
def _check_plain(model: Any, trial: Trial, answers: list[tuple[list[int], list[float]]]) -> None:
    """Refuse a family whose logits or plain answers differ without any plan."""
    for (ids, _), answer in zip(trial.sequences(), answers, strict=True):
        found = _native_answer(model, ids)
        _compare("the answers of an exported model's `generate`", [found], [answer])


def _check_packed(
    model: Any, native: nn.Module, trial: Trial, losses: list[float], gradients: dict[str, Tensor]
) -> None:
    both = zip(trial.prefixes, trial.records, strict=True)
    rows = [pack(prefix, [(record, record) for record in records]) for prefix, records in both]
    native.zero_grad()
    loss = model(**flatten(rows, 0), use_cache=False).loss
    wanted = sum(losses)
    if not abs(float(loss) - wanted) <= LOSS_TOLERANCE * abs(wanted):
        raise Differing(f"records in one row have the loss {float(loss):.4f}, each alone {wanted:.4f}")
    loss.backward()
    found = _gradients(native)
    if wrong := sorted(name for name, value in found.items() if not value.isfinite().all()):
        raise Differing(f"the gradients of {wrong[0]} are not finite when records share a row")
    missing = [name for name, value in gradients.items() if name not in found and value.any()]
    off = sum(float((found[name] - value).square().sum()) for name, value in gradients.items() if name in found)
    share = (off / sum(float(value.square().sum()) for value in gradients.values())) ** 0.5
    if missing or not share <= GRADIENT_TOLERANCE:
        raise Differing(f"the gradients of records in one row are off by {100 * share:.1f} %")


@torch.inference_mode()
def _check_answers(model: Any, trial: Trial, answers: list[tuple[list[int], list[float]]]) -> None:
    """Refuse a family whose answers behind shared prefixes differ: rows behind one prefix, and behind one each."""
    prefix = Prefix(
        trial.prefixes[0], keys_and_values(model, model.get_input_embeddings()(torch.tensor(trial.prefixes)))
    )
    owners = [owner for owner, own in enumerate(trial.records) for _ in own]
    records = [record for own in trial.records for record in own]
    rows = [Row(i, owner, ids, ANSWER) for i, (owner, ids) in enumerate(zip(owners, records, strict=True))]
    limits = Limits((), 0)
    for chosen in (rows, rows[1:3]):
        wanted = [answers[row.index] for row in chosen]
        growing = decode_growing(model, prefix, chosen, limits)
        _compare("answers behind a shared prefix", _answers(growing), wanted)
        static = decode_static(GraphCache(model), prefix, chosen, limits)
        _compare("answers from a static cache", _answers(static), wanted)


def _answers(decoded: Decoded) -> list[tuple[list[int], list[float]]]:
    return list(zip(decoded.tokens.tolist(), decoded.scores.tolist(), strict=True))


def _compare(
    what: str, found: list[tuple[list[int], list[float]]], wanted: list[tuple[list[int], list[float]]]
) -> None:
    differing_tokens = sum(a != b for (one, _), (two, _) in zip(found, wanted, strict=True) for a, b in zip(one, two, strict=True))
    total = sum(len(tokens) for tokens, _ in wanted)
    gap = max(abs(a - b) for (_, one), (_, two) in zip(found, wanted, strict=True) for a, b in zip(one, two, strict=True))
    if differing_tokens or not gap <= SCORE_TOLERANCE:
        raise Differing(
            f"{what} differ from its own in {differing_tokens} of {total} tokens, log-probabilities by up to {gap:.3f}"
        )
