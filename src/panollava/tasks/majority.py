"""What one scores without looking: by always giving the answer that is right most often, of all that are right once."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from panollava.metrics.spherical_iou import pairwise_iou
from panollava.metrics.text import normalise_answer
from panollava.tasks.scoring import Prediction, reference_objects
from panollava.vlm.geometry import angular_distance, directions_to_rays

# Of how many boxes of a label one is chosen that stands for all; each is compared with all others.
TRIED_BOXES = 100


def majority(lines: Sequence[Prediction]) -> float:
    """Return the share of the most frequent true answer: what one gets by always giving it."""
    answers = Counter(normalise_answer(line["answer"]["text"]) for line in lines)
    return answers.most_common(1)[0][1] / len(lines)


def constant_direction_deg(lines: Sequence[Prediction]) -> float:
    """Return the least median error that always giving one of the true directions would have, in degrees."""
    angles = torch.tensor([[line["answer"]["yaw_deg"], line["answer"]["pitch_deg"]] for line in lines]).double()
    rays = directions_to_rays(*angles.deg2rad().unbind(-1))
    return float(np.median(angular_distance(rays[:, None], rays).rad2deg().numpy(), axis=1).min())


def constant_box(lines: Sequence[Prediction]) -> float:
    """Return the largest share of named objects that always giving one of the true boxes would hit, IoU ≥ 0.5."""
    boxes = torch.tensor([line["answer"]["box_deg"] for line in lines]).double().deg2rad()
    return float((pairwise_iou(boxes, boxes) >= 0.5).double().mean(1).max())


def constant_detections(lines: Sequence[Prediction]) -> list[tuple[str, tuple[float, ...], float]]:
    """Return one (label, box, score) for each true label: the answer to give, whatever the panorama.

    The box is the true one that hits most true boxes of its label, IoU ≥ 0.5, of `TRIED_BOXES` evenly drawn ones; its
    score is the share of questions in which it does.
    """
    places: dict[str, list[tuple[int, tuple[float, ...]]]] = {}
    for number, line in enumerate(lines):
        for label, box in reference_objects(line):
            places.setdefault(label, []).append((number, box))
    said = []
    for label, own in places.items():
        boxes = torch.tensor([box for _, box in own]).double().deg2rad()
        tried = range(0, len(own), -(-len(own) // TRIED_BOXES))
        hits = pairwise_iou(boxes[list(tried)], boxes) >= 0.5
        best = int(hits.sum(1).argmax())
        asked = {number for (number, _), hit in zip(own, hits[best].tolist(), strict=True) if hit}
        said.append((label, own[tried[best]][1], len(asked) / len(lines)))
    return said
