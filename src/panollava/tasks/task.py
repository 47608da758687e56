"""The parts of a task, all plain data and functions: its scores, its rows in tables, its part in comparisons.

Each task module fills in one `Task`; `table.TASKS` lists them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from panollava.corpus.records import Turn
from panollava.corpus.rotation.panorama import Rotation
from panollava.metrics.paired import Statistic
from panollava.tasks.prediction import Prediction
from panollava.tasks.scorer import Block, Scorer

if TYPE_CHECKING:  # a report reads predictions without waiting for the model's libraries
    from panollava.inference.answer import Answer

# Fields of a prediction that scoring fills in.
Fields = dict[str, Any]
Predictions = Sequence[Prediction]


def every(prediction: Prediction) -> bool:
    """Return True: every prediction of the task counts."""
    return True


def no_verdict(prediction: Prediction) -> None:
    """Return None: an answer of the task is neither right nor wrong."""


@dataclass(frozen=True)
class ScoreNumber:
    """One row of the score table: its name and key in the block.

    `baseline` spells the keys of its majority, blind and shuffled numbers, as in `{}_ap50`; empty where it has none.
    """

    name: str
    key: str
    baseline: str = ""
    degrees: bool = False


@dataclass(frozen=True)
class ScoreBlock:
    """One block below a language of metrics/evaluate.json; `metrics` computes it from predictions that `belong`.

    The interval of a block (`low`, `high`) is that of its first number. With `by_type`, the block holds one such block
    for each question type.
    """

    name: str
    metrics: Callable[[Scorer], Block]
    numbers: tuple[ScoreNumber, ...]
    belongs: Callable[[Prediction], bool] = every
    by_type: bool = False


@dataclass(frozen=True)
class Measure:
    """How two runs are compared: by a value of each question, or by one statistic of all questions.

    `metric` is the key of the same number below a language in metrics/evaluate.json, empty where there is none.
    """

    key: str
    name: str
    better: Literal["higher", "lower"]
    metric: str
    values: Callable[[Predictions], Sequence[float]] | None = None
    # Given how often each question counts; for measures without a value of a single question.
    statistic: Callable[[Predictions], Statistic] | None = None
    median: bool = False  # of `values`, otherwise their mean
    degrees: bool = False
    belongs: Callable[[Prediction], bool] = every
    comparable: Callable[[Prediction], bool] = every
    needs: str = ""  # names the part that comparable answers have and others lack
    wide_boxes: Callable[[Predictions], int] | None = None  # the number of true boxes without an area
    defined: Callable[[Predictions], bool] = bool
    undefined: str = ""  # why the measure may be undefined


@dataclass(frozen=True)
class RotationStudy:
    """How answers about a rotated panorama are compared with those about the panorama as it is.

    `measure` is the share of right answers. `agrees` takes the answer, the one without a rotation, and the rotation.
    `also` are further values of an answer, by measure.
    """

    measure: str
    agrees: Callable[[Prediction, Prediction, Rotation], bool]
    also: Mapping[str, Callable[[Prediction], float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One task: everything that differs from the other tasks.

    `score` returns the fields of a prediction for an answer; `check` raises ValueError for a prediction without them.
    `right` says whether an answer is right, None where nothing says so. `rotated` is None for answers too long to be
    given again for each rotation. With `by_type`, question types count alike and have numbers of their own.
    """

    name: str
    max_new_tokens: int
    score: "Callable[[Answer, Turn], Fields]"
    blocks: tuple[ScoreBlock, ...]
    measures: tuple[Measure, ...]
    check: Callable[[Prediction], None] = no_verdict
    right: Callable[[Prediction], bool | None] = no_verdict
    rotated: RotationStudy | None = None
    by_type: bool = False


def require(prediction: Prediction, name: str, value: object) -> None:
    """Raise a ValueError if a prediction lacks a score that its task must have."""
    if value is None:
        raise ValueError(f"an answer of task {prediction.task!r} needs `{name}`, which is null")
