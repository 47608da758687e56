"""Stage evaluate: answer the test split with the model, with the image of another panorama, and blind; then score.

Writes data/evaluate/predictions.jsonl, metrics/evaluate.json and metrics/latency.json, each whole or not at all.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import torch
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from panollava.backbones.assemble import load_finetuned
from panollava.corpus.store import open_split, panorama_records, replacing
from panollava.params import Evaluate, Weights, read_params
from panollava.tasks.answering import Answer, answer_blind, answer_dialogues
from panollava.tasks.latency import measure_latency
from panollava.tasks.prompts import Question, derangement, panorama_questions
from panollava.tasks.results import evaluate
from panollava.tasks.scoring import Prediction, Variant, score
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration
from panollava.vlm.processing_panollava import PanoLlavaProcessor

STORE, MODEL, BLIND = Path("data/store"), Path("data/finetune_lora"), Path("data/finetune_blind")
PREDICTIONS = Path("data/evaluate/predictions.jsonl")
METRICS, LATENCY = Path("metrics/evaluate.json"), Path("metrics/latency.json")
# Tasks whose answers are short enough to be given a second time, with the image of another panorama.
SHUFFLED_TASKS = ("choice", "direction", "grounding")
TIMED_PANORAMAS = 6
BLIND_AT_ONCE = 512


class EvaluateParams(BaseModel):
    """What this stage reads from params.yaml."""

    model_config = ConfigDict(extra="forbid", strict=True)

    seed: int
    weights: Weights
    encoder: str
    llm: str
    evaluate: Evaluate


def load(folder: Path) -> tuple[PanoLlavaForConditionalGeneration, PanoLlavaProcessor]:
    """Return a finetuned model on the fastest device at hand, and its processor."""
    model, processor = load_finetuned(folder)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), processor  # type: ignore[arg-type]


def answer_seeing(
    model: PanoLlavaForConditionalGeneration,
    processor: PanoLlavaProcessor,
    split: datasets.Dataset,
    questions: list[list[Question]],
    params: EvaluateParams,
) -> Iterator[tuple[Variant, Question, Answer]]:
    """Yield the answers of the variants `model` and `shuffled`.

    A panorama answers its own questions together with those of the one panorama that is shown it by mistake, so it is
    computed once for both. A single panorama has no other to be mistaken for: there is no `shuffled` then.
    """
    asked: list[list[tuple[Variant, Question]]] = [[("model", question) for question in own] for own in questions]
    if len(questions) > 1:
        for panorama, shown in enumerate(derangement(len(questions), params.seed)):
            mistaken = [question for question in questions[panorama] if question.content.task in SHUFFLED_TASKS]
            asked[shown] += [("shuffled", question) for question in mistaken]
    size = params.evaluate.batch_size
    with tqdm(total=len(asked), desc="answer", unit="panorama") as progress:
        for start in range(0, len(asked), size):
            group = asked[start : start + size]
            images = [split[index]["image"].convert("RGB") for index in range(start, start + len(group))]
            answers = answer_dialogues(
                model,
                processor,
                images,
                [[question.messages for _, question in own] for own in group],
                max_new_tokens=[[question.max_new_tokens for _, question in own] for own in group],
            )
            for own, said in zip(group, answers, strict=True):
                yield from ((*who, answer) for who, answer in zip(own, said, strict=True))
            progress.update(len(group))


def answer_unseeing(
    model: PanoLlavaForConditionalGeneration, processor: PanoLlavaProcessor, questions: list[Question]
) -> Iterator[tuple[Variant, Question, Answer]]:
    """Yield the answers of the variant `blind`, given by the twin that was finetuned without visual tokens."""
    # Equal questions side by side are asked once.
    ordered = sorted(questions, key=lambda q: (q.max_new_tokens, len(q.messages), q.content.human))
    with tqdm(total=len(ordered), desc="answer blind", unit="question") as progress:
        for start in range(0, len(ordered), BLIND_AT_ONCE):
            group = ordered[start : start + BLIND_AT_ONCE]
            answers = answer_blind(
                model,
                processor,
                [question.messages for question in group],
                max_new_tokens=[question.max_new_tokens for question in group],
            )
            yield from (("blind", *pair) for pair in zip(group, answers, strict=True))
            progress.update(len(group))


def predict_seeing(
    split: datasets.Dataset, questions: list[list[Question]], params: EvaluateParams
) -> tuple[list[Prediction], dict[str, float]]:
    """Return the scored answers of the model, with the right and the wrong panorama, and its latencies."""
    model, processor = load(MODEL)
    predictions = [score(*said) for said in answer_seeing(model, processor, split, questions, params)]
    timed = [split[index]["image"].convert("RGB") for index in range(min(TIMED_PANORAMAS, len(split)))]
    return predictions, measure_latency(model, processor, timed)


def predict_blind(questions: list[list[Question]]) -> list[Prediction]:
    """Return the scored answers of the blind twin."""
    model, processor = load(BLIND)
    return [score(*said) for said in answer_unseeing(model, processor, [q for own in questions for q in own])]


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all; NaN raises ValueError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write((json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def main() -> None:
    """Answer, score and measure."""
    params = read_params(EvaluateParams, stage="evaluate")
    split = open_split(STORE, "test")
    questions = [
        panorama_questions(row["image_id"], panorama_records(row))
        for row in split.select_columns(["image_id", "records"])
    ]
    predictions, latency = predict_seeing(split, questions, params)
    predictions += predict_blind(questions)
    chosen = {"seed": params.seed, "weights": params.weights, "encoder": params.encoder, "llm": params.llm}
    scores = evaluate(predictions, resamples=params.evaluate.resamples, seed=params.seed)
    PREDICTIONS.parent.mkdir(parents=True, exist_ok=True)
    with replacing(PREDICTIONS) as file:
        for line in predictions:
            file.write((json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode())
    write_json(METRICS, {"evaluate": scores, **chosen})
    write_json(LATENCY, {"latency": latency})


if __name__ == "__main__":
    main()
