"""What a report is made from: the predictions, the metrics, the loss curves and the test panoramas, read and checked.

Whatever a pipeline did not produce (no latency, no direction questions, no blind twin) is absent here, never empty.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from panollava.corpus.store import open_split

# Panoramas are drawn at most this wide; a photograph of 8192 pixels would only make the files large.
MAX_WIDTH = 1024
# The stages whose numbers the report repeats in full; other files in metrics/ are not of this run.
STAGES = ("preprocess", "train_vision", "train_resampler", "finetune_lora", "finetune_blind")


class Prediction(BaseModel):
    """One line of predictions.jsonl: a question, the reference, what the model said and how it scored."""

    model_config = ConfigDict(frozen=True)

    variant: str
    image_id: str
    record: int
    turn: int
    language: str
    task: str
    type: str
    question: str
    reference: str
    answer: dict[str, Any] | None = None
    prediction: str
    parsed: bool = True
    correct: bool | None = None
    error_deg: float | None = None
    iou: float | None = None
    boxes: list[dict[str, Any]] | None = None
    mask: dict[str, Any] | None = None
    mask_iou: float | None = None

    @property
    def key(self) -> tuple[str, int, int, str]:
        """Return what identifies the question, whichever variant answered it."""
        return self.image_id, self.record, self.turn, self.language


@dataclass(frozen=True)
class ReportInputs:
    """All that figures and tables need; `panoramas` is read on demand from the store's test split."""

    predictions: list[Prediction]
    metrics: dict[str, Any]
    latency: dict[str, float]
    losses: dict[str, pd.DataFrame]
    other_metrics: dict[str, dict[str, Any]]
    store: Path

    def of(self, *, variant: str = "model", task: str | None = None, language: str | None = None) -> list[Prediction]:
        """Return the predictions of one variant, and of one task and one language where these are given."""
        return [
            p
            for p in self.predictions
            if p.variant == variant and task in (None, p.task) and language in (None, p.language)
        ]

    @property
    def languages(self) -> list[str]:
        """Return the evaluated languages in the order of the metrics."""
        return list(self.metrics["evaluate"])


def read_predictions(path: Path) -> list[Prediction]:
    """Read predictions.jsonl; a bad line raises a ValueError that names file and line."""
    predictions = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                predictions.append(Prediction.model_validate_json(line))
            except ValidationError as error:
                raise ValueError(f"{path}, line {number}: not a prediction: {error}") from error
    if not predictions:
        raise ValueError(f"{path}: no predictions; evaluate must write at least one")
    return predictions


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; anything else raises a ValueError that names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: invalid JSON at line {error.lineno}: {error.msg}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_inputs(predictions: Path, metrics: Path, plots: Path, store: Path) -> ReportInputs:
    """Read all inputs of a report; latency, loss curves and further metrics are optional."""
    evaluate = read_json(metrics / "evaluate.json")
    if not isinstance(evaluate.get("evaluate"), dict):
        raise ValueError(f"{metrics / 'evaluate.json'}: key `evaluate` must map languages to their scores")
    others = {name: read_json(metrics / f"{name}.json") for name in STAGES if (metrics / f"{name}.json").is_file()}
    latency = read_json(metrics / "latency.json")["latency"] if (metrics / "latency.json").is_file() else {}
    losses = {p.parent.name: pd.read_csv(p) for p in sorted(plots.glob("*/loss.csv"))}
    return ReportInputs(
        predictions=read_predictions(predictions),
        metrics=evaluate,
        latency=latency,
        losses={stage: table for stage, table in losses.items() if len(table)},
        other_metrics=others,
        store=store,
    )


def load_panoramas(store: Path, image_ids: list[str]) -> dict[str, np.ndarray]:
    """Return the named test panoramas as uint8 arrays `[H, W, 3]`, at most `MAX_WIDTH` wide.

    Raises a ValueError that names the panoramas which the store does not hold.
    """
    split = open_split(store, "test")
    rows = {image_id: row for row, image_id in enumerate(split["image_id"])}
    unknown = sorted(set(image_ids) - set(rows))
    if unknown:
        raise ValueError(f"{store}: the test split has no panorama {', '.join(unknown)}; rerun evaluate on this store")
    panoramas = {}
    for image_id in dict.fromkeys(image_ids):
        image: Image.Image = split[rows[image_id]]["image"].convert("RGB")
        if image.width > MAX_WIDTH:
            size = (MAX_WIDTH, round(image.height * MAX_WIDTH / image.width))
            image = image.resize(size, Image.Resampling.LANCZOS)
        panoramas[image_id] = np.asarray(image)
    return panoramas
