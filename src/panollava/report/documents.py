"""The results of the last run in the README: `python -m panollava.report.documents` writes them between their markers.

One table of metrics/evaluate.json and one of metrics/robustness.json.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from panollava.report.tables import NOTHING, markdown_table, results_table, share, update_between_markers

README, METRICS, ROBUSTNESS = Path("README.md"), Path("metrics/evaluate.json"), Path("metrics/robustness.json")
MARKER, ROBUSTNESS_MARKER = "results", "robustness"
MEASURES = {
    "accuracy": "Closed questions, mean accuracy",
    "direction": "Direction within 15°",
    "grounding": "Grounding, IoU ≥ 0.5",
}
ROLLS = {
    "plain": "no roll",
    "mean": "mean over the rolls",
    "ratio": "mean over the rolls / no roll",
    "worst": "worst roll",
    "all": "right at every roll",
    "agreement": "answers that agree with the one without a roll",
}


def updated(readme: str, metrics: dict, robustness: dict) -> str:
    """Return the README with the tables of both metrics between their markers."""
    readme = update_between_markers(readme, MARKER, results_table(metrics))
    return update_between_markers(readme, ROBUSTNESS_MARKER, robustness_table(robustness))


def robustness_table(metrics: dict) -> str:
    """Return metrics/robustness.json as a markdown table: a row per condition, a column per measure."""
    block = metrics["robustness"]
    rolls, seam, tilts, bands = block["rolls"], block["seam"], block["tilts"], block["latitude"]
    rows = [[name, *(_spelt(rolls.get(m, {}).get(key)) for m in MEASURES)] for key, name in ROLLS.items()]
    for angle, tilt in tilts.items():
        rows.append([f"tilted by {angle}°", *(_spelt(tilt.get(m)) for m in MEASURES)])
        rows.append(["the same questions, no tilt", *(share(tilt.get(m, {}).get("plain")) for m in MEASURES)])
    for name in dict.fromkeys(name for found in bands.values() for name in found):
        told = f"object {name.replace('-', '–')}° off the horizon"
        rows.append([told, *(_spelt(bands.get(m, {}).get(name)) for m in MEASURES)])
    rows.append(["seam gap: in front less astride the seam", *(_spelt(seam.get(m), "gap") for m in MEASURES)])
    turned = next(rolls[m] for m in MEASURES if m in rolls)
    told = f"Encoder `{block['encoder']}`, language model `{block['llm']}`, weights `{block['weights']}`, "
    told += (
        f"seed {block['seed']}: {block['panoramas']} panoramas at {len(turned['yaws'])} rolls and {len(tilts)} tilts."
    )
    if "all" in seam:
        told += f" Seam gap of all {seam['all']['n']} pairs: {_spelt(seam['all'], 'gap')}."
    return f"{told}\n\n{markdown_table(['Condition', *MEASURES.values()], rows)}"


def _spelt(block: Mapping[str, Any] | None, name: str = "value") -> str:
    """Return a number of a block with its interval, `–` where there is no block."""
    return NOTHING if block is None else f"{share(block[name])} [{share(block['low'])}, {share(block['high'])}]"


def main() -> None:
    """Rewrite README.md."""
    metrics, robustness = (json.loads(path.read_text(encoding="utf-8")) for path in (METRICS, ROBUSTNESS))
    README.write_text(updated(README.read_text(encoding="utf-8"), metrics, robustness), encoding="utf-8")


if __name__ == "__main__":
    main()
