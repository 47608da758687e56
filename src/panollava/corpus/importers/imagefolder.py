"""OmniCoT: an ImageFolder of panoramas whose metadata.jsonl holds one question a line.

Layout as in https://github.com/Chenfei-Liao/OmniCoT (README and the sample of its lmms-eval task, read; the files of
https://huggingface.co/datasets/Eustia1/OmniCoT were not): `file_name`, `question`, `answer`, `type`, and as far as
given `scene_id`, `qa_id`, `subtype`, `cot`, `random_objects`. Directions in the questions are compass points of a map.
As in that task, each question is preceded by the axes and by the positions of up to three of `random_objects`.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from panollava.corpus.importers.common import (
    Entry,
    Imported,
    Origin,
    Request,
    TextOrNumber,
    annotation_file,
    image_name,
)
from panollava.corpus.importers.findings import BadSample, Findings
from panollava.corpus.importers.sources import Source, fitted, read_samples

ORIGIN = Origin(
    "OmniCoT (He et al., ECCV 2026), https://huggingface.co/datasets/Eustia1/OmniCoT",
    "not stated in the repository",
)
METADATA = "metadata.jsonl"
SPLITS = ("train", "validation", "test")
KNOWN_OBJECTS = 3
KEPT = ("scene_id", "qa_id", "subtype", "cot", "random_objects")


def _as_list(value: object) -> object:
    """Return a text as a list of one."""
    return [value] if isinstance(value, str) else value


Texts = Annotated[list[str], BeforeValidator(_as_list)]


class Line(Source):
    """One question about one image."""

    file_name: str
    question: str
    answer: TextOrNumber
    type: str | None = None
    scene_id: TextOrNumber | None = None
    qa_id: TextOrNumber | None = None
    subtype: TextOrNumber | None = None
    cot: Texts | None = None
    random_objects: Texts | None = None


def _question(line: Line) -> str:
    known = (line.random_objects or [])[:KNOWN_OBJECTS]
    positions = [f"Known places (x, y): {'; '.join(known)}."] if known else []
    return "\n".join(["The x axis points east, the y axis north.", *positions, line.question])


def _fields(line: Line, metadata: dict[str, Any]) -> dict[str, Any]:
    turn: dict[str, Any] = {"human": _question(line), "assistant": line.answer, "task": "choice"}
    turn |= {} if line.type is None else {"type": line.type}
    kept = {key: value for key, value in line.model_dump(include=set(KEPT)).items() if value is not None}
    return {"conversations": [turn | {"answer": {"text": line.answer}}], "metadata": metadata | kept}


def _entries(request: Request, split: str | None, findings: Findings) -> list[Entry]:
    """Return one record per line of a split's metadata.jsonl, or of the one that SRC is or contains."""
    prefix, metadata = ("", {}) if split is None else (f"{split}/", {"split": split})
    src = request.src / prefix
    file: Path = annotation_file(src / METADATA if src.is_dir() else src, ".jsonl")
    entries = []
    for place, row in read_samples(file, findings):
        where = prefix + place
        try:
            line = fitted(Line, row)
            name = image_name(request.image_folder, prefix + image_name(file.parent, line.file_name))
        except BadSample as error:
            findings.reject(where, error)
            continue
        entries.append(Entry(where, name, _fields(line, metadata), id_key="qa_id"))
    return entries


def read(request: Request) -> Imported:
    """Return one record per line; the steps of reasoning stay in `metadata.cot`.

    A folder of the splits train, validation and test gives `metadata.split`.
    """
    request.refuse_images("the file_name of each line, relative to metadata.jsonl")
    findings = Findings("lines")
    if not request.src.is_dir() or (request.src / METADATA).is_file():
        return Imported(ORIGIN, request.image_folder, _entries(request, None, findings), findings)
    entries = [item for split in SPLITS for item in _entries(request, split, findings)]
    left = sorted(file.parent.name for file in request.src.glob(f"*/{METADATA}") if file.parent.name not in SPLITS)
    findings.besides.update(f"folder {name}, which is no split (import it by itself)" for name in left)
    return Imported(ORIGIN, request.image_folder, entries, findings)
