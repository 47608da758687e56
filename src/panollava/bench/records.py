"""The work of a training step as tensors: random records behind one panorama, as each side lays them out."""

from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor

from panollava.attention.packing import flatten, pack
from panollava.attention.stacking import packed_mask, stack
from panollava.bench.pair import Pair
from panollava.bench.sizes import Size
from panollava.vlm.labels import IGNORE


@dataclass(frozen=True)
class Work:
    """One step's records, in the four layouts that are compared; each a batch of `input_ids`, `labels` and the rest."""

    separate: dict[str, Tensor]
    packed: dict[str, Any]
    masked: dict[str, Tensor]
    dialogue: dict[str, Tensor]


def random_work(pair: Pair, size: Size) -> Work:
    """Return K records of T tokens, of which the answer at the end is learned, behind the pair's panorama."""
    placeholder, device = pair.ours.config.image_token_id, size.device
    ids = torch.randint(placeholder, (size.records, size.record_tokens)).tolist()
    asked = size.record_tokens - size.answer_tokens
    records = [(record, [IGNORE] * asked + record[asked:]) for record in ids]
    alone = stack([pack(pair.prefix, [record]) for record in records], 0, multiple=1)
    together = stack([pack(pair.prefix, records)], 0)
    unpadded = stack([pack(pair.prefix, records)], 0, multiple=1)
    segments, positions = together["segments"], together["position_ids"]

    def there(**batch: Tensor) -> dict[str, Tensor]:
        return {name: value.to(device) for name, value in batch.items()}

    def attended(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        ids, labels = batch["input_ids"], batch["labels"]
        return there(input_ids=ids, labels=labels, attention_mask=torch.ones_like(ids))

    row = there(input_ids=together["input_ids"], labels=together["labels"], position_ids=positions)
    flat = flatten([pack(pair.prefix, records)], 0) | {"placeholders": torch.arange(pair.visual_tokens)}
    mask = packed_mask(segments, positions).to(device)
    return Work(
        attended(alone),
        send_to_device(flat, device) | {"use_cache": False},
        row | {"attention_mask": mask},
        attended(unpadded),
    )
