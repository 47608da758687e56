"""Trackers: none by default, a folder of their own, and a message for one that is not installed."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
from test_trainer import trainer
from transformers import TrainerCallback

from panollava.training import trackers
from panollava.training.trackers import FOLDERS, check_trackers, tracker_callbacks

MISSING = [name for name in trackers.TRACKERS if importlib.util.find_spec(name) is None]


@pytest.mark.parametrize("name", MISSING)
def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"report_to: {name} is not installed; `pip install {name}`"):
        trainer(tmp_path / "stage" / "key", report_to=(name,), logs=str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(ValueError, match="'mlflow' is no tracker; choose from none, tensorboard, wandb, trackio"):
        check_trackers(["mlflow"])


def test_by_default_nothing_tracks(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    assert run.args.report_to == []
    assert tracker_callbacks((), tmp_path / "runs") == []
    assert not (tmp_path / "runs").exists()


def test_a_tracker_logs_in_the_folder_of_its_run_and_changes_no_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FOLDERS["tensorboard"], raising=False)
    monkeypatch.setattr(trackers, "check_trackers", lambda names: None)

    class Noting(TrainerCallback):
        def __init__(self) -> None:
            self.folder = Path(os.environ[FOLDERS["tensorboard"]])

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            with (self.folder / "events").open("a") as file:
                print(state.global_step, logs.get("loss"), file=file)

    monkeypatch.setattr(trackers, "get_reporting_integration_callbacks", lambda names: [Noting])
    tracked = trainer(tmp_path / "stage" / "key", report_to=("tensorboard",), logs=str(tmp_path / "runs/stage"))
    history = tracked.run()
    lines = (tmp_path / "runs/stage/key/events").read_text().splitlines()
    assert lines[:6] == [f"{entry['step']} {entry['loss']}" for entry in history]
    assert tracked.args.run_name == "stage"
    trainer(tmp_path / "next" / "key", report_to=("tensorboard",), logs=str(tmp_path / "runs/next")).run()
    assert (tmp_path / "runs/next/key/events").is_file()
    assert len((tmp_path / "runs/stage/key/events").read_text().splitlines()) == len(lines)
    monkeypatch.delenv(FOLDERS["tensorboard"])
    assert [entry["loss"] for entry in trainer(tmp_path / "plain").run()] == [entry["loss"] for entry in history]
