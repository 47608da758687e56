"""Divide records into splits by panorama, so that no panorama is both trained on and tested on.

The bytes of the image file identify a panorama: two image_ids with equal files belong together. Either every record
names its split in `metadata["split"]`, or none does and the shares decide.
"""

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

from panollava.corpus.image_paths import image_file
from panollava.corpus.problems import Problem, message_lines, shorten
from panollava.corpus.records import Record

# Those of params.yaml as it is delivered; the pipeline reads them there.
PIPELINE_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def image_contents(records: list[Record], folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the image file of each image_id; `folder` is the dataset folder."""
    contents: dict[str, str] = {}
    for record in records:
        if record.image_id not in contents:
            with image_file(folder, record.image_path).open("rb") as file:
                contents[record.image_id] = hashlib.file_digest(file, "sha256").hexdigest()
    return contents


def share_counts(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Return the number of panoramas per split, by largest remainder; the shares are relative weights.

    Raises:
        ValueError: a share is not positive, or a split would be empty.
    """
    for name, share in shares.items():
        if not (math.isfinite(share) and share > 0):
            raise ValueError(f"share of split {name!r} is {share}; expected a positive number")
    # Exact fractions of the decimals as written: 0.1 is a tenth, so that equal remainders are equal.
    weights = {name: Fraction(str(share)) for name, share in shares.items()}
    quotas = {name: total * weight / sum(weights.values()) for name, weight in weights.items()}
    counts = {name: math.floor(quota) for name, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda name: counts[name] - quotas[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    empty = [name for name, count in counts.items() if not count]
    if empty:
        wanted = ", ".join(f"{name} {share}" for name, share in shares.items())
        gives = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(
            f"{total} panoramas at shares {wanted} give {gives}: split {', '.join(empty)} would be empty; "
            "use more panoramas or a larger share"
        )
    return counts


def _by_shares(contents: Mapping[str, str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Return the split of each content hash by a seeded shuffle that does not depend on the order of the records."""
    name_of: dict[str, str] = {}
    for image_id in sorted(contents, reverse=True):
        name_of[contents[image_id]] = image_id  # of equal files, the smallest image_id counts
    shuffled = sorted(name_of, key=lambda content: hashlib.sha256(f"{seed} {name_of[content]}".encode()).digest())
    counts = share_counts(len(shuffled), shares)
    names = [name for name, count in counts.items() for _ in range(count)]
    return dict(zip(shuffled, names, strict=True))


def _by_metadata(records: list[Record], contents: Mapping[str, str], known: list[str]) -> dict[str, str]:
    """Return the split that the records name for each content hash; raises ValueError with every contradiction."""
    splits: dict[str, tuple[str, Record]] = {}
    problems: list[Problem] = []
    for index, record in enumerate(records):
        where = f"record {index} (image_id {shorten(record.image_id)})"
        if "split" not in record.metadata:
            text = "is missing, other records have it; expected it in all records or in none"
            problems.append(Problem(where, "metadata.split", text))
            continue
        name = record.metadata["split"]
        if name not in known:
            text = f"is {shorten(name)}; expected one of {', '.join(known)}"
            problems.append(Problem(where, "metadata.split", text))
            continue
        first_name, first = splits.setdefault(contents[record.image_id], (name, record))
        if first_name != name:
            other = first.image_id != record.image_id
            same = f" as image_id {shorten(first.image_id)}, the same image," if other else ""
            text = f"is {name!r}, but{same} it was in {first_name!r} before; one panorama, one split"
            problems.append(Problem(where, "metadata.split", text))
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ValueError("\n".join([f"{count} with the splits that the records name:", *message_lines(problems)]))
    counts = Counter(name for name, _ in splits.values())
    empty = [name for name in known if not counts[name]]
    if empty:
        gives = ", ".join(f"{name} {counts[name]}" for name in known)
        raise ValueError(f"metadata.split of {len(splits)} panoramas gives {gives}: {', '.join(empty)} is empty")
    return {content: name for content, (name, _) in splits.items()}


def split_by_panorama(
    records: list[Record], folder: Path, *, shares: Mapping[str, float], seed: int
) -> dict[str, list[Record]]:
    """Return the records of each split of `shares`, in their order; `folder` is the dataset folder.

    The counts of panoramas are exact (largest remainder).

    Raises:
        ValueError: a split is empty, or a `metadata["split"]` is unknown, missing in some records, or puts one panorama
            in two splits.
    """
    contents = image_contents(records, folder)
    named = any("split" in record.metadata for record in records)
    split_of = _by_metadata(records, contents, list(shares)) if named else _by_shares(contents, shares, seed)
    splits: dict[str, list[Record]] = {name: [] for name in shares}
    for record in records:
        splits[split_of[contents[record.image_id]]].append(record)
    return splits


def _divisible(total: int) -> bool:
    """Return whether so many panoramas give a panorama to each split of the pipeline."""
    try:
        share_counts(total, PIPELINE_SHARES)
    except ValueError:
        return False
    return True


def split_note(records: list[Record], folder: Path) -> str | None:
    """Return why a run of the pipeline with its default shares would refuse the records; None if it would not."""
    try:
        split_by_panorama(records, folder, shares=PIPELINE_SHARES, seed=0)
    except ValueError as error:
        if any("split" in record.metadata for record in records):
            return f"the pipeline refuses this: {' '.join(str(error).splitlines()[:2])}"
        found, least = len(set(image_contents(records, folder).values())), next(filter(_divisible, itertools.count(1)))
        return (
            f"the pipeline needs at least {least} different panoramas for its splits (dataset.shares), here: {found}; "
            "finetuning alone does not"
        )
    return None
