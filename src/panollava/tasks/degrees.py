"""Directions and boxes in degrees: how far two of them are apart."""

import math

import torch

from panollava.corpus.records import BoxDeg, DirectionDeg
from panollava.metrics.spherical_iou import paired_iou
from panollava.vlm.geometry import angular_distance, directions_to_rays


def has_area(box_deg: tuple[float, ...]) -> bool:
    """Return whether a true box can be compared: both extents below 180 degrees (see `metrics.spherical_iou`)."""
    return max(box_deg[2:]) < 180


def angle_deg(a: DirectionDeg, b: DirectionDeg) -> float:
    """Return the angle in degrees between two directions (yaw, pitch) in degrees."""
    yaw, pitch = torch.tensor([a, b], dtype=torch.float64).deg2rad().unbind(-1)
    rays = directions_to_rays(yaw, pitch)
    return math.degrees(float(angular_distance(rays[0], rays[1])))


def box_iou(a: BoxDeg, b: BoxDeg) -> float:
    """Return the exact IoU on the sphere of two boxes in degrees."""
    boxes = torch.tensor([a, b], dtype=torch.float64).deg2rad()
    return float(paired_iou(boxes[0], boxes[1]))
