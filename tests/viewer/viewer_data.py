"""Runs for the tests of the viewer: painted panoramas, and predictions about boxes on them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from panollava.corpus.records import BoxDeg
from panollava.tasks.prediction import Prediction
from panollava.vlm.geometry import erp_rays, rays_in_boxes

COLOURS = {"red": (230, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 235)}
BOXES: dict[str, BoxDeg] = {
    "red": (20.0, -5.0, 40.0, 24.0),
    "green": (178.0, 10.0, 30.0, 20.0),  # astride the seam
    "blue": (-60.0, 80.0, 50.0, 40.0),  # over the pole
}


def box_tensor(box_deg: BoxDeg) -> torch.Tensor:
    return torch.tensor([math.radians(value) for value in box_deg], dtype=torch.float64)


def painted(height: int = 512) -> Image.Image:
    """Return a grey panorama on which each box is filled with its colour."""
    rays = erp_rays(height, 2 * height, torch.float64)
    pixels = np.full((height, 2 * height, 3), 120, np.uint8)
    for name, box in BOXES.items():
        pixels[rays_in_boxes(rays, box_tensor(box)).numpy()] = COLOURS[name]
    return Image.fromarray(pixels)


def prediction(image_id: str, turn: int, **values: Any) -> Prediction:
    """Return an answer to a question about a box."""
    common = {"variant": "model", "image_id": image_id, "record": 0, "turn": turn, "language": "en"}
    return Prediction.model_validate(
        {**common, "task": "grounding", "type": "grounding", "references": [], "score": 0.5, **values}
    )


def grounding(image_id: str = "painted", *, language: str = "en") -> list[Prediction]:
    """Return one question for each box, answered with a box ten degrees to the right of it."""
    questions = []
    for turn, (name, box) in enumerate(BOXES.items()):
        given = ((box[0] + 10 + 180) % 360 - 180, *box[1:])
        questions.append(
            prediction(
                image_id, turn, language=language, question=f"Where is the {name} box?", reference=str(list(box)),
                prediction=str(list(given)), answer={"label": name, "box_deg": box}, iou=0.4,
                boxes=[{"label": name, "box_deg": given}],
            )
        )  # fmt: skip
    return questions


def write_predictions(path: Path, predictions: list[Prediction]) -> Path:
    path.write_text("".join(f"{one.model_dump_json()}\n" for one in predictions), "utf-8")
    return path
