"""OmniCoT: an ImageFolder of panoramas whose metadata.jsonl holds one question a line.

Layout as in https://github.com/Chenfei-Liao/OmniCoT (README and the sample of its lmms-eval task, read; the files of
https://huggingface.co/datasets/Eustia1/OmniCoT were not): `file_name`, `question`, `answer`, `type`, and as far as
given `scene_id`, `qa_id`, `subtype`, `cot`, `random_objects`. Directions in the questions are compass points of a map.
As in that task, each question is preceded by the axes and by the positions of up to three of `random_objects`.
"""

from collections import Counter
from typing import Any

from panollava.corpus.importers.common import (
    Entry,
    Imported,
    Origin,
    Request,
    Source,
    annotation_file,
    entry,
    read_jsonl,
)

ORIGIN = Origin(
    "OmniCoT (He et al., ECCV 2026), https://huggingface.co/datasets/Eustia1/OmniCoT",
    "not stated in the repository",
)
METADATA = "metadata.jsonl"
SPLITS = ("train", "validation", "test")
KNOWN_OBJECTS = 3
KEPT = ("scene_id", "qa_id", "subtype", "cot", "random_objects")


class Line(Source):
    """One question about one image."""

    file_name: str
    question: str
    answer: str
    type: str
    scene_id: str | None = None
    qa_id: str | int | None = None
    subtype: str | None = None
    cot: list[str] | None = None
    random_objects: list[str] | None = None


def _question(line: Line) -> str:
    known = (line.random_objects or [])[:KNOWN_OBJECTS]
    positions = [f"Known places (x, y): {'; '.join(known)}."] if known else []
    return "\n".join(["The x axis points east, the y axis north.", *positions, line.question])


def _fields(line: Line, metadata: dict[str, Any]) -> dict[str, Any]:
    turn: dict[str, Any] = {"human": _question(line), "assistant": line.answer, "task": "choice", "type": line.type}
    kept = {key: value for key, value in line.model_dump(include=set(KEPT)).items() if value is not None}
    return {"conversations": [turn | {"answer": {"text": line.answer}}], "metadata": metadata | kept}


def _entries(request: Request, split: str | None) -> list[Entry]:
    """Return one record per line of a split's metadata.jsonl, or of the one that SRC is or contains."""
    prefix, metadata = ("", {}) if split is None else (f"{split}/", {"split": split})
    src = request.src / prefix
    file = annotation_file(src / METADATA if src.is_dir() else src, ".jsonl")
    return [
        entry(request, f"{prefix}{METADATA} entry {number}", prefix + line.file_name, _fields(line, metadata))
        for number, line in enumerate(read_jsonl(file, Line), start=1)
    ]


def read(request: Request) -> Imported:
    """Return one record per line; the steps of reasoning stay in `metadata.cot`.

    A folder of the splits train, validation and test gives `metadata.split`.
    """
    request.refuse_images("the file_name of each line, relative to metadata.jsonl")
    if not request.src.is_dir() or (request.src / METADATA).is_file():
        return Imported(ORIGIN, _entries(request, None))
    entries = [item for split in SPLITS for item in _entries(request, split)]
    left = sorted(file.parent.name for file in request.src.glob(f"*/{METADATA}") if file.parent.name not in SPLITS)
    return Imported(
        ORIGIN, entries, Counter(f"folder {name}, which is no split (import it by itself)" for name in left)
    )
