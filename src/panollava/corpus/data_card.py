"""The data card: README.md of a dataset folder, as the Hugging Face hub reads it.

The same data gives the same text: no dates, no paths.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import DatasetCardData

from panollava.corpus.records import Record

CARD = "README.md"
TAGS = ["panollava", "panorama", "360", "equirectangular"]
# Upper bounds of the hub's size categories, in records.
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
LARGEST = "n>1M"
NOT_STATED = "not stated"
SHOWN = 10  # sources
FORMAT = """\
One record is one dialogue about one panorama. Its turns see the earlier ones.

| Field | Meaning |
| :-- | :-- |
| `image_id` | name of the panorama; records of one panorama share it |
| `image_path` | its image file, relative to the record file |
| `conversations` | turns: `human`, `assistant`, and where given `task`, `type`, `language`, `answer`, `references` |
| `objects` | labelled boxes (yaw, pitch, width, height) in degrees, with a COCO RLE mask where there is one |
| `metadata` | `source`, `licence` and whatever the source says about the record |

Yaw is positive to the right of the image's centre, pitch above the horizon."""


@dataclass
class Counts:
    """Counts of a dataset, collected record by record: turns by task and language, pairs of source and licence."""

    records: int = 0
    images: set[str] = field(default_factory=set)
    tasks: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    origins: set[tuple[str, str]] = field(default_factory=set)

    def add(self, record: Record) -> None:
        """Count a record."""
        self.records += 1
        self.images.add(record.image_id)
        self.tasks.update(turn.task for turn in record.conversations)
        self.languages.update(turn.language for turn in record.conversations)
        source, licence = (" ".join(str(record.metadata.get(key, NOT_STATED)).split()) for key in ("source", "licence"))
        self.origins.add((source, licence))

    def summary(self) -> dict[str, Any]:
        """Return the counts as plain values, in a fixed order."""
        return {
            "records": self.records,
            "images": len(self.images),
            "turns": self.tasks.total(),
            "tasks": dict(sorted(self.tasks.items())),
            "languages": dict(sorted(self.languages.items())),
            "origins": [list(origin) for origin in sorted(self.origins)],
        }


def origin_lines(origins: Sequence[Sequence[str]]) -> list[str]:
    """Return a line for each source and its licence, for the first ones where there are many."""
    lines = [f"- {source}; licence: {licence}" for source, licence in origins[:SHOWN]]
    return lines + [f"- and {len(origins) - SHOWN} more, in the records' metadata"] * (len(origins) > SHOWN)


def count(records: Iterable[Record]) -> Counts:
    """Return the counts of some records."""
    counts = Counts()
    for record in records:
        counts.add(record)
    return counts


def data_card(
    title: str,
    about: str,
    counts: Counts,
    *,
    hub_licence: str = "other",
    dropped: Mapping[str, int] | None = None,
) -> str:
    """Return the card of a dataset.

    `about` says how the set was made, `hub_licence` is the hub's name of its licence, and `dropped` counts the parts
    that were left out, by reason.
    """
    found = counts.summary()
    metadata = DatasetCardData(
        pretty_name=title,
        license=hub_licence,
        language=sorted(found["languages"]),
        task_categories=["visual-question-answering", "image-text-to-text"],
        size_categories=next((name for bound, name in SIZES if found["records"] < bound), LARGEST),
        tags=TAGS,
    )
    rows = [(name, found[name]) for name in ("records", "images", "turns")]
    rows += [(f"turns of the task `{name}`", number) for name, number in found["tasks"].items()]
    rows += [(f"turns in the language `{name}`", number) for name, number in found["languages"].items()]
    table = "\n".join(["| | Count |", "| :-- | --: |", *(f"| {name} | {number} |" for name, number in rows)])
    left_out = "\n".join(f"- {number} × {reason}" for reason, number in (dropped or {}).items()) or "Nothing."
    sections = {
        "Source and licence": "\n".join(origin_lines(found["origins"])),
        "What it holds": table,
        "What was left out": left_out,
        "Record format": FORMAT,
    }
    text = "\n\n".join(f"## {name}\n\n{body}" for name, body in sections.items())
    return f"---\n{metadata}\n---\n\n# {title}\n\n{about}\n\n{text}\n"
