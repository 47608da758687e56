"""A stage ends like a command: what a user can cause is one line, and bugs keep their traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

import stages

ROOT = Path(__file__).resolve().parents[2]


def test_a_stage_outside_the_project_ends_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stages.resolve_llm"], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    wanted = "resolve_llm: there is no params.yaml here; run this in the project's folder\n"
    assert (done.returncode, done.stderr) == (1, wanted)


@pytest.mark.parametrize(("error", "code"), [(ValueError("no"), 1), (KeyboardInterrupt(), 130), (None, 0)])
def test_a_stage_exits_with_the_code_of_its_end(
    error: BaseException | None, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        if error is not None:
            raise error

    monkeypatch.setattr("sys.argv", ["/project/stages/evaluate.py"])
    with pytest.raises(SystemExit) as caught:
        stages.run_stage(main)
    assert caught.value.code == code
    assert capsys.readouterr().err == {0: "", 1: "evaluate: no\n", 130: "evaluate: interrupted\n"}[code]


def test_bugs_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        stages.run_stage(lambda: 1 // 0)
