"""The loss of the mask head: cross-entropy and Dice (Milletari et al. 2016) against the share of each patch covered.

Patches count by solid angle, so that neither the views nor their overlaps decide what weighs.
"""

import torch.nn.functional as F
from torch import Tensor

from panollava.vlm.views import token_solid_angles

# An object covers a hundredth of the patches: cross-entropy, a mean over all of them, would hardly be felt.
CROSS_ENTROPY, DICE = 10.0, 1.0
# Keeps the ratio finite where nothing is covered.
SMALL = 1e-4


def mask_losses(logits: Tensor, covered: Tensor, poses: Tensor) -> Tensor:
    """Return one loss for each of Q queries from scores and shares `[Q, V, h, w]` and the views' poses `[V, 6]`."""
    sizes = token_solid_angles(poses.float(), *logits.shape[2:])
    weights = sizes / sizes.sum()

    def over_patches(values: Tensor) -> Tensor:
        return (values * weights).sum((1, 2, 3))

    entropy = over_patches(F.binary_cross_entropy_with_logits(logits, covered, reduction="none"))
    shown = logits.sigmoid()
    overlap = 2 * over_patches(shown * covered) + SMALL
    dice = 1 - overlap / (over_patches(shown) + over_patches(covered) + SMALL)
    return CROSS_ENTROPY * entropy + DICE * dice
