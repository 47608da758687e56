"""Panoramas rotated at random: their questions, answers, boxes and masks rotate with the image.

A yaw needs no new pixels. The views are those of the panorama as it is, and their poses say where they look in the
rotated one; a view that comes to look where another one did takes its position in the order. So the features of a
frozen encoder can be reused. A tilt resamples the pixels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from random import Random

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from panollava.corpus.records import ObjectAnnotation, Record
from panollava.corpus.rotation.panorama import Rotation, sample_rotated
from panollava.corpus.rotation.rewording import placed_objects
from panollava.corpus.rotation.rotated_records import rotated_record
from panollava.training.recipe import Augmentation
from panollava.vlm.geometry import angular_distance, directions_to_rays


def random_rotation(augmentation: Augmentation, rng: Random) -> Rotation:
    """Return a random rotation; without augmentation the identity, without a draw."""
    steps, most = augmentation.yaw_steps, augmentation.tilt_deg
    yaw = rng.randrange(steps) * 360 / steps if steps > 1 else 0.0
    return Rotation(yaw, rng.uniform(-most, most) if most else 0.0)


def every(record: Record) -> bool:
    """Return True: every record may be drawn."""
    return True


def rotated_sample(
    records: Sequence[Record], count: int, rotation: Rotation, rng: Random, holds: Callable[[Record], bool] = every
) -> list[Record]:
    """Return `count` random records of a panorama, or fewer, as they are after a rotation.

    Records that cannot be rotated, or that the context no longer `holds` then, are replaced by others; the list is
    empty where none can.
    """
    if rotation == Rotation():
        return rng.sample(records, min(count, len(records)))
    objects, chosen = placed_objects(records), []
    for record in rng.sample(records, len(records)):
        turned, _ = rotated_record(record, rotation, objects)
        if turned is not None and holds(turned):
            chosen.append(turned)
        if len(chosen) == count:
            break
    return chosen


def rotated_objects(objects: Sequence[ObjectAnnotation], rotation: Rotation) -> list[ObjectAnnotation]:
    """Return objects with their boxes in the rotated panorama; masks stay as they are, see `tilted_mask`."""
    if rotation == Rotation():
        return list(objects)
    return [item.model_copy(update={"box_deg": rotation.box(item.box_deg)}) for item in objects]


def tilt_of(rotation: Rotation) -> Rotation:
    """Return the tilt alone, which comes before the yaw."""
    return replace(rotation, yaw_deg=0.0)


def tilted_mask(mask: Tensor, rotation: Rotation) -> Tensor:
    """Return a mask `[H, W]` as the views see it: with the tilt, without the yaw."""
    return sample_rotated(mask[None].float(), tilt_of(rotation))[0] > 0.5 if rotation.tilt_deg else mask


def yawed_views(poses: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
    """Return for views at `poses` `[V, 6]` their order in the panorama after a yaw `[V]`, and their poses in it."""
    if not rotation.yaw_deg:
        return torch.arange(len(poses)), poses
    return _yawed_views(tuple(poses.flatten().tolist()), rotation.yaw_deg)


@lru_cache(maxsize=64)
def _yawed_views(poses: tuple[float, ...], yaw_deg: float) -> tuple[Tensor, Tensor]:
    usual = torch.tensor(poses).view(-1, 6)
    yawed = usual.clone()
    yawed[:, 0] = torch.remainder(usual[:, 0] + math.radians(yaw_deg) + math.pi, 2 * math.pi) - math.pi
    looks = [directions_to_rays(views[:, 0], views[:, 1]) for views in (usual, yawed)]
    apart = angular_distance(looks[0][:, None], looks[1][None])
    # Only views of one kind and size are exchanged.
    apart += 100.0 * (usual[:, None, 2:] != yawed[None, :, 2:]).any(-1)
    order = torch.from_numpy(linear_sum_assignment(apart.numpy())[1])
    return order, yawed[order]
