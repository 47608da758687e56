"""A prediction: a question, its reference, the answer given, and how right it is; one line of predictions.jsonl.

Angles are degrees. A field that does not apply to the task is null. An answer that cannot be read is as wrong as can be
(180 degrees, IoU 0, no boxes) and has `parsed` false. A question that the language model's context does not hold is
`unanswered`: its answer is empty.
"""

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from panollava.corpus.records import ANSWERS, Answer, BoxDeg, DirectionDeg, Mask

# Who answered: the model, the model shown another panorama, or the twin that was trained without images.
Variant = Literal["model", "shuffled", "blind"]
# The identity of a question: panorama, record, turn, language.
QuestionKey = tuple[str, int, int, str]
Kind = TypeVar("Kind", bound=BaseModel)
Class = type[Kind]  # in a class whose field is called `type`


class FoundBox(BaseModel):
    """A box that an answer names, in degrees; those of a detection have a score."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    label: str
    box_deg: BoxDeg
    score: float | None = None


class Prediction(BaseModel):
    """One answer with its scores; `answer` is the typed truth, `prediction` the text that was given."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    variant: Variant
    image_id: str
    record: int
    turn: int
    language: str
    task: str
    type: str
    question: str
    reference: str
    references: list[str]
    answer: Answer | dict[str, Any] | None = None
    prediction: str
    score: float
    parsed: bool = True
    correct: bool | None = None
    error_deg: float | None = None
    direction: DirectionDeg | None = None
    iou: float | None = None
    boxes: list[FoundBox] | None = None
    mask: Mask | None = None
    mask_iou: float | None = None
    mask_ceiling: float | None = None
    mask_majority: float | None = None
    boundary_deg: float | None = None
    unparsed: int | None = None
    unanswered: bool = False

    @field_validator("answer", mode="before")
    @classmethod
    def _answer_of_task(cls, value: object, info: ValidationInfo) -> object:
        task = info.data.get("task")
        if value is None or task not in ANSWERS or isinstance(value, ANSWERS[task]):
            return value
        return ANSWERS[task].model_validate(value)

    @property
    def key(self) -> QuestionKey:
        """Return the identity of the question, the same for all variants."""
        return self.image_id, self.record, self.turn, self.language

    def truth(self, kind: Class[Kind]) -> Kind:
        """Return the typed true answer; raises TypeError if it is of another kind."""
        return typed(self.answer, kind)

    def as_line(self) -> dict[str, Any]:
        """Return the plain values of one line of predictions.jsonl, `unanswered` only where it is true.

        Only detections have `unparsed` and box scores.
        """
        line = self.model_dump(mode="json")
        if not self.unanswered:
            del line["unanswered"]
        if line["unparsed"] is None:
            del line["unparsed"]
        for box in line["boxes"] or ():
            if box["score"] is None:
                del box["score"]
        return line


def typed(answer: object, kind: type[Kind]) -> Kind:
    """Return a true answer of a known kind; raises TypeError if it is of another one."""
    if not isinstance(answer, kind):
        raise TypeError(f"the true answer is {answer!r}; this task needs one with {', '.join(kind.model_fields)}")
    return answer
