"""Metrics that know the sphere and the panorama: exact box IoU, average precision, clustered intervals, text scores."""

from panollava.metrics.detection import average_precision, nms
from panollava.metrics.intervals import clustered_bootstrap, clustered_macro_mean, clustered_statistic
from panollava.metrics.spherical_iou import paired_iou, pairwise_iou, valid_boxes
from panollava.metrics.text import chrf, normalise_answer

__all__ = [
    "average_precision",
    "chrf",
    "clustered_bootstrap",
    "clustered_macro_mean",
    "clustered_statistic",
    "nms",
    "normalise_answer",
    "paired_iou",
    "pairwise_iou",
    "valid_boxes",
]
