"""Studies: named DVC experiments that run one after another in the workspace, on top of HEAD.

A study maps the name of each experiment to the parameters that it sets. Experiments that HEAD has already are skipped,
so an interrupted study continues where it stopped. The workspace ends as it began.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from dvc.exceptions import DvcException
from dvc.repo import Repo
from ruamel.yaml import YAML

from panollava.experiments.gate import flatten
from panollava.experiments.workspace import dvc, kept_workspace
from panollava.io import replacing, write_json
from panollava.terminal import INTERRUPTED, say, warn
from panollava.yaml_files import parse_yaml

TABLES = ("metrics/combinations.json", "metrics/ablation.json")
Cells = Mapping[str, Mapping[str, str]]


def params_at(repo: Repo, revision: str) -> dict[str, object]:
    """Return the leaves of params.yaml at a git revision under dotted keys."""
    with repo.scm.get_fs(revision).open("params.yaml", "rb") as file:
        return flatten(parse_yaml(file.read(), f"params.yaml of {revision[:10]}"))


def finished_experiments(repo: Repo, cells: Cells) -> dict[str, str]:
    """Return name -> commit of the experiments that HEAD has already.

    Raises:
        ValueError: an experiment has the name of a cell, and other parameters.
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
    """Run the missing experiments and return the metrics of all, by name.

    The caller writes the files `own` afterwards, so they may be uncommitted. A failing experiment does not stop the
    others.

    Raises:
        ValueError: something besides results is uncommitted, an experiment of the same name has other parameters, or
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
    """Return the merged metrics files of each experiment, by name.

    Raises:
        ValueError: a metrics file of an experiment cannot be read, or none has scores.
    """
    shown = repo.metrics.show(revs=list(experiments.values()), hide_workspace=False)
    merged = {}
    for name, commit in experiments.items():
        metrics: dict[str, Any] = {}
        for path, file in shown[commit].get("data", {}).items():
            # The table of an earlier study is a declared metric as well, and may be absent.
            if path in TABLES:
                continue
            if "error" in file:
                raise ValueError(f"experiments: {path} of {name} cannot be read: {file['error']!r}")
            metrics |= file["data"]
        if "evaluate" not in metrics:
            raise ValueError(f"experiments: {name} has no metrics under 'evaluate'")
        merged[name] = metrics
    return merged


def write_rows(root: Path, name: str, rows: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Write a study's rows to metrics/NAME.json (a DVC metric) and .csv; return the content of the first.

    The content names the version that made it. Each file appears whole or not at all.
    """
    content = {"version": version("panollava"), name: rows}
    write_json(root / f"metrics/{name}.json", content)
    columns = [{name.rstrip("s"): row, **flatten(measured)} for row, measured in rows.items()]
    with replacing(root / f"metrics/{name}.csv") as file:
        file.write(pd.DataFrame(columns).to_csv(index=False, lineterminator="\n").encode())
    return content


def version_line(content: Mapping[str, Any]) -> str:
    """Return the line above a study's table: the version that made it."""
    return f"Made by version {content['version']}.\n\n"


def own_files(name: str) -> Sequence[str]:
    """Return the files that `write_rows` writes."""
    return (f"metrics/{name}.json", f"metrics/{name}.csv")


def command(table: Callable[[], str]) -> int:
    """Print the table of a study and return the exit code.

    Raises:
        ValueError: an error of DVC, which a user can correct.
    """
    try:
        say(table())
    except DvcException as error:
        raise ValueError(str(error)) from error
    except KeyboardInterrupt:
        warn("experiments: interrupted; what is finished is kept, the next call goes on from there")
        return INTERRUPTED
    return 0
