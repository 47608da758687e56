"""A miniature pipeline output for the report tests: a store, predictions, metrics and loss curves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from panollava.corpus.records import Record
from panollava.corpus.store import PanoramaRow, write_store

BOXES = [[179.0, 5.0, 30.0, 20.0], [-20.0, 60.0, 25.0, 25.0]]
OBJECTS = [{"label": "red cube", "box_deg": BOXES[0]}, {"label": "blue ball", "box_deg": BOXES[1]}]
ACCURACY = {"value": 0.713, "low": 0.691, "high": 0.735, "n": 12, "majority": 0.281, "blind": 0.302, "shuffled": 0.333}
SCORES: dict[str, Any] = {
    "accuracy": ACCURACY,
    "types": {"existence": ACCURACY | {"value": 0.912}, "direction8": ACCURACY | {"value": 0.854}},
    "direction": {
        "median_deg": 3.84, "low": 3.51, "high": 4.19, "n": 6, "within_15_deg": 0.905,
        "blind_median_deg": 88.2, "shuffled_median_deg": 86.4,
    },
    "grounding": {"iou50": 0.523, "low": 0.47, "high": 0.574, "n": 6, "mean_iou": 0.491, "blind": 0.01},
    "detection": {
        "ap": 0.177, "ap50": 0.345, "ap75": 0.121, "ap_large": 0.288, "low": 0.31, "high": 0.39, "n": 6,
        "blind_ap50": 0.004,
    },
    "description": {"chrf": 0.612, "bleu": 0.402, "cider": 1.25, "n": 6, "blind_chrf": 0.441, "blind_cider": 0.5},
}  # fmt: skip
TOP = {"seed": 3, "weights": "standin", "encoder": "clip", "llm": "llama"}


def _line(image_id: str, language: str, record: int, task: str, **fields: Any) -> dict[str, Any]:
    empty = {
        "turn": 0,
        "answer": None,
        "parsed": True,
        "correct": None,
        "error_deg": None,
        "iou": None,
        "boxes": None,
        "mask": None,
        "mask_iou": None,
        "mask_ceiling": None,
        "boundary_deg": None,
    }
    line = {
        "variant": "model",
        "image_id": image_id,
        "language": language,
        "record": record,
        "task": task,
        "type": task,
    }
    return line | empty | {"score": 0.5, "references": [fields["reference"]]} | fields


def full_predictions(panoramas: int) -> list[dict[str, Any]]:
    """Return predictions of every task in English and Korean, by the model, the blind twin and the shuffled image."""
    lines = []
    for index in range(panoramas):
        for language, yes, no, question in (("en", "yes", "no", "Is it there?"), ("ko", "예", "아니요", "있나요?")):
            truth, off = (yes, no)[index % 2], 2.0 * index
            moved = [{"label": o["label"], "box_deg": [o["box_deg"][0] - off, *o["box_deg"][1:]]} for o in OBJECTS]
            box = OBJECTS[0] | {"box_deg": BOXES[0]}
            tasks: list[dict[str, Any]] = [
                {"task": "choice", "type": "existence", "question": question, "reference": truth,
                 "answer": {"text": truth}, "prediction": yes, "correct": truth == yes},
                {"task": "direction", "type": "pointing", "question": "Where?", "reference": "170, 5",
                 "answer": {"yaw_deg": 170.0, "pitch_deg": 5.0}, "prediction": "172, 5", "error_deg": 2.0 + off},
                {"task": "grounding", "question": "Give the box.", "reference": str(BOXES[0]), "answer": box,
                 "prediction": "[1, 2, 3, 4]", "iou": 0.6, "boxes": moved[:1]},
                {"task": "detection", "question": "Detect every object.", "reference": "two", "prediction": "two",
                 "answer": {"objects": OBJECTS}, "boxes": [box | {"score": 0.5} for box in moved]},
                {"task": "description", "question": "Describe it.", "reference": "A room.", "prediction": "A plaza."},
            ]  # fmt: skip
            for record, fields in enumerate(tasks):
                model = _line(f"pano_{index}", language, record, **fields)
                lines += [model | {"variant": variant} for variant in ("model", "blind", "shuffled")]
    return lines


def open_predictions(question: str = "What do you see?") -> list[dict[str, Any]]:
    """Return the predictions of one photograph with a single open question."""
    fields = {"question": question, "reference": "A church.", "prediction": "A house."}
    return [_line("pano_0", "en", 0, "open", **fields)]


def write_outputs(
    folder: Path, predictions: list[dict[str, Any]], evaluate: dict[str, Any], *, loss: bool, latency: bool
) -> None:
    """Write what evaluate and the training stages leave behind, and the store of the predicted panoramas."""
    generator = np.random.default_rng(0)
    rows = []
    for image_id in dict.fromkeys(p["image_id"] for p in predictions):
        record = {"image_id": image_id, "image_path": "a.png", "conversations": [{"human": "a", "assistant": "b"}]}
        image = Image.fromarray(generator.integers(0, 256, (32, 64, 3), dtype=np.uint8))
        rows.append(PanoramaRow(image_id, image, [Record.model_validate(record)]))
    write_store(folder / "store", "test", rows, jpeg_quality=None)
    lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in predictions)
    (folder / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "metrics").mkdir()
    (folder / "metrics" / "evaluate.json").write_text(json.dumps({"evaluate": evaluate} | TOP))
    (folder / "metrics" / "preprocess.json").write_text(json.dumps({"preprocess": {"test": {"panoramas": len(rows)}}}))
    if latency:
        times = {"latency": {"projection_ms": 12.0, "first_token_ms": 70.0, "peak_memory_mb": 812.0}}
        (folder / "metrics" / "latency.json").write_text(json.dumps(times))
    if loss:
        for stage, header in (("train_vision", "step,loss,overlap,learning_rate"), ("finetune_lora", "step,loss")):
            (folder / "plots" / stage).mkdir(parents=True)
            rest = ",0.5,0.001" if "overlap" in header else ""
            steps = "".join(f"{step},{3 / step}{rest}\n" for step in range(1, 30))
            (folder / "plots" / stage / "loss.csv").write_text(f"{header}\n{steps}")
