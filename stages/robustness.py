"""Stage robustness: answer the questions of rotated test panoramas again, and compare with the answers of evaluate.

Writes data/robustness/predictions.jsonl, metrics/robustness.json and plots/robustness.png, each whole or not at all.
"""

from pathlib import Path
from typing import Any

import datasets

from panollava.corpus.store import open_split
from panollava.evaluating import load_engine
from panollava.io import replacing, write_json
from panollava.params import Robustness, Strict, Weights, read_params
from panollava.report.robustness_figures import robustness_figure
from panollava.report.style import png_bytes
from panollava.tasks.prediction_files import read_predictions, write_lines
from panollava.tasks.robustness.outcomes import robustness
from panollava.tasks.robustness.study import answer_plan, latitudes_of, rotation_plan, seam_plan
from stages import run_stage
from stages.evaluate import MODEL, STORE
from stages.evaluate import PREDICTIONS as PLAIN

PREDICTIONS = Path("data/robustness/predictions.jsonl")
METRICS, FIGURE = Path("metrics/robustness.json"), Path("plots/robustness.png")
# This stage stands in a pipeline file of its own, so that the default pipeline stays short.
STAGE = "studies/dvc.yaml:robustness"


class RobustnessParams(Strict):
    """The parameters of this stage."""

    seed: int
    weights: Weights
    encoder: str
    llm: str
    robustness: Robustness


def require_panoramas(split: datasets.Dataset, wanted: int) -> None:
    """Raise a ValueError if a split has fewer panoramas than the study asks for."""
    if len(split) < wanted:
        raise ValueError(
            f"{STORE}: the test split has {len(split)} panoramas, robustness.panoramas asks for {wanted}; "
            "lower it in params.yaml"
        )


def main() -> None:
    """Rotate, answer, score and draw."""
    params = read_params(RobustnessParams, stage=STAGE)
    settings = params.robustness
    split = open_split(STORE, "test")
    require_panoramas(split, settings.panoramas)
    plan, left_out = rotation_plan(split, settings.panoramas, settings.yaws_deg, settings.tilts_deg)
    if not any(asked.questions for _, asked in plan):
        raise ValueError(
            f"{STORE}: no question of the test split can be asked of a rotated panorama, so nothing says how robust "
            f"the answers are; left out were {dict(left_out['yaw'])}"
        )
    plan += seam_plan(split, settings.seam_pairs)
    answers = list(answer_plan(load_engine(MODEL), split, plan, settings.batch_size))
    plain = [prediction for prediction in read_predictions(PLAIN) if prediction.variant == "model"]
    block: dict[str, Any] = robustness(
        answers, plain, latitudes_of(split), resamples=settings.resamples, seed=params.seed
    )
    block["panoramas"] = settings.panoramas
    block["left_out"] = {f"{study}s": dict(sorted(counts.items())) for study, counts in left_out.items()}
    unanswered = sum(answer.prediction.unanswered for answer in answers)
    if unanswered:  # longer than the language model's context
        block["unanswered"] = unanswered
    write_lines(PREDICTIONS, (answer.as_line() for answer in answers))
    # All keys lie below `robustness`: those of several metrics files are read as one.
    chosen = {"seed": params.seed, "weights": params.weights, "encoder": params.encoder, "llm": params.llm}
    write_json(METRICS, {"robustness": {**chosen, **block}})
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    with replacing(FIGURE) as file:
        file.write(png_bytes(robustness_figure(block)))


if __name__ == "__main__":
    run_stage(main)
