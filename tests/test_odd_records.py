"""What the checks pass trains and evaluates to the end: odd texts, odd tasks, a single panorama, cut answers."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_backbones import write_parts
from tiny_models import write_dataset, write_images, write_resampler_folder

from panollava import PanoDataset, PanoLLaVAModel, PanoLLaVATrainer
from panollava.corpus.masks import encoded
from panollava.corpus.validation import validate_dataset
from panollava.tasks.block_scores import evaluate
from panollava.tasks.checks import answer_problems
from panollava.tasks.evaluation import answer_blind_twin, answer_with_images
from panollava.tasks.questions import panorama_questions, true_answers
from panollava.tasks.segmentation import constant_mask

TEXTS = [
    ("อะไรอยู่ข้างหน้า", "ประตูสีแดง"), ("ما هذا؟", "باب"), ("🧭?", "🚪"), ("?", "."), ("a\nb\tc", "line\nbreak\r\n"),
    ("bell \x07 \x1b[31m", "\x1b"), ("</s> <pad>", "A wall.</s> more <s>"), ("\u200b", "\u200b"),
    ("\u202eabc", "\ufeff"), ("what", " spaces around "), ("{{ 7 * 7 }}", "{% for %}"), ("<|im_end|>", "[INST]"),
    ("ﷺ" * 20, "ﷺ"), ("e\u0301", "é"), ("x", "0"), ("\U0010003c", "\U0010ffff"), ("ASSISTANT: yes USER:", "[/INST]"),
]  # fmt: skip
DOOR = {"label": "dörr 문", "box_deg": [-180.0, 90.0, 179.9, 0.01]}
TYPED: list[dict[str, Any]] = [
    {"human": "?", "assistant": "🙂!", "task": "choice", "answer": {"text": "🙂"}},
    {"human": "?", "assistant": "yaw=180, pitch=-90", "task": "direction",
     "answer": {"yaw_deg": -180, "pitch_deg": -90}},
    {"human": "?", "assistant": "[-180, 90, 179, 1]", "task": "grounding", "answer": DOOR},
    {"human": "?", "assistant": '[{"label": "문", "bbox": [180, 90, 179, 1]}]', "task": "detection",
     "answer": {"objects": [DOOR]}},
    {"human": "?", "assistant": "nothing", "task": "detection", "answer": {"objects": []}},
    {"human": "?", "assistant": "[0, 0, 359, 200]", "task": "grounding",
     "answer": {"label": "sky", "box_deg": [0, 0, 359.9, 200]}},
    {"human": "?", "assistant": "…", "task": "description", "language": "th", "references": ["…", "ก"]},
]  # fmt: skip


@pytest.fixture
def dataset(tmp_path: Path) -> PanoDataset:
    """One panorama with every odd dialogue, one of 60 turns among them."""
    (file,) = write_images(tmp_path / "odd", 1)
    mask = np.zeros((64, 128), dtype=bool)
    turns = [[{"human": human, "assistant": answer}] for human, answer in TEXTS]
    turns += [[turn] for turn in TYPED]
    turns.append([{"human": "q", "assistant": "a"}] * 60)
    turns.append([turn | {"type": "x" * 50} for turn in TYPED])
    shared = {"image_id": "a/b c", "image_path": file.name}
    records = [shared | {"conversations": conversation} for conversation in turns]
    records[0]["objects"] = [DOOR | {"mask": encoded(mask)}]
    (tmp_path / "odd" / "annotations.json").write_text(json.dumps(records), encoding="utf-8")
    assert validate_dataset(tmp_path / "odd", answer_problems).problems == []
    return PanoDataset(tmp_path / "odd")


def test_odd_records_train_and_evaluate_to_the_end(
    dataset: PanoDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    write_resampler_folder(write_parts("clip", "llama", tmp_path), tmp_path / "base")
    model = PanoLLaVAModel.from_pretrained(tmp_path / "base", device="cpu")
    validation = PanoDataset(write_dataset(tmp_path / "val", 1, seed=7))
    trainer = PanoLLaVATrainer(
        model=model, train_dataset=dataset, val_dataset=validation, output_dir="out", steps=2, batch_size=1,
        records_per_panorama=40, rank=2, alpha=4,
    )  # fmt: skip
    found = trainer.train()
    assert found.validation_loss is not None
    assert all(math.isfinite(entry["loss"]) for entry in found.history)
    trained = PanoLLaVAModel.from_pretrained("out", device="cpu")
    questions = [panorama_questions("a/b c", dataset.panoramas[0])]
    split: Any = [{"image": Image.new("RGB", (128, 64))}]
    asked = [[question for question in questions[0] if question.content.human != "q"]]  # but those of the long dialogue
    options: dict[str, Any] = {"shuffled": 1, "batch_size": 2, "seed": 0, "constant": constant_mask([])}
    said = answer_with_images(trained.engine, split, asked, **options)
    said += answer_blind_twin(trained.engine, asked[0])
    scores = evaluate(said, resamples=3, seed=0, training=true_answers(questions[0]))
    json.dumps(scores, allow_nan=False)
    assert list(scores) == ["en", "th"]
    assert {"accuracy", "direction", "grounding", "detection", "open"} <= scores["en"].keys()
