"""Dialogues for training: draws of panoramas with some of their records, rotated at random, and packed batches of them.

A draw is a pure function of its index (which epoch, which panorama, which of its records), so a resumed run continues
with exactly the batches that an uninterrupted one would have had.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple, Protocol

import datasets
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from panollava.attention.packing import Packed, flatten, flattened_offsets, pack
from panollava.backbones.turns import ChatFormat, Learned
from panollava.corpus import messages
from panollava.corpus.masks import decoded, mask_of
from panollava.corpus.patch_masks import patch_coverage
from panollava.corpus.records import ObjectAnnotation, Record
from panollava.corpus.rotation.panorama import Rotation, rotate_image
from panollava.corpus.store import panorama_records
from panollava.corpus.text_chat import Texts, Turns
from panollava.training.augmentation import (
    every,
    random_rotation,
    rotated_objects,
    rotated_sample,
    tilt_of,
    tilted_mask,
    yawed_views,
)
from panollava.training.panoramas import epoch_and_panorama, views_of
from panollava.training.recipe import NO_AUGMENTATION, Augmentation
from panollava.vlm.processing_panollava import PanoLlavaProcessor

AS_IT_IS = Rotation()


@dataclass(frozen=True)
class Draw:
    """One panorama, or its patch grids `[V, h, w, C]`, or neither; the records that a step trains on; its objects.

    The records and the objects' boxes are those of the panorama rotated by `rotation`. The image is tilted only, the
    grids are those of its views, and the objects' masks are as stored. `texts` are dialogues about no panorama.
    """

    image: Image.Image | None
    records: list[Record]
    grids: Tensor | None = None
    objects: Sequence[ObjectAnnotation] = ()
    rotation: Rotation = AS_IT_IS
    texts: tuple[Turns, ...] = ()


class Panoramas(Protocol):
    """Panoramas by index, each with all of its records."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Draw: ...


class StoredPanoramas(Dataset):
    """The panoramas of a split of the store, each with all of its records.

    With `grids` `[P, V, h, w, C]` of all panoramas, or without `images`, no image is decoded.
    """

    def __init__(self, split: datasets.Dataset, *, grids: Tensor | None = None, images: bool = True) -> None:
        self.images, self.grids = images and grids is None, grids
        self.split = split if self.images else split.select_columns(["records"])

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Draw:
        row = self.split[index]
        grids = None if self.grids is None else self.grids[index]
        return Draw(row["image"] if self.images else None, panorama_records(row), grids)


class Draws(Dataset):
    """`count` draws of `panoramas`, epoch after epoch in fresh orders, each with at most `records` of its records.

    With an `augmentation` each is rotated at random; a panorama that comes with grids must not be tilted. A rotated
    record may have more tokens; one that the context no longer `holds` is not drawn rotated. Some `texts` come along.
    """

    def __init__(
        self,
        panoramas: Panoramas,
        *,
        seed: int,
        count: int,
        records: int,
        augmentation: Augmentation = NO_AUGMENTATION,
        holds: Callable[[Record], bool] = every,
        texts: Texts | None = None,
    ) -> None:
        self.panoramas, self.seed, self.count, self.records = panoramas, seed, count, records
        self.augmentation, self.holds, self.texts = augmentation, holds, texts

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Draw:
        epoch, number = epoch_and_panorama(index, seed=self.seed, count=len(self.panoramas))
        whole = self.panoramas[number]
        rng = Random(f"{self.seed}/{epoch}/{whole.records[0].image_id}")
        rotation = random_rotation(self.augmentation, rng)
        chosen = rotated_sample(whole.records, self.records, rotation, rng, self.holds)
        if not chosen:
            rotation = AS_IT_IS
            chosen = rotated_sample(whole.records, self.records, rotation, rng)
        objects = rotated_objects([item for record in whole.records for item in record.objects], rotation)
        image = whole.image
        if image is not None and rotation.tilt_deg:
            image = rotate_image(image, tilt_of(rotation))
        texts = () if self.texts is None else self.texts.drawn(index, len(chosen))
        return replace(whole, image=image, records=chosen, objects=objects, rotation=rotation, texts=texts)


Dialogue = Turns
# Some 50 megabytes of short dialogues in each process that makes batches.
DIALOGUES_KEPT = 2**14


def dialogue_of(record: Record) -> Dialogue:
    """Return the texts of a record."""
    return tuple((turn.human, turn.assistant) for turn in record.conversations)


@lru_cache(maxsize=8)
def format_of(processor: PanoLlavaProcessor) -> ChatFormat:
    """Return how a processor's chat template writes dialogues."""
    return ChatFormat.of(processor)


class Encoded(NamedTuple):
    """The position of the placeholder among a dialogue's ids, the ids, and their labels."""

    placeholder: int
    ids: tuple[int, ...]
    labels: tuple[int, ...]


@lru_cache(maxsize=DIALOGUES_KEPT)  # epochs see the same dialogues again, and panoramas share many
def encoded(processor: PanoLlavaProcessor, dialogue: Dialogue) -> tuple[Encoded, ...]:
    """Return a dialogue as one row; as one a turn, where the chat template writes earlier answers otherwise.

    Raises:
        ValueError: texts that cannot be read, or answers that cannot be told from their prompts.
    """
    rows = format_of(processor).learned(messages.dialogue(dialogue))
    return tuple(Encoded(row.ids.index(processor.image_token_id), *row) for row in rows)


