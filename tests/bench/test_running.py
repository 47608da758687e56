"""The commands print every side and ratio, write what they print, and judge it by the goals of its size."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_bench import MICRO

from panollava import cli
from panollava.bench import asking, running, training
from panollava.bench.report import GOALS, judgement
from panollava.bench.running import updated
from panollava.bench.sizes import SIZES
from panollava.cli import studies

VIEWS = {"work": "views", "sides": {"ours": {"ms": {"median": 1.0, "q1": 1.0, "q3": 1.0}}}}


def test_the_command_line_names_the_sizes() -> None:
    assert tuple(SIZES) == studies.SIZES


def test_train_and_ask_print_what_they_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(running, "SIZES", {"tiny": replace(MICRO, name="tiny")})
    results, text = {"views": VIEWS}, {}
    for what in ("train", "ask"):
        out = tmp_path / f"{what}.json"
        assert cli.main(["bench", what, "--rounds", "2", "--json", str(out)]) == 0
        results[what], text[what] = json.loads(out.read_text("utf-8")), capsys.readouterr().out
        for load, rows in results[what]["workloads"].items():
            assert load in text[what]
            assert rows["ours"]["ratio"] == {"median": 1.0, "q1": 1.0, "q3": 1.0}
            block = text[what].split(f"{load}  ")[1].split("\n\n")[0]
            for name, row in rows.items():
                assert 0 < row["ms"]["q1"] <= row["ms"]["median"] <= row["ms"]["q3"]
                assert f"{row['ratio']['median']:.2f}" in block.split(f"  {name}  ")[1].split("\n")[0]
        for measure, value in results[what]["measures"].items():
            line = next(line for line in text[what].splitlines() if line.startswith(f"{measure}  "))
            assert f"{value:.4g}" in line
            assert ("met" in line or "MISSED" in line) == (measure in GOALS[what, "tiny"])
    places = "".join(f"<!-- {name}:start -->\n<!-- {name}:end -->\n" for name in ("bench", "bench_7b"))
    readme = updated(places, results, results)
    assert readme.count(f" {training.DOCUMENTED} |") > 1
    for name in (training.DOCUMENTED, training.DIALOGUE, asking.BATCHED, asking.REUSED):
        assert f" {name} |" in readme


def test_every_goal_is_about_a_measure_and_knows_its_side() -> None:
    assert judgement("train", "tiny", "documented", 5.0) == ">= 5: met"
    assert judgement("train", "tiny", "documented", 4.99) == ">= 5: MISSED"
    assert judgement("ask", "7b", "follow-up, ms", 9.1) == "<= 9: MISSED"
    assert judgement("ask", "7b", "follow-up, best", 9.1) == ""
