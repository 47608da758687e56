"""Keep a workspace safe while experiments run in it: restore all files that they change, even after a kill.

`dvc exp run` rewrites params.yaml, dvc.lock, metrics/ and plots/ in place; a killed run leaves them changed and HEAD
detached. `kept_workspace` records the state first, in .dvc/tmp/experiments.json and a stash commit on no branch, and
restores it at the end. After a kill, its next call restores it before anything else.
"""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from panollava.io import write_json

# Files that experiments write, and documents with their numbers. Only these may differ from HEAD at the start.
RESULTS = ("dvc.lock", "metrics", "plots")
DOCUMENTS = ("README.md", "docs")
PARAMS = "params.yaml"


@dataclass(frozen=True)
class State:
    """A workspace before experiments: branch (None: detached HEAD), commit, commit of the uncommitted results."""

    branch: str | None
    commit: str
    results: str | None


def git(root: Path, *arguments: str) -> str:
    """Run git in `root` and return what it prints; raises ValueError with git's own words if it fails."""
    # A stash commit needs an identity, and a machine that only runs experiments may have none.
    identity = ("-c", "user.name=panollava", "-c", "user.email=panollava@localhost")
    done = subprocess.run(["git", *identity, *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.rstrip("\n")


def current_branch(root: Path) -> str | None:
    """Return the full name of the branch that HEAD is on, or None if HEAD is detached."""
    name = git(root, "rev-parse", "--symbolic-full-name", "HEAD")
    return None if name == "HEAD" else name


def require_committed(root: Path, own: Collection[str]) -> None:
    """Raise a ValueError unless everything but results is committed: the commit identifies the code of an experiment.

    Only the files `own` may be untracked, since an experiment commits every other new result.
    """
    lines = git(root, "status", "--porcelain", "--untracked-files=all").splitlines()
    foreign = [
        line[3:]
        for line in lines
        if line[3:] not in own and (line.startswith("??") or line[3:].split("/")[0] not in (*RESULTS, *DOCUMENTS))
    ]
    if foreign:
        raise ValueError(
            f"experiments: commit or stash {', '.join(foreign)} first; those of one table must share one commit"
        )


def dvc(root: Path, *arguments: str, keep_open: Sequence[int] = ()) -> int:
    """Run dvc with this interpreter first on PATH and return its exit status; the descriptors stay open in it."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root, stdin=subprocess.DEVNULL, pass_fds=tuple(keep_open), env={**os.environ, "PATH": path},
    )  # fmt: skip
    try:
        return process.wait()
    except KeyboardInterrupt:
        # dvc has received the same signal and restores its branch; let it finish.
        process.wait()
        raise


def _state_file(root: Path) -> Path:
    return root / ".dvc/tmp/experiments.json"


def save(root: Path) -> State:
    """Record the workspace's state and return it."""
    results = git(root, "stash", "create") or None
    if results:
        # The ref keeps git from pruning the commit during a long study.
        git(root, "update-ref", "refs/panollava/experiments", results)
    state = State(current_branch(root), git(root, "rev-parse", "HEAD"), results)
    write_json(_state_file(root), asdict(state))
    return state


def restore(root: Path) -> None:
    """Restore the recorded state: HEAD, parameters, results and DVC's outputs. Other files stay as they are.

    If the branch has moved or HEAD has left it since, only the record is removed.
    """
    state = State(**json.loads(_state_file(root).read_text(encoding="utf-8")))
    branch, head = current_branch(root), git(root, "rev-parse", "HEAD")
    moved = branch is not None and (branch != state.branch or head != state.commit)
    if moved or git(root, "rev-parse", state.branch or state.commit) != state.commit:
        kept = f"; its uncommitted results: git stash apply {state.results}" if state.results else ""
        print(f"experiments: the workspace has moved on from {state.commit[:10]} and is left as it is{kept}")
    else:
        if branch is None and state.branch:
            git(root, "symbolic-ref", "HEAD", state.branch)
        elif branch is None and head != state.commit:
            git(root, "update-ref", "--no-deref", "HEAD", state.commit)
        files, index = (state.results, f"{state.results}^2") if state.results else (state.commit, state.commit)
        paths = [path for path in (*RESULTS, PARAMS) if git(root, "ls-files", "--", path)]
        for path in DOCUMENTS if state.results else ():
            if git(root, "diff", "--name-only", state.commit, files, "--", path):
                paths.append(path)
        git(root, "restore", f"--source={files}", "--worktree", "--", *paths)
        git(root, "restore", f"--source={index}", "--staged", "--", *paths)
        # Outputs of a killed stage, and perhaps of this state, are in no cache; restore the others all the same.
        dvc(root, "checkout", "--quiet", "--force", "--allow-missing")
    if state.results:
        git(root, "update-ref", "-d", "refs/panollava/experiments")
    _state_file(root).unlink()


@contextmanager
def kept_workspace(root: Path, own: Collection[str]) -> Iterator[int]:
    """Yield a lock's descriptor for `dvc(keep_open=...)`, and restore the workspace afterwards.

    `own` are the files that the caller itself writes; they may be new. The lock lasts as long as any process holds the
    descriptor, so the experiment of a killed study keeps it.

    Raises:
        ValueError: another study runs here, or something besides results is uncommitted.
    """
    _state_file(root).parent.mkdir(exist_ok=True)
    with (root / ".dvc/tmp/experiments.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                "experiments: another table of experiments, or one that it has left, still runs here"
            ) from error
        if _state_file(root).exists():
            print("experiments: an earlier one was killed; putting the workspace back")
            restore(root)
        require_committed(root, own)
        save(root)
        try:
            yield lock.fileno()
        finally:
            restore(root)
