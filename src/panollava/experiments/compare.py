"""The paired comparison of two runs: per measure and question type, the difference, its interval, p values and Holm.

Each run may be several seeds: a question's score is then its mean over them, average precision the mean of theirs.
Intervals and p values take panoramas for the clusters (see `metrics.paired`); Holm corrects over the rows of a table.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from panollava.experiments.runs import Run, read_runs, require_same_questions
from panollava.markdown import degrees, markdown_table, share
from panollava.metrics.paired import DRAWS, Paired, Statistic, holm, paired_mean, paired_median, paired_statistic
from panollava.tasks.block_scores import languages_of
from panollava.tasks.choice import by_type, headline_types
from panollava.tasks.prediction import Prediction, QuestionKey
from panollava.tasks.table import MEASURES, TASKS
from panollava.tasks.task import Measure, Predictions, Task

LEVEL, SIGNIFICANT = 0.95, 0.05


@dataclass(frozen=True)
class Row:
    """One compared number; `task` is the key of its measure in `tasks.table.MEASURES`.

    `type` is empty for the number of a whole task, `metric` where metrics/evaluate.json lacks it.
    """

    language: str
    task: str
    type: str
    measure: str
    better: Literal["higher", "lower"]
    metric: str
    n: int
    panoramas: int
    test: Paired
    p_holm: float = 1.0

    @property
    def verdict(self) -> str:
        """Return whether B is better or worse after Holm's correction, or `–`."""
        if self.p_holm >= SIGNIFICANT:
            return share(None)
        return "better" if (self.test.difference > 0) == (self.better == "higher") else "worse"


@dataclass(frozen=True)
class Comparison:
    """The differences of two runs; `notes` name the answers that could not be compared."""

    a: tuple[str, ...]
    b: tuple[str, ...]
    draws: int
    seed: int
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def markdown(self) -> str:
        """Return the comparison as a GitHub-flavoured table under a line that names both runs."""
        lines = []
        for row in self.rows:
            spell = degrees if MEASURES[row.task].degrees else share
            test = row.test
            sign = "+" if test.difference > 0 else ""
            lines.append([
                row.measure, row.language, str(row.n), spell(test.a), spell(test.b), f"{sign}{spell(test.difference)}",
                f"[{spell(test.low)}, {spell(test.high)}]", f"{test.p:.4f}", f"{row.p_holm:.4f}", row.verdict,
            ])  # fmt: skip
        header = ["Measure", "Language", "n", "A", "B", "B − A", "95 % interval", "p", "p (Holm)", "B is"]
        title = f"A: {', '.join(self.a)}. B: {', '.join(self.b)}."
        notes = "".join(f"\n{note}" for note in self.notes)
        return f"{title}\n\n{markdown_table(header, lines, left=2)}" + (f"\n{notes}" if notes else "")

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        rows = [
            {name: value for name, value in asdict(row).items() if name != "test"} | row.test._asdict()
            for row in self.rows
        ]
        top = {"a": self.a, "b": self.b, "draws": self.draws, "seed": self.seed, "level": LEVEL}
        return top | {"rows": rows, "notes": self.notes}


@dataclass(frozen=True)
class _Part:
    """The questions of one row; `groups` `[n]`, if any, count alike in its mean."""

    language: str
    measure: Measure
    type: str
    name: str
    metric: str
    answers: Sequence[Prediction]
    groups: Sequence[str] | None = None

    @property
    def keys(self) -> list[QuestionKey]:
        return [answer.key for answer in self.answers]


def compare_sources(a: str, b: str, *, root: Path = Path(), draws: int = DRAWS, seed: int = 0) -> Comparison:
    """Compare two comma-separated lists of prediction files, git revisions or experiments.

    Raises:
        ValueError: A source cannot be read, or the runs were asked different questions.
    """
    return compare_runs(read_runs(a, root), read_runs(b, root), draws=draws, seed=seed)


def compare_runs(
    a: Sequence[Run],
    b: Sequence[Run],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    only: Collection[str] | None = None,
) -> Comparison:
    """Compare runs that are read already; `only` leaves out the rows of other metrics, and Holm's count of them.

    Raises:
        ValueError: The runs were asked different questions.
    """
    runs = [*a, *b]
    require_same_questions(runs)
    parts = [part for part in _parts(runs) if only is None or part.metric in only]
    rows = [_row(part, a, b, draws, seed) for part in parts]
    corrected = holm([row.test.p for row in rows])
    rows = [replace(row, p_holm=p) for row, p in zip(rows, corrected, strict=True)]
    first, second = (tuple(run.name for run in side) for side in (a, b))
    return Comparison(first, second, draws, seed, tuple(rows), tuple(_notes(runs)))


