"""Panoramas turned at random: their questions, answers, boxes and masks turn with the image.

A roll needs no new pixels. The views are those of the unturned panorama, and their poses say where they look in the
turned one; views that come to look where others did take their places in the order. So the features of a frozen encoder
can be kept. A tilt does turn the pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from panollava.corpus.records import ObjectAnnotation, Record
from panollava.corpus.rotation.panorama import Rotation, sample_rotated
from panollava.corpus.rotation.rewording import placed_objects
from panollava.corpus.rotation.rotated_records import rotated_record
from panollava.vlm.geometry import angular_distance, directions_to_rays


@dataclass(frozen=True)
class Augmentation:
    """At how many evenly spaced rolls panoramas are shown (1: as they are), and by how much they tilt at most."""

    yaw_steps: int = 1
    tilt_deg: float = 0.0

    def turning(self, rng: Random) -> Rotation:
        """Return a random turning; of no augmentation the one that turns nothing, without a draw."""
        yaw = rng.randrange(self.yaw_steps) * 360 / self.yaw_steps if self.yaw_steps > 1 else 0.0
        return Rotation(yaw, rng.uniform(-self.tilt_deg, self.tilt_deg) if self.tilt_deg else 0.0)


NO_AUGMENTATION = Augmentation()


def rotated_sample(records: Sequence[Record], count: int, rotation: Rotation, rng: Random) -> list[Record]:
    """Return `count` random records of a panorama, or fewer, told of it turned.

    Records that cannot be turned give their places to others; a panorama of which none can is not turned at all, which
    its caller sees by an empty list.
    """
    if rotation == Rotation():
        return rng.sample(records, min(count, len(records)))
    objects, chosen = placed_objects(records), []
    for record in rng.sample(records, len(records)):
        turned, _ = rotated_record(record, rotation, objects)
        if turned is not None:
            chosen.append(turned)
        if len(chosen) == count:
            break
    return chosen


def rotated_objects(objects: Sequence[ObjectAnnotation], rotation: Rotation) -> list[ObjectAnnotation]:
    """Return objects with their boxes in the turned panorama; masks stay as they are, see `tilted_mask`."""
    if rotation == Rotation():
        return list(objects)
    return [item.model_copy(update={"box_deg": rotation.box(item.box_deg)}) for item in objects]


def tilt_of(rotation: Rotation) -> Rotation:
    """Return the tilt alone, which comes before the roll."""
    return replace(rotation, yaw_deg=0.0)


def tilted_mask(mask: Tensor, rotation: Rotation) -> Tensor:
    """Return a mask `[H, W]` as the views see it: tilted, but not rolled."""
    return sample_rotated(mask[None].float(), tilt_of(rotation))[0] > 0.5 if rotation.tilt_deg else mask


def yawed_views(poses: Tensor, rotation: Rotation, *, reorder: bool = True) -> tuple[Tensor, Tensor]:
    """Return for views at `poses` `[V, 6]` their order in the rolled panorama `[V]`, and their poses there in it.

    Views that must keep their places, since which of their tokens count hangs on the others, do not `reorder`.
    """
    if not rotation.yaw_deg:
        return torch.arange(len(poses)), poses
    return _rolled_views(tuple(poses.flatten().tolist()), rotation.yaw_deg, reorder)


@lru_cache(maxsize=64)
def _rolled_views(poses: tuple[float, ...], yaw_deg: float, reorder: bool) -> tuple[Tensor, Tensor]:
    usual = torch.tensor(poses).view(-1, 6)
    rolled = usual.clone()
    rolled[:, 0] = torch.remainder(usual[:, 0] + math.radians(yaw_deg) + math.pi, 2 * math.pi) - math.pi
    if not reorder:
        return torch.arange(len(usual)), rolled
    looks = [directions_to_rays(views[:, 0], views[:, 1]) for views in (usual, rolled)]
    apart = angular_distance(looks[0][:, None], looks[1][None])
    # Only views of one kind and size take each other's places.
    apart += 100.0 * (usual[:, None, 2:] != rolled[None, :, 2:]).any(-1)
    order = torch.from_numpy(linear_sum_assignment(apart.numpy())[1])
    return order, rolled[order]
