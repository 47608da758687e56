"""Trackers of a training run: transformers' own callbacks, with their logs in a folder that we name.

The packages are the user's choice and are not dependencies. None of them is asked for by default.
"""

import importlib.util
import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from accelerate import PartialState
from transformers import TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks

TRACKERS = ("tensorboard", "wandb", "trackio", "dvclive")
# The variables by which a tracker learns where to write.
FOLDERS = {"tensorboard": "TENSORBOARD_LOGGING_DIR", "wandb": "WANDB_DIR", "trackio": "TRACKIO_DIR"}
# What the user has set stays. What one stage of a run has set, the next one replaces.
GIVEN = {name for name in FOLDERS.values() if name in os.environ}


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are unknown or not installed.

    Raises:
        ValueError: with the tracker, and how to install it.
    """
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"report_to: {name!r} is no tracker; choose from none, {', '.join(TRACKERS)}")
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"report_to: {name} is not installed; `pip install {name}`, or leave it out of report_to in launch.yaml"
            )


def tracker_callbacks(names: Sequence[str], folder: Path) -> list[TrainerCallback]:
    """Return the callbacks of trackers that write into a folder; the main process alone has any.

    Raises:
        ValueError: a tracker that is unknown or not installed.
    """
    check_trackers(names)
    if not names or not PartialState().is_main_process:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    callbacks = []
    for name in names:
        (callback,) = get_reporting_integration_callbacks([name])
        if name == "dvclive":
            # The experiment is DVC's own business: no dvc.yaml and no commit of the tracker's.
            live = import_module("dvclive").Live(dir=str(folder), dvcyaml=None, save_dvc_exp=False, resume=True)
            callbacks.append(callback(live))
            continue
        if FOLDERS[name] not in GIVEN:
            os.environ[FOLDERS[name]] = str(folder)
        os.environ.setdefault("WANDB_PROJECT", "panollava")
        callbacks.append(callback())
    print(f"{', '.join(names)}: logs in {folder}", flush=True)
    return callbacks


def finish_trackers(names: Sequence[str]) -> None:
    """End what a tracker would go on with in the next training of this process."""
    if "wandb" in names and PartialState().is_main_process:
        import_module("wandb").finish()
