"""From predictions to the numbers of metrics/evaluate.json: per language, one block per task beside its baselines.

A block exists only where questions of its task do, a baseline only where its variant was answered; a number that cannot
be computed is absent, never NaN. Questions that were too long to be answered count as wrong; where there are any, a
block has their number.
"""

from collections.abc import Iterable, Sequence

from panollava.tasks.prediction import Prediction
from panollava.tasks.scorer import Block, Scorer
from panollava.tasks.table import TASKS


def evaluate(
    predictions: Sequence[Prediction], *, resamples: int, seed: int, training: Sequence[Prediction] = ()
) -> Block:
    """Return the scores of each language, English first; `training` has the answers that majority answers come from."""
    scores = {}
    for language in languages_of(predictions):
        own = [p for p in predictions if p.language == language]
        known = [p for p in training if p.language == language]
        scores[language] = language_scores(own, known, resamples, seed)
    return scores


def language_scores(
    predictions: Sequence[Prediction], training: Sequence[Prediction], resamples: int, seed: int
) -> Block:
    """Return the blocks of one language, those that do not apply left out."""
    blocks = {}
    for task in TASKS.values():
        known = [p for p in training if p.task == task.name]
        for block in task.blocks:
            own = [p for p in predictions if p.task == task.name and block.belongs(p)]
            found = block.metrics(Scorer(own, resamples, seed, known))
            unanswered = sum(p.unanswered for p in own if p.variant == "model")
            if found and unanswered and not block.by_type:
                found["unanswered"] = unanswered
            blocks[block.name] = found
    return {name: block for name, block in blocks.items() if block}


def languages_of(predictions: Iterable[Prediction]) -> list[str]:
    """Return the languages of predictions, English first."""
    return sorted({p.language for p in predictions}, key=lambda name: (name != "en", name))
