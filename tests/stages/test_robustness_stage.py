"""The stage: every turned panorama answers for itself, whole files, and data that allow no study are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panollava import PanoLlavaForConditionalGeneration, PanoLlavaProcessor
from panollava.corpus.records import Record
from panollava.corpus.store import PanoramaRow, write_store
from panollava.inference.answer import Answer
from panollava.inference.engine import Engine
from panollava.params import Robustness
from panollava.tasks.questions import panorama_questions
from panollava.tasks.scoring import score
from stages import robustness as stage

OBJECTS = [
    {"label": "cup", "box_deg": [10.0, 5.0, 20.0, 20.0]},
    {"label": "lamp", "box_deg": [-170.0, 50.0, 20.0, 20.0]},
]
TURNS: list[dict[str, Any]] = [
    {"human": "Is the cup red?", "assistant": "yes", "task": "choice", "type": "existence", "answer": {"text": "yes"}},
    {"human": "Which way is the cup?", "assistant": "front", "task": "choice", "type": "direction8",
     "answer": {"text": "front"}},
    {"human": "Where?", "assistant": "10, 5", "task": "direction", "answer": {"yaw_deg": 10, "pitch_deg": 5}},
    {"human": "Box of the lamp?", "assistant": "[-170, 50, 20, 20]", "task": "grounding", "answer": OBJECTS[1]},
    {"human": "What is behind?", "assistant": "a lamp", "task": "choice", "type": "free", "answer": {"text": "a lamp"}},
]  # fmt: skip
SETTINGS = Robustness(panoramas=3, yaws_deg=[90.0, 200.0], tilts_deg=[10.0], seam_pairs=5, batch_size=4, resamples=10)
PARAMS = stage.RobustnessParams(seed=1, weights="standin", encoder="clip", llm="llama", robustness=SETTINGS)


@pytest.fixture
def prepared(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: PanoLlavaForConditionalGeneration,
    processor: PanoLlavaProcessor,
) -> Callable[..., list[PanoramaRow]]:
    """A function that writes a test split of so many panoramas and their plain answers; the model is given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage, "load_engine", lambda folder: Engine(model, processor))

    def prepare(count: int, turns: list[dict[str, Any]] = TURNS, params: Any = PARAMS) -> list[PanoramaRow]:
        monkeypatch.setattr(stage, "read_params", lambda view, stage: params)
        generator = np.random.default_rng(0)
        rows, plain = [], []
        for index in range(count):
            shared = {"image_id": f"p{index}", "image_path": "a.png"}
            records = [Record.model_validate(shared | {"conversations": [turn]}) for turn in turns]
            records[0] = Record.model_validate(shared | {"conversations": [turns[0]], "objects": OBJECTS})
            image = Image.fromarray(generator.integers(0, 256, (64, 128, 3), dtype=np.uint8))
            rows.append(PanoramaRow(f"p{index}", image, records))
            for question in panorama_questions(f"p{index}", records):
                plain += [score("model", question, Answer(question.content.assistant, 1.0)).as_line()]
                plain += [score("blind", question, Answer("nothing", 1.0)).as_line()]
        write_store(Path("data/store"), "test", rows, jpeg_quality=None)
        Path("data/evaluate").mkdir()
        stage.PLAIN.write_text("".join(json.dumps(line) + "\n" for line in plain))
        return rows

    return prepare


