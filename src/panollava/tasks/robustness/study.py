"""The robustness study: which rotated panoramas are answered, and their answers."""

from collections import Counter
from collections.abc import Iterator, Sequence

import datasets
from tqdm import tqdm

from panollava.corpus.rotation.panorama import Rotation, rotate_image
from panollava.corpus.rotation.rewording import placed_objects, subject
from panollava.corpus.store import panorama_records
from panollava.inference.engine import Engine
from panollava.tasks.prediction import QuestionKey
from panollava.tasks.questions import panorama_questions
from panollava.tasks.robustness.outcomes import RotatedPrediction
from panollava.tasks.robustness.rotated_questions import RotatedQuestions, Study, rotated_questions, seam_pair
from panollava.tasks.scoring import score

# Indices of panoramas in a split, each with the questions for one rotation of it.
Plan = list[tuple[int, RotatedQuestions]]


def rotation_plan(
    split: datasets.Dataset, panoramas: int, yaws_deg: Sequence[float], tilts_deg: Sequence[float]
) -> tuple[Plan, dict[Study, Counter[str]]]:
    """Return the questions for each yaw and tilt of the first panoramas, and counts of those left out."""
    rotations: list[tuple[Study, Rotation]] = [("yaw", Rotation(yaw_deg=angle)) for angle in yaws_deg]
    rotations += [("tilt", Rotation(tilt_deg=angle)) for angle in tilts_deg]
    plan: Plan = []
    left_out: dict[Study, Counter[str]] = {"yaw": Counter(), "tilt": Counter()}
    for index in range(panoramas):
        row = split[index]
        for study, rotation in rotations:
            asked, missing = rotated_questions(study, row["image_id"], panorama_records(row), rotation)
            plan.append((index, asked))
            left_out[study] += missing
    return plan, left_out


def seam_plan(split: datasets.Dataset, pairs: int) -> Plan:
    """Return questions about objects astride the seam and in front, `pairs` of them or as many as there are."""
    plan: Plan = []
    found = 0
    for index, row in enumerate(split):
        if found >= pairs:
            break
        pair = seam_pair(row["image_id"], panorama_records(row), row["image"].width)
        plan += [(index, asked) for asked in pair]
        found += len(pair[0].questions) if pair else 0
    return plan


def answer_plan(engine: Engine, split: datasets.Dataset, plan: Plan, batch_size: int) -> Iterator[RotatedPrediction]:
    """Yield the scored answers; `batch_size` rotated panoramas are answered together."""
    with tqdm(total=len(plan), desc="answer rotated", unit="panorama") as progress:
        for start in range(0, len(plan), batch_size):
            group = plan[start : start + batch_size]
            answers = engine.answer(
                [rotate_image(split[index]["image"].convert("RGB"), asked.rotation) for index, asked in group],
                [[question.messages for question in asked.questions] for _, asked in group],
                max_new_tokens=[[question.max_new_tokens for question in asked.questions] for _, asked in group],
                skip_long=True,
            )
            for (_, asked), found in zip(group, answers, strict=True):
                for question, answer in zip(asked.questions, found, strict=True):
                    yield RotatedPrediction(score("model", question, answer), asked.rotation, asked.study)
            progress.update(len(group))


def latitudes_of(split: datasets.Dataset) -> dict[QuestionKey, float]:
    """Return the pitch in degrees of the object of each question about a single object."""
    found: dict[QuestionKey, float] = {}
    for row in split.select_columns(["image_id", "records"]):
        records = panorama_records(row)
        objects = placed_objects(records)
        for question in panorama_questions(row["image_id"], records):
            where = subject(question.content, objects)
            if where is not None:
                found[question.key] = where[1]
    return found
