"""The regression gate: refuse a change that makes a benchmark number worse than its rule allows.

Rules are the section `gate` of params.yaml: `{metric: {better: higher | lower, abs: 0.01, rel: 0.02}}`. `metric` is a
dotted key of any DVC metrics file; a loss of up to max(abs, rel * |base|) passes. `{better: higher, paired: 0.01}`
fails if the paired test of both runs' answers (see `experiments.compare`) shows a loss with one-sided p < 0.01. It
needs the base's predictions in the DVC cache.

The default base is metrics/accepted.json, which `--accept` writes and a reviewer commits. Comparing with the previous
commit would let small losses add up. The predictions that belong to the accepted numbers are those of the commit that
last changed them. Any git revision can be the base instead.
"""

import json
import math
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.scm import RevError
from pydantic import TypeAdapter, ValidationError

from panollava.experiments.workspace import git
from panollava.io import write_json
from panollava.markdown import NOTHING, markdown_table
from panollava.params import PARAMS_FILE, Rule
from panollava.terminal import say, warn
from panollava.yaml_files import problems_of, read_yaml

if TYPE_CHECKING:
    from panollava.experiments.compare import Row as ComparedRow

ACCEPTED = Path("metrics/accepted.json")
PASSED, WORSE, UNREADABLE = 0, 1, 2
# The metrics of metrics/evaluate.json that are made of one value per question, so that a paired test knows them.
PAIRED = re.compile(
    r"evaluate\.[^.]+\.(accuracy\.value|types\..+\.value|direction\.median_deg|grounding\.iou50|segmentation\.miou)"
)


def allowed_loss(rule: Rule, base: float) -> float:
    """Return the largest loss that a rule accepts against the value `base`."""
    return max(rule.abs, rule.rel * math.fabs(base))


@dataclass(frozen=True)
class Row:
    """One compared metric; `problem` says why it could not be compared, `p_worse` is set by a paired rule."""

    metric: str
    rule: Rule
    base: float | None
    now: float | None
    problem: str = ""
    p_worse: float | None = None

    @property
    def verdict(self) -> str:
        """Return one word, or the problem."""
        if self.problem:
            return f"FAIL: {self.problem}"
        if self.base is None or self.now is None:
            return "no base"
        if self.p_worse is not None and self.rule.paired is not None:
            return f"{'FAIL: worse' if self.p_worse < self.rule.paired else 'not worse'}, p = {self.p_worse:.4f}"
        loss = self.base - self.now if self.rule.better == "higher" else self.now - self.base
        # A loss of exactly the allowed amount passes; 1e-12 absorbs the rounding of its subtraction.
        if loss > allowed_loss(self.rule, self.base) + 1e-12:
            return "FAIL: worse"
        return "better" if loss < 0 else "same" if loss == 0 else "within limit"


@dataclass(frozen=True)
class GateResult:
    """What the gate found: one row per rule, against the base named `base` (None: there is none yet)."""

    base: str | None
    rows: tuple[Row, ...]

    @property
    def exit_code(self) -> int:
        """Return 0 if everything passed, 2 if a metric is missing or no number, else 1: a metric got worse."""
        if any(row.problem for row in self.rows):
            return UNREADABLE
        return WORSE if any(row.verdict.startswith("FAIL") for row in self.rows) else PASSED

    def markdown(self) -> str:
        """Return the comparison as a GitHub-flavoured table under a line that names the base."""
        if self.base is None:
            title = f"Gate: no base. {ACCEPTED} does not exist yet, nothing was compared; `make accept` writes it."
        else:
            title = f"Gate against {self.base}: {'passed' if self.exit_code == PASSED else 'FAILED'}"
        rows = []
        for row in self.rows:
            change = None if row.base is None or row.now is None else row.now - row.base
            allowed = NOTHING if row.base is None else _number(allowed_loss(row.rule, row.base))
            if row.rule.paired is not None:
                allowed = f"p ≥ {row.rule.paired:g}"
            numbers = (_number(row.base), _number(row.now), _number(change, "+"), allowed)
            rows.append([row.metric, row.rule.better, *numbers, row.verdict])
        header = ["metric", "better", "base", "now", "change", "allowed", "verdict"]
        return f"{title}\n\n{markdown_table(header, rows, left=2)}"


