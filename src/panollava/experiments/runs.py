"""Answers of runs to be compared: predictions.jsonl from a file, or of a git revision out of the DVC cache.

Nothing is checked out. The runs of a comparison must have been asked the same questions; what differs is named.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dvc.api
from dvc.api.data import PathMissingError
from dvc.exceptions import DvcException, FileMissingError
from dvc.scm import RevError
from dvc_data.index import DataIndexDirError

from panollava.tasks.prediction import Prediction, QuestionKey
from panollava.tasks.prediction_files import parse_predictions

PREDICTIONS = "data/evaluate/predictions.jsonl"
# How a user calls the finished run of the workspace, as in DVC.
WORKSPACE = "workspace"
_NAMED = 3


@dataclass(frozen=True)
class Run:
    """The answers of one model's run by question; `name` is how the user calls it."""

    name: str
    answers: dict[QuestionKey, Prediction]


def read_runs(sources: str, root: Path) -> list[Run]:
    """Return the runs of a comma-separated list: files, git revisions or experiments of the project in `root`.

    `workspace` is the run that the project's folder holds.

    Raises:
        ValueError: A name is empty or means nothing, predictions are in no cache, or a line is not one.
    """
    names = [name.strip() for name in sources.split(",")]
    if not all(names):
        raise ValueError(f"{sources!r} holds an empty name; separate revisions or files by single commas")
    return [parse_run(name, read_file(name)) if is_file(name) else read_revision_run(name, root) for name in names]


def is_file(source: str) -> bool:
    """Return whether a source is a path rather than a revision."""
    return source.endswith(".jsonl") or Path(source).is_file()


def read_file(source: str) -> str:
    """Return the text of a file; raises ValueError where there is none, or no text."""
    if not Path(source).is_file():
        raise ValueError(f"{source}: no such file; give a predictions.jsonl, a git revision or an experiment")
    try:
        return Path(source).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not a file of predictions, which is UTF-8 text: {error.reason}") from error


def read_revision_run(name: str, root: Path) -> Run:
    """Return the run of a git revision, an experiment or the `WORKSPACE`, out of the DVC cache.

    Raises:
        ValueError: There is no such revision, no project, or the cache does not hold its predictions.
    """
    revision = None if name == WORKSPACE else name
    try:
        text = dvc.api.read(PREDICTIONS, repo=str(root), rev=revision, encoding="utf-8")
    except RevError as error:
        raise ValueError(f"{name}: no file, git revision or experiment of this repository: {error}") from error
    except (PathMissingError, FileMissingError, DataIndexDirError) as error:
        raise ValueError(
            f"{name}: {PREDICTIONS} is neither in the DVC cache nor in a default remote; get it there with `dvc pull`, "
            "or run that revision again; a run of your own that is not committed yet is called `workspace`"
        ) from error
    except DvcException as error:
        raise ValueError(f"{name}: its predictions cannot be read: {error}") from error
    return parse_run(name, text)


def parse_run(name: str, text: str) -> Run:
    """Return the answers of the model itself in the text of a predictions.jsonl.

    Raises:
        ValueError: A line is no prediction, holds NaN, repeats a question, or the model has answered nothing.
    """
    answers: dict[QuestionKey, Prediction] = {}
    number = 0
    # Not splitlines, which would also cut a JSON string at the line separators of Unicode.
    for number, answer in enumerate(parse_predictions(name, io.StringIO(text)), start=1):
        if answer.variant != "model":
            continue
        if answer.key in answers:
            raise ValueError(f"{name}, line {number}: {spell(answer.key)} is answered twice; each must come once")
        answers[answer.key] = answer
    if not answers:
        raise ValueError(f"{name}: no answers of the variant 'model' among {number} lines; rerun evaluate")
    return Run(name, answers)


def spell(key: QuestionKey) -> str:
    """Return a question's key in words."""
    return f"{key[0]} record {key[1]} turn {key[2]} ({key[3]})"


def require_same_questions(runs: Sequence[Run]) -> None:
    """Raise a ValueError that counts and names the questions that were asked in one run and not in another."""
    first = runs[0]
    for other in runs[1:]:
        lacking = [(a, sorted(b.answers.keys() - a.answers.keys())) for a, b in ((first, other), (other, first))]
        if any(missing for _, missing in lacking):
            told = "; ".join(f"{run.name} lacks {_some(missing)}" for run, missing in lacking)
            raise ValueError(f"the runs were asked different questions: {told}; compare runs on one data set and split")
        differing = {key: _differing(answer, other.answers[key]) for key, answer in first.answers.items()}
        changed = sorted(key for key, names in differing.items() if names)
        if changed:
            raise ValueError(
                f"{first.name} and {other.name} disagree on {', '.join(differing[changed[0]])} of {_some(changed)}; "
                "compare runs on one data set and split"
            )


def _differing(a: Prediction, b: Prediction) -> list[str]:
    """Return the names of the fields by which two answers of one key were asked different questions."""
    pairs = {
        "task": (a.task, b.task),
        "type": (a.type, b.type),
        "question": (a.question, b.question),
        "references": (a.references, b.references),
        "answer": (a.answer, b.answer),
    }
    return [name for name, (first, second) in pairs.items() if first != second]


def _some(keys: Sequence[QuestionKey]) -> str:
    """Return the number of questions and the first few."""
    names = ", ".join(spell(key) for key in keys[:_NAMED])
    more = ", …" if len(keys) > _NAMED else ""
    return f"{len(keys)} ({names}{more})" if keys else "none"
