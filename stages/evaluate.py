"""Stage evaluate: answer the test split with the model, with the image of another panorama, and blind; then score.

Writes data/evaluate/predictions.jsonl, metrics/evaluate.json and metrics/latency.json, each whole or not at all.
"""

from pathlib import Path

from accelerate import PartialState

from panollava.evaluating import Evaluation, evaluate_model
from panollava.params import Evaluate, Strict, Weights, read_params
from stages import run_stage

STORE, MODEL, BLIND = Path("data/store"), Path("data/finetune_lora"), Path("data/finetune_blind")
PREDICTIONS = Path("data/evaluate/predictions.jsonl")
METRICS, LATENCY = Path("metrics/evaluate.json"), Path("metrics/latency.json")


class EvaluateParams(Strict):
    """The parameters of this stage."""

    seed: int
    weights: Weights
    encoder: str
    llm: str
    evaluate: Evaluate


def main() -> None:
    """Run the stage, and leave the group of processes."""
    run()
    PartialState().destroy_process_group()


def run() -> None:
    """Answer, measure, score and write."""
    params = read_params(EvaluateParams, stage="evaluate")
    asked = Evaluation(MODEL, BLIND, STORE, "test", **params.evaluate.model_dump(), seed=params.seed)
    chosen = params.model_dump(include={"seed", "weights", "encoder", "llm"})
    evaluate_model(asked, chosen, predictions=PREDICTIONS, metrics=METRICS, latency=LATENCY)


if __name__ == "__main__":
    run_stage(main)
