"""A trial of a language model's family: does it compute, inside PanoLLaVA, what it computes by itself?

On a tiny random model of the checkpoint's own configuration: records packed in one row have the loss and the gradients
that the family's own model has for each alone; answers behind a shared prefix are those of its own `generate`; the head
is the one that an exported model builds. What differs would train and answer wrongly without any error.
"""

from typing import Any

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedConfig, PreTrainedModel

from panollava.attention.cuda_graphs import GraphCache
from panollava.attention.packing import flatten, pack
from panollava.attention.plan import use_plans
from panollava.backbones.loading import quiet
from panollava.backbones.shrinking import VOCABULARY, shrunk
from panollava.backbones.trial import ANSWER, Alone, Answer, gradients_of, greedy_answer
from panollava.inference.decode import Decoded, Limits, decode_growing
from panollava.inference.decode_static import decode_static
from panollava.inference.prefill import keys_and_values
from panollava.inference.prompts import Prefix, Row
from panollava.vlm.configuration_panollava import PanoLlavaConfig
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration

# Relative errors of float32; what is wrong is wrong by far more.
LOSS_TOLERANCE, GRADIENT_TOLERANCE, SCORE_TOLERANCE = 1e-4, 1e-2, 1e-3
PURE = ("full_attention", "sliding_attention", "attention")
# Characters of another library's message that are shown.
REASON = 300

# Why families differ of which it is known.
OTHERWISE = {
    "bamba": "it has state-space layers",
    "falcon_h1": "it has state-space layers",
    "jamba": "it has state-space layers",
    "diffllama": "its layers change values after the cache",
    "doge": "its layers make attention masks of their own",
    "nemotron": "its layers do not pass on how tokens attend",
    "stablelm": "its layers do not pass on how tokens attend",
}


class Differing(Exception):
    """What a family does otherwise, with the number."""


def differing(config: PreTrainedConfig) -> str | None:
    """Return what a language model of this configuration would do otherwise inside PanoLLaVA; None for nothing."""
    match config.to_dict():
        case {"layer_types": [*kinds]} | {"layers_block_type": [*kinds]} if odd := sorted(set(kinds) - set(PURE)):
            return f"it has layers of {', '.join(odd)}, which do not tell apart the records of a packed row"
        case {"hidden_size_per_layer_input": int(width)} if width:
            return f"each layer looks up {width} more inputs by the ids of tokens, and a panorama has none"
    found = _difference(config)
    if found is not None and config.model_type in OTHERWISE:
        found = f"{OTHERWISE[config.model_type]} ({found})"
    return found


def _difference(config: PreTrainedConfig) -> str | None:
    # Foreign code on unforeseen configurations raises whatever comes.
    try:
        with quiet(), torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                alone = Alone.of(shrunk(config))
            except Exception:  # a family whose widths do not follow from its heads
                alone = Alone.of(shrunk(config, fewer_heads=False))
            _check(alone)
    except Differing as found:
        return str(found)
    except Exception as error:
        reason = " ".join(str(error).split())[:REASON]
        return f"a tiny model of its configuration cannot be run: {type(error).__name__}: {reason}"
    return None


def _check(alone: Alone) -> None:
    """Compare a family inside PanoLLaVA with itself.

    Raises:
        Differing: with the first difference.
    """
    wanted = {"layers", "embed_tokens"} if alone.model.config.tie_word_embeddings else {"layers"}
    if lacking := sorted(wanted - dict(alone.model.get_decoder().named_children()).keys()):
        raise Differing(f"its model has no {' and no '.join(lacking)}, by which its parts are found")
    model = composite(alone.model)
    _check_head(model)
    _check_panorama(model)
    for (ids, _), answer in zip(alone.trial.sequences(), alone.answers, strict=True):
        _compare("answers of plain `generate`", [greedy_answer(model, ids)], [answer])
    use_plans(model.model.language_model)
    _check_packed(model, alone)
    _check_shared(model, alone)


def composite(native: PreTrainedModel) -> PanoLlavaForConditionalGeneration:
    """Return a PanoLLaVA around a tiny language model; panoramas are not looked at."""
    sides: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision = CLIPVisionModel(CLIPVisionConfig(**sides, image_size=16, patch_size=8))
    settings: dict[str, Any] = {"tokens_per_side": 1, "resampler_hidden_size": 8, "mask_hidden_size": 8}
    config = PanoLlavaConfig(
        vision_config=vision.config, text_config=native.config, image_token_id=VOCABULARY, **settings
    )
    return PanoLlavaForConditionalGeneration.from_parts(vision, native, config).eval()


