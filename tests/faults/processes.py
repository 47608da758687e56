"""Run steps of the small pipeline in processes that may be killed, and compare the folders that they leave.

A fork server imports torch and the package once; each process forks from it before anything is computed.
"""

import hashlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from injection import kill, watch
from pipeline import MEASURED, OPENERS, OUTPUTS, STEPS

from panollava import terminal

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["panollava.finetuning", "panollava.cli", "panollava.params", "stages.training"])


@dataclass(frozen=True)
class Run:
    """A finished process: its exit code (-9: killed), its changes of files, and what it printed."""

    code: int
    changes: list[str]
    output: str

    @property
    def last_line(self) -> str:
        """Return the last line that it printed."""
        return next((line for line in reversed(self.output.splitlines()) if line.strip()), "nothing printed")

    @property
    def ended_in_a_message(self) -> bool:
        """Return whether its exit code is 1 and it said why, perhaps behind a progress bar, without a traceback."""
        said = any(f"{name}: " in self.output for name in ("panollava", *STEPS))
        return self.code == 1 and said and "Traceback" not in self.output


class _Pipe:
    """A pipe into the test's process. A file would not do: a process may be forbidden to write files."""

    def __init__(self) -> None:
        self.reader, self.writer = CONTEXT.Pipe(duplex=False)
        self.received = bytearray()
        self.thread = threading.Thread(target=self._receive, daemon=True)
        self.thread.start()

    def _receive(self) -> None:
        while chunk := os.read(self.reader.fileno(), 65536):
            self.received += chunk

    def text(self) -> str:
        """Return all that came; a second is enough where processes that outlive the writer hold the pipe open."""
        self.writer.close()
        self.thread.join(timeout=1)
        return self.received.decode(errors="replace")


def _enter(folder: Path, output: Connection) -> None:
    os.chdir(folder)
    os.environ.pop("DVC_ROOT", None)
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)


def _run_step(
    output: Connection, changes: Connection, step: str, folder: Path, at: int | None, disturb: Callable[[], None]
) -> None:
    _enter(folder, output)
    watch(lambda change: os.write(changes.fileno(), f"{change}\n".encode()), at, disturb)
    STEPS[step]()


def _open_output(output: Connection, changes: Connection, step: str, folder: Path) -> None:
    _enter(folder, output)
    sys.exit(terminal.run("panollava", partial(_print_digest, step)))


def _print_digest(step: str) -> int:
    print(OPENERS[step](OUTPUTS[step]), flush=True)
    return 0


def _in_process(target: Callable[..., None], *arguments: object, seconds: float | None = None) -> Run:
    """Call a function in a process, and kill it after so many seconds."""
    output, changes = _Pipe(), _Pipe()
    process = CONTEXT.Process(target=target, args=(output.writer, changes.writer, *arguments))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    code = -9 if process.exitcode is None else process.exitcode
    return Run(code, changes.text().splitlines(), output.text())


def run(
    step: str,
    folder: Path,
    *,
    at: int | None = None,
    disturb: Callable[[], None] = kill,
    seconds: float | None = None,
) -> Run:
    """Run a step in a folder to its end, disturbed at its change `at`, or killed after so many `seconds`."""
    return _in_process(_run_step, step, folder, at, disturb, seconds=seconds)


def run_whole(step: str, folder: Path) -> Run:
    """Run a step to its end; raises AssertionError with its output if it fails."""
    done = run(step, folder)
    assert done.code == 0, f"{step} ended with {done.code}:\n{done.output}"
    return done


def open_output(step: str, folder: Path) -> Run:
    """Open what a step wrote in a folder; the last line of the output is a digest of it."""
    return _in_process(_open_output, step, folder)


def tree(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below a folder, but of those that hold measured times.

    Lock files are left out: a killed process leaves its own, and an empty file locks nothing.
    """
    found = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.is_file() and not name.startswith((".dvc/", *MEASURED)) and not name.endswith(".lock"):
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found
