"""Choice: a question with a closed set of answers, scored by whether the words are right.

The headline is the mean over the question types of their accuracies, so that each type counts alike.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from panollava.corpus.records import ChoiceAnswer, Turn
from panollava.corpus.rotation.panorama import Rotation
from panollava.corpus.rotation.rewording import DIRECTION_TYPES
from panollava.corpus.vocabulary import DIRECTIONS
from panollava.metrics.intervals import clustered_macro_mean
from panollava.metrics.text import normalise_answer
from panollava.tasks.prediction import Prediction, typed
from panollava.tasks.scorer import BASELINES, Block, Scorer, interval_block, mean
from panollava.tasks.task import Fields, Measure, Predictions, RotationStudy, ScoreBlock, ScoreNumber, Task, require

if TYPE_CHECKING:
    from panollava.inference.answer import Answer

# The types whose mean accuracy is the headline; other types are reported beside it.
CLOSED_TYPES = ("existence", "colour", "shape", "count", "direction8", "relation", "look")


def score_choice(answer: "Answer", turn: Turn) -> Fields:
    """Score a closed answer: right if it reads like the truth, letter case and final punctuation aside."""
    return {"correct": normalise_answer(answer.text) == normalise_answer(typed(turn.answer, ChoiceAnswer).text)}


def check_choice(prediction: Prediction) -> None:
    """Raise a ValueError if a prediction lacks its score."""
    require(prediction, "correct", prediction.correct)


def is_correct(prediction: Prediction) -> bool | None:
    """Return whether the words are right."""
    return prediction.correct


def usual_answers(training: Predictions) -> dict[str, str]:
    """Return the most frequent true answer of each question type."""
    return {kind: Counter(map(_truth, group)).most_common(1)[0][0] for kind, group in by_type(training).items()}


def _truth(prediction: Prediction) -> str:
    return normalise_answer(prediction.truth(ChoiceAnswer).text)


def _majority(kind: str, predictions: Predictions, usual: dict[str, str]) -> float:
    """Return the accuracy of the usual answer; a type that training does not know has none, and nothing is right."""
    return mean(_truth(p) == usual.get(kind) for p in predictions)


def by_type(predictions: Predictions) -> dict[str, list[Prediction]]:
    """Return predictions by question type, the closed types first and in their order."""
    groups: dict[str, list[Prediction]] = {kind: [] for kind in CLOSED_TYPES}
    for prediction in predictions:
        groups.setdefault(prediction.type, []).append(prediction)
    return {kind: group for kind, group in groups.items() if group}


def headline_types(predictions: Predictions) -> dict[str, list[Prediction]]:
    """Return the types of the headline accuracy: the closed types, or every type for data that have none of them."""
    groups = by_type(predictions)
    closed = {kind: group for kind, group in groups.items() if kind in CLOSED_TYPES}
    return closed or groups


def accuracy(scorer: Scorer) -> Block:
    """Return the mean accuracy over question types, each type counting alike, and the same mean of the baselines."""
    groups = headline_types(scorer.of("model"))
    predictions = [p for group in groups.values() for p in group]
    if not predictions:
        return {}
    values, kinds, panoramas = zip(*((p.correct, p.type, p.image_id) for p in predictions), strict=True)
    block = interval_block("value", predictions, clustered_macro_mean(values, kinds, panoramas, **scorer.draws))
    if scorer.training:
        usual = usual_answers(scorer.training)
        block["majority"] = mean(_majority(kind, group, usual) for kind, group in groups.items())
    for variant, others in scorer.baselines.items():
        block[variant] = mean(_accuracy(group) for group in headline_types(others).values())
    return block


def type_accuracies(scorer: Scorer) -> Block:
    """Return the accuracy of each question type."""
    others = {variant: by_type(scorer.of(variant)) for variant in BASELINES}
    usual = usual_answers(scorer.training)
    blocks = {}
    for kind, predictions in by_type(scorer.of("model")).items():
        interval = scorer.mean_interval(predictions, correct_values(predictions))
        block = interval_block("value", predictions, interval)
        if scorer.training:
            block["majority"] = _majority(kind, predictions, usual)
        block |= {variant: _accuracy(groups[kind]) for variant, groups in others.items() if kind in groups}
        blocks[kind] = block
    return blocks


def correct_values(predictions: Predictions) -> Sequence[float]:
    """Return 1 for each right answer and 0 for each wrong one."""
    return [float(bool(p.correct)) for p in predictions]


def _accuracy(predictions: Predictions) -> float:
    return mean(correct_values(predictions))


def agrees(rotated: Prediction, plain: Prediction, rotation: Rotation) -> bool:
    """Return whether two answers say the same.

    A rotation need not map one of eight directions onto another, so those agree that are equally many eighths off the
    truth.
    """
    return _meaning(rotated) == _meaning(plain)


def _meaning(prediction: Prediction) -> str | int:
    """Return the words of an answer, or for one of eight directions by how many eighths it is off the truth."""
    given = normalise_answer(prediction.prediction)
    truth = normalise_answer(prediction.truth(ChoiceAnswer).text)
    names = [normalise_answer(name) for name in DIRECTIONS.get(prediction.language, ())]
    if prediction.type in DIRECTION_TYPES and given in names and truth in names:
        return (names.index(given) - names.index(truth)) % len(names)
    return given


CHOICE = Task(
    name="choice",
    max_new_tokens=16,
    score=score_choice,
    check=check_choice,
    right=is_correct,
    by_type=True,
    blocks=(
        ScoreBlock("accuracy", accuracy, (ScoreNumber("closed questions, mean accuracy", "value", "{}"),)),
        ScoreBlock("types", type_accuracies, (ScoreNumber("accuracy", "value", "{}"),), by_type=True),
    ),
    measures=(Measure("choice", "closed questions, mean accuracy", "higher", "accuracy.value", correct_values),),
    rotated=RotationStudy("accuracy", agrees),
)
