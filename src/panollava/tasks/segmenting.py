"""Masks of named objects: from the mask head's scores of patches to a mask on the panorama, and how good it is.

A mask is where the splatted scores are positive. Beside its overlap stands the ceiling of the patch grid: the overlap
of the mask that the true share of each patch gives in the same way. Masks are compared at 512 rows at most: patches are
far coarser, and how every pixel of an 8K panorama hangs on them would not fit into the memory.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from panollava.corpus.masks import decoded, encoded
from panollava.corpus.patch_masks import patch_coverage, splat
from panollava.corpus.records import Mask
from panollava.metrics.mask_scores import boundary_error_deg, mask_iou, resized
from panollava.tasks.questions import Question
from panollava.tasks.scoring import Prediction
from panollava.vlm.geometry import erp_solid_angles

MOST_ROWS = 512
# The constant mask is drawn at so many rows, 1.4 degrees each, and cut at one of so many levels.
USUAL_ROWS, USUAL_LEVELS = 128, 32


def usual_mask(masks: Sequence[Mask]) -> Tensor:
    """Return the mask `[128, 256]` to give to every question, whatever the panorama; empty where there are none.

    It holds the directions that at least a certain share of the masks cover, the share being the one with which it
    overlaps them best: the mean IoU by solid angle.
    """
    found = Counter(masks)
    size = (USUAL_ROWS, 2 * USUAL_ROWS)
    small = {mask: resized(decoded(mask), *size).flatten() for mask in found}
    covering = torch.zeros(size).flatten()
    for mask, times in found.items():
        covering += times * small[mask]
    levels = covering.unique()
    levels = levels[levels > 0][:: -(-len(levels) // USUAL_LEVELS)]
    if not len(levels):
        return torch.zeros(size, dtype=torch.bool)
    areas = erp_solid_angles(*size, torch.float32).flatten()
    cut = (covering >= levels[:, None]) * areas
    total = torch.zeros(len(levels))
    for mask, times in found.items():
        both = cut[:, small[mask]].sum(1)
        total += times * both / (cut.sum(1) + areas[small[mask]].sum() - both)
    return (covering >= levels[total.argmax()]).view(size)


def score_masks(asked: Sequence[tuple[Question, Tensor]], poses: Tensor, usual: Tensor) -> list[Prediction]:
    """Return what to add to the lines of questions with masks, from their scores `[V, h, w]` seen at poses `[V, 6]`.

    `mask` is the mask as RLE, `mask_iou` its overlap by solid angle, `mask_ceiling` what the patch grid allows,
    `mask_majority` the overlap of the `usual` mask, which is the same for all, and `boundary_deg` how far the outlines
    are apart, None for a mask without any.
    """
    scored: list[Prediction] = []
    for size, group in groupby(asked, key=lambda pair: pair[0].true_mask.size):
        questions, patches = zip(*group, strict=True)
        scale = min(1.0, MOST_ROWS / size[0])
        height, width = (round(side * scale) for side in size)
        truths = [resized(decoded(question.true_mask), height, width) for question in questions]
        covered = torch.stack([patch_coverage(truth, poses, *patches[0].shape[1:]) for truth in truths])
        found, best = (splat(values, poses, height, width) > 0 for values in (torch.stack(patches), covered - 0.5))
        for truth, drawn, ceiling in zip(truths, found, best, strict=True):
            scored.append(
                {
                    "mask": encoded(drawn.numpy()),
                    "mask_iou": mask_iou(drawn, truth),
                    "mask_ceiling": mask_iou(ceiling, truth),
                    "mask_majority": mask_iou(usual, resized(truth, *usual.shape)),
                    "boundary_deg": boundary_error_deg(drawn, truth),
                }
            )
    return scored
