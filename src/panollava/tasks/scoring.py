"""From an answer to a prediction: the question, its truth, the text and the scores of its task."""

from typing import TYPE_CHECKING

from panollava.corpus.records import Turn
from panollava.tasks.prediction import Prediction, Variant
from panollava.tasks.questions import Question
from panollava.tasks.table import TASKS

if TYPE_CHECKING:
    from panollava.inference.answer import Answer


def score(variant: Variant, question: Question, answer: "Answer") -> Prediction:
    """Return the prediction of one answer with the scores of its task."""
    turn = question.content
    return Prediction(
        variant=variant,
        image_id=question.image_id,
        record=question.record,
        turn=question.turn,
        language=turn.language,
        task=turn.task,
        type=turn.type,
        question=turn.human,
        reference=turn.assistant,
        references=references(turn),
        answer=turn.answer,
        prediction=answer.text,
        score=answer.score,
        unanswered=not answer.answered,
        **TASKS[turn.task].score(answer, turn),
    )


def references(turn: Turn) -> list[str]:
    """Return all texts that are right answers to a turn, each once: the one place that knows where they stand."""
    return list(dict.fromkeys(turn.references)) or [turn.assistant]
