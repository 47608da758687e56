"""Metrics on the sphere, usable on their own: boxes, masks, detections, texts, intervals and tests.

Boxes are (yaw, pitch, width, height): radians in tensors (`paired_iou`, `pairwise_iou`), degrees in lists (`nms`,
`average_precision`). A width or height of 180 degrees or more, below 0 or not finite raises ValueError.

>>> across_the_seam = torch.tensor([[178.0, 0, 40, 30], [-178.0, 0, 40, 30]]).deg2rad()
>>> round(float(paired_iou(*across_the_seam)), 3), nms(across_the_seam.rad2deg(), [0.8, 0.9], iou_threshold=0.5)
(0.815, [1])
>>> average_precision([[("door", (179, 0, 20, 40), 0.9)]], [[("door", (-179, 0, 20, 40))]], thresholds=[0.5])["ap"]
1.0
>>> round(rouge_l(["공이 왼쪽에 있다"], [["빨간 공이 왼쪽에 있다", "공이 있다"]]), 3)
0.857
"""

from panollava.metrics.detection import SIZES, average_precision, match_detections, precision_of_images
from panollava.metrics.intervals import clustered_bootstrap, clustered_macro_mean, clustered_statistic
from panollava.metrics.mask_scores import boundary_error_deg, mask_iou
from panollava.metrics.paired import holm, paired_mean, paired_median, paired_statistic
from panollava.metrics.spherical_iou import paired_iou, pairwise_iou, valid_boxes
from panollava.metrics.suppression import nms
from panollava.metrics.text import (
    bleu,
    chrf,
    chrf_of_items,
    cider,
    meteor,
    meteor_installed,
    normalise_answer,
    rouge_l,
    text_scores,
    words,
)

__all__ = [
    "SIZES",
    "average_precision",
    "bleu",
    "boundary_error_deg",
    "chrf",
    "chrf_of_items",
    "cider",
    "clustered_bootstrap",
    "clustered_macro_mean",
    "clustered_statistic",
    "holm",
    "mask_iou",
    "match_detections",
    "meteor",
    "meteor_installed",
    "nms",
    "normalise_answer",
    "paired_iou",
    "paired_mean",
    "paired_median",
    "paired_statistic",
    "pairwise_iou",
    "precision_of_images",
    "rouge_l",
    "text_scores",
    "valid_boxes",
    "words",
]