def _number(value: float | None, sign: str = "") -> str:
    return NOTHING if value is None else f"{value:{sign}.4g}"


def compare(base: Mapping[str, object] | None, now: Mapping[str, object], rules: Mapping[str, Rule]) -> tuple[Row, ...]:
    """Compare the metrics `now` with `base` under `rules`; both map dotted keys to whatever was found there."""
    rows = []
    for metric, rule in rules.items():
        found, new_problem = _read(now, metric, "now")
        if base is None:
            rows.append(Row(metric, rule, None, found, new_problem))
            continue
        expected, old_problem = _read(base, metric, "in the base")
        rows.append(Row(metric, rule, expected, found, new_problem or old_problem))
    return tuple(rows)


def _read(metrics: Mapping[str, object], metric: str, where: str) -> tuple[float | None, str]:
    """Return the finite number of a metric, or None and what is wrong with it."""
    if metric not in metrics:
        return None, f"missing {where}"
    value = metrics[metric]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None, f"not a number {where}: {value!r}"
    if not math.isfinite(value):
        return None, f"{value} {where}"
    return float(value), ""


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return the leaves of nested mappings under dotted keys."""
    leaves: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def read_metrics(repo: Repo, revision: str, wanted: Collection[str]) -> tuple[dict[str, object], list[str]]:
    """Return the wanted metrics of a git revision or "workspace", and a note on each metrics file that is unreadable.

    Raises:
        ValueError: The revision is unknown or its pipeline cannot be read, or two files hold the same wanted key.
    """
    try:
        shown = repo.metrics.show(revs=[revision], hide_workspace=False)
    except RevError as error:
        raise ValueError(f"gate: {revision!r} is no revision of this repository: {error}") from error
    if revision not in shown:
        raise ValueError(f"gate: the revision {revision!r} holds no DVC project")
    result = shown[revision]
    if "error" in result:
        raise ValueError(f"gate: the metrics of {revision} cannot be read: {result['error']}")
    metrics: dict[str, object] = {}
    notes = []
    for path, file in result["data"].items():
        if "error" in file:
            notes.append(f"{path} of {revision} cannot be read: {type(file['error']).__name__}: {file['error']}")
            continue
        leaves = {key: value for key, value in flatten(file["data"]).items() if key in wanted}
        if twice := sorted(leaves.keys() & metrics.keys()):
            raise ValueError(f"gate: {path} of {revision} repeats the key {twice[0]!r} of another metrics file")
        metrics |= leaves
    return metrics, notes


def run_gate(base: str | None, rules: Mapping[str, Rule], *, root: Path = Path()) -> GateResult:
    """Compare the workspace of `root` with the git revision `base`, or with the accepted numbers if None.

    Prints a note for each metrics file that cannot be read; the rules that need it then fail as missing.

    Raises:
        ValueError: The base is unknown or unreadable.
    """
    with Repo(str(root)) as repo:
        now, notes = read_metrics(repo, "workspace", rules)
        if base is not None:
            expected, more = read_metrics(repo, base, rules)
            notes += more
            result = GateResult(base, compare(expected, now, rules))
        elif (root / ACCEPTED).exists():
            result = GateResult(ACCEPTED.as_posix(), compare(read_accepted(root / ACCEPTED), now, rules))
        else:
            result = GateResult(None, compare(None, now, rules))
    if result.base is not None:
        result = replace(result, rows=with_paired_tests(result.rows, base, root))
    for note in notes:
        warn(note)
    return result


def with_paired_tests(rows: tuple[Row, ...], base: str | None, root: Path) -> tuple[Row, ...]:
    """Add to each row of a paired rule its p value, or the reason why there is none.

    `base` is a revision, None for the accepted numbers.
    """
    wanted = {row.metric for row in rows if row.rule.paired is not None and not row.problem}
    if not wanted:
        return rows
    # Imported here: only a paired rule needs it, and it takes seconds.
    from panollava.experiments.compare import compare_runs
    from panollava.experiments.runs import WORKSPACE, read_revision_run

    try:
        before = read_revision_run(accepting_commit(root) if base is None else base, root)
        found = compare_runs([before], [read_revision_run(WORKSPACE, root)], only=wanted)
    except ValueError as error:
        return tuple(replace(row, problem=str(error)) if row.metric in wanted else row for row in rows)
    tests = {test.metric: test for test in found.rows}
    return tuple(with_paired_test(row, tests.get(row.metric)) if row.metric in wanted else row for row in rows)


def with_paired_test(row: Row, tested: "ComparedRow | None") -> Row:
    """Add the p value of its test to a row, or the reason why the test says nothing."""
    if tested is None:
        return replace(row, problem="the predictions hold no answers that make up this metric")
    for where, number, metric in (("the base", tested.test.a, row.base), ("the workspace", tested.test.b, row.now)):
        if metric is None or not math.isclose(number, metric, rel_tol=1e-6, abs_tol=1e-9):
            differing = f"the predictions of {where} give {number:.6g}, its metric is {_number(metric)}"
            return replace(row, problem=f"{differing}: they are not of one run")
    # With n panoramas no p value is below 1 in 2^n, however large the loss.
    if row.rule.paired is not None and 0.5**tested.panoramas >= row.rule.paired:
        return replace(
            row, problem=f"{tested.panoramas} panoramas are too few for any loss to show p < {row.rule.paired:g}"
        )
    worse = tested.test.p_less if row.rule.better == "higher" else tested.test.p_greater
    return replace(row, p_worse=worse)


def accepting_commit(root: Path) -> str:
    """Return the commit that last changed the accepted numbers; raises ValueError if they have changed since."""
    if git(root, "status", "--porcelain", "--", ACCEPTED.as_posix()):
        raise ValueError(
            f"{ACCEPTED} is not committed, so no revision has the predictions that belong to it; commit it"
        )
    return git(root, "log", "-1", "--format=%H", "--", ACCEPTED.as_posix())


def read_accepted(path: Path) -> dict[str, object]:
    """Return the accepted numbers under dotted keys; raises ValueError if the file is not a JSON object."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"gate: {path} is no JSON: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"gate: {path} holds {type(tree).__name__}, expected an object of metric: number")
    return flatten(tree)


