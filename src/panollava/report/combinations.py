"""The combination table: every encoder preset with every language-model preset, each a named DVC experiment.

The experiments run one after another in the workspace, under the name ENCODER-LLM and on top of HEAD. Those that HEAD
has already are skipped, so an interrupted grid goes on where it stopped; the workspace ends as it began.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from dvc.exceptions import DvcException
from dvc.repo import Repo
from ruamel.yaml import YAML

from panollava.report.gate import flatten
from panollava.report.tables import NOTHING, markdown_table, share, update_between_markers
from panollava.report.workspace import dvc, kept_workspace

MARKER = "combinations"
JSON = Path("metrics/combinations.json")
CSV = Path("metrics/combinations.csv")
README = Path("README.md")

# Name in the table's files -> key in a language's block of metrics/evaluate.json.
QUALITY = {
    "accuracy": "accuracy.value",
    "low": "accuracy.low",
    "high": "accuracy.high",
    "blind": "accuracy.blind",
    "majority": "accuracy.majority",
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


def params_at(repo: Repo, revision: str) -> dict[str, object]:
    """Return the leaves of params.yaml at a git revision under dotted keys."""
    with repo.scm.get_fs(revision).open("params.yaml", encoding="utf-8") as file:
        return flatten(YAML(typ="safe").load(file))


def finished_experiments(repo: Repo, cells: Mapping[str, dict[str, str]]) -> dict[str, str]:
    """Return name -> commit of the cells that HEAD has as experiments already.

    Raises:
        ValueError: An experiment has the name of a cell but was run with other parameters.
    """
    here = {name: commit for found in repo.experiments.ls().values() for name, commit in found}
    finished = {name: here[name] for name in cells if name in here}
    committed = params_at(repo, "HEAD")
    for name, commit in finished.items():
        expected, found = committed | cells[name], params_at(repo, commit)
        if differing := sorted(key for key in expected | found if expected.get(key) != found.get(key)):
            raise ValueError(
                f"grid: the experiment {name!r} of this commit was run with another {', '.join(differing)}; "
                f"remove it with `dvc exp remove {name}` and call again"
            )
    return finished


def run_grid(root: Path = Path()) -> dict[str, dict[str, Any]]:
    """Run what is missing of the grid, write metrics/combinations.* and the README's table, and return the rows.

    A failing combination does not stop the others, but then no table is written.

    Raises:
        ValueError: The README has no place for the table, something besides results is uncommitted, an experiment
            of the same name has other parameters, or a combination failed.
    """
    update_between_markers((root / README).read_text(encoding="utf-8"), MARKER, "")
    with kept_workspace(root, {JSON.as_posix(), CSV.as_posix()}) as lock:
        cells = grid(YAML(typ="safe").load(root / "params.yaml"))
        with Repo(str(root)) as repo:
            finished = finished_experiments(repo, cells)
        failed = []
        for number, (name, settings) in enumerate(cells.items(), start=1):
            print(f"grid: {name} ({number} of {len(cells)}){', already there' if name in finished else ''}", flush=True)
            overrides = [part for key, value in settings.items() for part in ("--set-param", f"{key}={value}")]
            if name not in finished and dvc(root, "exp", "run", "--name", name, *overrides, keep_open=(lock,)):
                failed.append(name)
    if failed:
        raise ValueError(f"grid: {', '.join(failed)} failed, see above; the other combinations are kept")
    with Repo(str(root)) as repo:
        rows = collect(repo, finished_experiments(repo, cells))
    write(root, rows)
    return rows


def collect(repo: Repo, experiments: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return one row per experiment: the numbers of each language under its name, and the latency.

    Raises:
        ValueError: A metrics file of an experiment cannot be read.
    """
    shown = repo.metrics.show(revs=list(experiments.values()), hide_workspace=False)
    rows = {}
    for name, commit in experiments.items():
        metrics: dict[str, Any] = {}
        for path, file in shown[commit].get("data", {}).items():
            # The table of an earlier grid is declared as a metric too.
            if path == JSON.as_posix():
                continue
            if "error" in file:
                raise ValueError(f"grid: {path} of the experiment {name} cannot be read: {file['error']!r}")
            metrics |= file["data"]
        if "evaluate" not in metrics:
            raise ValueError(f"grid: the experiment {name} has no metrics under 'evaluate'")
        rows[name] = combination_row(metrics)
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
    """Return the table: a row per combination, then the best blind one and the majority answer as floors.

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
    floors = (("best blind (no image)", "blind", "blind_ap50"), ("majority answer", "majority", ""))
    for title, accuracy, ap50 in floors:
        best = [share(_largest(rows, language, accuracy)) for language in (first, *others)]
        found = share(_largest(rows, first, ap50))
        lines.append([title, best[0], NOTHING, NOTHING, found, NOTHING, *best[1:], NOTHING, NOTHING])
    return markdown_table(header, lines)


def _largest(rows: Mapping[str, dict[str, Any]], language: str, key: str) -> float | None:
    return max((row[language][key] for row in rows.values() if key in row[language]), default=None)


def write(root: Path, rows: Mapping[str, dict[str, Any]]) -> None:
    """Write the rows as a DVC metric and as CSV, and the table into the README; each file whole or not at all."""
    table = pd.DataFrame([{"combination": name, **flatten(row)} for name, row in rows.items()])
    readme = update_between_markers((root / README).read_text(encoding="utf-8"), MARKER, markdown(rows))
    texts = {
        JSON: json.dumps({"combinations": rows}, indent=2) + "\n",
        CSV: table.to_csv(index=False, lineterminator="\n"),
        README: readme,
    }
    for path, text in texts.items():
        temporary = root / path.with_name(f".{path.name}.new")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(root / path)


def main() -> int:
    """Run the grid as a command and print its table."""
    try:
        rows = run_grid()
    except (ValueError, DvcException) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("grid: interrupted; what is finished is kept, and the next call goes on from there", file=sys.stderr)
        return 130
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
