"""Scores as tables: rows out of metrics/evaluate.json, GitHub-flavoured markdown, and blocks between markers in a file.

A row exists only if its block does, so a data set without boxes or directions gives a shorter table.
"""

from dataclasses import dataclass
from typing import Any

from panollava.markdown import NOTHING, degrees, markdown_table, share
from panollava.metrics import SIZES
from panollava.tasks import DESCRIBED


@dataclass(frozen=True)
class ScoreRow:
    """One measured number, as text: what it is, its value and 95 % interval, and the same number of each baseline."""

    name: str
    language: str
    n: str
    value: str
    majority: str
    blind: str
    shuffled: str
    interval: str
    headline: bool


# Blocks of free text, and the keys of their scores, the headline first.
FREE_TEXT = {"description": "description", "open": "open questions"}
TEXT_SCORES = {"chrf": "chrF", "bleu": "BLEU", "rouge_l": "ROUGE-L", "cider": "CIDEr", "meteor": "METEOR"}
# One entry per number: block, name, key of the value, keys of its majority, blind and shuffled baselines.
# Intervals (keys `low`, `high`) belong to the first number of a block.
_NUMBERS: tuple[tuple[str, str, str, str, str, str], ...] = (
    (
        "direction",
        "direction, median error",
        "median_deg",
        "majority_median_deg",
        "blind_median_deg",
        "shuffled_median_deg",
    ),
    ("direction", "direction, within 15°", "within_15_deg", "", "", ""),
    ("grounding", "grounding, IoU ≥ 0.5", "iou50", "majority", "blind", "shuffled"),
    ("grounding", "grounding, mean IoU", "mean_iou", "", "", ""),
    ("segmentation", "segmentation, mean IoU", "miou", "majority", "blind", "shuffled"),
    ("segmentation", "segmentation, ceiling of the patch grid", "ceiling", "", "", ""),
    ("segmentation", "segmentation, median outline error", "boundary_deg", "", "", ""),
    ("detection", "detection, AP50", "ap50", "majority_ap50", "blind_ap50", "shuffled_ap50"),
    ("detection", "detection, AP75", "ap75", "", "", ""),
    ("detection", "detection, AP", "ap", "", "", ""),
    *(("detection", f"detection, AP of {size} objects", f"ap_{size}", "", "", "") for size in SIZES),
    (DESCRIBED, "detection by description, AP50", "ap50", "majority_ap50", "blind_ap50", "shuffled_ap50"),
    (DESCRIBED, "detection by description, AP75", "ap75", "", "", ""),
    (DESCRIBED, "detection by description, AP", "ap", "", "", ""),
    *(
        (block, f"{title}, {name}", key, f"majority_{key}", f"blind_{key}", f"shuffled_{key}")
        for block, title in FREE_TEXT.items()
        for key, name in TEXT_SCORES.items()
    ),
    *(
        (block, f"{title}, people among themselves, {name}", f"human_{key}", "", "", "")
        for block, title in FREE_TEXT.items()
        for key, name in TEXT_SCORES.items()
    ),
)
_ACCURACY = ("value", "majority", "blind", "shuffled")


def _row(name: str, language: str, block: dict[str, Any], keys: tuple[str, ...], *, headline: bool) -> ScoreRow:
    """Return the row of one number; `keys` name the value and its majority, blind and shuffled baselines."""
    value = keys[0]
    spell = degrees if value.endswith("_deg") and not value.startswith("within") else share
    bounds = [block.get(bound) for bound in ("low", "high")] if headline or value == "value" else [None]
    told, majority, blind, shuffled = (spell(block.get(key)) for key in keys)
    return ScoreRow(
        name,
        language,
        str(block["n"]),
        told,
        majority,
        blind,
        shuffled,
        interval=NOTHING if None in bounds else f"[{', '.join(spell(bound) for bound in bounds)}]",
        headline=headline,
    )


def score_rows(language: str, scores: dict[str, Any]) -> list[ScoreRow]:
    """Return the rows of one language block of metrics/evaluate.json; the first row of each block is its headline."""
    rows: list[ScoreRow] = []
    if accuracy := scores.get("accuracy"):
        rows.append(_row("closed questions, mean accuracy", language, accuracy, _ACCURACY, headline=True))
    for kind, block in scores.get("types", {}).items():
        rows.append(_row(kind, language, block, _ACCURACY, headline=False))
    headlined: set[str] = set()
    for name, title, *keys in _NUMBERS:
        block = scores.get(name, {})
        if keys[0] in block:
            rows.append(_row(title, language, block, tuple(keys), headline=name not in headlined))
            headlined.add(name)
    return rows


def all_score_rows(metrics: dict[str, Any]) -> list[ScoreRow]:
    """Return the rows of every language of metrics/evaluate.json."""
    return [row for language, scores in metrics["evaluate"].items() for row in score_rows(language, scores)]


def results_table(metrics: dict[str, Any]) -> str:
    """Return the results of metrics/evaluate.json as a markdown table, headline numbers in bold."""
    header = ["Measure", "Language", "n", "Model", "95 % interval", "Majority", "Blind", "Shuffled"]
    rows = [
        [
            f"**{r.name}**" if r.headline else r.name, r.language, r.n, f"**{r.value}**" if r.headline else r.value,
            r.interval, r.majority, r.blind, r.shuffled,
        ]
        for r in all_score_rows(metrics)
    ]  # fmt: skip
    chosen = f"Encoder `{metrics['encoder']}`, language model `{metrics['llm']}`"
    run = f"{chosen}, weights `{metrics['weights']}`, seed {metrics['seed']}."
    return f"{run}\n\n{markdown_table(header, rows, left=2)}"
