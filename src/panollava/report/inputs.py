"""The inputs of a report: predictions, metrics, loss curves and test panoramas, read and checked.

An input that a pipeline did not produce (latency, direction questions, a blind twin) is absent here, never empty.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from panollava.corpus.store import open_images
from panollava.tasks.prediction import Prediction, Variant
from panollava.tasks.prediction_files import read_predictions

# Panoramas are drawn at most this wide; a photograph of 8192 pixels would only make the files large.
MAX_WIDTH = 1024
# The stages whose numbers the report repeats in full; other files in metrics/ are not of this run.
STAGES = ("preprocess", "train_vision", "train_resampler", "finetune_lora", "finetune_blind")


@dataclass(frozen=True)
class ReportInputs:
    """The inputs of all figures and tables; panoramas are read on demand from the `split` of `store` that was asked."""

    predictions: list[Prediction]
    metrics: dict[str, Any]
    latency: dict[str, float]
    losses: dict[str, pd.DataFrame]
    other_metrics: dict[str, dict[str, Any]]
    store: Path
    split: str = "test"

    def of(
        self, *, variant: Variant = "model", task: str | None = None, language: str | None = None
    ) -> list[Prediction]:
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


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; anything else raises a ValueError that names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: invalid JSON at line {error.lineno}: {error.msg}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_inputs(predictions: Path, metrics: Path, plots: Path, store: Path, split: str = "test") -> ReportInputs:
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
        split=split,
    )


def load_panoramas(inputs: ReportInputs, image_ids: list[str]) -> dict[str, np.ndarray]:
    """Return the named panoramas as uint8 arrays `[H, W, 3]`, at most `MAX_WIDTH` wide.

    Raises a ValueError that names the panoramas which the store does not hold.
    """
    split = open_images(inputs.store, inputs.split)
    rows = {image_id: row for row, image_id in enumerate(split["image_id"])}
    unknown = sorted(set(image_ids) - set(rows))
    if unknown:
        raise ValueError(
            f"{inputs.store}: the {inputs.split} split has no panorama {', '.join(unknown)}; "
            "rerun evaluate on this store"
        )
    panoramas = {}
    for image_id in dict.fromkeys(image_ids):
        image: Image.Image = split[rows[image_id]]["image"].convert("RGB")
        if image.width > MAX_WIDTH:
            size = (MAX_WIDTH, round(image.height * MAX_WIDTH / image.width))
            image = image.resize(size, Image.Resampling.LANCZOS)
        panoramas[image_id] = np.asarray(image)
    return panoramas
