"""The gate: a loss beyond its rule, a missing or non-finite number fail; the base moves only when it is told to."""

import json
import math
import shutil
from pathlib import Path

import pytest

from panollava.experiments.ablation import MEASURES
from panollava.experiments.compare import Row as ComparedRow
from panollava.experiments.gate import (
    PASSED,
    UNREADABLE,
    WORSE,
    GateResult,
    Row,
    accept,
    command,
    compare,
    read_rules,
    run_gate,
    with_paired_test,
)
from panollava.metrics.paired import paired_mean
from panollava.params import Rule

PROJECT = Path(__file__).resolve().parents[2]
RULES = {"score": Rule(better="higher", abs=0.01), "time": Rule(better="lower", rel=0.2)}


def outcome(base, now):
    return GateResult("base", compare(base, now, RULES)).exit_code


@pytest.mark.parametrize(
    ("score", "time", "expected"),
    [
        (0.50, 10.0, PASSED),
        (0.90, 1.0, PASSED),
        (0.49, 12.0, PASSED),
        (0.489, 10.0, WORSE),
        (0.50, 12.1, WORSE),
        (math.nan, 10.0, UNREADABLE),
        (math.inf, 10.0, UNREADABLE),
        ("0.50", 10.0, UNREADABLE),
        (True, 10.0, UNREADABLE),
        (0.1, math.nan, UNREADABLE),
    ],
)
def test_limits(score, time, expected):
    assert outcome({"score": 0.5, "time": 10.0}, {"score": score, "time": time}) == expected


def test_a_metric_missing_on_either_side_fails():
    full = {"score": 0.5, "time": 10.0}
    assert outcome(full, {"score": 0.5}) == outcome({"time": 10.0}, full) == UNREADABLE
    assert outcome(full | {"score": math.nan}, full) == UNREADABLE


def test_relative_limit_follows_the_size_of_the_base_not_its_sign():
    rules = {"loss": Rule(better="lower", abs=0.01, rel=0.1)}
    assert [GateResult("b", compare({"loss": -1.0}, {"loss": now}, rules)).exit_code for now in (-0.9, -0.89)] == [0, 1]
    assert [GateResult("b", compare({"loss": 0.0}, {"loss": now}, rules)).exit_code for now in (0.01, 0.011)] == [0, 1]


def spoil(miniature, **changes):
    path = miniature.root / "metrics/evaluate.json"
    metrics = json.loads(path.read_text())
    metrics["evaluate"]["en"]["accuracy"] |= changes
    path.write_text(json.dumps(metrics))


def test_against_a_revision(miniature, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(miniature.root)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert command("HEAD") == PASSED
    spoil(miniature, value=0.366)
    assert command("main") == PASSED
    spoil(miniature, value=0.364)
    assert command("HEAD") == WORSE
    table = capsys.readouterr().out
    assert "| evaluate.en.accuracy.value | higher | 0.375 | 0.364 | -0.011 | 0.01 | FAIL: worse |" in table
    assert (tmp_path / "summary.md").read_text().replace("\n", "") == table.replace("\n", "")
    spoil(miniature, value=math.nan)
    assert command("HEAD") == UNREADABLE
    (miniature.root / "metrics/evaluate.json").write_text("{")
    assert command("HEAD") == UNREADABLE
    assert "metrics/evaluate.json of workspace cannot be read" in capsys.readouterr().err
    (miniature.root / "metrics/evaluate.json").unlink()
    assert command("HEAD") == UNREADABLE
    assert command("no-such-revision") == UNREADABLE
    assert "no-such-revision" in capsys.readouterr().err


def test_small_losses_do_not_add_up(miniature, monkeypatch, capsys):
    monkeypatch.chdir(miniature.root)
    rules = read_rules(miniature.root / "params.yaml")
    assert command(None) == PASSED
    assert "no base" in capsys.readouterr().out
    accept(rules)
    for value, expected in ((0.369, PASSED), (0.363, WORSE)):
        spoil(miniature, value=value)
        miniature.git("commit", "--quiet", "--all", "--message", f"a small loss to {value}")
        assert run_gate("HEAD~1", rules).exit_code == PASSED
        assert run_gate(None, rules).exit_code == expected
    assert command(None, accepting=True) == PASSED
    assert run_gate(None, rules).exit_code == PASSED
    spoil(miniature, value=math.nan)
    with pytest.raises(ValueError, match=r"evaluate\.en\.accuracy\.value \(nan now\)"):
        accept(rules)
    assert miniature.read_json("metrics/accepted.json")["evaluate.en.accuracy.value"] == 0.363


PAIRED = "evaluate.en.accuracy.value: {better: higher, paired: 0.01}"


def use_paired_rule(miniature, rule=PAIRED):
    path = miniature.root / "params.yaml"
    old = "evaluate.en.accuracy.value: {better: higher, abs: 0.01}"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, rule))


