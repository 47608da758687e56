"""The synthetic world as a dataset: panoramas rendered in parallel, each with its objects and its questions.

Seed, split and index determine a panorama, so the rows do not depend on the number of processes.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from panollava.corpus.masks import encoded
from panollava.corpus.records import Record
from panollava.corpus.store import PanoramaRow
from panollava.corpus.vocabulary import LANGUAGES
from panollava.corpus.wording import turn_json
from panollava.corpus.world.render import render
from panollava.corpus.world.scenes import Scene, sample_scene
from panollava.corpus.world_questions import sample_dialogues

# Questions per type and panorama; a panorama of another split than train gets one of each type in every language.
TRAIN_QUESTIONS = {
    "existence": 2, "colour": 2, "shape": 2, "count": 2, "direction8": 2, "relation": 2, "look": 2, "nearest": 1,
    "turn": 1, "pointing": 2, "grounding": 2, "detection": 1, "detection_described": 2, "description": 1,
    "dialogue": 1,
}  # fmt: skip
TEST_QUESTIONS = dict.fromkeys(TRAIN_QUESTIONS, 1)


def _objects(scene: Scene, labels: np.ndarray) -> list[dict[str, Any]]:
    return [
        {"label": o.label, "box_deg": list(o.box_deg), "mask": encoded(labels == number)}
        for number, o in enumerate(scene.objects)
    ]


def _dialogues(scene: Scene, split: str, rng: Random, korean_share: float) -> list[list[dict[str, Any]]]:
    per_type = TRAIN_QUESTIONS if split == "train" else TEST_QUESTIONS
    dialogues = []
    for questions in sample_dialogues(scene, rng, per_type=per_type):
        languages = LANGUAGES if split != "train" else [LANGUAGES[rng.random() < korean_share]]
        dialogues += [[turn_json(q, language, rng) for q in questions] for language in languages]
    return dialogues


def world_row(
    index: int, *, seed: int, split: str, height: int, korean_share: float, min_latitude_deg: float = 0.0
) -> PanoramaRow:
    """Return panorama number `index` of a split, `height` x 2 `height` pixels, with all its records."""
    scene = sample_scene(seed, split=split, index=index, min_latitude_deg=min_latitude_deg)
    image, labels = render(scene, height, 2 * height)
    name = f"{split}_{index:05d}"
    rng = Random(f"{seed}/{split}/{index}")
    shared = {"image_id": name, "image_path": f"{name}.jpg"}
    records = [
        Record.model_validate(shared | {"conversations": turns})
        for turns in _dialogues(scene, split, rng, korean_share)
    ]
    # The objects belong to the panorama, so only its first record lists them.
    objects = {"objects": _objects(scene, labels), "metadata": {"scene": scene.kind}}
    first = Record.model_validate(
        shared | {"conversations": records[0].model_dump(exclude_unset=True)["conversations"]} | objects
    )
    return PanoramaRow(name, Image.fromarray(image), [first, *records[1:]])


def world_rows(
    split: str,
    count: int,
    *,
    seed: int,
    height: int,
    korean_share: float,
    workers: int,
    min_latitude_deg: float = 0.0,
) -> Iterator[PanoramaRow]:
    """Yield `count` panoramas of a split in order, rendered by `workers` processes."""
    make = partial(
        world_row,
        seed=seed,
        split=split,
        height=height,
        korean_share=korean_share,
        min_latitude_deg=min_latitude_deg,
    )
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(make, range(count), chunksize=8)
