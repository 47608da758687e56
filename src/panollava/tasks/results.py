"""From scored predictions to the numbers of metrics/evaluate.json, per language, beside their baselines.

Intervals are 95 % bootstraps over panoramas. A block exists only where questions of its task do, a baseline only where
its variant was answered; a number that cannot be computed is absent, never NaN.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panollava.metrics.detection import average_precision, match_detections, resampled_precision
from panollava.metrics.intervals import Interval, clustered_bootstrap, clustered_macro_mean, clustered_statistic
from panollava.metrics.text import chrf_of_items, normalise_answer, text_scores
from panollava.tasks import CLOSED_TYPES, DESCRIBED
from panollava.tasks.majority import constant_box, constant_detections, constant_direction_deg, majority
from panollava.tasks.scoring import Prediction, block_of, reference_objects

Block = dict[str, Any]
BASELINES = ("blind", "shuffled")
# Bands of degrees from the horizon.
LATITUDES = ((0, 15), (15, 30), (30, 45), (45, 60), (60, 91))


@dataclass(frozen=True)
class Scorer:
    """The predictions of one language, and how their intervals are drawn."""

    lines: Sequence[Prediction]
    resamples: int
    seed: int

    def of(self, variant: str, block: str) -> list[Prediction]:
        """Return the predictions of one variant that count in a block of scores (`scoring.block_of`)."""
        return [line for line in self.lines if line["variant"] == variant and block_of(line) == block]

    @property
    def draws(self) -> dict[str, int]:
        """Return how the bootstraps draw."""
        return {"resamples": self.resamples, "seed": self.seed}


def evaluate(predictions: Sequence[Prediction], *, resamples: int, seed: int) -> Block:
    """Return the scores of each language, English first."""
    languages = sorted({line["language"] for line in predictions}, key=lambda name: (name != "en", name))
    scores = {}
    for language in languages:
        lines = [line for line in predictions if line["language"] == language]
        scores[language] = language_scores(Scorer(lines, resamples, seed))
    return scores


def language_scores(scorer: Scorer) -> Block:
    """Return the blocks of one language, those that do not apply left out."""
    blocks = {
        "accuracy": accuracy(scorer),
        "types": type_accuracies(scorer),
        "direction": direction(scorer),
        "grounding": grounding(scorer),
        "segmentation": segmentation(scorer),
        "detection": detection(scorer, "detection"),
        DESCRIBED: detection(scorer, DESCRIBED),
        "description": free_text(scorer, "description"),
        "open": free_text(scorer, "open"),
    }
    return {name: block for name, block in blocks.items() if block}


def by_type(lines: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    """Return predictions by question type, the closed types first and in their order."""
    groups: dict[str, list[Prediction]] = {kind: [] for kind in CLOSED_TYPES}
    for line in lines:
        groups.setdefault(line["type"], []).append(line)
    return {kind: group for kind, group in groups.items() if group}


def headline_types(lines: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    """Return the types of the headline accuracy: the closed types, or every type for data that have none of them."""
    groups = by_type(lines)
    closed = {kind: group for kind, group in groups.items() if kind in CLOSED_TYPES}
    return closed or groups


def accuracy(scorer: Scorer) -> Block:
    """Return the mean accuracy over question types, each type counting alike, and the same mean of the baselines."""
    groups = headline_types(scorer.of("model", "choice"))
    lines = [line for group in groups.values() for line in group]
    if not lines:
        return {}
    values, kinds, panoramas = zip(*((line["correct"], line["type"], line["image_id"]) for line in lines), strict=True)
    block = _block("value", lines, clustered_macro_mean(values, kinds, panoramas, **scorer.draws))
    block["majority"] = float(np.mean([majority(group) for group in groups.values()]))
    for variant in BASELINES:
        others = headline_types(scorer.of(variant, "choice"))
        if others:
            block[variant] = float(np.mean([_mean(group, "correct") for group in others.values()]))
    return block


def type_accuracies(scorer: Scorer) -> Block:
    """Return the accuracy of each type of choice question."""
    others = {variant: by_type(scorer.of(variant, "choice")) for variant in BASELINES}
    blocks = {}
    for kind, lines in by_type(scorer.of("model", "choice")).items():
        block = _block("value", lines, _mean_interval(scorer, lines, "correct"))
        block["majority"] = majority(lines)
        block |= {name: _mean(groups[kind], "correct") for name, groups in others.items() if kind in groups}
        blocks[kind] = block
    return blocks


def direction(scorer: Scorer) -> Block:
    """Return the median error of directions in degrees, and the share within 15 degrees."""
    lines = scorer.of("model", "direction")
    if not lines:
        return {}
    errors, panoramas = _column(lines, "error_deg"), [line["image_id"] for line in lines]
    block = _block("median_deg", lines, clustered_bootstrap(errors, panoramas, "median", **scorer.draws))
    block |= {"within_15_deg": float((errors <= 15).mean()), "unparsed": _unparsed(lines)}
    block["majority_median_deg"] = constant_direction_deg(lines)
    for variant in BASELINES:
        if others := scorer.of(variant, "direction"):
            block[f"{variant}_median_deg"] = float(np.median(_column(others, "error_deg")))
    return block


def grounding(scorer: Scorer) -> Block:
    """Return the share of named objects whose box overlaps the true one by at least half, and the mean IoU."""
    asked = scorer.of("model", "grounding")
    lines = _with_half(asked)
    if not lines:
        return {}
    block = _block("iou50", lines, _mean_interval(scorer, lines, "half"))
    block |= {"mean_iou": _mean(lines, "iou"), "unparsed": _unparsed(lines), "majority": constant_box(lines)}
    for variant in BASELINES:
        if others := _with_half(scorer.of(variant, "grounding")):
            block[variant] = _mean(others, "half")
    return block | _too_wide(len(asked) - len(lines))


def segmentation(scorer: Scorer) -> Block:
    """Return the mean IoU of masks by solid angle, beside what the patch grid allows, and the error of their outlines.

    `empty` counts masks without a pixel, whose outline has no error; `latitudes` is the mean by distance from the
    horizon.
    """
    lines = [line for line in scorer.of("model", "grounding") if line["mask_iou"] is not None]
    if not lines:
        return {}
    block = _block("miou", lines, _mean_interval(scorer, lines, "mask_iou"))
    block["ceiling"] = _mean(lines, "mask_ceiling")
    block["majority"] = _mean(lines, "mask_majority")
    block["share_of_ceiling"] = block["miou"] / block["ceiling"] if block["ceiling"] else 0.0
    outlined = [line for line in lines if line["boundary_deg"] is not None]
    if outlined:
        block["boundary_deg"] = float(np.median(_column(outlined, "boundary_deg")))
    block["empty"] = len(lines) - len(outlined)
    block["latitudes"] = {}
    for low, high in LATITUDES:
        band = [line for line in lines if low <= abs(line["answer"]["box_deg"][1]) < high]
        if band:
            block["latitudes"][f"{low}-{high}"] = {"miou": _mean(band, "mask_iou"), "n": len(band)}
    for variant in BASELINES:
        others = [line for line in scorer.of(variant, "grounding") if line["mask_iou"] is not None]
        if others:
            block[variant] = _mean(others, "mask_iou")
    return block


def detection(scorer: Scorer, name: str) -> Block:
    """Return the average precision of a block's detections, each box scored by the probability of its own tokens."""
    lines = scorer.of("model", name)
    found, wanted = detections(lines)
    if not any(wanted):
        return {}
    matches = match_detections(found, wanted, (0.5,))

    def ap50(items: NDArray[np.int64]) -> float:
        return float(resampled_precision(matches, np.bincount(items, minlength=len(lines))[None])[0])

    interval = clustered_statistic(ap50, [line["image_id"] for line in lines], **scorer.draws)
    block: Block = dict(average_precision(found, wanted))
    block |= {"low": interval.low, "high": interval.high, "n": len(lines)}
    block["unparsed"] = sum(line["unparsed"] for line in lines)
    usual = match_detections([constant_detections(lines)] * len(lines), wanted, (0.5,))
    block["majority_ap50"] = float(resampled_precision(usual, np.ones((1, len(lines)), dtype=np.int64))[0])
    for variant in BASELINES:
        if others := scorer.of(variant, name):
            block[f"{variant}_ap50"] = average_precision(*detections(others), thresholds=(0.5,))["ap50"]
    return block | _too_wide(sum(len(line["answer"]["objects"]) for line in lines) - sum(map(len, wanted)))