def accept(rules: Mapping[str, Rule], *, root: Path = Path()) -> GateResult:
    """Write the workspace's numbers as the accepted ones and return how they compare with those before.

    Raises:
        ValueError: A metric that has a rule is missing or no finite number; nothing is written.
    """
    result = run_gate(None, rules, root=root)
    unusable = [f"{row.metric} ({row.problem})" for row in result.rows if row.now is None]
    if unusable:
        raise ValueError(f"gate: nothing accepted, these metrics are unusable: {', '.join(unusable)}")
    write_json(root / ACCEPTED, {row.metric: row.now for row in result.rows})
    return result


def read_rules(path: Path) -> dict[str, Rule]:
    """Return the section `gate` of a params.yaml; raises ValueError if it is absent or a rule is malformed."""
    params = read_yaml(path)
    if "gate" not in params:
        raise ValueError(f"gate: {path} has no section 'gate' with rules like 'metric: {{better: higher, abs: 0.01}}'")
    try:
        rules = TypeAdapter(dict[str, Rule]).validate_python(params["gate"])
    except ValidationError as error:
        raise ValueError(f"gate: the rules of {path}:\n" + "\n".join(problems_of(error))) from None
    for metric, rule in rules.items():
        if rule.paired is not None and not PAIRED.fullmatch(metric):
            raise ValueError(
                f"gate: {path}: {metric} has no value per question, so no paired test; give it abs or rel. Below "
                "evaluate.LANGUAGE, accuracy.value, types.TYPE.value, direction.median_deg, grounding.iou50 and "
                "segmentation.miou have one"
            )
    return rules


def command(base: str | None, *, accepting: bool = False) -> int:
    """Print the comparison and return the exit code: 0 passed, 1 worse, 2 not comparable.

    With `accepting`, the workspace's numbers become the accepted ones.
    """
    try:
        rules = read_rules(PARAMS_FILE)
        result = accept(rules) if accepting else run_gate(base, rules)
    except (ValueError, DvcException) as error:
        warn(f"panollava: {error}")
        return UNREADABLE
    say(result.markdown())
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(result.markdown() + "\n\n")
    if accepting:
        say(f"\nWritten: {ACCEPTED}. Commit it with the change that it accepts.")
        return PASSED
    return result.exit_code
