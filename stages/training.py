"""Shared by all training stages: where the pipeline keeps things, and what a stage does around its training."""

from collections.abc import Callable
from pathlib import Path

from accelerate import PartialState

from panollava.params import Strict
from panollava.training.fit import Outcome
from panollava.training.running import run_stage as run_training
from panollava.training.scratch import scratch_root

STORE = Path("data/store")
ENCODER = Path("data/encoder.json")
METRICS, PLOTS = Path("metrics"), Path("plots")


def logs(stage: str) -> Path:
    """Return the folder for the logs of trackers: runs/STAGE in the project's own root, as for the scratch folder."""
    return scratch_root().parent / "runs" / stage


def run(stage: str, params: Strict, inputs: list[Path], train: Callable[[Path], Outcome]) -> None:
    """Run one training stage, and leave the group of processes."""
    run_training(stage, params.model_dump(mode="json"), inputs, train, metrics=METRICS, plots=PLOTS)
    PartialState().destroy_process_group()
