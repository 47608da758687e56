"""Labels: the token to be learned at each position `[B, S]`, or IGNORE; and the positions whose hidden states they
need.

Positions are numbered among all `B S` tokens of a batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100


def next_labels(labels: Tensor) -> Tensor:
    """Return for each token of `labels` `[B, S]` the label of the next one, which its hidden state predicts."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORE)


def needed_positions(targets: Tensor, mask_queries: Tensor | None = None) -> Tensor:
    """Return the positions `[K]`, each once, whose hidden states predict a label or are mask queries.

    `targets` `[B, S]` are those of `next_labels`; `mask_queries` `[Q, 3]` begin with row and position. A GPU is waited
    for, since K depends on values.
    """
    learned = (targets != IGNORE).flatten().nonzero()[:, 0]
    if mask_queries is None:
        return learned
    queried = mask_queries[:, 0] * targets.shape[1] + mask_queries[:, 1]
    return torch.cat((learned, queried)).unique()
