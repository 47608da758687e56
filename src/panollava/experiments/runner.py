"""Tables of experiments: named DVC experiments that run one after another in the workspace, on top of HEAD.

A table is a map from names to the parameters that each experiment sets. Those that HEAD has already are skipped, so an
interrupted table goes on where it stopped; the workspace ends as it began.
"""

import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from dvc.exceptions import DvcException
from dvc.repo import Repo
from ruamel.yaml import YAML

from panollava.experiments.gate import flatten
from panollava.experiments.workspace import dvc, kept_workspace
from panollava.io import replacing
from panollava.report.tables import update_between_markers

README = Path("README.md")
TABLES = ("metrics/combinations.json", "metrics/ablation.json")
Cells = Mapping[str, Mapping[str, str]]


def params_at(repo: Repo, revision: str) -> dict[str, object]:
    """Return the leaves of params.yaml at a git revision under dotted keys."""
    with repo.scm.get_fs(revision).open("params.yaml", encoding="utf-8") as file:
        return flatten(YAML(typ="safe").load(file))


def finished_experiments(repo: Repo, cells: Cells) -> dict[str, str]:
    """Return name -> commit of the cells that HEAD has as experiments already.

    Raises:
        ValueError: An experiment has the name of a cell but was run with other parameters.
    """
    here = {name: commit for found in repo.experiments.ls().values() for name, commit in found}
    finished = {name: here[name] for name in cells if name in here}
    committed = params_at(repo, "HEAD")
    yaml = YAML(typ="safe")
    for name, commit in finished.items():
        expected = committed | {key: yaml.load(value) for key, value in cells[name].items()}
        found = params_at(repo, commit)
        if differing := sorted(key for key in expected | found if expected.get(key) != found.get(key)):
            raise ValueError(
                f"experiments: {name!r} of this commit was run with another {', '.join(differing)}; "
                f"remove it with `dvc exp remove {name}` and call again"
            )
    return finished


def run_missing(root: Path, cells: Cells, own: Collection[str]) -> dict[str, dict[str, Any]]:
    """Run the cells that are not there yet and return the metrics of all, by name.

    `own` are the files that the caller writes afterwards: they may be uncommitted. A failing experiment does not stop
    the others.

    Raises:
        ValueError: Something besides results is uncommitted, an experiment of the same name has other parameters, or
            an experiment failed.
    """
    with kept_workspace(root, own) as lock:
        with Repo(str(root)) as repo:
            finished = finished_experiments(repo, cells)
        failed = []
        for number, (name, settings) in enumerate(cells.items(), start=1):
            there = ", already there" if name in finished else ""
            print(f"experiments: {name} ({number} of {len(cells)}){there}", flush=True)
            overrides = [part for key, value in settings.items() for part in ("--set-param", f"{key}={value}")]
            if name not in finished and dvc(root, "exp", "run", "--name", name, *overrides, keep_open=(lock,)):
                failed.append(name)
    if failed:
        raise ValueError(f"experiments: {', '.join(failed)} failed, see above; the others are kept")
    with Repo(str(root)) as repo:
        return read_metrics(repo, finished_experiments(repo, cells))


def read_metrics(repo: Repo, experiments: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return what the metrics files of experiments hold, merged, by name.

    Raises:
        ValueError: A metrics file of an experiment cannot be read, or none has scores.
    """
    shown = repo.metrics.show(revs=list(experiments.values()), hide_workspace=False)
    merged = {}
    for name, commit in experiments.items():
        metrics: dict[str, Any] = {}
        for path, file in shown[commit].get("data", {}).items():
            # The table of an earlier call is declared as a metric too, and need not be there.
            if path in TABLES:
                continue
            if "error" in file:
                raise ValueError(f"experiments: {path} of {name} cannot be read: {file['error']!r}")
            metrics |= file["data"]
        if "evaluate" not in metrics:
            raise ValueError(f"experiments: {name} has no metrics under 'evaluate'")
        merged[name] = metrics
    return merged


def write_table(root: Path, marker: str, rows: Mapping[str, dict[str, Any]], markdown: str) -> None:
    """Write rows to metrics/MARKER.json (a DVC metric) and .csv, and their table between the README's markers.

    Each file appears whole or not at all.
    """
    columns = [{marker.rstrip("s"): name, **flatten(row)} for name, row in rows.items()]
    readme = update_between_markers((root / README).read_text(encoding="utf-8"), marker, markdown)
    texts = {
        Path(f"metrics/{marker}.json"): json.dumps({marker: rows}, indent=2) + "\n",
        Path(f"metrics/{marker}.csv"): pd.DataFrame(columns).to_csv(index=False, lineterminator="\n"),
        README: readme,
    }
    for path, text in texts.items():
        with replacing(root / path) as file:
            file.write(text.encode())


def own_files(marker: str) -> Sequence[str]:
    """Return the files besides the README that `write_table` writes."""
    return (f"metrics/{marker}.json", f"metrics/{marker}.csv")


def command(table: Callable[[], str]) -> int:
    """Make a table as a command does: print it and return the exit status; what a user can put right is a message."""
    try:
        print(table())
    except (ValueError, DvcException) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("experiments: interrupted; what is finished is kept, the next call goes on from there", file=sys.stderr)
        return 130
    return 0
