"""The combination table: every encoder preset with every language-model preset, each a named DVC experiment.

The experiments are named ENCODER-LLM; see `experiments.py` for how they run.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from panollava.experiments.gate import flatten
from panollava.experiments.runner import README, command, own_files, run_missing, write_table
from panollava.report.tables import NOTHING, markdown_table, share, update_between_markers

MARKER = "combinations"

# Name in the table's files -> key in a language's block of metrics/evaluate.json.
QUALITY = {
    "accuracy": "accuracy.value",
    "low": "accuracy.low",
    "high": "accuracy.high",
    "blind": "accuracy.blind",
    "majority": "accuracy.majority",
    "shuffled": "accuracy.shuffled",
    "ap50": "detection.ap50",
    "ap": "detection.ap",
    "blind_ap50": "detection.blind_ap50",
}
LATENCY = ("first_token_ms", "per_token_ms", "peak_memory_mb")


def grid(params: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the experiments of the grid in the order of the presets: name -> the parameters that it sets."""
    return {
        f"{encoder}-{llm}": {"encoder": encoder, "llm": llm} for encoder in params["encoders"] for llm in params["llms"]
    }


def run_grid(root: Path = Path()) -> dict[str, dict[str, Any]]:
    """Run what is missing of the grid, write metrics/combinations.* and the README's table, and return the rows.

    Raises:
        ValueError: The README has no place for the table, or what `run_missing` raises; no table is written then.
    """
    update_between_markers((root / README).read_text(encoding="utf-8"), MARKER, "")
    cells = grid(YAML(typ="safe").load(root / "params.yaml"))
    metrics = run_missing(root, cells, own_files(MARKER))
    rows = {name: combination_row(measured) for name, measured in metrics.items()}
    write_table(root, MARKER, rows, markdown(rows))
    return rows


def combination_row(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of one combination that the table needs; those that were not measured are left out."""
    row: dict[str, Any] = {}
    for language, block in metrics["evaluate"].items():
        leaves = flatten(block)
        row[language] = {name: leaves[key] for name, key in QUALITY.items() if key in leaves}
    latency = metrics.get("latency", {})
    return row | {name: latency[name] for name in LATENCY if name in latency}


def markdown(rows: Mapping[str, dict[str, Any]]) -> str:
    """Return the table: a row per combination, then as floors the best blind one, wrong panorama and majority answer.

    Quality columns are those of the first language; each further language has its accuracy alone.
    """
    first, *others = [key for key, value in next(iter(rows.values())).items() if isinstance(value, dict)]
    header = ["Combination", f"QA accuracy ({first})", "95 % interval", "Blind", "AP50", "AP",
              *(f"QA accuracy ({language})" for language in others), "First token, ms", "Per token, ms"]  # fmt: skip
    lines = []
    for name, row in rows.items():
        main = row[first]
        interval = f"[{share(main['low'])}, {share(main['high'])}]" if "low" in main else NOTHING
        lines.append([
            name, share(main.get("accuracy")), interval, share(main.get("blind")), share(main.get("ap50")),
            share(main.get("ap")), *(share(row[language].get("accuracy")) for language in others),
            *(f"{row[key]:.1f}" if key in row else NOTHING for key in ("first_token_ms", "per_token_ms")),
        ])  # fmt: skip
    floors = (
        ("best blind (no image)", "blind", "blind_ap50"),
        ("best shuffled (another image)", "shuffled", ""),
        ("majority answer", "majority", ""),
    )
    for title, accuracy, ap50 in floors:
        best = [share(_largest(rows, language, accuracy)) for language in (first, *others)]
        found = share(_largest(rows, first, ap50))
        lines.append([title, best[0], NOTHING, NOTHING, found, NOTHING, *best[1:], NOTHING, NOTHING])
    return markdown_table(header, lines)


def _largest(rows: Mapping[str, dict[str, Any]], language: str, key: str) -> float | None:
    return max((row[language][key] for row in rows.values() if key in row[language]), default=None)


def main() -> int:
    """Run the grid as a command and print its table."""
    return command(lambda: markdown(run_grid()))


if __name__ == "__main__":
    sys.exit(main())
