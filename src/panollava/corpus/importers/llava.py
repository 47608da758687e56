"""LLaVA conversations: a JSON list of `id`, `image` and `conversations`, turns of `from` (human, gpt) and `value`.

Layout as in https://github.com/haotian-liu/LLaVA (docs/Finetune_Custom_Data.md, read). The marker `<image>` is removed
from the questions, since the panorama always precedes the first one. Samples without `image`, which LLaVA's own
mixtures have, are text only; they are left out and counted.
"""

import re
from collections import Counter
from typing import Any, Literal

from pydantic import Field

from panollava.corpus.importers.common import (
    Imported,
    Origin,
    Request,
    Source,
    annotation_file,
    entry,
    read_json,
    refuse,
)

ORIGIN = Origin("LLaVA conversations, https://github.com/haotian-liu/LLaVA", "not stated by the file")
MARKER = re.compile(r"\s*<image>\s*")


class Message(Source):
    """One message of a dialogue."""

    side: Literal["human", "gpt"] = Field(alias="from")
    value: str


class Sample(Source):
    """One dialogue about at most one image."""

    id: str | int
    image: str | None = None
    conversations: list[Message]


def _turns(sample: Sample) -> list[dict[str, Any]]:
    """Return the turns; raises ValueError unless human and gpt alternate, human first."""
    sides = [message.side for message in sample.conversations]
    if not sides or sides != ["human", "gpt"] * (len(sides) // 2):
        raise ValueError(f"the sides are {sides}; expected human and gpt in turn, human first, gpt last")
    texts = [message.value for message in sample.conversations]
    # Within a sentence the marker leaves one space, at the ends none.
    questions = [MARKER.sub(" ", text).strip() for text in texts[::2]]
    return [{"human": human, "assistant": gpt} for human, gpt in zip(questions, texts[1::2], strict=True)]


def read(request: Request) -> Imported:
    """Return one record per sample with an image, with its whole dialogue."""
    file = annotation_file(request.src, ".json")
    entries, problems = [], []
    dropped: Counter[str] = Counter()
    for number, sample in enumerate(read_json(file, list[Sample])):
        where = f"{file.name} sample {number} (id {sample.id!r})"
        if sample.image is None:
            dropped["samples without an image"] += 1
            continue
        try:
            fields = {"conversations": _turns(sample), "metadata": {"id": sample.id}}
        except ValueError as error:
            problems.append(f"{where}: {error}")
            continue
        entries.append(entry(request, where, sample.image, fields))
    refuse(f"dialogues of {file} cannot be read", problems)
    return Imported(ORIGIN, entries, dropped)
