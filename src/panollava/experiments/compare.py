"""The paired comparison of two runs: per measure and question type, the difference, its interval, p values and Holm.

Each run may be several seeds: a question's score is then its mean over them, average precision the mean of theirs.
Intervals and p values take panoramas for the clusters (see `metrics.paired`); Holm corrects over the rows of a table.
"""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from panollava.experiments.measures import DETECTION, MEASURES, comparable, defined, key_of, lines_of, true_boxes
from panollava.experiments.runs import Key, Run, read_runs, require_same_questions
from panollava.markdown import degrees, markdown_table, share
from panollava.metrics.detection import match_detections, resampled_precision
from panollava.metrics.paired import DRAWS, Paired, Statistic, holm, paired_mean, paired_median, paired_statistic
from panollava.tasks.results import by_type, detections, headline_types
from panollava.tasks.scoring import Prediction, block_of

LEVEL, SIGNIFICANT = 0.95, 0.05


@dataclass(frozen=True)
class Row:
    """One compared number; `task` is its key in `measures.MEASURES`.

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
    """What two runs differ in; `notes` say what could not be compared."""

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
            spell = degrees if row.task == "direction" else share
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
    task: str
    type: str
    measure: str
    metric: str
    lines: Sequence[Prediction]
    groups: Sequence[str] | None = None

    @property
    def keys(self) -> list[Key]:
        return [key_of(line) for line in self.lines]


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
    require_same_questions([*a, *b])
    asked = list(a[0].answers.values())
    # A question is about a mask where the data of all runs have one.
    masks = [{key for key, line in run.answers.items() if line["mask_iou"] is not None} for run in (*a, *b)]
    masked = masks[0].intersection(*masks)
    parts = [part for part in _parts(asked, masked) if only is None or part.metric in only]
    rows = [_row(part, a, b, draws, seed) for part in parts]
    corrected = holm([row.test.p for row in rows])
    rows = [replace(row, p_holm=p) for row, p in zip(rows, corrected, strict=True)]
    first, second = (tuple(run.name for run in side) for side in (a, b))
    return Comparison(first, second, draws, seed, tuple(rows), tuple(_notes(asked, masks)))


def _parts(asked: Sequence[Prediction], masked: Collection[Key]) -> Iterator[_Part]:
    """Yield the rows of each language, English first: a task, then its question types."""
    for language in sorted({line["language"] for line in asked}, key=lambda name: (name != "en", name)):
        for task, measure in MEASURES.items():
            lines = lines_of(task, [x for x in asked if x["language"] == language], masked)
            if not defined(task, lines):
                continue
            kinds, closed = by_type(lines), task == "choice"
            headline = [line for own in headline_types(lines).values() for line in own] if closed else lines
            groups = [line["type"] for line in headline] if closed else None
            metric = f"evaluate.{language}.{measure.metric}" if measure.metric else ""
            yield _Part(language, task, "", measure.name, metric, headline, groups)
            for kind, own in kinds.items():
                if closed:
                    yield _Part(language, task, kind, kind, f"evaluate.{language}.types.{kind}.value", own)
                elif len(kinds) > 1 and defined(task, own):
                    yield _Part(language, task, kind, f"{measure.name}: {kind}", "", own)


def _row(part: _Part, a: Sequence[Run], b: Sequence[Run], draws: int, seed: int) -> Row:
    panoramas = [line["image_id"] for line in part.lines]
    how = {"draws": draws, "seed": seed}
    measure = MEASURES[part.task]
    if measure.values is None:
        test = paired_statistic(_ap50(a, part.keys), _ap50(b, part.keys), panoramas, level=LEVEL, **how)
    else:
        first, second = (_pooled(side, part.keys, measure.values) for side in (a, b))
        if part.task == "direction":
            test = paired_median(first, second, panoramas, level=LEVEL, **how)
        else:
            test = paired_mean(first, second, panoramas, part.groups, level=LEVEL, **how)
    return Row(
        part.language, part.task, part.type, part.measure, measure.better, part.metric,
        len(part.lines), len(set(panoramas)), test,
    )  # fmt: skip


def _pooled(
    runs: Sequence[Run], keys: Sequence[Key], values: Callable[[Sequence[Prediction]], list[float]]
) -> NDArray[np.float64]:
    """Return each question's mean score over the runs `[n]`."""
    return np.mean([np.array(values([run.answers[key] for key in keys]), dtype=np.float64) for run in runs], axis=0)


def _ap50(runs: Sequence[Run], keys: Sequence[Key]) -> Statistic:
    """Return the mean AP50 of the runs, as a function of how often each question counts."""
    matches = [match_detections(*detections([run.answers[key] for key in keys]), (0.5,)) for run in runs]
    return lambda copies: np.mean([resampled_precision(of_run, copies) for of_run in matches], axis=0)


def _notes(asked: Sequence[Prediction], masks: Sequence[set[Key]]) -> Iterator[str]:
    """Yield what was asked and is in no row; `masks` are the questions that have a mask, of each run."""
    for task in sorted({block_of(line) for line in asked} - MEASURES.keys()):
        yield f"{task}: a task without a measure, {sum(line['task'] == task for line in asked)} answers are left out"
    wide = sum(not comparable(line) for line in asked)
    if wide:
        yield f"grounding: {wide} true boxes of 180° or more have no area and are left out"
    if alone := len(masks[0].union(*masks) - masks[0].intersection(*masks)):
        yield f"segmentation: {alone} questions have a mask in some of the runs only and are left out"
    for task in DETECTION:
        detection = [line for line in asked if block_of(line) == task]
        true = sum(true_boxes(detection))
        if wide := sum(len(line["answer"]["objects"]) for line in detection) - true:
            yield f"{task}: {wide} true boxes of 180° or more have no area and are left out"
        for language in sorted({line["language"] for line in detection}):
            if not any(true_boxes([line for line in detection if line["language"] == language])):
                yield f"{task} ({language}): no true box at all, so average precision is undefined"


def write_json(comparison: Comparison, path: Path) -> None:
    """Write a comparison as JSON, whole or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    text = json.dumps(comparison.as_json(), indent=2, ensure_ascii=False, allow_nan=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)
