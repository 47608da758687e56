"""The gate: a loss beyond its rule, a missing or non-finite number fail; the base moves only when it is told to."""

import json
import math

import pytest

from panollava.report.gate import (
    PASSED,
    UNREADABLE,
    WORSE,
    GateResult,
    Rule,
    accept,
    compare,
    main,
    read_rules,
    run_gate,
)

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
    assert main(["--base", "HEAD"]) == PASSED
    spoil(miniature, value=0.366)
    assert main(["--base", "main"]) == PASSED
    spoil(miniature, value=0.364)
    assert main(["--base", "HEAD"]) == WORSE
    table = capsys.readouterr().out
    assert "| evaluate.en.accuracy.value | higher | 0.375 | 0.364 | -0.011 | 0.01 | FAIL: worse |" in table
    assert (tmp_path / "summary.md").read_text().replace("\n", "") == table.replace("\n", "")
    spoil(miniature, value=math.nan)
    assert main(["--base", "HEAD"]) == UNREADABLE
    (miniature.root / "metrics/evaluate.json").write_text("{")
    assert main(["--base", "HEAD"]) == UNREADABLE
    assert "metrics/evaluate.json of workspace cannot be read" in capsys.readouterr().err
    (miniature.root / "metrics/evaluate.json").unlink()
    assert main(["--base", "HEAD"]) == UNREADABLE
    assert main(["--base", "no-such-revision"]) == UNREADABLE
    assert "no-such-revision" in capsys.readouterr().err


def test_small_losses_do_not_add_up(miniature, monkeypatch, capsys):
    monkeypatch.chdir(miniature.root)
    rules = read_rules(miniature.root / "params.yaml")
    assert main([]) == PASSED
    assert "no base" in capsys.readouterr().out
    accept(rules)
    for value, expected in ((0.369, PASSED), (0.363, WORSE)):
        spoil(miniature, value=value)
        miniature.git("commit", "--quiet", "--all", "--message", f"a small loss to {value}")
        assert run_gate("HEAD~1", rules).exit_code == PASSED
        assert run_gate(None, rules).exit_code == expected
    assert main(["--accept"]) == PASSED
    assert run_gate(None, rules).exit_code == PASSED
    spoil(miniature, value=math.nan)
    with pytest.raises(ValueError, match=r"evaluate\.en\.accuracy\.value \(nan now\)"):
        accept(rules)
    assert miniature.read_json("metrics/accepted.json")["evaluate.en.accuracy.value"] == 0.363


def test_malformed_rules_are_refused(tmp_path):
    path = tmp_path / "params.yaml"
    for text, message in (("seed: 0", "no section 'gate'"), ("gate: {a: {better: more}}", "a.better")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_rules(path)