def free_text(scorer: Scorer, task: str) -> Block:
    """Return the scores of free answers (`metrics.text.text_scores`); `n` counts questions, however often asked.

    `low` and `high` bound chrF. `human_...` is what people reach: each reference against the others of its question.
    """
    lines = scorer.of("model", task)
    if not lines:
        return {}
    said, known = free_answers(lines)
    resampled = chrf_of_items(said, known)
    interval = clustered_statistic(lambda items: resampled(items.tolist()), _panoramas(lines), **scorer.draws)
    block: Block = {**_text_scores(lines), "low": interval.low, "high": interval.high, "n": len(said)}
    block |= {f"human_{name}": value for name, value in human_scores(known, lines[0]["language"]).items()}
    usual = Counter(told[0] for told in known).most_common(1)[0][0]
    usual_scores = text_scores([usual] * len(known), known, lines[0]["language"])
    block |= {f"majority_{name}": value for name, value in usual_scores.items()}
    for variant in BASELINES:
        if others := scorer.of(variant, task):
            block |= {f"{variant}_{name}": value for name, value in _text_scores(others).items()}
    return block


def free_answers(lines: Sequence[Prediction]) -> tuple[list[str], list[list[str]]]:
    """Return the answers to free questions and, for each, all references that any line has for its question.

    A question that stands in several records, each with a reference of its own, is one item, not several: one answer
    scored many times over would weigh more and look like more evidence. Only different answers to it count apart.
    """
    known = _known_references(lines)
    answers = dict.fromkeys((_asked(line), line["prediction"]) for line in lines)
    return [said for _, said in answers], [list(known[asked]) for asked, _ in answers]


