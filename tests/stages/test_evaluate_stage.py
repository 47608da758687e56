"""The stage: three variants of each question, the shuffled one answered with another image, and whole files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panollava import PanoLlavaForConditionalGeneration, PanoLlavaProcessor, evaluating
from panollava.corpus.masks import encoded
from panollava.corpus.records import Record
from panollava.corpus.store import PanoramaRow, write_store
from panollava.inference.engine import Engine
from panollava.params import Evaluate
from panollava.tasks.prediction_files import read_predictions
from panollava.tasks.questions import derangement, panorama_questions
from stages import evaluate as stage

TURNS: list[dict[str, Any]] = [
    {"human": "Is it red?", "assistant": "yes", "task": "choice", "type": "existence", "answer": {"text": "yes"}},
    {"human": "Where?", "assistant": "1, 2", "task": "direction", "answer": {"yaw_deg": 1, "pitch_deg": 2}},
    {"human": "Box?", "assistant": "[1, 2, 3, 4]", "task": "grounding",
     "answer": {"label": "cube", "box_deg": [1, 2, 3, 4]}},
    {"human": "All?", "assistant": "cube [1, 2, 3, 4]", "task": "detection",
     "answer": {"objects": [{"label": "cube", "box_deg": [1, 2, 3, 4]}]}},
    {"human": "설명해 주세요.", "assistant": "방", "task": "description", "language": "ko"},
]  # fmt: skip
PARAMS = stage.EvaluateParams(
    seed=3, weights="standin", encoder="clip", llm="llama", evaluate=Evaluate(batch_size=2, shuffled=9, resamples=10)
)


@pytest.fixture
def prepared(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: PanoLlavaForConditionalGeneration,
    processor: PanoLlavaProcessor,
) -> Callable[..., list[PanoramaRow]]:
    """A function that writes a test split of so many panoramas, objects alike; model and parameters are given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluating, "load_engine", lambda folder: Engine(model, processor))
    monkeypatch.setattr(stage, "read_params", lambda view, stage: PARAMS)

    def prepare(
        count: int, objects: list[dict[str, Any]] | None = None, turns: list[dict[str, Any]] = TURNS
    ) -> list[PanoramaRow]:
        generator = np.random.default_rng(0)
        rows = []
        for index in range(count):
            shared = {"image_id": f"p{index}", "image_path": "a.png", "objects": objects or []}
            records = [Record.model_validate(shared | {"conversations": [turn]}) for turn in turns]
            image = Image.fromarray(generator.integers(0, 256, (64, 128, 3), dtype=np.uint8))
            rows.append(PanoramaRow(f"p{index}", image, records))
        for split in ("train", "test"):
            write_store(Path("data/store"), split, rows, jpeg_quality=None)
        return rows

    return prepare


def test_every_question_is_answered_in_every_variant(
    prepared: Callable[..., list[PanoramaRow]],
    model: PanoLlavaForConditionalGeneration,
    processor: PanoLlavaProcessor,
) -> None:
    rows = prepared(5)
    stage.main()
    said = read_predictions(Path("data/evaluate/predictions.jsonl"))
    counts = {variant: [p.task for p in said if p.variant == variant] for variant in ("model", "shuffled", "blind")}
    assert {variant: len(tasks) for variant, tasks in counts.items()} == {"model": 25, "shuffled": 25, "blind": 25}
    order = derangement(5, PARAMS.seed)
    for place, row in enumerate(rows):
        for variant, shown in (("model", place), ("shuffled", order[place])):
            asked = panorama_questions(row.image_id, row.records)[2]
            budget = [[asked.max_new_tokens]]
            wanted = Engine(model, processor).answer([rows[shown].image], [[asked.messages]], max_new_tokens=budget)
            found = [p for p in said if (p.variant, p.image_id, p.task) == (variant, row.image_id, "grounding")]
            assert [p.prediction for p in found] == [wanted[0][0].text]
    metrics = json.loads(Path("metrics/evaluate.json").read_text())
    assert {key: metrics[key] for key in ("seed", "weights", "encoder", "llm")} == PARAMS.model_dump(
        include={"seed", "weights", "encoder", "llm"}
    )
    assert list(metrics["evaluate"]["en"]) == ["accuracy", "types", "direction", "grounding", "detection"]
    assert list(metrics["evaluate"]["ko"]) == ["description"]
    assert set(json.loads(Path("metrics/latency.json").read_text())["latency"]) >= {"first_token_ms", "peak_memory_mb"}


