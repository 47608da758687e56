"""Disturb a process at its n-th change of a file, which CPython's audit events report.

Changes count from 1. Only those below the working directory do, and not DVC's own. Native code that writes by itself
(safetensors, torch) raises no events; its files are renamed or followed by others that do. Linux only.
"""

import errno
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Events that change what a path names: the position of the folder among their arguments that the path is relative to.
CHANGES = {
    "os.rename": 2,
    "os.remove": 1,
    "os.mkdir": 2,
    "os.rmdir": 1,
    "os.link": 2,
    "os.symlink": 2,
    "os.truncate": None,
}


def kill() -> None:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def refuse() -> None:
    """Refuse the change as a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def limit_files(size: int) -> None:
    """Let no file grow beyond so many bytes from now on: writing more fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def changed_path(event: str, arguments: tuple[Any, ...]) -> Path | None:
    """Return the path that an audit event changes, relative to the working directory; None if it lies elsewhere."""
    base, place = Path.cwd(), CHANGES.get(event)
    if event == "open":
        if not isinstance(arguments[2], int) or not arguments[2] & WRITING:
            return None
    elif event not in CHANGES:
        return None
    if not isinstance(arguments[0], str | os.PathLike):  # an open file by its number
        return None
    if place is not None and arguments[place] != -1:
        base = Path(os.readlink(f"/proc/self/fd/{arguments[place]}"))  # noqa: PTH115 # a file's number, not a path
    path = Path(os.path.normpath(base / arguments[0]))
    own = path.is_relative_to(Path.cwd()) and not path.is_relative_to(Path.cwd() / ".dvc")
    return path.relative_to(Path.cwd()) if own else None


def watch(seen: Callable[[str], object], at: int | None, disturb: Callable[[], None]) -> None:
    """Report each change to `seen` before it happens; at change `at`, disturb it first.

    The hook stays for as long as the process lives.
    """
    count, busy = 0, False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count, busy
        path = None if busy else changed_path(event, arguments)
        if path is None:
            return
        count, busy = count + 1, True
        try:
            seen(f"{event} {path}")
            if count == at:
                disturb()
        finally:
            busy = False

    sys.addaudithook(hook)
