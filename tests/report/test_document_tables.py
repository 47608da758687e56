"""Documents: every table comes from its metrics file, and the check looks at committed files alone."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from panollava.cli import main
from panollava.report.documents import LANGUAGES, TABLES, check_documents, headline_table, updated, write_documents

BLOCKS: dict[str, dict[str, float]] = {
    "accuracy": {"n": 4, "value": 0.5, "low": 0.4, "high": 0.6, "majority": 0.3, "blind": 0.2, "shuffled": 0.1},
    "direction": {
        "n": 4, "median_deg": 4.5, "low": 4.0, "high": 5.0, "majority_median_deg": 77.0, "blind_median_deg": 93.0,
        "within_15_deg": 0.75,
    },
    "grounding": {"n": 4, "iou50": 0.5, "low": 0.4, "high": 0.6, "mean_iou": 0.4},
}  # fmt: skip
RUN = {"encoder": "clip", "llm": "llama", "weights": "standin", "seed": 0}


def run_metrics(value: float) -> dict[str, Any]:
    """Return a small metrics/evaluate.json with this accuracy in English."""
    english = BLOCKS | {"accuracy": BLOCKS["accuracy"] | {"value": value}}
    return RUN | {"evaluate": {"en": english, "ko": {"accuracy": BLOCKS["accuracy"]}}}


def robustness() -> dict[str, Any]:
    number = {"value": 0.5, "low": 0.4, "high": 0.6}
    yaws = dict.fromkeys(("plain", "mean", "ratio", "worst", "all", "agreement"), number) | {"yaws": {"90": number}}
    block = {"yaws": {"accuracy": yaws}, "seam": {}, "tilts": {}, "latitude": {}, "panoramas": 3}
    return {"robustness": RUN | block}


def speed() -> dict[str, Any]:
    spread = {"median": 2.0, "q1": 1.0, "q3": 3.0}
    train = {
        "size": "tiny", "device": "cpu", "rounds": 7, "work": "a step",
        "workloads": {"one": {"ours": {"ms": spread, "ratio": spread}}}, "measures": {},
    }  # fmt: skip
    return {"train": train, "views": {"work": "views", "sides": {}}}


def project() -> dict[str, str]:
    """Return pages with empty tables and metrics for them, by path."""
    row = {"seeds": 1, "accuracy": {"low": 0.25, "mean": 0.5, "high": 0.75}}
    metrics = {
        "metrics/evaluate.json": run_metrics(0.5),
        "metrics/robustness.json": robustness(),
        "metrics/combinations.json": {"version": "1.0", "combinations": {"clip-llama": {"en": {"accuracy": 0.5}}}},
        "metrics/ablation.json": {"version": "1.1", "ablation": {"default": row}},
        "metrics/bench.json": speed(),
        "metrics/bench_7b.json": speed(),
        "metrics/scaling_7b.json": {"size": "7b", "device": "GPU", "torch": "2", "runs": {}},
    }
    files = {path: json.dumps(content) for path, content in metrics.items()}
    for table in TABLES:
        files.setdefault(table.page, f"# {table.page}\n")
        files[table.page] += f"<!-- {table.marker}:start -->\n<!-- {table.marker}:end -->\nWords.\n"
    return files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A git repository with the project's pages and metrics committed, the tables written."""
    for path, text in project().items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    write_documents(tmp_path)
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=root, check=True)


def commit(root: Path) -> None:
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "a run")


def test_every_page_gets_its_tables() -> None:
    files = project()
    pages = updated(files.__getitem__)
    assert pages.keys() == {table.page for table in TABLES}
    for table in TABLES:
        body = pages[table.page].split(f"<!-- {table.marker}:start -->\n")[1].split(f"\n<!-- {table.marker}:end -->")[0]
        assert body == table.make({} if table.metrics is None else json.loads(files[table.metrics]))
        assert body.count("| :-- |") >= 1
    assert "Made by version 1.0.\n" in pages["docs/experiments.md"]
    assert "Made by version 1.1.\n" in pages["docs/experiments.md"]
    assert updated((files | pages).__getitem__) == pages


def test_the_small_table_has_three_columns_a_language_and_no_row_without_a_number() -> None:
    lines = [line.strip("| ").split(" | ") for line in headline_table(run_metrics(0.5)).splitlines()]
    assert lines[0][1::3] == [f"{name} [95 % interval]" for name in LANGUAGES.values()]
    rows = {row[0]: row[1:] for row in lines[2:]}
    assert rows == {
        "closed questions, mean accuracy": ["**0.500** [0.400, 0.600]", "0.300", "0.200"] * 2,
        "direction, median error": ["**4.5°** [4.0°, 5.0°]", "77.0°", "93.0°", "–", "–", "–"],
        "grounding, IoU ≥ 0.5": ["**0.500** [0.400, 0.600]", "–", "–", "–", "–", "–"],
    }


def test_a_page_without_its_markers_is_named() -> None:
    files = project() | {"docs/robustness.md": "no place for a table"}
    with pytest.raises(
        ValueError, match=r"docs/robustness.md, from metrics/robustness.json: expected `<!-- robustness"
    ):
        updated(files.__getitem__)


def test_writing_names_the_changed_pages(root: Path) -> None:
    assert write_documents(root) == []
    (root / "metrics/evaluate.json").write_text(json.dumps(run_metrics(0.25)), encoding="utf-8")
    assert write_documents(root) == ["README.md", "docs/metrics.md"]
    assert "| **0.250** [0.400, 0.600] |" in (root / "README.md").read_text("utf-8")
    assert (root / "README.md").read_text("utf-8").endswith("Words.\n")


def test_the_check_looks_at_committed_files_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    # Another machine's run changes the working tree: that is no fault of the documents.
    (root / "metrics/evaluate.json").write_text(json.dumps(run_metrics(0.25)), encoding="utf-8")
    assert main(["documents", "--check"]) == 0
    # Committed without the pages, it is one.
    commit(root)
    assert main(["documents", "--check"]) == 1
    message = capsys.readouterr().err
    assert (
        "README.md, docs/metrics.md of HEAD: the tables do not show the metrics of HEAD; run `make results`" in message
    )
    # Pages that are written but not committed do not help.
    write_documents(root)
    with pytest.raises(ValueError, match=r"README\.md, docs/metrics\.md of HEAD"):
        check_documents(root)
    commit(root)
    check_documents(root)


def test_the_check_names_a_file_that_is_not_committed(root: Path) -> None:
    git(root, "rm", "--quiet", "--cached", "metrics/bench.json")
    commit_message = ("commit", "--quiet", "--message", "lost")
    git(root, *commit_message)
    with pytest.raises(ValueError, match=r"HEAD:metrics/bench\.json"):
        check_documents(root)