def answer_wrongly(miniature, count):
    """Make the first `count` right answers of the workspace wrong, in its predictions and its metric."""
    path = miniature.root / "data/evaluate/predictions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [line | ({"correct": False} if number < count else {}) for number, line in enumerate(lines)]
    path.chmod(0o644)
    path.unlink()  # it may be a link to the cache
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    spoil(miniature, value=sum(line["correct"] for line in lines) / len(lines))


def test_a_paired_rule_fails_a_proven_loss_only(miniature, monkeypatch, capsys):
    monkeypatch.chdir(miniature.root)
    use_paired_rule(miniature)
    assert command("HEAD") == PASSED
    row = "| evaluate.en.accuracy.value | higher | 0.375 | 0.375 | +0 | p ≥ 0.01 | not worse, p = 1.0000 |"
    assert row in capsys.readouterr().out
    # Of n answers that only became wrong, an exchange is as bad with probability 2^-n: 6 prove no loss, 7 do.
    answer_wrongly(miniature, 6)
    assert command("HEAD") == PASSED
    assert "| 0.375 | 0.1875 | -0.1875 | p ≥ 0.01 | not worse, p = 0.01" in capsys.readouterr().out
    answer_wrongly(miniature, 7)
    assert command("main") == WORSE
    assert "| p ≥ 0.01 | FAIL: worse, p = 0.00" in capsys.readouterr().out
    miniature.git("commit", "--quiet", "--all", "--message", "the paired rule")
    # A metric for which less is better has got worse the other way round.
    use_rule = PAIRED.replace("higher", "lower")
    path = miniature.root / "params.yaml"
    path.write_text(path.read_text().replace(PAIRED, use_rule))
    assert command("HEAD~1") == PASSED


def test_a_paired_rule_compares_with_the_commit_that_accepted(miniature, monkeypatch, capsys):
    monkeypatch.chdir(miniature.root)
    use_paired_rule(miniature)
    assert command(None, accepting=True) == PASSED
    assert command(None) == UNREADABLE
    assert "metrics/accepted.json is not committed" in capsys.readouterr().out
    miniature.git("add", ".")
    miniature.git("commit", "--quiet", "--message", "accepted")
    (miniature.root / "README.md").write_text("later")
    miniature.git("commit", "--quiet", "--all", "--message", "something else")
    assert command(None) == PASSED
    answer_wrongly(miniature, 12)
    assert command(None) == WORSE
    # Numbers that are not those of the commit's predictions are no base.
    accepted = miniature.root / "metrics/accepted.json"
    accepted.write_text(accepted.read_text().replace("0.375", "0.5"))
    miniature.git("commit", "--quiet", "--message", "by hand", "metrics/accepted.json")
    assert command(None) == UNREADABLE
    assert (
        "the predictions of the base give 0.375, its metric is 0.5: they are not of one run" in capsys.readouterr().out
    )


