"""Packing: many records behind one shared prefix, in one row, each blind to the others.

Segment 0 is the prefix (everything up to and including the panorama), segments 1.. are the records, -1 is padding.
Position ids of each record restart where the prefix ends, so a packed record computes what it would compute alone.
`flatten` joins the rows of a batch to one without padding between them, and makes the plan by which it attends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor

from panollava.attention.fused import sequences
from panollava.attention.packed import PackedPlan
from panollava.vlm.labels import IGNORE, needed_positions, next_labels

LEAST_PADDING = 2


@dataclass(frozen=True)
class Packed:
    """One packed row: token ids, position ids, segment ids and labels (IGNORE where nothing is to be learned)."""

    ids: list[int]
    positions: list[int]
    segments: list[int]
    labels: list[int]

    @property
    def prefix(self) -> int:
        """Return the length of the prefix."""
        return self.segments.count(0)

    def answers(self) -> list[int]:
        """Return where each answer begins: each token to be learned after one that is not."""
        before = [IGNORE, *self.labels[:-1]]
        return [position for position, label in enumerate(self.labels) if label != IGNORE == before[position]]


def pack(prefix: Sequence[int], records: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Packed:
    """Pack `records` of (ids, labels) behind `prefix`; the prefix is never a target."""
    ids, positions, segments = list(prefix), list(range(len(prefix))), [0] * len(prefix)
    labels = [IGNORE] * len(prefix)
    for number, (record_ids, record_labels) in enumerate(records, start=1):
        ids.extend(record_ids)
        positions.extend(range(len(prefix), len(prefix) + len(record_ids)))
        segments.extend([number] * len(record_ids))
        # A record's first token follows the prefix only when it is alone, so no packed row may predict it.
        labels.extend([IGNORE, *record_labels[1:]])
    return Packed(ids, positions, segments, labels)


def flatten(rows: Sequence[Packed], pad_id: int, multiple: int = 32, texts: Packed | None = None) -> dict[str, Any]:
    """Join packed rows to one: `input_ids`, `position_ids`, `labels` `[1, S]`, and the `plan` by which it attends.

    First come all prefixes, then the records of each row, then those of `texts`, a row without prefix. Only the end is
    padded, up to a `multiple`, and by two tokens at least: none and one would be cases of their own for a compiler. The
    plan knows the needed positions, those before learned tokens; they are found here, where no GPU need be waited for.

    Raises:
        ValueError: prefixes of different lengths, or a label within or right behind a prefix.
    """
    prefix = rows[0].prefix
    if lengths := {row.prefix for row in rows} - {prefix}:
        found = sorted(lengths | {prefix})
        raise ValueError(f"the rows of a packed batch have prefixes of {found} tokens, not one length")
    alone = [] if texts is None else [texts]
    every = (*rows, *alone)
    total = sum(len(row.ids) for row in every)
    padding = LEAST_PADDING + -(total + LEAST_PADDING) % multiple

    def joined(values: Sequence[list[int]], fill: int) -> Tensor:
        heads = [value for own in values[: len(rows)] for value in own[:prefix]]
        tails = [value for own in values[: len(rows)] for value in own[prefix:]]
        tails += [value for own in values[len(rows) :] for value in own]
        return torch.tensor([heads + tails + [fill] * padding])

    positions, labels = joined([row.positions for row in every], 0), joined([row.labels for row in every], IGNORE)
    needed = needed_positions(next_labels(labels))
    if bool((needed < prefix * len(rows)).any()):
        raise ValueError("a label is learned within a prefix or right behind one; prefixes predict nothing, see `pack`")
    groups = [len(row.ids) - prefix for row in rows]
    records = [len(list(own)) for row in every for segment, own in groupby(row.segments) if segment > 0]
    plan = PackedPlan(
        needed=needed,
        prefixes=sequences([prefix] * len(rows)),
        groups=sequences(groups),
        records=sequences(records),
        lengths=tuple(groups),
        segments=joined([row.segments for row in every], -1)[0],
        positions=positions[0],
        span=int(positions.max()) + 1,
        texts=sum(len(row.ids) for row in alone),
    )
    ids = joined([row.ids for row in every], pad_id)
    return {"input_ids": ids, "position_ids": positions, "labels": labels, "plan": plan}


def flattened_offsets(rows: Sequence[Packed]) -> list[int]:
    """Return for each packed row by how much a position behind its prefix grows in the row that `flatten` makes."""
    prefix = rows[0].prefix
    behind = [len(row.ids) - prefix for row in rows]
    return [before + prefix * (len(rows) - 1) for before in accumulate(behind[:-1], initial=0)]