def test_every_rotated_panorama_is_answered_as_it_would_be_alone(
    prepared: Callable[..., list[PanoramaRow]],
    model: PanoLlavaForConditionalGeneration,
    processor: PanoLlavaProcessor,
) -> None:
    rows = prepared(4)
    stage.main()
    lines = [json.loads(text) for text in stage.PREDICTIONS.read_text().splitlines()]
    counts = {study: sum(line["study"] == study for line in lines) for study in ("yaw", "tilt", "seam", "away")}
    # Four of the questions turn, three of them are about the cup: two panoramas make the five pairs asked for.
    assert counts == {"yaw": 3 * 2 * 4, "tilt": 3 * 4, "seam": 6, "away": 6}
    turned = Image.fromarray(np.roll(np.asarray(rows[1].image), 32, axis=1))
    asked = panorama_questions("p1", rows[1].records)[2]
    budget = [[asked.max_new_tokens]]
    wanted = Engine(model, processor).answer([turned], [[asked.messages]], max_new_tokens=budget)
    (found,) = [x for x in lines if (x["image_id"], x["yaw_deg"], x["task"]) == ("p1", 90, "direction")]
    assert found["prediction"] == wanted[0][0].text
    assert found["answer"] == {"yaw_deg": 100, "pitch_deg": 5}
    metrics = json.loads(stage.METRICS.read_text())
    # The keys of all metrics files are read together, so none but its own may be on top.
    assert list(metrics) == ["robustness"]
    block = metrics["robustness"]
    chosen = PARAMS.model_dump(include={"seed", "weights", "encoder", "llm"})
    assert {key: block[key] for key in chosen} == chosen
    assert block["yaws"]["accuracy"]["plain"]["value"] == 1
    assert block["yaws"]["accuracy"]["n"] == 6
    assert block["seam"]["all"]["n"] == 6
    assert block["panoramas"] == 3
    assert block["left_out"] == {
        "yaws": {"free: names a direction or a number": 6}, "tilts": {"free: names a direction or a number": 3},
    }  # fmt: skip
    # The latitudes need no new answers: all four panoramas count, and the question that cannot be turned.
    right = {"value": 1, "low": 1, "high": 1}
    assert block["latitude"]["accuracy"] == {"0-15": right | {"n": 8}, "45-60": right | {"n": 4}}
    assert block["latitude"]["grounding"]["45-60"]["n"] == 4
    assert Image.open(stage.FIGURE).size[0] > 1000


def test_data_without_objects_are_rotated_by_their_words_alone(prepared: Callable[..., list[PanoramaRow]]) -> None:
    turn = {"human": "Is it day?", "assistant": "yes", "task": "choice", "answer": {"text": "yes"}}
    prepared(3, [turn])
    stage.main()
    block = json.loads(stage.METRICS.read_text())["robustness"]
    assert list(block["yaws"]) == ["accuracy", "types"]
    assert block["seam"] == block["latitude"] == {}


def test_questions_longer_than_the_context_are_unanswered_and_counted(
    prepared: Callable[..., list[PanoramaRow]],
) -> None:
    turn = {"human": "Is it day? " + "wall " * 300, "assistant": "yes", "task": "choice", "answer": {"text": "yes"}}
    prepared(3, [turn])
    stage.main()
    block = json.loads(stage.METRICS.read_text())["robustness"]
    assert block["unanswered"] == 3 * 3  # two yaws and a tilt
    assert block["yaws"]["accuracy"]["agreement"]["value"] == block["yaws"]["accuracy"]["mean"]["value"] == 0


def test_fewer_panoramas_than_asked_for_are_refused(prepared: Callable[..., list[PanoramaRow]]) -> None:
    prepared(2)
    with pytest.raises(ValueError, match=r"data/store.* has 2 panoramas, robustness\.panoramas asks for 3"):
        stage.main()
    assert not stage.METRICS.exists()


def test_data_of_which_nothing_can_be_rotated_are_refused(prepared: Callable[..., list[PanoramaRow]]) -> None:
    prepared(3, TURNS[4:])
    with pytest.raises(ValueError, match=r"no question of the test split can be asked.*free: names a direction"):
        stage.main()


def test_plain_answers_of_another_store_are_refused(prepared: Callable[..., list[PanoramaRow]]) -> None:
    prepared(3)
    first = stage.PLAIN.read_text().splitlines()[0]
    stage.PLAIN.write_text(first.replace('"p0"', '"other"') + "\n")
    with pytest.raises(ValueError, match="run evaluate on this store"):
        stage.main()
    assert not stage.METRICS.exists()
