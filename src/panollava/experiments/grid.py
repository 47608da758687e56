"""The combination table: every encoder preset with every language-model preset, each a named DVC experiment.

The experiments are named ENCODER-LLM; `runner.py` runs them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from panollava.backbones.presets import PRETRAINED
from panollava.experiments.gate import flatten
from panollava.experiments.runner import own_files, run_missing, version_line, write_rows
from panollava.markdown import NOTHING, markdown_table, share
from panollava.params import PARAMS_FILE
from panollava.yaml_files import read_yaml

NAME = "combinations"

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
    """Return the experiments of the grid in the order of the presets: name -> the parameters that it sets.

    An experiment has what git and DVC hold; presets whose folder `panollava convert` writes have to stay out.
    """
    encoders, llms = (_held(params[kind]) for kind in ("encoders", "llms"))
    return {f"{encoder}-{llm}": {"encoder": encoder, "llm": llm} for encoder in encoders for llm in llms}


def _held(presets: Mapping[str, Any]) -> list[str]:
    return [name for name, preset in presets.items() if Path(str(preset.get("standin"))).parent != PRETRAINED]


def run_grid(root: Path = Path()) -> dict[str, Any]:
    """Run the missing experiments, write metrics/combinations.json and .csv, and return the content of the first.

    Raises:
        ValueError: an error of `run_missing`; no table is written then.
    """
    cells = grid(read_yaml(root / PARAMS_FILE))
    metrics = run_missing(root, cells, own_files(NAME))
    return write_rows(root, NAME, {name: combination_row(measured) for name, measured in metrics.items()})


def combination_row(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of one combination that the table needs, as far as they were measured."""
    row: dict[str, Any] = {}
    for language, block in metrics["evaluate"].items():
        leaves = flatten(block)
        row[language] = {name: leaves[key] for name, key in QUALITY.items() if key in leaves}
    latency = metrics.get("latency", {})
    return row | {name: latency[name] for name in LATENCY if name in latency}


def markdown(content: Mapping[str, Any]) -> str:
    """Return the content of metrics/combinations.json as a table: a row a combination, then the best of each baseline.

    The first language has all quality columns, each further language its accuracy alone.
    """
    rows = content[NAME]
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
    baselines = (
        ("best blind (no image)", "blind", "blind_ap50"),
        ("best shuffled (another image)", "shuffled", ""),
        ("majority answer", "majority", ""),
    )
    for title, accuracy, ap50 in baselines:
        best = [share(_largest(rows, language, accuracy)) for language in (first, *others)]
        found = share(_largest(rows, first, ap50))
        lines.append([title, best[0], NOTHING, NOTHING, found, NOTHING, *best[1:], NOTHING, NOTHING])
    return f"{version_line(content)}{markdown_table(header, lines)}"


def _largest(rows: Mapping[str, dict[str, Any]], language: str, key: str) -> float | None:
    return max((row[language][key] for row in rows.values() if key in row[language]), default=None)
