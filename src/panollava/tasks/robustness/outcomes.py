"""From scored answers about turned panoramas to the numbers of metrics/robustness.json.

An answer is worth 1 if it is right: the right words, a direction within 15 degrees, a box with an IoU of at least a
half (`iou` takes the IoU itself). The answers without a turn, here the plain ones, are those of predictions.jsonl.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from panollava.corpus.rotation.panorama import Rotation
from panollava.corpus.rotation.rewording import DIRECTION_TYPES
from panollava.corpus.vocabulary import DIRECTIONS
from panollava.metrics.robustness_scores import Block, Outcome, latitude_bands, mean_score, seam_gap, yaw_scores
from panollava.metrics.text import normalise_answer
from panollava.tasks.results import headline_types
from panollava.tasks.robustness.questions import ASKED, Key
from panollava.tasks.scoring import Prediction, angle_deg, iou

NEAR_DEG = 15.0
RIGHT = ("accuracy", "direction", "grounding")
MEASURES = (*RIGHT, "iou")


def key_of_line(line: Prediction) -> Key:
    """Return what `askings.key_of` returns of the question of a line."""
    return line["image_id"], line["record"], line["turn"]


def values(line: Prediction) -> dict[str, float]:
    """Return the value of an answer by measure; an object too wide for an area has none."""
    if line["task"] == "choice":
        return {"accuracy": float(line["correct"])}
    if line["task"] == "direction":
        return {"direction": float(line["error_deg"] <= NEAR_DEG)}
    if line["task"] == "grounding" and line["iou"] is not None:
        return {"grounding": float(line["iou"] >= 0.5), "iou": line["iou"]}
    return {}


def agrees(line: Prediction, plain: Prediction, rotation: Rotation) -> bool:
    """Return whether an answer about a turned panorama says the same as the one about the panorama unturned.

    Directions agree within 15 degrees and boxes from an IoU of a half on, once the plain answer is turned too. Eight
    directions do not turn into each other, so those agree that are equally many eighths off the truth.
    """
    if line["task"] == "direction":
        if not (line["direction"] and plain["direction"]):
            return False
        return angle_deg(rotation.direction(*plain["direction"]), tuple(line["direction"])) <= NEAR_DEG
    if line["task"] == "grounding":
        if not (line["boxes"] and plain["boxes"]):
            return False
        boxes = (rotation.box(plain["boxes"][0]["box_deg"]), tuple(line["boxes"][0]["box_deg"]))
        return iou(*boxes) >= 0.5
    return _meaning(line) == _meaning(plain)


def _meaning(line: Prediction) -> str | int:
    """Return what a choice says: its words, or for one of eight directions by how many eighths it is off the truth."""
    said, truth = normalise_answer(line["prediction"]), normalise_answer(line["answer"]["text"])
    names = [normalise_answer(name) for name in DIRECTIONS.get(line["language"], ())]
    if line["type"] in DIRECTION_TYPES and said in names and truth in names:
        return (names.index(said) - names.index(truth)) % len(names)
    return said


def outcomes(lines: Iterable[Prediction], plain: Mapping[Key, Prediction]) -> dict[str, list[Outcome]]:
    """Return the outcomes of answers by measure; `turn_deg` is the tilt where there is one, otherwise the roll.

    Raises:
        ValueError: an answer without a plain one.
    """
    found: dict[str, list[Outcome]] = {measure: [] for measure in MEASURES}
    for line in lines:
        rotation, key = Rotation(line["yaw_deg"], line["tilt_deg"]), key_of_line(line)
        if key not in plain:
            raise ValueError(f"question {key} was answered after a turn, but not without; run evaluate on this store")
        same = rotation == Rotation() or agrees(line, plain[key], rotation)
        for measure, value in values(line).items():
            angle = line["tilt_deg"] or line["yaw_deg"]
            found[measure].append(Outcome(line["image_id"], key, line["type"], angle, value, same))
    return {measure: items for measure, items in found.items() if items}


def robustness(
    lines: Sequence[Prediction], plain: Sequence[Prediction], latitudes: Mapping[Key, float], **draws: int
) -> Block:
    """Return the blocks `rolls`, `seam`, `latitude` and `tilts` out of turned and plain answers.

    `latitudes` is the pitch in degrees of what a plain question is about; `draws` are `resamples` and `seed`. A measure
    without questions is absent.
    """
    plain = [line for line in plain if line["task"] in ASKED]
    by_key = {key_of_line(line): line for line in plain}
    by_study: dict[str, list[Prediction]] = {}
    for line in lines:
        by_study.setdefault(line["study"], []).append(line)
    unturned = [line | {"yaw_deg": 0.0, "tilt_deg": 0.0} for line in plain]
    return {
        "rolls": _rolls(by_study.get("roll", []), unturned, by_key, draws),
        "seam": _seam(by_study, by_key, draws),
        "latitude": _latitude(unturned, by_key, latitudes, draws),
        "tilts": _tilts(by_study.get("tilt", []), unturned, by_key, draws),
    }


def headline(lines: Sequence[Prediction]) -> list[Prediction]:
    """Return the lines that count: of choices those of the types that make up the accuracy of evaluate."""
    types = headline_types([line for line in lines if line["task"] == "choice"])
    return [line for line in lines if line["task"] != "choice" or line["type"] in types]


def _same_questions(plain: list[Prediction], lines: list[Prediction]) -> list[Prediction]:
    keys = {key_of_line(line) for line in lines}
    return [line for line in plain if key_of_line(line) in keys]


def _rolls(rolled: list[Prediction], plain: list[Prediction], by_key: dict[Key, Prediction], draws: Any) -> Block:
    block: Block = {}
    turned = outcomes(headline(rolled), by_key)
    still = outcomes(_same_questions(plain, headline(rolled)), by_key)
    for measure in RIGHT:
        if measure in turned:
            block[measure] = yaw_scores(still[measure], turned[measure], **draws)
    block["types"] = {}
    for kind in dict.fromkeys(line["type"] for line in rolled if line["task"] == "choice"):
        lines = [line for line in rolled if line["type"] == kind]
        asked = {key_of_line(line) for line in lines}
        block["types"][kind] = {
            "plain": fmean(float(by_key[key]["correct"]) for key in asked),
            "mean": fmean(float(line["correct"]) for line in lines),
            "n": len(lines),
        }
    return block


def _seam(by_study: dict[str, list[Prediction]], by_key: dict[Key, Prediction], draws: Any) -> Block:
    away, seam = (outcomes(by_study.get(study, []), by_key) for study in ("away", "seam"))
    block: Block = {}
    together = [[o for measure in RIGHT for o in found.get(measure, [])] for found in (away, seam)]
    if together[0]:
        block["all"] = seam_gap(*together, **draws)
    return block | {measure: seam_gap(away[measure], seam[measure], **draws) for measure in away}


def _latitude(
    plain: list[Prediction], by_key: dict[Key, Prediction], latitudes: Mapping[Key, float], draws: Any
) -> Block:
    found = outcomes([line for line in plain if key_of_line(line) in latitudes], by_key)
    return {
        measure: latitude_bands(items, [latitudes[o.question] for o in items], **draws)  # type: ignore[index]
        for measure, items in found.items()
    }


def _tilts(tilted: list[Prediction], plain: list[Prediction], by_key: dict[Key, Prediction], draws: Any) -> Block:
    """Return the score at each tilt beside the plain score of the same questions."""
    blocks: Block = {}
    for angle in sorted({line["tilt_deg"] for line in tilted}):
        lines = headline([line for line in tilted if line["tilt_deg"] == angle])
        still = outcomes(_same_questions(plain, lines), by_key)
        blocks[f"{angle:g}"] = {
            measure: mean_score(found, **draws) | {"plain": mean_score(still[measure], **draws)["value"]}
            for measure, found in outcomes(lines, by_key).items()
        }
    return blocks
