"""Detection and grounding questions about the objects of an imported panorama.

The questions and answers are worded like those of the synthetic world, so that the same code parses model answers. A
box of 180 degrees or more is no tangent-plane rectangle and cannot be answered: it stays in `objects`, but no question
asks for it.
"""

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

from pydantic import ValidationError

from panollava.corpus.directions import whole_box
from panollava.corpus.importers.common import Entry, Request
from panollava.corpus.importers.findings import BadSample, Findings, misfit
from panollava.corpus.problems import shorten
from panollava.corpus.records import LabelledBox
from panollava.corpus.vocabulary import box_text, detection_text
from panollava.corpus.wording import TEMPLATES

# These characters separate the objects of an answer in words.
RESERVED = frozenset("[];")


def answerable(item: dict[str, Any]) -> bool:
    """Return whether an object's box can be answered: both extents below 180 degrees."""
    return max(item["box_deg"][2:]) < 180


def check_label(label: str) -> str:
    """Return a label that questions and answers can hold; raises BadSample."""
    if RESERVED & set(label):
        text = f"label {shorten(label)}; expected a text without [ ] ; which separate the objects of an answer"
        raise BadSample("a bad label", text)
    try:
        return LabelledBox(label=label, box_deg=(0, 0, 1, 1)).label
    except ValidationError as error:
        raise misfit(error) from None


def object_dialogues(objects: Sequence[dict[str, Any]], rng: Random) -> list[list[dict[str, Any]]]:
    """Return a detection question, a grounding question for each label that is unique, and `_described` questions.

    The labels are those that `check_label` lets pass.
    """
    targets = [{"label": item["label"], "box_deg": item["box_deg"]} for item in objects if answerable(item)]
    if not targets:
        return []
    targets.sort(key=lambda item: whole_box(item["box_deg"]))
    dialogues = [[_detection(rng.choice(TEMPLATES["en"]["detection"]), targets)]]
    counts = Counter(item["label"] for item in objects)
    for item in targets:
        if counts[item["label"]] == 1:
            question = rng.choice(TEMPLATES["en"]["grounding"]).format(object=item["label"])
            answer = box_text(whole_box(item["box_deg"]))
            dialogues.append([{"human": question, "assistant": answer, "task": "grounding", "answer": item}])
    return dialogues + _described(targets, counts, rng)


def _detection(question: str, targets: list[dict[str, Any]]) -> dict[str, Any]:
    words = detection_text([(item["label"], whole_box(item["box_deg"])) for item in targets])
    return {"human": question, "assistant": words, "task": "detection", "answer": {"objects": targets}}


def _described(targets: list[dict[str, Any]], counts: Counter[str], rng: Random) -> list[list[dict[str, Any]]]:
    """Return a question for all objects of one label, drawn from the labels of several but not all objects.

    Labels of objects that are too wide to be answered are left out: the answer would lack those objects.
    """
    target_counts = Counter(item["label"] for item in targets)
    labels = sorted(label for label, n in target_counts.items() if 1 < n < len(targets) and n == counts[label])
    if not labels:
        return []
    label = rng.choice(labels)
    question = rng.choice(TEMPLATES["en"]["detection_described_shape"]).format(described=label)
    found = _detection(question, [item for item in targets if item["label"] == label])
    return [[found | {"type": "detection_described"}]]


def object_entries(
    request: Request,
    where: str,
    image: str,
    objects: Sequence[dict[str, Any]],
    findings: Findings,
    metadata: dict[str, Any] | None = None,
    *,
    samples: int = 1,
) -> list[Entry]:
    """Return the records of one image, none if no box can be answered.

    The first one holds objects and metadata, and carries the image's number of samples of the source.
    """
    records = [{"conversations": turns} for turns in object_dialogues(objects, Random(f"{request.seed}/{image}"))]
    wide = sum(not answerable(item) for item in objects)
    if not records:
        if samples:
            findings.leave_out(where, "of images without a box that can be asked for", samples)
        else:
            findings.besides["images without a box that can be asked for"] += 1
        return []
    if wide:
        findings.besides["boxes of 180 degrees or more from the questions (they stay in objects)"] += wide
    first: dict[str, Any] = records[0] | {"objects": list(objects), "metadata": metadata or {}}
    rest = [Entry(where, image, fields, samples=0) for fields in records[1:]]
    return [Entry(where, image, first, samples=samples), *rest]
