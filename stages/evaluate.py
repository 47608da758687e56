"""Stage evaluate: answer the test split with the model, with the image of another panorama, and blind; then score.

Writes data/evaluate/predictions.jsonl, metrics/evaluate.json and metrics/latency.json, each whole or not at all.
"""

from pathlib import Path

import datasets
import torch
from accelerate import PartialState
from torch import Tensor

from panollava.backbones.trained import load_finetuned
from panollava.corpus.store import open_records, open_split, panorama_records
from panollava.inference.engine import Engine
from panollava.inference.latency import measure_latency
from panollava.io import write_json
from panollava.params import Evaluate, Strict, Weights, read_params
from panollava.tasks.block_scores import evaluate
from panollava.tasks.evaluation import answer_blind_twin, answer_with_images
from panollava.tasks.prediction import Prediction
from panollava.tasks.prediction_files import write_lines
from panollava.tasks.questions import Question, panorama_questions, true_answers
from panollava.tasks.scorer import evenly
from panollava.tasks.segmentation import constant_mask
from stages import run_stage

STORE, MODEL, BLIND = Path("data/store"), Path("data/finetune_lora"), Path("data/finetune_blind")
PREDICTIONS = Path("data/evaluate/predictions.jsonl")
METRICS, LATENCY = Path("metrics/evaluate.json"), Path("metrics/latency.json")
TIMED_PANORAMAS = 6


class EvaluateParams(Strict):
    """The parameters of this stage."""

    seed: int
    weights: Weights
    encoder: str
    llm: str
    evaluate: Evaluate


def load(folder: Path) -> Engine:
    """Return the engine of a finetuned model on the fastest device at hand."""
    model, processor = load_finetuned(folder)
    return Engine(model.to("cuda" if torch.cuda.is_available() else "cpu"), processor)  # type: ignore[arg-type]


def questions_of(split: datasets.Dataset) -> list[list[Question]]:
    """Return the questions of each panorama of a split."""
    return [panorama_questions(row["image_id"], panorama_records(row)) for row in split]


def predict_with_images(
    split: datasets.Dataset, questions: list[list[Question]], constant: Tensor, params: EvaluateParams
) -> tuple[list[Prediction], dict[str, float]]:
    """Return the predictions of the model, with the right and the wrong panorama, and its latencies.

    Only the main process measures.
    """
    engine, settings = load(MODEL), params.evaluate
    predictions = answer_with_images(
        engine,
        split,
        questions,
        shuffled=settings.shuffled,
        batch_size=settings.batch_size,
        seed=params.seed,
        constant=constant,
    )
    if not PartialState().is_main_process:
        return predictions, {}
    timed = [split[index]["image"].convert("RGB") for index in range(min(TIMED_PANORAMAS, len(split)))]
    return predictions, measure_latency(engine, timed)


def predict_blind(questions: list[list[Question]]) -> list[Prediction]:
    """Return the predictions of the blind twin."""
    return answer_blind_twin(load(BLIND), [question for own in questions for question in own])


def main() -> None:
    """Run the stage, and leave the group of processes."""
    run()
    PartialState().destroy_process_group()


def run() -> None:
    """Answer, measure, score and write."""
    params = read_params(EvaluateParams, stage="evaluate")
    # Gives each process its own GPU; without one, accelerate looks for other processes only when it is told to.
    state = PartialState(cpu=not torch.cuda.is_available())
    split = open_split(STORE, "test")
    questions = questions_of(split.select_columns(["image_id", "records"]))
    training = [question for own in questions_of(open_records(STORE, "train")) for question in own]
    masks = [question.mask for question in training if question.mask is not None]
    predictions, latency = predict_with_images(split, questions, constant_mask(evenly(masks)), params)
    state.wait_for_everyone()  # the others' work would disturb the measurement of latency
    predictions += predict_blind(questions)
    if state.is_main_process:
        write(params, predictions, latency, true_answers(training))


def write(
    params: EvaluateParams, predictions: list[Prediction], latency: dict[str, float], training: list[Prediction]
) -> None:
    """Score the predictions beside the most frequent answers of the training split, and write all files."""
    unanswered = sum(prediction.unanswered for prediction in predictions if prediction.variant == "model")
    if unanswered:
        print(f"{unanswered} questions leave no room for an answer in the language model's context and count as wrong")
    chosen = {"seed": params.seed, "weights": params.weights, "encoder": params.encoder, "llm": params.llm}
    settings = {"resamples": params.evaluate.resamples, "seed": params.seed}
    scores = evaluate(predictions, **settings, training=training)
    write_lines(PREDICTIONS, (prediction.as_line() for prediction in predictions))
    write_json(METRICS, {"evaluate": scores, **chosen})
    write_json(LATENCY, {"latency": latency})


if __name__ == "__main__":
    run_stage(main)