def _check_head(model: PanoLlavaForConditionalGeneration) -> None:
    """Refuse a language model of which an exported checkpoint would have no place for a weight."""
    with torch.device("meta"):
        fresh = PanoLlavaForConditionalGeneration(model.config)
    shapes = [{name: value.shape for name, value in each.state_dict().items()} for each in (model, fresh)]
    if lost := sorted(
        name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name)
    ):
        raise Differing(f"an exported model would have no place for {lost[0]}")


@torch.no_grad()
def _check_panorama(model: Any) -> None:
    """Refuse a family that cannot read a token without an id."""
    side = model.config.vision_config.image_size
    views = torch.zeros(1, len(model.model.default_poses(torch.zeros(1))[0]), 3, side, side)
    tokens = model.get_image_features(views).pooler_output[0]
    ids = torch.tensor([[5, *[VOCABULARY] * len(tokens), 6]])
    if not model(input_ids=ids, pixel_values=views).logits.isfinite().all():
        raise Differing("its logits are not finite behind a panorama")


def _check_packed(model: Any, alone: Alone) -> None:
    trial = alone.trial
    both = zip(trial.prefixes, trial.records, strict=True)
    rows = [pack(prefix, [(record, record) for record in records]) for prefix, records in both]
    alone.model.zero_grad()
    loss = model(**flatten(rows, 0), use_cache=False).loss
    if not abs(float(loss) - alone.loss) <= LOSS_TOLERANCE * abs(alone.loss):
        raise Differing(f"records in one row have the loss {float(loss):.4f}, each alone {alone.loss:.4f}")
    loss.backward()
    found = gradients_of(alone.model)
    if wrong := sorted(name for name, value in found.items() if not value.isfinite().all()):
        raise Differing(f"the gradients of {wrong[0]} are not finite when records share a row")
    squares = [(float((found[n] - v if n in found else v).square().sum()), float(v.square().sum()))
               for n, v in alone.gradients.items()]  # fmt: skip
    share = (sum(off for off, _ in squares) / sum(whole for _, whole in squares)) ** 0.5
    if not share <= GRADIENT_TOLERANCE:
        raise Differing(f"the gradients of records in one row are off by {100 * share:.1f} %")


@torch.inference_mode()
def _check_shared(model: Any, alone: Alone) -> None:
    """Compare answers: of rows behind shared prefixes, of rows behind one prefix each, and of whole sequences."""
    trial = alone.trial
    embedded = model.get_input_embeddings()(torch.tensor(trial.prefixes))
    prefix = Prefix(trial.prefixes[0], keys_and_values(model, embedded))
    owned = [(owner, record) for owner, own in enumerate(trial.records) for record in own]
    rows = [Row(index, owner, record, ANSWER) for index, (owner, record) in enumerate(owned)]
    whole = [Row(index, 0, ids, ANSWER) for index, (ids, _) in enumerate(trial.sequences())]
    for before, chosen in ((prefix, rows), (prefix, rows[1:3]), (Prefix([]), whole)):
        wanted, limits = [alone.answers[row.index] for row in chosen], Limits((), 0)
        where = "behind a shared prefix" if before is prefix else "without a prefix"
        _compare(f"answers {where}", _answers(decode_growing(model, before, chosen, limits)), wanted)
        static = decode_static(GraphCache(model), before, chosen, limits)
        _compare(f"answers {where} from a static cache", _answers(static), wanted)


def _answers(decoded: Decoded) -> list[Answer]:
    return list(zip(decoded.tokens.tolist(), decoded.scores.tolist(), strict=True))


def _compare(what: str, found: list[Answer], wanted: list[Answer]) -> None:
    pairs = [pair for one, two in zip(found, wanted, strict=True) for pair in zip(*one, *two, strict=True)]
    wrong = sum(token != other for token, _, other, _ in pairs)
    gap = max(abs(score - other) for _, score, _, other in pairs)
    if wrong or not gap <= SCORE_TOLERANCE:
        raise Differing(
            f"{what} differ from its own in {wrong} of {len(pairs)} tokens, log-probabilities by up to {gap:.3f}"
        )
