"""Object masks as COCO run lengths: decoding, encoding, and the mask that a grounding question asks for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco
from torch import Tensor

from panollava.corpus.records import LabelledBox, Mask, ObjectAnnotation, Turn


def decoded(mask: Mask) -> Tensor:
    """Return a mask as a boolean tensor `[H, W]`."""
    return torch.from_numpy(coco.decode({"size": list(mask.size), "counts": mask.counts.encode()})).bool()


def encoded(mask: np.ndarray) -> dict[str, Any]:
    """Return a boolean mask `[H, W]` as compressed COCO RLE."""
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(code["size"]), "counts": code["counts"].decode()}


def mask_of(turn: Turn, objects: Sequence[ObjectAnnotation]) -> Mask | None:
    """Return the mask of the object that a grounding turn asks for, found by label and box; None if it has none."""
    if not isinstance(turn.answer, LabelledBox):
        return None
    target = (turn.answer.label, turn.answer.box_deg)
    masks = [item.mask for item in objects if (item.label, item.box_deg) == target and item.mask is not None]
    return masks[0] if masks else None
