"""The page with what it shows: the panoramas of a run, named by URL, or all of it inside one file."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from panollava.io import replacing
from panollava.tasks.prediction import Prediction
from panollava.viewer.panoramas import Panorama
from panollava.viewer.questions import questions_json

# Where the page takes what it shows from; empty in the page that a server of a model shows.
_PLACE = '<script type="application/json" id="run">{}</script>'
_LISTED = 10


@dataclass(frozen=True)
class Shown:
    """A panorama with the answers about it."""

    panorama: Panorama
    predictions: Sequence[Prediction]

    def questions(self) -> list[dict[str, Any]]:
        """Return what the page shows of the answers."""
        return questions_json(self.predictions, self.panorama.objects)


def choose(panoramas: list[Panorama], predictions: Sequence[Prediction], image_id: str | None) -> list[Shown]:
    """Return the panoramas that have answers, each with its own; without any predictions, all panoramas.

    With `image_id`, only that one. A single picture of another name belongs to `image_id`, or to the only panorama of
    the predictions.

    Raises:
        ValueError: no panorama has answers, or none has that id; the message names ids that there are.
    """
    by_id: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        by_id.setdefault(prediction.image_id, []).append(prediction)
    if by_id and len(panoramas) == 1:
        alone = next(iter(by_id)) if len(by_id) == 1 else panoramas[0].image_id
        wanted = alone if image_id is None else image_id
        if wanted not in by_id:
            raise ValueError(f"no answer is about {wanted!r}; name with --image-id one of {_some(by_id)}")
        return [Shown(panoramas[0], by_id[wanted])]
    shown = [Shown(p, by_id.get(p.image_id, [])) for p in panoramas if not by_id or p.image_id in by_id]
    if not shown:
        own = [panorama.image_id for panorama in panoramas]
        raise ValueError(f"the answers are about {_some(by_id)}, and none of them is here: {_some(own)}")
    chosen = [one for one in shown if image_id in (None, one.panorama.image_id)]
    if not chosen:
        known = [one.panorama.image_id for one in shown]
        raise ValueError(f"no panorama has the image_id {image_id!r}; there are {_some(known)}")
    return chosen


def page(run: dict[str, Any]) -> bytes:
    """Return the page that shows a run, see `web/src/run.ts`."""
    html = resources.files("panollava.viewer").joinpath("page", "index.html").read_text("utf-8")
    before, found, after = html.partition(_PLACE)
    if not found:
        raise ValueError("the page of the viewer has no place for a run; build it anew: make web")
    content = json.dumps(run, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    content = content.replace("<", "\\u003c")  # no text of a run ends the element or opens a comment
    return (before + _PLACE.replace("{}", content) + after).encode()


def write_page(shown: Sequence[Shown], out: Path) -> None:
    """Write a page that needs no other file and no server.

    Raises:
        ImageError: a picture cannot be shown, with its name.
    """
    panoramas = [
        {
            "id": one.panorama.image_id,
            "picture": f"data:image/jpeg;base64,{base64.b64encode(one.panorama.jpeg()).decode('ascii')}",
            "questions": one.questions(),
        }
        for one in shown
    ]
    content = page({"model": False, "panoramas": panoramas})
    with replacing(out) as file:
        file.write(content)


def _some(names: Sequence[str] | dict[str, Any]) -> str:
    """Return a few names of many."""
    listed = [repr(name) for name in list(names)[:_LISTED]]
    return ", ".join(listed) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
