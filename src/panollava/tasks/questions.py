"""From records to questions: the messages that ask each turn of a dialogue.

The history of a turn is the reference dialogue. Earlier answers are the true ones, so no question suffers from an
earlier mistake, and all turns can be answered at once.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from panollava.corpus.masks import mask_of
from panollava.corpus.messages import Message, with_answer, with_question
from panollava.corpus.records import Mask, Record, Turn
from panollava.tasks.prediction import Prediction, QuestionKey
from panollava.tasks.table import TASKS


@dataclass(frozen=True)
class Question:
    """One turn of one record of one panorama, the messages that ask it, and the mask of the object it names, if any."""

    image_id: str
    record: int
    turn: int
    content: Turn
    messages: list[Message]
    mask: Mask | None = None

    @property
    def true_mask(self) -> Mask:
        """Return the mask of the object that the question names; raises ValueError where there is none."""
        if self.mask is None:
            raise ValueError(f"{self.image_id}: {self.content.human!r} has no mask to compare with")
        return self.mask

    @property
    def max_new_tokens(self) -> int:
        """Return the longest answer of the question's task, in tokens."""
        return TASKS[self.content.task].max_new_tokens

    @property
    def key(self) -> QuestionKey:
        """Return the identity of the question, the same in a rotated panorama."""
        return self.image_id, self.record, self.turn, self.content.language


def panorama_questions(image_id: str, records: Sequence[Record]) -> list[Question]:
    """Return every turn of a panorama's records as a question."""
    questions = []
    objects = [item for record in records for item in record.objects]
    for number, record in enumerate(records):
        messages: list[Message] = []
        for turn, content in enumerate(record.conversations):
            messages = with_question(messages, content.human)
            questions.append(Question(image_id, number, turn, content, messages, mask_of(content, objects)))
            messages = with_answer(messages, content.assistant)
    return questions


def true_answers(questions: Sequence[Question]) -> list[Prediction]:
    """Return questions with their true answers, of which majority answers are made; nothing was predicted."""
    return [
        Prediction(
            variant="model",
            image_id=question.image_id,
            record=question.record,
            turn=question.turn,
            language=question.content.language,
            task=question.content.task,
            type=question.content.type,
            question=question.content.human,
            reference=question.content.assistant,
            references=[],
            answer=question.content.answer,
            prediction="",
            score=0.0,
        )
        for question in questions
    ]


def derangement(count: int, seed: int) -> list[int]:
    """Return a random order of `count` panoramas that leaves none in its place: a single cycle (Sattolo, 1986).

    Raises:
        ValueError: fewer than two panoramas.
    """
    if count < 2:
        raise ValueError(f"{count} panorama cannot be answered with the image of another one; at least 2 are needed")
    order, generator = list(range(count)), random.Random(seed)
    for last in range(count - 1, 0, -1):
        other = generator.randrange(last)
        order[last], order[other] = order[other], order[last]
    return order
