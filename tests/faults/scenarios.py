"""Scenarios of the fault suite: disturb a step of the small pipeline, run it again, compare with an undisturbed one.

Each scenario copies the folder that a step starts from to `folder`. It returns a message about what went wrong, or
None.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from injection import limit_files, refuse
from pipeline import OUTPUTS
from processes import Run, open_output, run, tree


def _flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :] if content else content


# What a damaged file holds instead.
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut in half": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "zeroed": lambda content: bytes(len(content)),
    "one bit flipped": lambda content: _flipped(content, len(content) // 2),
    "its last byte flipped": lambda content: _flipped(content, len(content) - 1),
}
# Those that anybody can see without a hash.
SHORTENED = ("cut in half", "emptied", "zeroed")


@dataclass(frozen=True)
class Baseline:
    """An undisturbed run of a step: the folder it starts from, the one it leaves, and its changes of files."""

    step: str
    start: Path
    end: Path
    changes: list[str]

    @property
    def first_output(self) -> int:
        """Return the change that opens the first file of the results; all checkpoints are there by then."""
        return next(at for at, change in enumerate(self.changes, start=1) if change.startswith("open data/"))


def kill_at(baseline: Baseline, folder: Path, *, at: int) -> str | None:
    """Kill a step right before its change `at`, and run it again."""
    shutil.copytree(baseline.start, folder)
    killed = run(baseline.step, folder, at=at)
    if killed.code != -9:
        return f"was not killed before change {at} but ended with {killed.code}"
    return None if _is_finished(baseline, folder) else _half_opened(baseline, folder) or _again(baseline, folder)


def kill_after(baseline: Baseline, folder: Path, *, seconds: float) -> str | None:
    """Kill a step after a while, and run it again; a step that has already ended is run again too."""
    shutil.copytree(baseline.start, folder)
    run(baseline.step, folder, seconds=seconds)
    return None if _is_finished(baseline, folder) else _half_opened(baseline, folder) or _again(baseline, folder)


def refuse_at(baseline: Baseline, folder: Path, *, at: int) -> str | None:
    """Refuse change `at` of a step for lack of space, and run it again."""
    shutil.copytree(baseline.start, folder)
    return _refused(baseline, folder, run(baseline.step, folder, at=at, disturb=refuse))


def full_at(baseline: Baseline, folder: Path, *, size: int) -> str | None:
    """Let no file of a step grow beyond `size` bytes, and run it again."""
    shutil.copytree(baseline.start, folder)
    return _refused(baseline, folder, run(baseline.step, folder, at=1, disturb=partial(limit_files, size)))


def damage_checkpoint(baseline: Baseline, folder: Path, *, file: Path, kind: str) -> str | None:
    """Kill a step that has all its checkpoints, damage one of its scratch files, and run it again."""
    shutil.copytree(baseline.start, folder)
    killed = run(baseline.step, folder, at=baseline.first_output)
    if killed.code != -9:
        return f"was not killed before its results but ended with {killed.code}"
    _damage(folder / file, kind)
    return _again(baseline, folder)


def damage_output(baseline: Baseline, folder: Path, *, file: Path, kind: str) -> str | None:
    """Damage a file that a step wrote, and open the output: it is refused, or the same as before."""
    shutil.copytree(baseline.end, folder)
    _damage(folder / file, kind)
    opened = open_output(baseline.step, folder)
    return _opened_as_another(baseline, opened) if opened.code == 0 else _message_of(opened)


def scratch_files(baseline: Baseline, folder: Path) -> list[Path]:
    """Return the scratch files that a step holds right before it writes its results, relative to the folder."""
    shutil.copytree(baseline.start, folder)
    run(baseline.step, folder, at=baseline.first_output)
    files = [file for file in sorted((folder / ".scratch").rglob("*")) if file.is_file() and file.suffix != ".lock"]
    return [file.relative_to(folder) for file in files]


def _damage(file: Path, kind: str) -> None:
    file.write_bytes(DAMAGES[kind](file.read_bytes()))


def _is_finished(baseline: Baseline, folder: Path) -> bool:
    """Return whether a step is done that refuses to write into a folder that is not empty."""
    output = OUTPUTS.get(baseline.step, "")
    return baseline.step in ("import", "merge") and tree(folder / output) == tree(baseline.end / output)


def _half_opened(baseline: Baseline, folder: Path) -> str | None:
    """Return a message if an output opens that holds something else than the whole one; documents may be missing."""
    output = OUTPUTS.get(baseline.step)
    if output is None or not (folder / output).exists():
        return None
    return _opened_as_another(baseline, open_output(baseline.step, folder))


def _opened_as_another(baseline: Baseline, opened: Run) -> str | None:
    whole = open_output(baseline.step, baseline.end)
    if opened.code != 0 or opened.last_line == whole.last_line:
        return None
    return f"{OUTPUTS[baseline.step]} opens, but holds something else"


def _refused(baseline: Baseline, folder: Path, done: Run) -> str | None:
    """Return a message unless a step without space ended in a message, or did without, and then runs as ever."""
    if done.code == 0:
        return None if tree(folder) == tree(baseline.end) else "ended well, but left other files"
    return _message_of(done) or _half_opened(baseline, folder) or _again(baseline, folder)


def _message_of(done: Run) -> str | None:
    if done.ended_in_a_message:
        return None
    return f"ended with {done.code} and not in a message: {done.output[-600:]}"


def _again(baseline: Baseline, folder: Path) -> str | None:
    """Run the step once more; return a message unless it leaves what the undisturbed run left."""
    again = run(baseline.step, folder)
    if again.code != 0:
        return f"run again, it ends with {again.code}: {again.last_line}"
    found, wanted = tree(folder), tree(baseline.end)
    if found == wanted:
        return None
    names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    return f"run again, it leaves other files than an undisturbed run: {', '.join(names[:5])}"