def human_scores(references: Sequence[Sequence[str]], language: str) -> dict[str, float]:
    """Return how well people agree: each reference scored against the others of its question, where there are others.

    One reference of each question is taken at a time, and the scores are averaged over how often that can be done.
    """
    several = [list(told) for told in references if len(told) > 1]
    if not several:
        return {}
    rounds = []
    for turn in range(max(map(len, several))):
        asked = [told for told in several if turn < len(told)]
        others = [told[:turn] + told[turn + 1 :] for told in asked]
        rounds.append(text_scores([told[turn] for told in asked], others, language))
    names = set.intersection(*(set(scores) for scores in rounds))
    return {name: float(np.mean([scores[name] for scores in rounds])) for name in rounds[0] if name in names}


def _block(name: str, lines: Sequence[Prediction], interval: Interval) -> Block:
    """Return the beginning of a block: a value under its name, its interval, and the number of questions."""
    return {name: interval.value, "low": interval.low, "high": interval.high, "n": len(lines)}


def _panoramas(lines: Sequence[Prediction]) -> list[str]:
    """Return the panorama of each item of `free_answers`."""
    return [asked[0] for asked, _ in dict.fromkeys((_asked(line), line["prediction"]) for line in lines)]


def _text_scores(lines: Sequence[Prediction]) -> dict[str, float]:
    return text_scores(*free_answers(lines), lines[0]["language"])


def references(lines: Sequence[Prediction]) -> list[list[str]]:
    """Return the references of each line: those of all lines that ask the same question about the same panorama."""
    known = _known_references(lines)
    return [list(known[_asked(line)]) for line in lines]


def _known_references(lines: Sequence[Prediction]) -> dict[tuple[Any, ...], dict[str, None]]:
    known: dict[tuple[Any, ...], dict[str, None]] = {}
    for line in lines:
        known.setdefault(_asked(line), {}).update(dict.fromkeys(line["references"]))
    return known


def _asked(line: Prediction) -> tuple[Any, ...]:
    """Return what makes two questions one; a later turn depends on its dialogue, so it is a question of its own."""
    return line["image_id"], line["question"], line["turn"], line["record"] if line["turn"] else None


def detections(lines: Sequence[Prediction]) -> tuple[list[list[tuple]], list[list[tuple]]]:
    """Return the (label, box, score) and the true (label, box) of each line, for `match_detections`."""
    found = [
        [(normalise_answer(box["label"]), box["box_deg"], box["score"]) for box in line["boxes"]] for line in lines
    ]
    return found, [list(reference_objects(line)) for line in lines]


def _with_half(lines: Sequence[Prediction]) -> list[Prediction]:
    """Return the lines that have an IoU, with `half`: whether it reaches a half."""
    return [line | {"half": line["iou"] >= 0.5} for line in lines if line["iou"] is not None]


def _too_wide(count: int) -> Block:
    """Return the number of true boxes of 180 degrees or more, which have no area; nothing where there are none."""
    return {"too_wide": count} if count else {}


def _column(lines: Sequence[Prediction], key: str) -> NDArray[np.float64]:
    return np.array([line[key] for line in lines], dtype=np.float64)


def _mean(lines: Sequence[Prediction], key: str) -> float:
    return float(_column(lines, key).mean())


def _mean_interval(scorer: Scorer, lines: Sequence[Prediction], key: str) -> Interval:
    panoramas = [line["image_id"] for line in lines]
    return clustered_bootstrap(_column(lines, key), panoramas, "mean", **scorer.draws)


def _unparsed(lines: Sequence[Prediction]) -> int:
    return sum(not line["parsed"] for line in lines)
