"""Answers of runs to be compared: predictions.jsonl from a file, or of a git revision out of the DVC cache.

Nothing is checked out. The runs of a comparison must have been asked the same questions; what differs is named.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dvc.api
from dvc.api.data import PathMissingError
from dvc.exceptions import DvcException, FileMissingError
from dvc.scm import RevError
from dvc_data.index import DataIndexDirError
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from panollava.report.inputs import Prediction
from panollava.tasks.scoring import has_area

PREDICTIONS = "data/evaluate/predictions.jsonl"
Key = tuple[str, int, int, str]

# Task -> the score that each of its answers must have.
_NEEDED = {"choice": "correct", "direction": "error_deg", "detection": "boxes"}
# What makes two lines of one key the same question.
_QUESTION = ("task", "type", "question", "references", "answer")
_NAMED = 3


class FoundBox(BaseModel):
    """A box that the model named; those of a detection have a score."""

    model_config = ConfigDict(allow_inf_nan=False)

    label: str
    box_deg: tuple[float, float, float, float]
    score: float | None = None


class ScoredAnswer(Prediction):
    """One line of predictions.jsonl, with the scores that its task must have; no number may be NaN."""

    model_config = ConfigDict(allow_inf_nan=False)

    score: float
    references: list[str]
    boxes: list[FoundBox] | None = None  # type: ignore[assignment] # the base leaves open what a box holds

    @model_validator(mode="after")
    def _has_scores(self) -> "ScoredAnswer":
        scores: dict[str, Any] = {"correct": self.correct, "error_deg": self.error_deg, "boxes": self.boxes}
        needed = _NEEDED.get(self.task)
        if needed is not None and scores[needed] is None:
            raise ValueError(f"an answer of task {self.task!r} needs `{needed}`, which is null")
        if self.task == "detection" and any(box.score is None for box in self.boxes or ()):
            raise ValueError(
                "a box of a detection needs `score`; versions before 0.5 wrote none: evaluate that run again"
            )
        if self.task == "grounding" and (self.iou is None) == has_area(self.answer["box_deg"] if self.answer else (0,)):
            raise ValueError(f"`iou` is {self.iou}; it must be null exactly where the true box has 180 degrees or more")
        return self


@dataclass(frozen=True)
class Run:
    """The answers of one model's run, by what identifies their questions; `name` is how the user calls it."""

    name: str
    answers: dict[Key, dict[str, Any]]


def read_runs(sources: str, root: Path) -> list[Run]:
    """Return the runs of a comma-separated list: files, git revisions or experiments of the project in `root`.

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
    """Return the text of a file; raises ValueError where there is none."""
    if not Path(source).is_file():
        raise ValueError(f"{source}: no such file; give a predictions.jsonl, a git revision or an experiment")
    return Path(source).read_text(encoding="utf-8")


def read_revision_run(revision: str | None, root: Path) -> Run:
    """Return the run of a git revision or an experiment, None for the workspace, out of the DVC cache.

    Raises:
        ValueError: There is no such revision, no project, or the cache does not hold its predictions.
    """
    name = revision or "the workspace"
    try:
        text = dvc.api.read(PREDICTIONS, repo=str(root), rev=revision, encoding="utf-8")
    except RevError as error:
        raise ValueError(f"{name}: no file, git revision or experiment of this repository: {error}") from error
    except (PathMissingError, FileMissingError, DataIndexDirError) as error:
        raise ValueError(
            f"{name}: {PREDICTIONS} is neither in the DVC cache nor in a default remote; get it there with `dvc pull`, "
            "or run that revision again"
        ) from error
    except DvcException as error:
        raise ValueError(f"{name}: its predictions cannot be read: {error}") from error
    return parse_run(name, text)


def parse_run(name: str, text: str) -> Run:
    """Return the answers of the model itself in the text of a predictions.jsonl.

    Raises:
        ValueError: A line is no prediction, holds NaN, repeats a question, or the model has answered nothing.
    """
    answers: dict[Key, dict[str, Any]] = {}
    number = 0
    # Not splitlines, which would also cut a JSON string at the line separators of Unicode.
    for number, line in enumerate(io.StringIO(text), start=1):
        try:
            answer = ScoredAnswer.model_validate_json(line)
        except ValidationError as error:
            raise ValueError(f"{name}, line {number}: not a scored answer: {_problems(error)}") from error
        if answer.variant != "model":
            continue
        if answer.key in answers:
            raise ValueError(f"{name}, line {number}: {spell(answer.key)} is answered twice; each must come once")
        answers[answer.key] = answer.model_dump()
    if not answers:
        raise ValueError(f"{name}: no answers of the variant 'model' among {number} lines; rerun evaluate")
    return Run(name, answers)


def _problems(error: ValidationError) -> str:
    """Return each problem of a line as field, what is wrong, and the value if it is a short one."""
    told = []
    for problem in error.errors(include_url=False, include_context=False):
        field = ".".join(map(str, problem["loc"])) + ": " if problem["loc"] else ""
        value = f", found {problem['input']}" if isinstance(problem["input"], int | float) else ""
        told.append(f"{field}{problem['msg']}{value}")
    return "; ".join(told)


def spell(key: Key) -> str:
    """Return a question's key in words."""
    return f"{key[0]} record {key[1]} turn {key[2]} ({key[3]})"


def require_same_questions(runs: Sequence[Run]) -> None:
    """Raise a ValueError that counts and names what was asked in one run and not in another."""
    first = runs[0]
    for other in runs[1:]:
        lacking = [(a, sorted(b.answers.keys() - a.answers.keys())) for a, b in ((first, other), (other, first))]
        if any(missing for _, missing in lacking):
            told = "; ".join(f"{run.name} lacks {_some(missing)}" for run, missing in lacking)
            raise ValueError(f"the runs were asked different questions: {told}; compare runs on one data set and split")
        changed = sorted(key for key, line in first.answers.items() if not _same(line, other.answers[key]))
        if changed:
            differing = [
                name for name in _QUESTION if first.answers[changed[0]][name] != other.answers[changed[0]][name]
            ]
            raise ValueError(
                f"{first.name} and {other.name} disagree on {', '.join(differing)} of {_some(changed)}; "
                "compare runs on one data set and split"
            )


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(a[name] == b[name] for name in _QUESTION)


def _some(keys: Sequence[Key]) -> str:
    """Return the number of questions and the first few."""
    names = ", ".join(spell(key) for key in keys[:_NAMED])
    more = ", …" if len(keys) > _NAMED else ""
    return f"{len(keys)} ({names}{more})" if keys else "none"
