"""The grid of combinations: complete, resumable after a kill, and without a trace in the workspace."""

import csv
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import pytest

from panollava.experiments.grid import combination_row, grid, markdown, run_grid
from panollava.experiments.workspace import kept_workspace


def start_grid(miniature, tests_root):
    """Start the grid as `make grid` does; the stages find the miniature's own code all the same."""
    environment = miniature.environment() | {"PYTHONPATH": str(tests_root / "src")}
    return subprocess.Popen(
        [sys.executable, "-c", "import sys; from panollava.cli import main; sys.exit(main())", "grid"],
        cwd=miniature.root, env=environment, stdin=subprocess.DEVNULL, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_a_killed_grid_goes_on_where_it_stopped(miniature, pytestconfig):
    root = miniature.root
    # Results of an uncommitted run are the user's: the grid must give them back.
    (root / "metrics/latency.json").write_text('{"latency": {"first_token_ms": 11.5}}')
    for name in ("README.md", "docs/experiments.md"):
        (root / name).write_text("My words.\n" + (root / name).read_text())
    kept = ("params.yaml", "dvc.lock", "metrics/latency.json", "README.md", "docs/experiments.md")
    before = {name: (root / name).read_text() for name in kept}
    status = miniature.git("status", "--porcelain")

    miniature.stop.write_text("language vicuna")
    process = start_grid(miniature, pytestconfig.rootpath)
    waiting_since = time.monotonic()
    while not (miniature.log.exists() and "language clip vicuna" in miniature.log.read_text()):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() - waiting_since < 120
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    # An experiment that is killed leaves HEAD off its branch.
    assert miniature.git("rev-parse", "--symbolic-full-name", "HEAD") == "HEAD"
    assert "language clip vicuna" in miniature.stages_run()

    miniature.stop.unlink()
    process = start_grid(miniature, pytestconfig.rootpath)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert miniature.stages_run() == [
        "language clip vicuna", "evaluate clip vicuna",
        "vision dinov2 llama", "language dinov2 llama", "evaluate dinov2 llama",
        "language dinov2 vicuna", "evaluate dinov2 vicuna",
    ]  # fmt: skip
    names = miniature.dvc("exp", "list", "--name-only").split()
    assert sorted(names) == ["clip-llama", "clip-vicuna", "dinov2-llama", "dinov2-vicuna"]

    assert miniature.git("symbolic-ref", "HEAD") == "refs/heads/main"
    assert {name: (root / name).read_text() for name in before} == before
    assert miniature.read_json("data/language.json") == 0.375
    new = set(miniature.git("status", "--porcelain").splitlines()) - set(status.splitlines())
    assert new == {"?? metrics/combinations.csv", "?? metrics/combinations.json"}

    content = miniature.read_json("metrics/combinations.json")
    assert content["version"] == version("panollava")
    rows = content["combinations"]
    assert {name: row["en"]["accuracy"] for name, row in rows.items()} == {
        "clip-llama": 0.375, "clip-vicuna": 0.5, "dinov2-llama": 0.5625, "dinov2-vicuna": 0.6875,
    }  # fmt: skip
    with (root / "metrics/combinations.csv").open() as file:
        assert [row["en.ap50"] for row in csv.DictReader(file)] == ["0.1875", "0.25", "0.28125", "0.34375"]
    assert "| clip-vicuna | 0.500 | [0.438, 0.562] | 0.250 | 0.250 | 0.125 | 10.0 | 2.0 |" in output

    # A third call has nothing to run and writes the same.
    assert run_grid(root) == content
    assert miniature.stages_run() == []
    assert miniature.read_json("metrics/combinations.json") == content


def test_refusals_come_before_any_run(miniature):
    (miniature.root / "src/panollava/new.py").write_text("")
    with pytest.raises(ValueError, match=r"commit or stash src/panollava/new.py first"):
        run_grid(miniature.root)
    (miniature.root / "src/panollava/new.py").unlink()
    miniature.dvc("exp", "run", "--name", "clip-llama", "-S", "seed=5")
    miniature.git("checkout", ".")
    with pytest.raises(ValueError, match=r"'clip-llama' of this commit was run with another seed"):
        run_grid(miniature.root)
    assert len(miniature.stages_run()) == 3
    with kept_workspace(miniature.root, ()), pytest.raises(ValueError, match="another table"):
        run_grid(miniature.root)


def test_grid_is_the_product_of_the_presets():
    cells = grid({"encoders": {"clip": {}, "siglip": {}}, "llms": {"llama": {}, "mistral": {}}})
    assert list(cells) == ["clip-llama", "clip-mistral", "siglip-llama", "siglip-mistral"]
    assert cells["siglip-llama"] == {"encoder": "siglip", "llm": "llama"}
    made = {"standin": "data/pretrained/smollm2"}  # no experiment has this folder
    assert list(
        grid({"encoders": {"clip": {}}, "llms": {"llama": {"standin": "data/standins/llama"}, "smollm2": made}})
    ) == ["clip-llama"]


def test_what_was_not_measured_is_a_dash():
    bare = combination_row(
        {"evaluate": {"en": {"open": {"chrf": 20.0}}, "ko": {"accuracy": {"value": 0.5, "blind": 0.25}}}}
    )
    assert bare == {"en": {}, "ko": {"accuracy": 0.5, "blind": 0.25}}
    title, _, *lines = markdown({"version": "1.2", "combinations": {"clip-llama": bare}}).splitlines()
    assert title == "Made by version 1.2."
    assert lines[2] == "| clip-llama | – | – | – | – | – | 0.500 | – | – |"
    assert lines[3] == "| best blind (no image) | – | – | – | – | – | 0.250 | – | – |"