def test_one_panorama_has_no_shuffled_variant(prepared: Callable[..., list[PanoramaRow]]) -> None:
    prepared(1)
    stage.main()
    said = read_predictions(Path("data/evaluate/predictions.jsonl"))
    assert {p.variant for p in said} == {"model", "blind"}
    scores = json.loads(Path("metrics/evaluate.json").read_text())["evaluate"]["en"]
    assert "shuffled" not in scores["accuracy"]
    assert "blind" in scores["accuracy"]


def test_masks_are_scored_beside_the_one_that_is_always_the_same(
    prepared: Callable[..., list[PanoramaRow]],
) -> None:
    mask = np.zeros((64, 128), dtype=bool)
    mask[20:40, 100:120] = True
    prepared(3, [{"label": "cube", "box_deg": [1, 2, 3, 4], "mask": encoded(mask)}])
    stage.main()
    block = json.loads(Path("metrics/evaluate.json").read_text())["evaluate"]["en"]["segmentation"]
    assert block["n"] == 3
    assert block["majority"] == 1  # the object is in the same place in each panorama
    assert 0 <= block["miou"] <= block["ceiling"] < 1
    masked = [p for p in read_predictions(Path("data/evaluate/predictions.jsonl")) if p.mask is not None]
    assert {(p.variant, p.task) for p in masked} == {("model", "grounding"), ("shuffled", "grounding")}


def test_questions_longer_than_the_context_are_unanswered_and_counted(
    prepared: Callable[..., list[PanoramaRow]], capsys: pytest.CaptureFixture[str]
) -> None:
    mask = np.zeros((64, 128), dtype=bool)
    mask[20:40, 100:120] = True
    long = [turn | {"human": "wall " * 300} for turn in TURNS]
    prepared(2, [{"label": "cube", "box_deg": [1, 2, 3, 4], "mask": encoded(mask)}], TURNS + long)
    stage.main()
    assert "10 questions leave no room for an answer" in capsys.readouterr().out
    said = read_predictions(Path("data/evaluate/predictions.jsonl"))
    unanswered = [p for p in said if p.unanswered]
    assert len(said) == 60
    assert len(unanswered) == 30
    assert all(p.prediction == "" and p.question.startswith("wall") for p in unanswered)
    assert all(not p.correct and p.parsed is (p.task in ("choice", "description")) for p in unanswered)
    assert all(p.error_deg == 180 for p in unanswered if p.task == "direction")
    assert all((p.iou, p.mask_iou) == (0, 0) for p in unanswered if p.task == "grounding" and p.variant != "blind")
    scores = json.loads(Path("metrics/evaluate.json").read_text())["evaluate"]
    assert {name: block.get("unanswered") for name, block in scores["en"].items()} == {
        "accuracy": 2, "types": None, "direction": 2, "grounding": 2, "segmentation": 2, "detection": 2
    }  # fmt: skip
    assert scores["ko"]["description"]["unanswered"] == 2
    assert scores["en"]["segmentation"]["n"] == 4


def test_only_long_questions_are_an_evaluation_too(prepared: Callable[..., list[PanoramaRow]]) -> None:
    prepared(2, turns=[turn | {"human": "wall " * 300} for turn in TURNS])
    stage.main()
    scores = json.loads(Path("metrics/evaluate.json").read_text())["evaluate"]
    assert scores["en"]["accuracy"]["value"] == 0
    assert scores["ko"]["description"]["chrf"] == 0
