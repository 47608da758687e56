"""Scores as tables: the rows of metrics/evaluate.json, as each task lists them in `tasks.table`.

A row exists only if its block does, so a data set without boxes or directions gives a shorter table.
"""

from dataclasses import dataclass
from typing import Any

from panollava.markdown import NOTHING, degrees, markdown_table, share
from panollava.tasks.table import TASKS
from panollava.tasks.task import ScoreNumber


@dataclass(frozen=True)
class ScoreRow:
    """One number as text: its name, its value with the 95 % interval, and the same number of each baseline."""

    name: str
    language: str
    n: str
    value: str
    majority: str
    blind: str
    shuffled: str
    interval: str
    headline: bool


def score_rows(language: str, scores: dict[str, Any]) -> list[ScoreRow]:
    """Return the rows of one language of metrics/evaluate.json; the first row of each block is its headline."""
    rows: list[ScoreRow] = []
    for block in (block for task in TASKS.values() for block in task.blocks):
        found = scores.get(block.name, {})
        if block.by_type:
            (number,) = block.numbers
            rows += [_row(kind, language, own, number, bounds=True, headline=False) for kind, own in found.items()]
        else:
            numbers = [number for number in block.numbers if number.key in found]
            for place, number in enumerate(numbers):
                rows.append(_row(number.name, language, found, number, bounds=place == 0, headline=place == 0))
    return rows


def _row(
    name: str, language: str, block: dict[str, Any], number: ScoreNumber, *, bounds: bool, headline: bool
) -> ScoreRow:
    """Return the row of one number of a block, with the block's interval if it `bounds` this number."""
    spell = degrees if number.degrees else share
    baselines = {
        variant: spell(block.get(number.baseline.format(variant))) if number.baseline else NOTHING
        for variant in ("majority", "blind", "shuffled")
    }
    ends = [block.get(end) for end in ("low", "high")] if bounds else [None]
    return ScoreRow(
        name,
        language,
        str(block["n"]),
        spell(block.get(number.key)),
        **baselines,
        interval=NOTHING if None in ends else f"[{', '.join(spell(end) for end in ends)}]",
        headline=headline,
    )


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
