"""Masks of grounding questions: from the mask head's scores of patches to a mask on the panorama, and its IoU.

A mask is where the splatted scores are positive. Beside its overlap stands the ceiling of the patch grid: the overlap
of the mask that the true share of each patch gives in the same way. Masks are compared at 512 rows at most: patches are
far coarser, and the map from the patches to every pixel of an 8K panorama would not fit into memory.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from panollava.corpus.masks import decoded, encoded
from panollava.corpus.patch_masks import patch_coverage, splat
from panollava.corpus.records import LabelledBox, Mask
from panollava.metrics.mask_scores import boundary_error_deg, mask_iou, resized
from panollava.tasks.prediction import Prediction
from panollava.tasks.scorer import Block, Scorer, interval_block, mean
from panollava.tasks.task import Fields, Measure, Predictions, ScoreBlock, ScoreNumber
from panollava.vlm.geometry import erp_solid_angles

MOST_ROWS = 512
# The constant mask is drawn at so many rows, 1.4 degrees each, and cut at one of so many levels.
CONSTANT_ROWS, CONSTANT_LEVELS = 128, 32
# Bands of degrees from the horizon.
LATITUDES = ((0, 15), (15, 30), (30, 45), (45, 60), (60, 91))


def constant_mask(masks: Sequence[Mask]) -> Tensor:
    """Return the constant mask `[128, 256]` that overlaps true masks best; empty where there are none.

    It holds the directions that at least a certain share of the masks cover. That share is the one with the largest
    mean IoU by solid angle.
    """
    found = Counter(masks)
    size = (CONSTANT_ROWS, 2 * CONSTANT_ROWS)
    small = {mask: resized(decoded(mask), *size).flatten() for mask in found}
    covering = torch.zeros(size).flatten()
    for mask, times in found.items():
        covering += times * small[mask]
    levels = covering.unique()
    levels = levels[levels > 0][:: -(-len(levels) // CONSTANT_LEVELS)]
    if not len(levels):
        return torch.zeros(size, dtype=torch.bool)
    areas = erp_solid_angles(*size, torch.float32).flatten()
    cut = (covering >= levels[:, None]) * areas
    total = torch.zeros(len(levels))
    for mask, times in found.items():
        both = cut[:, small[mask]].sum(1)
        total += times * both / (cut.sum(1) + areas[small[mask]].sum() - both)
    return (covering >= levels[total.argmax()]).view(size)


def score_masks(asked: Sequence[tuple[Mask, Tensor]], poses: Tensor, constant: Tensor) -> list[Fields]:
    """Return the fields of predictions with masks, from true masks and scores `[V, h, w]` of views at `poses` `[V, 6]`.

    `mask` is the mask as RLE, `mask_iou` its overlap by solid angle, `mask_ceiling` the overlap that the patch grid
    allows, `mask_majority` the overlap of the `constant` mask, and `boundary_deg` how far the outlines are apart,
    None for a mask without one.
    """
    scored: list[Fields] = []
    for size, group in groupby(asked, key=lambda pair: pair[0].size):
        masks, patches = zip(*group, strict=True)
        scale = min(1.0, MOST_ROWS / size[0])
        height, width = (round(side * scale) for side in size)
        truths = [resized(decoded(mask), height, width) for mask in masks]
        covered = torch.stack([patch_coverage(truth, poses, *patches[0].shape[1:]) for truth in truths])
        found, best = (splat(values, poses, height, width) > 0 for values in (torch.stack(patches), covered - 0.5))
        for truth, drawn, ceiling in zip(truths, found, best, strict=True):
            scored.append(
                {
                    "mask": Mask.model_validate(encoded(drawn.numpy())),
                    "mask_iou": mask_iou(drawn, truth),
                    "mask_ceiling": mask_iou(ceiling, truth),
                    "mask_majority": mask_iou(constant, resized(truth, *constant.shape)),
                    "boundary_deg": boundary_error_deg(drawn, truth),
                }
            )
    return scored


def has_mask(prediction: Prediction) -> bool:
    """Return whether a prediction has a mask that was compared with a true one."""
    return prediction.mask_iou is not None


def segmentation(scorer: Scorer) -> Block:
    """Return the mean IoU of masks by solid angle, the ceiling of the patch grid, and the error of the outlines.

    `empty` counts masks without a pixel, whose outline has no error; `latitudes` is the mean by distance from the
    horizon.
    """
    predictions = scorer.of("model")
    if not predictions:
        return {}
    block = interval_block("miou", predictions, scorer.mean_interval(predictions, mask_ious(predictions)))
    block["ceiling"] = mean(p.mask_ceiling for p in predictions)
    block["majority"] = mean(p.mask_majority for p in predictions)
    block["share_of_ceiling"] = block["miou"] / block["ceiling"] if block["ceiling"] else 0.0
    outlined = [p.boundary_deg for p in predictions if p.boundary_deg is not None]
    if outlined:
        block["boundary_deg"] = float(np.median(outlined))
    block["empty"] = len(predictions) - len(outlined)
    block["latitudes"] = {}
    for low, high in LATITUDES:
        band = [p for p in predictions if low <= abs(p.truth(LabelledBox).box_deg[1]) < high]
        if band:
            block["latitudes"][f"{low}-{high}"] = {"miou": mean(mask_ious(band)), "n": len(band)}
    for variant, others in scorer.baselines.items():
        block[variant] = mean(mask_ious(others))
    return block


def mask_ious(predictions: Predictions) -> Sequence[float]:
    """Return the IoU of each mask by solid angle."""
    return [p.mask_iou for p in predictions if p.mask_iou is not None]


MASK_BLOCK = ScoreBlock(
    "segmentation",
    segmentation,
    (
        ScoreNumber("segmentation, mean IoU", "miou", "{}"),
        ScoreNumber("segmentation, ceiling of the patch grid", "ceiling"),
        ScoreNumber("segmentation, median outline error", "boundary_deg", degrees=True),
    ),
    belongs=has_mask,
)
MASK_MEASURE = Measure(
    "segmentation",
    "segmentation, mean IoU",
    "higher",
    "segmentation.miou",
    mask_ious,
    comparable=has_mask,
    needs="a mask",
)
