"""Stage robustness: answer the questions of turned test panoramas again, and say how well the answers hold.

Writes data/robustness/predictions.jsonl, metrics/robustness.json and plots/robustness.png, each whole or not at all.
The answers without a turn are those of the stage evaluate.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
from tqdm import tqdm

from panollava.corpus.rotation.panorama import Rotation, rotate_image
from panollava.corpus.rotation.wording import placed_objects, subject
from panollava.corpus.store import open_split, panorama_records
from panollava.inference.answer import answer_dialogues
from panollava.io import replacing, write_json
from panollava.params import Robustness, Strict, Weights, read_params
from panollava.report.robustness_figures import robustness_figure
from panollava.report.style import png_bytes
from panollava.tasks.questions import panorama_questions
from panollava.tasks.robustness.outcomes import robustness
from panollava.tasks.robustness.questions import Asking, Key, asking, key_of, seam_askings
from panollava.tasks.scoring import Prediction, score
from stages.evaluate import MODEL, STORE, load
from stages.evaluate import PREDICTIONS as PLAIN

PREDICTIONS = Path("data/robustness/predictions.jsonl")
METRICS, FIGURE = Path("metrics/robustness.json"), Path("plots/robustness.png")
# This stage stands in a pipeline file of its own, so that the default pipeline stays short.
STAGE = "studies/dvc.yaml:robustness"
Plan = list[tuple[int, Asking]]


class RobustnessParams(Strict):
    """What this stage reads from params.yaml."""

    seed: int
    weights: Weights
    encoder: str
    llm: str
    robustness: Robustness


def planned(split: datasets.Dataset, settings: Robustness) -> tuple[Plan, dict[str, Counter[str]]]:
    """Return what is asked of which panorama of the split, and what is left out of rolls and tilts.

    Raises:
        ValueError: a split with fewer panoramas than asked for, or without any question that can be turned.
    """
    if len(split) < settings.panoramas:
        raise ValueError(
            f"{STORE}: the test split has {len(split)} panoramas, robustness.panoramas asks for {settings.panoramas}; "
            "lower it in params.yaml"
        )
    rotations = [("roll", Rotation(yaw_deg=angle)) for angle in settings.yaws_deg]
    rotations += [("tilt", Rotation(tilt_deg=angle)) for angle in settings.tilts_deg]
    plan: Plan = []
    left_out: dict[str, Counter[str]] = {"roll": Counter(), "tilt": Counter()}
    for index in range(settings.panoramas):
        row = split[index]
        for study, rotation in rotations:
            asked, missing = asking(study, row["image_id"], panorama_records(row), rotation)  # type: ignore[arg-type]
            plan.append((index, asked))
            left_out[study] += missing
    if not any(asked.questions for _, asked in plan):
        raise ValueError(
            f"{STORE}: no question of the test split can be asked of a turned panorama, so nothing says how robust the "
            f"answers are; left out were {dict(left_out['roll'])}"
        )
    return plan + seam_plan(split, settings.seam_pairs), left_out


def seam_plan(split: datasets.Dataset, pairs: int) -> Plan:
    """Return questions about objects astride the seam and away from it, `pairs` of them or as many as there are."""
    plan: Plan = []
    found = 0
    for index, row in enumerate(split):
        if found >= pairs:
            break
        asked = seam_askings(row["image_id"], panorama_records(row), row["image"].width)
        plan += [(index, one) for one in asked]
        found += len(asked[0].questions) if asked else 0
    return plan


def answered(split: datasets.Dataset, plan: Plan, batch_size: int) -> Iterator[Prediction]:
    """Yield the scored answers; `study`, `yaw_deg` and `tilt_deg` say to which turned panorama."""
    model, processor = load(MODEL)
    with tqdm(total=len(plan), desc="answer turned", unit="panorama") as progress:
        for start in range(0, len(plan), batch_size):
            group = plan[start : start + batch_size]
            answers = answer_dialogues(
                model,
                processor,
                [rotate_image(split[index]["image"].convert("RGB"), asked.rotation) for index, asked in group],
                [[question.messages for question in asked.questions] for _, asked in group],
                max_new_tokens=[[question.max_new_tokens for question in asked.questions] for _, asked in group],
            )
            for (_, asked), said in zip(group, answers, strict=True):
                turned = {"study": asked.study, "yaw_deg": asked.rotation.yaw_deg, "tilt_deg": asked.rotation.tilt_deg}
                for question, answer in zip(asked.questions, said, strict=True):
                    yield turned | score("model", question, answer)
            progress.update(len(group))


def plain_answers() -> list[Prediction]:
    """Return the answers that evaluate got about the panoramas as they are."""
    with PLAIN.open(encoding="utf-8") as lines:
        return [line for line in map(json.loads, lines) if line["variant"] == "model"]


def latitudes_of(split: datasets.Dataset) -> dict[Key, float]:
    """Return the pitch of what each question about a single object asks about, in degrees."""
    found: dict[Key, float] = {}
    for row in split.select_columns(["image_id", "records"]):
        records = panorama_records(row)
        objects = placed_objects(records)
        for question in panorama_questions(row["image_id"], records):
            where = subject(question.content, objects)
            if where is not None:
                found[key_of(question)] = where[1]
    return found


def main() -> None:
    """Turn, answer, score and draw."""
    params = read_params(RobustnessParams, stage=STAGE)
    settings = params.robustness
    split = open_split(STORE, "test")
    plan, left_out = planned(split, settings)
    lines = list(answered(split, plan, settings.batch_size))
    block: dict[str, Any] = robustness(
        lines, plain_answers(), latitudes_of(split), resamples=settings.resamples, seed=params.seed
    )
    block["panoramas"] = settings.panoramas
    block["left_out"] = {f"{study}s": dict(sorted(counts.items())) for study, counts in left_out.items()}
    PREDICTIONS.parent.mkdir(parents=True, exist_ok=True)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    with replacing(PREDICTIONS) as file:
        for line in lines:
            file.write((json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode())
    # All keys lie below `robustness`: those of several metrics files are read as one.
    chosen = {"seed": params.seed, "weights": params.weights, "encoder": params.encoder, "llm": params.llm}
    write_json(METRICS, {"robustness": {**chosen, **block}})
    with replacing(FIGURE) as file:
        file.write(png_bytes(robustness_figure(block)))


if __name__ == "__main__":
    main()