def _parts(runs: Sequence[Run]) -> Iterator[_Part]:
    """Yield the rows of each language, English first: a measure, then its question types."""
    for language in languages_of(runs[0].answers.values()):
        for task in TASKS.values():
            for measure in task.measures:
                answers = [answer for answer in _comparable(task, measure, runs) if answer.language == language]
                if measure.defined(answers):
                    yield from _measure_parts(language, task, measure, answers)


def _measure_parts(language: str, task: Task, measure: Measure, answers: list[Prediction]) -> Iterator[_Part]:
    kinds = by_type(answers)
    headline = [answer for own in headline_types(answers).values() for answer in own] if task.by_type else answers
    groups = [answer.type for answer in headline] if task.by_type else None
    metric = f"evaluate.{language}.{measure.metric}" if measure.metric else ""
    yield _Part(language, measure, "", measure.name, metric, headline, groups)
    for kind, own in kinds.items():
        if task.by_type:
            yield _Part(language, measure, kind, kind, f"evaluate.{language}.types.{kind}.value", own)
        elif len(kinds) > 1 and measure.defined(own):
            yield _Part(language, measure, kind, f"{measure.name}: {kind}", "", own)


def _belonging(task: Task, measure: Measure, run: Run) -> list[Prediction]:
    """Return the answers of one run to the questions of a measure."""
    return [answer for answer in run.answers.values() if answer.task == task.name and measure.belongs(answer)]


def _comparable(task: Task, measure: Measure, runs: Sequence[Run]) -> list[Prediction]:
    """Return the first run's answers to the questions that the measure can compare in every run."""
    return [
        answer
        for answer in _belonging(task, measure, runs[0])
        if all(measure.comparable(run.answers[answer.key]) for run in runs)
    ]


def _row(part: _Part, a: Sequence[Run], b: Sequence[Run], draws: int, seed: int) -> Row:
    panoramas = [answer.image_id for answer in part.answers]
    how = {"draws": draws, "seed": seed}
    measure = part.measure
    if measure.statistic is not None:
        of_a, of_b = (_mean_statistic(side, part.keys, measure.statistic) for side in (a, b))
        test = paired_statistic(of_a, of_b, panoramas, level=LEVEL, **how)
    elif measure.values is not None:
        first, second = (_mean_values(side, part.keys, measure.values) for side in (a, b))
        if measure.median:
            test = paired_median(first, second, panoramas, level=LEVEL, **how)
        else:
            test = paired_mean(first, second, panoramas, part.groups, level=LEVEL, **how)
    else:
        raise ValueError(f"measure {measure.key!r} has neither `values` nor `statistic`; it needs one of them")
    return Row(
        part.language, measure.key, part.type, part.name, measure.better, part.metric,
        len(part.answers), len(set(panoramas)), test,
    )  # fmt: skip


def _mean_values(
    runs: Sequence[Run], keys: Sequence[QuestionKey], values: Callable[[Predictions], Sequence[float]]
) -> NDArray[np.float64]:
    """Return each question's mean score over the runs `[n]`."""
    return np.mean([np.array(values([run.answers[key] for key in keys]), dtype=np.float64) for run in runs], axis=0)


def _mean_statistic(
    runs: Sequence[Run], keys: Sequence[QuestionKey], statistic: Callable[[Predictions], Statistic]
) -> Statistic:
    """Return the mean statistic of the runs, as a function of how often each question counts."""
    of_runs = [statistic([run.answers[key] for key in keys]) for run in runs]
    return lambda copies: np.mean([of_run(copies) for of_run in of_runs], axis=0)


def _notes(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the answers that are in no row."""
    asked = list(runs[0].answers.values())
    for name in sorted({answer.task for answer in asked} - TASKS.keys()):
        yield f"{name}: a task without a measure, {sum(a.task == name for a in asked)} answers are left out"
    for task in TASKS.values():
        for measure in task.measures:
            yield from _measure_notes(task, measure, runs)


def _measure_notes(task: Task, measure: Measure, runs: Sequence[Run]) -> Iterator[str]:
    answers = _belonging(task, measure, runs[0])
    if measure.wide_boxes is not None and (wide := measure.wide_boxes(answers)):
        yield f"{measure.key}: {wide} true boxes of 180° or more have no area and are left out"
    if measure.needs:
        having = [{a.key for a in _belonging(task, measure, run) if measure.comparable(a)} for run in runs]
        if alone := len(having[0].union(*having) - having[0].intersection(*having)):
            yield (f"{measure.key}: {alone} questions have {measure.needs} in some of the runs only and are left out")
    if measure.undefined:
        for language in languages_of(answers):
            if not measure.defined([answer for answer in answers if answer.language == language]):
                yield f"{measure.key} ({language}): {measure.undefined}"
