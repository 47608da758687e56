"""Stage evaluate: answer the test split with the model, with the image of another panorama, and blind; then score.

Writes data/evaluate/predictions.jsonl, metrics/evaluate.json and metrics/latency.json, each whole or not at all.
"""

import json
from pathlib import Path

import datasets
import torch
from accelerate import PartialState
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from panollava.backbones.assemble import load_finetuned
from panollava.corpus.store import open_split, panorama_records
from panollava.inference.answer import Answer, answer_blind, answer_dialogues
from panollava.inference.latency import measure_latency
from panollava.inference.sharding import by_turns
from panollava.io import replacing, write_json
from panollava.params import Evaluate, Weights, read_params
from panollava.tasks.questions import Question, derangement, panorama_questions
from panollava.tasks.results import evaluate
from panollava.tasks.scoring import Prediction, Variant, score
from panollava.tasks.segmenting import score_masks, usual_mask
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration
from panollava.vlm.processing_panollava import PanoLlavaProcessor

STORE, MODEL, BLIND = Path("data/store"), Path("data/finetune_lora"), Path("data/finetune_blind")
PREDICTIONS = Path("data/evaluate/predictions.jsonl")
METRICS, LATENCY = Path("metrics/evaluate.json"), Path("metrics/latency.json")
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
) -> list[Prediction]:
    """Return the scored answers of the variants `model` and `shuffled`.

    A panorama answers its own questions together with those of the one panorama that is shown it by mistake, so it is
    computed once for both. A single panorama has no other to be mistaken for: there is no `shuffled` then. Some
    panoramas are enough for `shuffled`, a floor.
    """
    asked: list[list[tuple[Variant, Question]]] = [[("model", question) for question in own] for own in questions]
    if len(questions) > 1:
        for panorama, shown in enumerate(derangement(len(questions), params.seed)[: params.evaluate.shuffled]):
            asked[shown] += [("shuffled", question) for question in questions[panorama]]

    usual = usual_mask([question.mask for own in questions for question in own if question.mask is not None])

    def answer(panoramas: range) -> list[Prediction]:
        group = [asked[index] for index in panoramas]
        answers = answer_dialogues(
            model,
            processor,
            [split[index]["image"].convert("RGB") for index in panoramas],
            [[question.messages for _, question in own] for own in group],
            max_new_tokens=[[question.max_new_tokens for _, question in own] for own in group],
            masked=[[question.mask is not None for _, question in own] for own in group],
        )
        asked_and_said = [
            (*who, said)
            for own, answered in zip(group, answers, strict=True)
            for who, said in zip(own, answered, strict=True)
        ]
        return with_masks(model, asked_and_said, usual)

    return by_turns(groups_of(len(asked), params.evaluate.batch_size), answer, desc="answer", unit="batch")


def with_masks(
    model: PanoLlavaForConditionalGeneration, answered: list[tuple[Variant, Question, Answer]], usual: Tensor
) -> list[Prediction]:
    """Return the scored answers, with their masks where they have one, compared with the `usual` mask as well."""
    lines = [score(*one) for one in answered]
    masked = [(place, said.patches) for place, (_, _, said) in enumerate(answered) if said.patches is not None]
    if masked:
        poses = model.model.usual_poses(masked[0][1][None])[0]
        scored = score_masks([(answered[place][1], patches) for place, patches in masked], poses, usual)
        for (place, _), more in zip(masked, scored, strict=True):
            lines[place] |= more
    return lines


def answer_unseeing(
    model: PanoLlavaForConditionalGeneration, processor: PanoLlavaProcessor, questions: list[Question]
) -> list[Prediction]:
    """Return the scored answers of the variant `blind`, given by the twin that was finetuned without visual tokens."""
    # Equal questions side by side are asked once.
    ordered = sorted(questions, key=lambda q: (q.max_new_tokens, len(q.messages), q.content.human))

    def answer(places: range) -> list[Prediction]:
        group = [ordered[place] for place in places]
        answers = answer_blind(
            model,
            processor,
            [question.messages for question in group],
            max_new_tokens=[question.max_new_tokens for question in group],
        )
        return [score("blind", *pair) for pair in zip(group, answers, strict=True)]

    return by_turns(groups_of(len(ordered), BLIND_AT_ONCE), answer, desc="answer blind", unit="batch")


def groups_of(count: int, size: int) -> list[range]:
    """Return the places below `count` in groups of `size`, the last of which may be smaller."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def predict_seeing(
    split: datasets.Dataset, questions: list[list[Question]], params: EvaluateParams
) -> tuple[list[Prediction], dict[str, float]]:
    """Return the scored answers of the model, with the right and the wrong panorama, and its latencies.

    Only the main process measures.
    """
    model, processor = load(MODEL)
    predictions = answer_seeing(model, processor, split, questions, params)
    if not PartialState().is_main_process:
        return predictions, {}
    timed = [split[index]["image"].convert("RGB") for index in range(min(TIMED_PANORAMAS, len(split)))]
    return predictions, measure_latency(model, processor, timed)


def predict_blind(questions: list[list[Question]]) -> list[Prediction]:
    """Return the scored answers of the blind twin."""
    model, processor = load(BLIND)
    return answer_unseeing(model, processor, [question for own in questions for question in own])


def main() -> None:
    """Answer, score and measure."""
    params = read_params(EvaluateParams, stage="evaluate")
    # Gives each process its own GPU; without one, accelerate looks for other processes only when it is told to.
    state = PartialState(cpu=not torch.cuda.is_available())
    split = open_split(STORE, "test")
    questions = [
        panorama_questions(row["image_id"], panorama_records(row))
        for row in split.select_columns(["image_id", "records"])
    ]
    predictions, latency = predict_seeing(split, questions, params)
    state.wait_for_everyone()  # the others' work would disturb the measurement of latency
    predictions += predict_blind(questions)
    if not state.is_main_process:
        return
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
    PartialState().destroy_process_group()
