"""The questions of a finished run as the page shows them: what was asked, given and true, and what is drawn of it."""

from collections.abc import Callable, Sequence
from typing import Any

from panollava.corpus.masks import decoded
from panollava.corpus.records import (
    BoxDeg,
    DetectionAnswer,
    DirectionAnswer,
    LabelledBox,
    Mask,
    ObjectAnnotation,
)
from panollava.tasks.prediction import Prediction
from panollava.tasks.table import TASKS
from panollava.viewer.mask_outlines import mask_polygons

Shape = dict[str, Any]


def box_shape(label: str, box_deg: BoxDeg) -> Shape:
    """Return a box as the page draws it."""
    yaw, pitch, width, height = box_deg
    return {"label": label, "yaw_deg": yaw, "pitch_deg": pitch, "width_deg": width, "height_deg": height}


def direction_shape(label: str, yaw_deg: float, pitch_deg: float) -> Shape:
    """Return a direction as the page draws it."""
    return {"label": label, "yaw_deg": yaw_deg, "pitch_deg": pitch_deg}


def mask_shape(label: str, mask: Mask) -> Shape:
    """Return a mask as the page draws it: the rings of each of its pieces."""
    return {"label": label, "polygons": mask_polygons(decoded(mask).numpy())}


def questions_json(
    predictions: Sequence[Prediction], objects: Callable[[], list[ObjectAnnotation]]
) -> list[dict[str, Any]]:
    """Return the questions of one panorama in the order of its records; `objects` returns its annotated objects."""
    masks = {(item.label, item.box_deg): item.mask for item in objects() if item.mask is not None}
    ordered = sorted(predictions, key=lambda p: (p.record, p.turn))
    return [_question(prediction, masks) for prediction in ordered]


def _question(prediction: Prediction, masks: dict[tuple[str, BoxDeg], Mask]) -> dict[str, Any]:
    verdict = TASKS[prediction.task].right(prediction) if prediction.task in TASKS else None
    return {
        "variant": prediction.variant,
        "language": prediction.language,
        "task": prediction.task,
        "type": prediction.type,
        "turn": prediction.turn,
        "question": prediction.question,
        "reference": prediction.reference,
        "answer": prediction.prediction,
        "right": verdict,
        "iou": prediction.iou,
        "error_deg": prediction.error_deg,
        "given": _given(prediction),
        "true": _true(prediction, masks),
    }


def _given(prediction: Prediction) -> list[Shape]:
    shapes = [box_shape(box.label, box.box_deg) for box in prediction.boxes or []]
    if prediction.direction is not None:
        shapes.append(direction_shape("×", *prediction.direction))
    if prediction.mask is not None:
        shapes.append(mask_shape("", prediction.mask))
    return shapes


def _true(prediction: Prediction, masks: dict[tuple[str, BoxDeg], Mask]) -> list[Shape]:
    match prediction.answer:
        case DetectionAnswer(objects=objects):
            return [box_shape(item.label, item.box_deg) for item in objects]
        case LabelledBox(label=label, box_deg=box_deg):
            mask = masks.get((label, box_deg)) if prediction.mask is not None else None
            shapes = [box_shape(label, box_deg)]
            return shapes if mask is None else [*shapes, mask_shape("", mask)]
        case DirectionAnswer(yaw_deg=yaw_deg, pitch_deg=pitch_deg):
            return [direction_shape("+", yaw_deg, pitch_deg)]
    return []
