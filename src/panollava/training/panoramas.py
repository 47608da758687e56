"""Panoramas for training: the order in which epochs see them, and batches of views for the stage without language.

A draw is a pure function of its index, so a resumed run continues with exactly the batches that an uninterrupted one
would have had.
"""

from collections.abc import Sequence
from functools import lru_cache
from random import Random

import datasets
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from panollava.vlm.image_processing_panollava import PanoLlavaImageProcessor


@lru_cache(maxsize=2)  # a batch may reach into the next epoch
def order_of(seed: int, epoch: int, count: int) -> list[int]:
    """Return the order in which an epoch sees `count` panoramas."""
    order = list(range(count))
    Random(f"{seed}/{epoch}").shuffle(order)
    return order


def epoch_and_panorama(index: int, *, seed: int, count: int) -> tuple[int, int]:
    """Return in which epoch draw number `index` falls, and which of `count` panoramas it sees."""
    epoch, number = divmod(index, count)
    return epoch, order_of(seed, epoch, count)[number]


class ImageDraws(Dataset):
    """`count` draws of the images of a split, epoch after epoch in fresh orders."""

    def __init__(self, split: datasets.Dataset, *, seed: int, count: int) -> None:
        self.split, self.seed, self.count = split, seed, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Image.Image:
        _, number = epoch_and_panorama(index, seed=self.seed, count=len(self.split))
        return self.split[number]["image"]


def views_of(image_processor: PanoLlavaImageProcessor, images: Sequence[Image.Image]) -> dict[str, Tensor]:
    """Return `pixel_values` `[P, V, 3, S, S]` and `view_poses` `[P, V, 6]` of panoramas."""
    views = image_processor(list(images), return_tensors="pt")
    return {"pixel_values": views["pixel_values"], "view_poses": views["view_poses"]}


class ViewCollator:
    """Make batches of views from panoramas."""

    def __init__(self, image_processor: PanoLlavaImageProcessor) -> None:
        self.image_processor = image_processor

    def __call__(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Return what `views_of` returns."""
        return views_of(self.image_processor, images)
