"""Evaluate a finetuned model: answer a split with it, with the image of another panorama, and blind; then score.

The stage evaluate and `panollava evaluate` both go through here, so the same model on the same questions gets the same
numbers.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState

from panollava.backbones.checkpoint import load_checkpoint
from panollava.backbones.trained import PARTS, load_finetuned
from panollava.corpus.store import RECORDS, open_records, open_split, panorama_records
from panollava.inference.engine import Engine
from panollava.inference.latency import measure_latency
from panollava.io import write_json
from panollava.tasks.block_scores import evaluate
from panollava.tasks.evaluation import answer_blind_twin, answer_with_images
from panollava.tasks.prediction import Prediction
from panollava.tasks.prediction_files import write_lines
from panollava.tasks.questions import Question, panorama_questions, true_answers
from panollava.tasks.scorer import evenly
from panollava.tasks.segmentation import constant_mask

TIMED_PANORAMAS = 6


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated, and how.

    model, blind: a trained folder, a full checkpoint or a hub id; and that of the blind twin, if there is one.
    store, split: what is asked. The training split of the store, if it has one, gives majority answers.
    batch_size: panoramas answered together.
    shuffled: panoramas whose questions are asked again about another panorama.
    resamples, seed: of the bootstrap over panoramas, and of the choice of other panoramas.
    """

    model: str | Path
    blind: str | Path | None
    store: Path
    split: str
    batch_size: int
    shuffled: int
    resamples: int
    seed: int


def load_engine(model: str | Path) -> Engine:
    """Return the engine of a model on the fastest device at hand."""
    folder = Path(model)
    loaded, processor = load_finetuned(folder) if (folder / PARTS).is_file() else load_checkpoint(model)
    return Engine(loaded.to("cuda" if torch.cuda.is_available() else "cpu"), processor)  # type: ignore[arg-type]


def evaluate_model(
    asked: Evaluation, chosen: dict[str, Any], *, predictions: Path, metrics: Path, latency: Path
) -> None:
    """Answer, score, and write predictions, metrics and latency, each whole or not at all.

    `chosen` says in the metrics which run they are of. Processes share the answering; the main one writes.

    Raises:
        ValueError: a split that is not there; a model that cannot be loaded.
    """
    # Gives each process its own GPU; without one, accelerate looks for other processes only when it is told to.
    state = PartialState(cpu=not torch.cuda.is_available())
    split = open_split(asked.store, asked.split)
    questions = _questions(split.select_columns(["image_id", "records"]))
    training = _training_questions(asked.store)
    found, timed = _with_images(asked, split, questions, training)
    state.wait_for_everyone()  # the others' work would disturb the measurement of latency
    if asked.blind is not None:
        found += answer_blind_twin(load_engine(asked.blind), [question for own in questions for question in own])
    if not state.is_main_process:
        return
    unanswered = sum(prediction.unanswered for prediction in found if prediction.variant == "model")
    if unanswered:
        print(f"{unanswered} questions leave no room for an answer in the language model's context and count as wrong")
    scores = evaluate(found, resamples=asked.resamples, seed=asked.seed, training=true_answers(training))
    write_lines(predictions, (prediction.as_line() for prediction in found))
    write_json(metrics, {"evaluate": scores, **chosen})
    write_json(latency, {"latency": timed})


def _questions(split: datasets.Dataset) -> list[list[Question]]:
    """Return the questions of each panorama of a split."""
    return [panorama_questions(row["image_id"], panorama_records(row)) for row in split]


def _training_questions(store: Path) -> list[Question]:
    if not (store / RECORDS / "train.arrow").is_file():
        return []
    return [question for own in _questions(open_records(store, "train")) for question in own]


def _with_images(
    asked: Evaluation, split: datasets.Dataset, questions: list[list[Question]], training: list[Question]
) -> tuple[list[Prediction], dict[str, float]]:
    """Return the predictions of the model, with the right and the wrong panorama, and its latencies.

    Only the main process measures.
    """
    engine = load_engine(asked.model)
    masks = [question.mask for question in training if question.mask is not None]
    predictions = answer_with_images(
        engine,
        split,
        questions,
        shuffled=asked.shuffled,
        batch_size=asked.batch_size,
        seed=asked.seed,
        constant=constant_mask(evenly(masks)),
    )
    if not PartialState().is_main_process:
        return predictions, {}
    timed = [split[index]["image"].convert("RGB") for index in range(min(TIMED_PANORAMAS, len(split)))]
    return predictions, measure_latency(engine, timed)