@lru_cache(maxsize=DIALOGUES_KEPT)
def encoded_text(processor: PanoLlavaProcessor, dialogue: Turns) -> tuple[Learned, ...]:
    """Return a dialogue about no panorama as `encoded` returns one about a panorama."""
    return tuple(format_of(processor).learned(messages.without_panorama(messages.dialogue(dialogue))))


class Collator:
    """Make batches of draws: the records of all panoramas in one row, isolated from each other, see `flatten`.

    With `blind` the same rows without panorama and placeholder, for the blind twin. With `patches`, the number of an
    encoder's patches along a side of a view, also the targets of the mask head.
    """

    def __init__(self, processor: PanoLlavaProcessor, *, blind: bool = False, patches: int | None = None) -> None:
        self.processor, self.blind, self.patches = processor, blind, patches
        self.poses = processor.image_processor.poses()
        self.visual_tokens = 0 if blind else processor.tokens_of_panorama(self.poses)

    def __call__(self, draws: Sequence[Draw]) -> dict[str, Any]:
        """Return a row as `flatten` makes it, the positions of its `placeholders`, the views or their grids, and poses.

        And `use_cache`, off: nothing continues this row, so the language model need not copy keys and values.
        """
        rows = [self.packed(draw.records) for draw in draws]
        texts = [row for draw in draws for text in draw.texts for row in encoded_text(self.processor, text)]
        alone = pack([], texts) if texts else None
        batch = flatten(rows, self.processor.tokenizer.pad_token_id, texts=alone)
        placeholders = (batch["input_ids"] == self.processor.image_token_id).flatten().nonzero()[:, 0]
        batch |= {"placeholders": placeholders, "use_cache": False}
        if self.blind:
            return batch
        if self.patches is not None:
            batch |= self._masks(rows, draws, self.patches)
        grids = [draw.grids for draw in draws if draw.grids is not None]
        views = {"patch_grids": torch.stack(grids)} if grids else self._views(draws)
        return batch | self._yawed(views, draws)

    def _views(self, draws: Sequence[Draw]) -> dict[str, Tensor]:
        return views_of(self.processor.image_processor, [draw.image for draw in draws if draw.image is not None])

    def _yawed(self, views: dict[str, Tensor], draws: Sequence[Draw]) -> dict[str, Tensor]:
        """Return views, or their grids, in the order and with the poses of the panoramas after their yaws."""
        yawed = [self._views_of(draw) for draw in draws]
        (name,) = views.keys() - {"view_poses"}
        ordered = [one[order] for one, (order, _) in zip(views[name], yawed, strict=True)]
        return {name: torch.stack(ordered), "view_poses": torch.stack([poses for _, poses in yawed])}

    def _views_of(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return the order of a draw's views `[V]`, and their poses in it `[V, 6]`."""
        return yawed_views(self.poses, draw.rotation)

    def _masks(self, rows: Sequence[Packed], draws: Sequence[Draw], side: int) -> dict[str, Tensor]:
        """Return `mask_queries` `[Q, 3]` (see the model's forward), the tokens before answers with masks.

        And `mask_targets` `[Q, V, h, w]`, the share of each patch that the mask covers.
        """
        queries, targets = [], []
        for number, (row, draw, offset) in enumerate(zip(rows, draws, flattened_offsets(rows), strict=True)):
            turns = [turn for record in draw.records for turn in record.conversations]
            for turn, start in zip(turns, row.answers(), strict=True):
                mask = mask_of(turn, draw.objects)
                if mask is not None:
                    queries.append((0, offset + start - 1, number))
                    covered = patch_coverage(tilted_mask(decoded(mask), draw.rotation), self.poses, side, side)
                    targets.append(covered[self._views_of(draw)[0]])
        nothing = torch.zeros(0, len(self.poses), side, side)
        return {
            "mask_queries": torch.tensor(queries, dtype=torch.long).view(-1, 3),
            "mask_targets": torch.stack(targets) if targets else nothing,
        }

    def packed(self, records: Sequence[Record]) -> Packed:
        """Pack the records of one panorama behind its placeholders.

        Raises:
            ValueError: a record that the language model's context does not hold.
        """
        prefix: list[int] | None = None
        packed = []
        for record in records:
            what = f"{record.image_id}: the record that begins with {record.conversations[0].human[:60]!r}"
            for head, ids, labels in self._encode(record, what):
                if prefix is not None and head != prefix:
                    raise ValueError(f"{what}: the chat template does not keep the panorama as a common prefix")
                prefix = head
                self.processor.require_context(what, len(head) + len(ids))
                packed.append((ids, labels))
        assert prefix is not None
        return pack(prefix, packed)

    def _encode(self, record: Record, what: str) -> list[tuple[list[int], tuple[int, ...], tuple[int, ...]]]:
        """Return for each row of a record its prefix ids, placeholders expanded, its other ids, and their labels."""
        try:
            rows = encoded(self.processor, dialogue_of(record))
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from error
        found = []
        for position, ids, labels in rows:
            head, after = [*ids[:position], *[ids[position]] * self.visual_tokens], position + 1
            found.append((head, ids[after:], labels[after:]))
        return found
