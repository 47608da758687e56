"""Keep a workspace safe while experiments run in it: put back what they change, even after a kill.

`dvc exp run` rewrites params.yaml, dvc.lock, metrics/ and plots/ in place; killed, it leaves them so and HEAD detached.
`kept_workspace` therefore records the state first, in .dvc/tmp/experiments.json and a stash commit that no branch sees,
and puts it back at the end; after a kill its next call does so before anything else.
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

# What experiments write, and the only things that may differ from HEAD when they start.
RESULTS = ("dvc.lock", "metrics", "plots", "README.md")
PARAMS = "params.yaml"


@dataclass(frozen=True)
class State:
    """A workspace before experiments: its branch (None: detached), its commit, and that of its uncommitted results."""

    branch: str | None
    commit: str
    results: str | None


def git(root: Path, *arguments: str) -> str:
    """Run git in `root` and return what it prints; raises ValueError with git's own words if it fails."""
    # An identity, since a stash commit needs one and a machine that only runs experiments may have none.
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
    """Raise a ValueError unless all but changed results is committed: experiments are told apart by their commit.

    Only the files `own` may be untracked: an experiment would take any other new result with it.
    """
    lines = git(root, "status", "--porcelain", "--untracked-files=all").splitlines()
    foreign = [
        line[3:]
        for line in lines
        if line[3:] not in own and (line.startswith("??") or line[3:].split("/")[0] not in RESULTS)
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
        # dvc got the same signal and is putting its branch back: let it finish.
        process.wait()
        raise


def _state_file(root: Path) -> Path:
    return root / ".dvc/tmp/experiments.json"


def save(root: Path) -> State:
    """Record the workspace's state and return it."""
    results = git(root, "stash", "create") or None
    if results:
        # A ref, lest git prune the commit while a long table runs.
        git(root, "update-ref", "refs/panollava/experiments", results)
    state = State(current_branch(root), git(root, "rev-parse", "HEAD"), results)
    file = _state_file(root)
    temporary = file.with_suffix(".new")
    temporary.write_text(json.dumps(asdict(state)), encoding="utf-8")
    temporary.replace(file)
    return state


def restore(root: Path) -> None:
    """Put the recorded state back: HEAD, parameters, results and DVC's outputs; other files are left alone.

    If somebody has committed to the branch or left it since, nothing is touched but the record.
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
        paths = [path for path in (*RESULTS, PARAMS) if git(root, "ls-files", "--", path) and path != "README.md"]
        if state.results and git(root, "diff", "--name-only", state.commit, state.results, "--", "README.md"):
            paths.append("README.md")
        git(root, "restore", f"--source={files}", "--worktree", "--", *paths)
        git(root, "restore", f"--source={index}", "--staged", "--", *paths)
        # Outputs of a killed stage are in no cache, and so may be those of this state: neither stops the others.
        dvc(root, "checkout", "--quiet", "--force", "--allow-missing")
    if state.results:
        git(root, "update-ref", "-d", "refs/panollava/experiments")
    _state_file(root).unlink()


@contextmanager
def kept_workspace(root: Path, own: Collection[str]) -> Iterator[int]:
    """Yield a lock's descriptor to hand to `dvc(keep_open=...)`, and leave the workspace as it was found.

    `own` are the files that the caller itself writes: they may be new.

    The lock is held for as long as any process has the descriptor: the experiment of a killed table keeps it.

    Raises:
        ValueError: Another table of experiments runs here, or something besides results is uncommitted.
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