def test_a_paired_rule_without_predictions_fails(miniature, monkeypatch, capsys):
    monkeypatch.chdir(miniature.root)
    use_paired_rule(miniature)
    spoil(miniature, value=0.25)
    assert command("HEAD") == UNREADABLE
    assert "the predictions of the workspace give 0.375, its metric is 0.25" in capsys.readouterr().out
    spoil(miniature, value=0.375)
    # Not checked out, but in the cache: that will do.
    shutil.rmtree(miniature.root / "data/evaluate")
    assert command("HEAD") == PASSED
    miniature.dvc("checkout", "--quiet")
    shutil.rmtree(miniature.root / ".dvc/cache/files")
    assert command("HEAD") == UNREADABLE
    output = capsys.readouterr().out
    assert "FAIL: HEAD: data/evaluate/predictions.jsonl is neither in the DVC cache" in output
    assert "`dvc pull`" in output
    assert "latency.first_token_ms | lower | 10 | 10 | +0 | 2 | same |" in output


def test_a_paired_rule_needs_answers_and_enough_panoramas(miniature, monkeypatch, capsys):
    monkeypatch.chdir(miniature.root)
    use_paired_rule(miniature, PAIRED.replace(".en.", ".ko."))
    for name in ("HEAD", "later"):
        path = miniature.root / "metrics/evaluate.json"
        metrics = json.loads(path.read_text())
        path.write_text(json.dumps({"evaluate": metrics["evaluate"] | {"ko": metrics["evaluate"]["en"]}}))
        miniature.git("commit", "--quiet", "--all", "--allow-empty", "--message", name)
    assert command("HEAD~1") == UNREADABLE
    assert "FAIL: the predictions hold no answers that make up this metric" in capsys.readouterr().out
    rule = Rule(better="higher", paired=0.01)
    test = paired_mean([1.0] * 6, [0.0] * 6, range(6))
    few = ComparedRow("en", "choice", "", "accuracy", "higher", "a", 6, 6, test)
    row = with_paired_test(Row("a", rule, 1.0, 0.0), few)
    assert row.verdict == "FAIL: 6 panoramas are too few for any loss to show p < 0.01"


def test_malformed_rules_are_refused(tmp_path):
    path = tmp_path / "params.yaml"
    for text, message in (
        ("seed: 0", "no section 'gate'"),
        ("gate: {a: {better: more}}", "a.better"),
        ("gate: {a: {better: lower, paired: 0}}", "a.paired"),
        ("gate: {a: {better: lower, paired: 0.01, abs: 1}}", "takes the place of `abs` and `rel`"),
        ("gate: {evaluate.en.detection.ap50: {better: higher, paired: 0.01}}", "ap50 has no value per question"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_rules(path)


def measured(study: str, arm: str, end: str) -> dict[str, float]:
    """Return the metrics of an arm of a committed ablation study, the best or the worst of each over its seeds."""
    row = json.loads((PROJECT / f"metrics/{study}.json").read_text())["ablation"][arm]
    metrics = {}
    for name in row.keys() & MEASURES.keys():
        key = MEASURES[name]
        lower_is_better = name == "median_deg"
        metrics[f"evaluate.en.{key}"] = row[name]["high" if (end == "best") != lower_is_better else "low"]
    return metrics


def test_the_project_s_own_rules_let_other_seeds_pass_and_catch_a_missing_part():
    rules = read_rules(PROJECT / "params.yaml")
    usual = compare(measured("ablation", "default", "best"), measured("ablation", "default", "worst"), rules)
    assert {row.verdict for row in usual} == {"within limit"}
    for broken in ("exact-none", "strip-none", "none-none", "resize"):
        worst, best = measured("ablation_0.4", "exact-ray", "worst"), measured("ablation_0.4", broken, "best")
        found = compare(worst, best, rules)
        assert GateResult("the default", found).exit_code == WORSE, broken
