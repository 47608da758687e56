"""The scratch folder of a training run: where its checkpoints lie until its results are written.

The folder's name is a hash of everything that decides the result, so a killed run finds its own checkpoints again, and
no other run does. It lies under the project's root, also for experiments that run in a temporary copy of the project.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from filelock import FileLock, Timeout

from panollava.training.processes import from_main

# How long processes wait for the main one, which reads all inputs here; 10 minutes, NCCL's own limit, may not do.
PATIENCE = timedelta(hours=2)


def content_hash(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of files, and of all files in folders, by relative name and content."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(str(file.relative_to(path)).encode())
                with file.open("rb") as content:
                    digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def scratch_root() -> Path:
    """Return the folder for what is needed again, but no result; DVC sets DVC_ROOT to the project's own root."""
    return Path(os.environ.get("DVC_ROOT", ".")) / ".scratch"


@contextmanager
def scratch(stage: str, settings: Any, inputs: Sequence[Path]) -> Iterator[Path]:
    """Give a stage the folder for its checkpoints, and remove it once the stage has written its results.

    `settings` must be JSON; together with the content of `inputs` it names the folder. All processes of one run get the
    same folder; the main one holds and removes it.

    Raises:
        RuntimeError: another run of the same stage on the same inputs is under way.
    """
    # Without a GPU, accelerate looks for other processes only when it is told to.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    folder = from_main(lambda: _folder(stage, settings, inputs))
    lock = FileLock(folder.with_suffix(".lock"))
    if state.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        _acquire(lock, stage, folder)
    state.wait_for_everyone()
    try:
        yield folder
        state.wait_for_everyone()
        if state.is_main_process:
            shutil.rmtree(folder)
    finally:
        lock.release()


def _folder(stage: str, settings: Any, inputs: Sequence[Path]) -> Path:
    key = hashlib.sha256(json.dumps([settings, content_hash(inputs)], sort_keys=True).encode()).hexdigest()[:16]
    return scratch_root() / stage / key


def _acquire(lock: FileLock, stage: str, folder: Path) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RuntimeError(
            f"another process is running {stage} on the same inputs ({folder}); wait for it, or stop it first"
        ) from None
