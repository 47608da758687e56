"""The predictions of one block of scores by variant, and the parts that most blocks are made of.

Intervals are 95 % bootstraps over panoramas. Majority answers are chosen among the true answers of the training split:
chosen among those of the test split, they would know the test.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from panollava.metrics.intervals import Interval, clustered_bootstrap
from panollava.tasks.prediction import Prediction, Variant

Block = dict[str, Any]
BASELINES: tuple[Variant, ...] = ("blind", "shuffled")
# Of how many questions of the training split, evenly drawn, constant directions, boxes and masks are made.
MOST_EXAMPLES = 1000
Item = TypeVar("Item")


@dataclass(frozen=True)
class Scorer:
    """The predictions of one language that count in a block, and how its intervals are drawn.

    `training` are the questions of the same language and task in the training split (`questions.true_answers`); without
    them there is no majority answer.
    """

    predictions: Sequence[Prediction]
    resamples: int
    seed: int
    training: Sequence[Prediction] = ()

    def of(self, variant: Variant) -> list[Prediction]:
        """Return the predictions of one variant."""
        return [p for p in self.predictions if p.variant == variant]

    @property
    def baselines(self) -> dict[Variant, list[Prediction]]:
        """Return the predictions of each baseline that was answered."""
        return {variant: found for variant in BASELINES if (found := self.of(variant))}

    @property
    def draws(self) -> dict[str, int]:
        """Return how the bootstraps draw."""
        return {"resamples": self.resamples, "seed": self.seed}

    def mean_interval(self, predictions: Sequence[Prediction], values: Sequence[float]) -> Interval:
        """Return the mean of one value per prediction with its interval."""
        return clustered_bootstrap(values, [p.image_id for p in predictions], "mean", **self.draws)


def evenly(items: Sequence[Item], most: int = MOST_EXAMPLES) -> list[Item]:
    """Return at most so many items, evenly drawn."""
    return [items[number * len(items) // most] for number in range(most)] if len(items) > most else list(items)


def interval_block(name: str, predictions: Sequence[Prediction], interval: Interval) -> Block:
    """Return the beginning of a block: a value under its name, its interval, and the number of questions."""
    return {name: interval.value, "low": interval.low, "high": interval.high, "n": len(predictions)}


def mean(values: Iterable[float | None]) -> float:
    """Return the mean of values, none of which may be None."""
    return float(np.array(list(values), dtype=np.float64).mean())


def unparsed(predictions: Iterable[Prediction]) -> int:
    """Return the number of answers that could not be read."""
    return sum(not p.parsed for p in predictions)


def too_wide(count: int) -> Block:
    """Return the number of true boxes of 180 degrees or more, which have no area; nothing where there are none."""
    return {"too_wide": count} if count else {}
