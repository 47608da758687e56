"""The record format: a record is one dialogue about one panorama, and each turn sees the earlier ones.

Angles are degrees at this boundary, boxes are (yaw, pitch, width, height). Unknown keys are refused everywhere but in
`metadata`. Indices in field names count from 0 (`conversations.0.human`), as in the JSON itself.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from panollava.corpus.json_values import text_fault, value_faults
from panollava.corpus.problems import printable, shorten
from panollava.corpus.run_lengths import MASK_PIXELS, rle_runs

# The processor's panorama token, repeated here so that reading records needs no model.
PLACEHOLDER = "<pano>"
# Where files of LLaVA put the image; a language model would read it as text.
LLAVA_MARKER = "<image>"
# (yaw, pitch) and (yaw, pitch, width, height) in degrees.
DirectionDeg = tuple[float, float]
BoxDeg = tuple[float, float, float, float]
Task = Literal["choice", "direction", "grounding", "detection", "description", "open"]


def _has_text(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("empty_text", "the text is empty; expected at least one visible character")
    if PLACEHOLDER in text:
        raise PydanticCustomError("placeholder", "the text contains <pano>, the token of the panorama; reword it")
    if LLAVA_MARKER in text:
        raise PydanticCustomError("marker", "the text contains <image>, LLaVA's marker; remove it (importers do)")
    fault = text_fault(text)
    if fault is not None:
        raise ValueError(fault)
    return text


def _is_storable(metadata: dict[str, Any]) -> dict[str, Any]:
    for path, fault in value_faults(metadata, depth=2):
        raise ValueError(printable(f"{'.'.join(map(str, path))}: {fault}"))
    return metadata


Text = Annotated[str, AfterValidator(_has_text)]
YawDegrees = Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)]
PitchDegrees = Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)]
ExtentDegrees = Annotated[float, Field(gt=0, lt=360, allow_inf_nan=False)]
# Lax for the tuple only, which may come as a JSON list; the numbers inside stay strict.
BoxDegrees = Annotated[tuple[YawDegrees, PitchDegrees, ExtentDegrees, ExtentDegrees], Field(strict=False)]
Side = Annotated[int, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _has_pixels(size: tuple[int, int]) -> tuple[int, int]:
    if size[0] * size[1] > MASK_PIXELS:
        raise ValueError(f"a mask has at most {MASK_PIXELS} pixels, as pycocotools counts them")
    return size


class Mask(_Strict):
    """A binary mask over the panorama as compressed COCO RLE; `size` is [H, W]."""

    size: Annotated[tuple[Side, Side], Field(strict=False), AfterValidator(_has_pixels)]
    counts: str

    @field_validator("counts")
    @classmethod
    def _counts_cover_size(cls, counts: str, info: ValidationInfo) -> str:
        runs = rle_runs(counts)
        if runs.min(initial=0) < 0 or runs.max(initial=0) > MASK_PIXELS:
            raise ValueError(f"a run is negative or above {MASK_PIXELS}; every run counts pixels")
        size = info.data.get("size")
        if size is not None and runs.sum() != size[0] * size[1]:
            raise ValueError(
                f"the runs cover {runs.sum()} pixels, size {list(size)} has {size[0] * size[1]} (size is [H, W])"
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
            raise ValueError(f"the references lack the answer of `assistant`, {shorten(assistant)}; it is one of them")
        return references


class Record(_Strict):
    """One dialogue about one panorama; `image_path` is relative to the folder of the record file."""

    image_id: Text
    image_path: Text
    conversations: Annotated[list[Turn], Field(min_length=1)]
    objects: list[ObjectAnnotation] = Field(default_factory=list)
    metadata: Annotated[dict[str, Any], AfterValidator(_is_storable)] = Field(default_factory=dict)


_RECORDS = TypeAdapter(list[Record])


def records_to_json(records: list[Record]) -> str:
    """Return the records as a JSON list, with keys in the order of the format and without keys that were not set."""
    return _RECORDS.dump_json(records, exclude_unset=True).decode()


def records_from_json(text: str) -> list[Record]:
    """Return the records of a JSON list; the inverse of `records_to_json`. Raises pydantic's ValidationError."""
    return _RECORDS.validate_json(text)
