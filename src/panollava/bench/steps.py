"""A training step of each side: the losses of its batch, their gradients, clipping and AdamW, as the trainer does it.

A loss may come in parts of one forward pass each, as in gradient accumulation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor

from panollava.bench.pair import PROJECTOR, Pair
from panollava.bench.records import Work
from panollava.bench.sizes import Size
from panollava.training.encoding import FrozenEncoder
from panollava.vlm.labels import IGNORE

# The loss of a step in parts, one forward pass each; their sum is the loss.
Losses = list[Callable[[], Tensor]]


@dataclass(frozen=True)
class Trained:
    """A model in training, its optimiser, and whether it computes in bfloat16."""

    model: PeftModel
    optimizer: torch.optim.Optimizer
    bf16: bool

    @classmethod
    def of(cls, model: PeftModel, size: Size) -> "Trained":
        """Return a model with AdamW on what trains, as the trainer has it."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return cls(model, torch.optim.AdamW(trained, lr=1e-5, fused=True), size.dtype == torch.bfloat16)

    def backward(self, losses: Losses) -> Tensor:
        """Return the sum of losses, and leave its gradients alone in the model."""
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.model.device)
        for loss_of in losses:
            with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bf16):
                loss = loss_of()
            loss.backward()
            total += loss.detach()
        return total

    def step(self, losses: Losses) -> None:
        """Take one step of the optimiser."""
        self.backward(losses)
        torch.nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], 1.0)
        self.optimizer.step()

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients by parameter, named alike on both sides."""
        named = self.model.named_parameters()
        return {name.replace(PROJECTOR, ""): p.grad.clone() for name, p in named if p.grad is not None}


def our_losses(ours: PeftModel, pair: Pair, work: Work, *, cached: bool) -> Losses:
    """Return our side's loss: one packed row, through the encoder or from its features as the stages keep them."""
    batch = work.packed | {"pixel_values": pair.pixel_values, "view_poses": pair.view_poses}
    encoder = FrozenEncoder.of(ours)
    assert encoder is not None
    kept = encoder.with_grids(batch) if cached else None
    return [lambda: ours(**(kept or encoder.with_grids(batch))).loss]


def peer_losses(peer: PeftModel, pair: Pair, batch: dict[str, Tensor], rows: int, *, best: bool) -> Losses:
    """Return LLaVA's loss of a batch, `rows` sequences at once.

    Its best settings: the panorama encoded once for these rows (`mm_encoder_outputs`), the head on the learned
    positions alone (`logits_to_keep`), which are the same in all rows, and no cache of keys and values.
    """
    llava: Any = peer.get_base_model()

    def plain(part: dict[str, Tensor]) -> Tensor:
        return peer(**part, pixel_values=pair.images(len(part["input_ids"]))).loss

    def tuned(part: dict[str, Tensor]) -> Tensor:
        encoded = llava.get_image_features(pixel_values=pair.images(1), return_dict=True)
        encoded.pooler_output = encoded.pooler_output * len(part["input_ids"])
        inputs = {name: value for name, value in part.items() if name != "labels"}
        learned = (part["labels"][0] != IGNORE).nonzero()[:, 0]
        seen = {"mm_encoder_outputs": {"image": encoded}, "use_cache": False}
        logits = peer(**inputs, **seen, logits_to_keep=learned - 1).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), part["labels"][:, learned].flatten())

    total = len(batch["input_ids"])
    parts = [{n: value[start : start + rows] for n, value in batch.items()} for start in range(0, total, rows)]
    loss = tuned if best else plain

    def share(part: dict[str, Tensor]) -> Tensor:
        return loss(part) * (len(part["input_ids"]) / total)

    return [partial(share, part) for part in parts]
