"""LLaVA conversations: `id`, `image` and `conversations`, turns of `from` (human, gpt) and `value`; JSON or JSONL.

Layout as in https://github.com/haotian-liu/LLaVA (docs/Finetune_Custom_Data.md and llava/train/train.py, read). Other
spellings in use are read too: `messages` of `role` and `content`, a text or a list of parts; `images`, a list of one.
The panorama precedes the first question, so that the marker `<image>` is removed. As in LLaVA, an answer before the
first question and a last question without an answer are left out. A system message stays in `metadata.system`.
"""

from typing import Any

from pydantic import AliasChoices, Field

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
from panollava.corpus.problems import shorten

ORIGIN = Origin("LLaVA conversations, https://github.com/haotian-liu/LLaVA", "not stated by the file")
MARKER = "<image>"
SIDES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "system": "system"}
FIRST_ANSWER = "answers before the first question"
LAST_QUESTION = "last questions without an answer"
# A message: its side and its text.
Said = tuple[str, str]


class Part(Source):
    """A part of a message: a text or an image, which may be named in the part itself."""

    type: str
    text: str | None = None
    image: Any = Field(None, validation_alias=AliasChoices("image", "image_url"))


class Message(Source):
    """One message of a dialogue."""

    side: str = Field(validation_alias=AliasChoices("from", "role"))
    content: Any = Field(None, validation_alias=AliasChoices("value", "content"))


class Sample(Source):
    """One dialogue about at most one image."""

    id: TextOrNumber | None = None
    image: Any = Field(None, validation_alias=AliasChoices("image", "images"))
    video: Any = Field(None, validation_alias=AliasChoices("video", "videos"))
    conversations: list[Any] = Field(validation_alias=AliasChoices("conversations", "messages"))


def _without_markers(text: str) -> str:
    """Return a text without image markers: within a sentence one leaves one space, at the ends none."""
    pieces = text.split(MARKER)
    if len(pieces) == 1:
        return text
    return " ".join([pieces[0].rstrip(), *(piece.strip() for piece in pieces[1:-1]), pieces[-1].lstrip()]).strip()


def _message(number: int, row: object, images: list[object]) -> Said:
    """Return a message; the images that its parts name are added to `images`."""
    message = fitted(Message, row)
    side = SIDES.get(message.side.strip().lower())
    if side is None:
        text = f"message {number} is from {shorten(message.side)}; expected one of {', '.join(SIDES)}"
        raise BadSample("a message from another side", text)
    if message.content is None or isinstance(message.content, str):
        return side, _without_markers(message.content or "")
    if not isinstance(message.content, list):
        raise BadSample("a message that is no text", f"message {number}: got {shorten(message.content)}; expected text")
    parts = [fitted(Part, part) for part in message.content]
    for part in parts:
        if part.type not in ("text", "image", "image_url"):
            text = f"message {number} has a part of type {shorten(part.type)}; expected text or image"
            raise BadSample("a part that is no text or image", text)
        link = part.image.get("url") if isinstance(part.image, dict) else part.image
        images += [link] if link else []
    return side, _without_markers("\n".join(part.text or "" for part in parts if part.type == "text"))


def _has_parts(message: object) -> bool:
    return isinstance(message, dict) and isinstance(message.get("content"), list)


def _turns(said: list[Said], findings: Findings) -> list[dict[str, Any]]:
    """Return the turns; raises BadSample unless human and gpt alternate between the parts that LLaVA leaves out."""
    answer_first = bool(said) and said[0][0] == "gpt"
    said = said[answer_first:]
    sides = [side for side, _ in said]
    if sides != ["human", "gpt"] * (len(sides) // 2) + ["human"] * (len(sides) % 2):
        text = f"the sides are {shorten(sides)}; expected human and gpt in turn, a system message only first"
        raise BadSample("sides that do not alternate", text)
    texts = [text for _, text in said]
    unanswered = len(texts) % 2 == 1 or (bool(texts) and not texts[-1].strip())
    texts = texts[: (len(texts) - 1) // 2 * 2] if unanswered else texts
    if not texts:
        raise BadSample("no question that is answered", "holds no question with an answer; expected at least one")
    findings.besides.update([FIRST_ANSWER] * answer_first + [LAST_QUESTION] * unanswered)
    return [{"human": human, "assistant": gpt} for human, gpt in zip(texts[::2], texts[1::2], strict=True)]


def _image(sample: Sample, in_parts: list[object]) -> str | None:
    """Return the name of the one image, None for a sample without an image; raises BadSample."""
    named = sample.image if isinstance(sample.image, list) else [sample.image]
    images = [image for image in named if image not in (None, "")] or in_parts
    bad = next((image for image in images if not isinstance(image, str)), None)
    if bad is not None:
        raise BadSample("a bad image name", f"image {shorten(bad)}; expected the name of a file")
    images = list(dict.fromkeys(images))
    if sample.video is not None and not images:
        raise BadSample("a video", f"video {shorten(sample.video)}; a record is about one panorama")
    if len(images) > 1:
        raise BadSample("several images", f"image {shorten(images)}; a record is about one panorama")
    return str(images[0]) if images else None


def _entry(request: Request, where: str, row: object, findings: Findings) -> Entry | None:
    """Return the record of a sample, None if it has no image; raises BadSample."""
    sample = fitted(Sample, row)
    in_parts: list[object] = []
    # A dialogue without an image is left out whatever its messages are.
    named = _image(sample, []) is not None or any(map(_has_parts, sample.conversations))
    messages = sample.conversations if named else []
    said = [_message(number, message, in_parts) for number, message in enumerate(messages)]
    image = _image(sample, in_parts)
    if image is None:
        findings.leave_out(where, "without an image")
        return None
    metadata = {} if sample.id is None else {"id": sample.id}
    if said and said[0][0] == "system":
        metadata["system"] = said[0][1]
        said = said[1:]
    name = image_name(request.image_folder, image)
    fields = {"conversations": _turns(said, findings), "metadata": metadata}
    return Entry(where, name, fields, id_key="id")


def read(request: Request) -> Imported:
    """Return one record per sample with an image, with its whole dialogue."""
    file = annotation_file(request.src, ".json", ".jsonl")
    findings = Findings("samples")
    entries = []
    for place, row in read_samples(file, findings):
        name = row.get("id") if isinstance(row, dict) else None
        where = place if name is None else f"{place} (id {shorten(name)})"
        try:
            entry = _entry(request, where, row, findings)
        except BadSample as error:
            findings.reject(where, error)
            continue
        entries += [entry] if entry is not None else []
    return Imported(ORIGIN, request.image_folder, entries, findings)
