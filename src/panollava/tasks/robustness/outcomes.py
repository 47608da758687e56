"""From predictions about rotated panoramas to the numbers of metrics/robustness.json.

A measure is the share of right answers of a task: the right words, a direction within 15 degrees, a box with an IoU of
at least a half; `iou` is the mean IoU itself. The plain answers, about panoramas as they are, are those of evaluate.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from panollava.corpus.rotation.panorama import Rotation
from panollava.metrics.robustness_scores import Block, Outcome, latitude_bands, mean_score, seam_gap, yaw_scores
from panollava.tasks.choice import headline_types
from panollava.tasks.prediction import Prediction, QuestionKey
from panollava.tasks.robustness.rotated_questions import Study
from panollava.tasks.table import TASKS

STUDIES = {name: task.rotated for name, task in TASKS.items() if task.rotated is not None}
RIGHT = tuple(study.measure for study in STUDIES.values())
MEASURES = (*RIGHT, *(name for study in STUDIES.values() for name in study.also))


@dataclass(frozen=True)
class RotatedPrediction:
    """A prediction about a panorama that was rotated for a study; `study` is None for the panorama as it is."""

    prediction: Prediction
    rotation: Rotation = Rotation()  # noqa: RUF009 # frozen
    study: Study | None = None

    def as_line(self) -> dict[str, Any]:
        """Return the plain values of one line of data/robustness/predictions.jsonl."""
        rotation = {"yaw_deg": self.rotation.yaw_deg, "tilt_deg": self.rotation.tilt_deg}
        return {"study": self.study} | rotation | self.prediction.as_line()


def values(prediction: Prediction) -> dict[str, float]:
    """Return the value of an answer by measure; an object too wide for an area has none."""
    study, right = STUDIES[prediction.task], TASKS[prediction.task].right(prediction)
    found = {} if right is None else {study.measure: float(right)}
    also = {name: value(prediction) for name, value in study.also.items()}
    return found | {name: value for name, value in also.items() if value is not None}


def outcomes(answers: Iterable[RotatedPrediction], plain: Mapping[QuestionKey, Prediction]) -> dict[str, list[Outcome]]:
    """Return the outcomes of answers by measure; their angle is the tilt where there is one, otherwise the yaw.

    Raises:
        ValueError: an answer without a plain one.
    """
    found: dict[str, list[Outcome]] = {measure: [] for measure in MEASURES}
    for answer in answers:
        prediction, rotation, key = answer.prediction, answer.rotation, answer.prediction.key
        if key not in plain:
            raise ValueError(
                f"question {key} was answered after a rotation, but not without; run evaluate on this store"
            )
        agrees = rotation == Rotation() or STUDIES[prediction.task].agrees(prediction, plain[key], rotation)
        same = agrees and not prediction.unanswered
        for measure, value in values(prediction).items():
            angle = rotation.tilt_deg or rotation.yaw_deg
            found[measure].append(Outcome(prediction.image_id, key, prediction.type, angle, value, same))
    return {measure: items for measure, items in found.items() if items}


def robustness(
    answers: Sequence[RotatedPrediction],
    plain: Sequence[Prediction],
    latitudes: Mapping[QuestionKey, float],
    **draws: int,
) -> Block:
    """Return the blocks `yaws`, `seam`, `latitude` and `tilts` from rotated and plain answers.

    `latitudes` is the pitch in degrees of the object that a plain question is about; `draws` are `resamples` and
    `seed`. A measure without questions is absent.
    """
    unrotated = [RotatedPrediction(p) for p in plain if p.task in STUDIES]
    by_key = {answer.prediction.key: answer.prediction for answer in unrotated}
    by_study: dict[Study | None, list[RotatedPrediction]] = {}
    for answer in answers:
        by_study.setdefault(answer.study, []).append(answer)
    return {
        "yaws": _yaws(by_study.get("yaw", []), unrotated, by_key, draws),
        "seam": _seam(by_study.get("away", []), by_study.get("seam", []), by_key, draws),
        "latitude": _latitude(unrotated, by_key, latitudes, draws),
        "tilts": _tilts(by_study.get("tilt", []), unrotated, by_key, draws),
    }


def headline(answers: Sequence[RotatedPrediction]) -> list[RotatedPrediction]:
    """Return the answers that count: where types count alike, only those of the headline types of evaluate."""
    types = {
        (name, kind)
        for name, task in TASKS.items()
        if task.by_type
        for kind in headline_types([a.prediction for a in answers if a.prediction.task == name])
    }
    return [
        a for a in answers if not TASKS[a.prediction.task].by_type or (a.prediction.task, a.prediction.type) in types
    ]


def _same_questions(
    plain: Sequence[RotatedPrediction], answers: Sequence[RotatedPrediction]
) -> list[RotatedPrediction]:
    keys = {answer.prediction.key for answer in answers}
    return [answer for answer in plain if answer.prediction.key in keys]


def _yaws(
    answers: list[RotatedPrediction],
    plain: list[RotatedPrediction],
    by_key: dict[QuestionKey, Prediction],
    draws: dict[str, int],
) -> Block:
    rotated = outcomes(headline(answers), by_key)
    unrotated = outcomes(_same_questions(plain, headline(answers)), by_key)
    block: Block = {}
    for measure in RIGHT:
        if measure in rotated:
            block[measure] = yaw_scores(unrotated[measure], rotated[measure], **draws)
    by_type = [answer.prediction for answer in answers if TASKS[answer.prediction.task].by_type]
    block["types"] = {}
    for kind in dict.fromkeys(p.type for p in by_type):
        predictions = [p for p in by_type if p.type == kind]
        asked = {p.key for p in predictions}
        block["types"][kind] = {
            "plain": fmean(_right(by_key[key]) for key in asked),
            "mean": fmean(_right(p) for p in predictions),
            "n": len(predictions),
        }
    return block


def _right(prediction: Prediction) -> float:
    return float(bool(TASKS[prediction.task].right(prediction)))


def _seam(
    away: list[RotatedPrediction],
    seam: list[RotatedPrediction],
    by_key: dict[QuestionKey, Prediction],
    draws: dict[str, int],
) -> Block:
    found_away, found_seam = outcomes(away, by_key), outcomes(seam, by_key)
    block: Block = {}
    all_away, all_seam = (
        [o for measure in RIGHT for o in found.get(measure, [])] for found in (found_away, found_seam)
    )
    if all_away:
        block["all"] = seam_gap(all_away, all_seam, **draws)
    return block | {measure: seam_gap(found_away[measure], found_seam[measure], **draws) for measure in found_away}


def _latitude(
    plain: list[RotatedPrediction],
    by_key: dict[QuestionKey, Prediction],
    latitudes: Mapping[QuestionKey, float],
    draws: dict[str, int],
) -> Block:
    known = [answer for answer in plain if answer.prediction.key in latitudes]
    return {
        measure: latitude_bands(items, [latitudes[o.question] for o in items], **draws)  # type: ignore[index]
        for measure, items in outcomes(known, by_key).items()
    }


def _tilts(
    tilted: list[RotatedPrediction],
    plain: list[RotatedPrediction],
    by_key: dict[QuestionKey, Prediction],
    draws: dict[str, int],
) -> Block:
    """Return the score at each tilt beside the plain score of the same questions."""
    blocks: Block = {}
    for angle in sorted({answer.rotation.tilt_deg for answer in tilted}):
        answers = headline([answer for answer in tilted if answer.rotation.tilt_deg == angle])
        unrotated = outcomes(_same_questions(plain, answers), by_key)
        blocks[f"{angle:g}"] = {
            measure: mean_score(found, **draws) | {"plain": mean_score(unrotated[measure], **draws)["value"]}
            for measure, found in outcomes(answers, by_key).items()
        }
    return blocks
