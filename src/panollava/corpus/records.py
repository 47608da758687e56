"""The record format: a record is one dialogue about one panorama, and each turn sees the earlier ones.

Angles are degrees at this boundary, boxes are (yaw, pitch, width, height). Unknown keys are refused everywhere but in
`metadata`. Indices in field names count from 0 (`conversations.0.human`), as in the JSON itself.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

# The processor's panorama token, repeated here so that reading records needs no model.
PLACEHOLDER = "<pano>"
# (yaw, pitch) and (yaw, pitch, width, height) in degrees.
DirectionDeg = tuple[float, float]
BoxDeg = tuple[float, float, float, float]
Task = Literal["choice", "direction", "grounding", "detection", "description", "open"]


def _has_text(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("empty_text", "the text is empty; expected at least one visible character")
    if PLACEHOLDER in text:
        raise PydanticCustomError("placeholder", "the text contains <pano>, the token of the panorama; reword it")
    return text


Text = Annotated[str, AfterValidator(_has_text)]
YawDegrees = Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)]
PitchDegrees = Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)]
ExtentDegrees = Annotated[float, Field(gt=0, lt=360, allow_inf_nan=False)]
# Lax for the tuple only, which may come as a JSON list; the numbers inside stay strict.
BoxDegrees = Annotated[tuple[YawDegrees, PitchDegrees, ExtentDegrees, ExtentDegrees], Field(strict=False)]
Side = Annotated[int, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def rle_runs(counts: str) -> list[int]:
    """Return the run lengths in a compressed COCO run-length string, zeros first.

    The encoding is that of pycocotools' `rleFrString`: 5 bits per character from '0', sign-extended; from the fourth
    run on, the difference from the run before last. The C decoder reads past the end of a malformed string.

    Raises:
        ValueError: the string is not such an encoding.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for position, character in enumerate(counts):
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"character {character!r} at position {position} is not part of a COCO run-length string")
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:
            continue
        if code & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise ValueError("the COCO run-length string ends in the middle of a number")
    return runs


class Mask(_Strict):
    """A binary mask over the panorama as compressed COCO RLE; `size` is [H, W]."""

    size: Annotated[tuple[Side, Side], Field(strict=False)]
    counts: str

    @field_validator("counts")
    @classmethod
    def _counts_cover_size(cls, counts: str, info: ValidationInfo) -> str:
        runs = rle_runs(counts)
        if min(runs, default=0) < 0:
            raise ValueError("a run is negative; every run counts pixels")
        size = info.data.get("size")
        if size is not None and sum(runs) != size[0] * size[1]:
            raise ValueError(
                f"the runs cover {sum(runs)} pixels, size {list(size)} has {size[0] * size[1]} (size is [H, W])"
            )
        return counts


class LabelledBox(_Strict):
    """A named object and its BFoV box in degrees; also the typed answer of a grounding turn."""

    label: Text
    box_deg: BoxDegrees


class ObjectAnnotation(LabelledBox):
    """An object of the panorama, with an optional mask."""

    mask: Mask | None = None


class ChoiceAnswer(_Strict):
    """The right answer of a question with a closed set of answers."""

    text: Text


class DirectionAnswer(_Strict):
    """The direction in degrees that the question asks for."""

    yaw_deg: YawDegrees
    pitch_deg: PitchDegrees


class DetectionAnswer(_Strict):
    """All objects that the question asks for; an empty list if there are none."""

    objects: list[LabelledBox]


Answer = ChoiceAnswer | DirectionAnswer | LabelledBox | DetectionAnswer
ANSWERS: dict[str, type[Answer]] = {
    "choice": ChoiceAnswer,
    "direction": DirectionAnswer,
    "grounding": LabelledBox,
    "detection": DetectionAnswer,
}


class Turn(_Strict):
    """One question and its answer; `task` decides the kind of the typed `answer`, and `type` groups turns in reports.

    `references` are all answers that people gave, `assistant` among them; empty if there is only that one.
    """

    human: Text
    assistant: Text
    task: Task = "open"
    type: Text = Field(default_factory=lambda earlier: str(earlier["task"]))
    language: Text = "en"
    answer: Answer | None = Field(default=None, validate_default=True)
    references: list[Text] = Field(default_factory=list)

    @field_validator("answer", mode="before")
    @classmethod
    def _answer_of_task(cls, value: object, info: ValidationInfo) -> Answer | None:
        task = info.data.get("task")
        if task is None:  # the task itself is wrong, and reported
            return None
        if task not in ANSWERS:
            if value is not None:
                raise ValueError(f"a turn of task {task!r} has no typed answer; leave the key out or set the task")
            return None
        if value is None:
            keys = ", ".join(ANSWERS[task].model_fields)
            raise ValueError(f"a turn of task {task!r} needs an answer with the keys {keys}")
        return ANSWERS[task].model_validate(value)

    @field_validator("references")
    @classmethod
    def _assistant_is_a_reference(cls, references: list[str], info: ValidationInfo) -> list[str]:
        assistant = info.data.get("assistant")
        if references and assistant is not None and assistant not in references:
            raise ValueError(f"the references lack the answer of `assistant`, {assistant!r}; it is one of them")
        return references


class Record(_Strict):
    """One dialogue about one panorama; `image_path` is relative to the folder of the record file."""

    image_id: Text
    image_path: Text
    conversations: Annotated[list[Turn], Field(min_length=1)]
    objects: list[ObjectAnnotation] = Field(default_factory=list)
    metadata: dict[str, Any] = Field(default_factory=dict)


_RECORDS = TypeAdapter(list[Record])


def records_to_json(records: list[Record]) -> str:
    """Return the records as a JSON list, with keys in the order of the format and without keys that were not set."""
    return _RECORDS.dump_json(records, exclude_unset=True).decode()


def records_from_json(text: str) -> list[Record]:
    """Return the records of a JSON list; the inverse of `records_to_json`. Raises pydantic's ValidationError."""
    return _RECORDS.validate_json(text)
