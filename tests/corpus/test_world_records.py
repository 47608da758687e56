"""The synthetic world as a dataset: independent of the number of processes, valid, and consistent with the images."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from panollava.corpus.masks import encoded
from panollava.corpus.records import Record, records_from_json, records_to_json
from panollava.corpus.store import PanoramaRow
from panollava.corpus.world.scenes import sample_scene
from panollava.corpus.world_questions import GENERATORS
from panollava.corpus.world_records import TEST_QUESTIONS, TRAIN_QUESTIONS, world_row, world_rows
from panollava.vlm.geometry import directions_to_rays, rotation

HEIGHT = 64
OPTIONS = {"seed": 3, "height": HEIGHT, "korean_share": 0.3}


@pytest.fixture(scope="module")
def train() -> list[PanoramaRow]:
    return [world_row(index, split="train", **OPTIONS) for index in range(30)]


@pytest.fixture(scope="module")
def test_rows() -> list[PanoramaRow]:
    return [world_row(index, split="test", **OPTIONS) for index in range(12)]


def content(row: PanoramaRow) -> tuple[str, bytes, str]:
    return row.image_id, row.image.tobytes(), records_to_json(row.records)


def dialogues(rows: list[PanoramaRow]) -> list[Record]:
    return [record for row in rows for record in row.records]


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_do_not_depend_on_the_number_of_processes(train: list[PanoramaRow], workers: int) -> None:
    rows = list(world_rows("train", 10, workers=workers, **OPTIONS))
    assert [content(row) for row in rows] == [content(row) for row in train[:10]]


def test_seed_and_split_change_everything(train: list[PanoramaRow], test_rows: list[PanoramaRow]) -> None:
    other = world_row(0, split="train", **(OPTIONS | {"seed": 4}))
    images = [row.image.tobytes() for row in (train[0], test_rows[0], other)]
    assert len(set(images)) == 3
    assert {row.image_id for row in train}.isdisjoint(row.image_id for row in test_rows)


def test_records_are_valid_and_belong_to_their_panorama(train: list[PanoramaRow]) -> None:
    for row in train:
        assert row.image.size == (2 * HEIGHT, HEIGHT)
        assert records_from_json(records_to_json(row.records)) == row.records
        assert {record.image_id for record in row.records} == {row.image_id}
        assert len({record.model_dump_json() for record in row.records}) == len(row.records)


def test_objects_of_the_scene_are_listed_once(train: list[PanoramaRow]) -> None:
    for index, row in enumerate(train):
        first, *others = row.records
        assert not any(record.objects for record in others)
        scene = sample_scene(OPTIONS["seed"], split="train", index=index)
        assert first.metadata == {"scene": scene.kind}
        assert [(o.label, o.box_deg) for o in first.objects] == [(o.label, o.box_deg) for o in scene.objects]


def inside(box_deg: tuple[float, ...], margin_deg: float) -> np.ndarray:
    """Return which pixels of the panorama lie in a box with a margin added on each side."""
    yaw, pitch, width, height = (math.radians(value) for value in box_deg)
    columns = (torch.arange(2 * HEIGHT) + 0.5) / (2 * HEIGHT) * 2 * math.pi - math.pi
    rows = math.pi / 2 - (torch.arange(HEIGHT) + 0.5) / HEIGHT * math.pi
    rays = directions_to_rays(*torch.broadcast_tensors(columns[None], rows[:, None]))
    view = rotation(torch.tensor(yaw), torch.tensor(pitch), torch.tensor(0.0))
    x, y, z = torch.einsum("ij,hwi->hwj", view, rays).unbind(-1)
    half_x, half_y = (side / 2 + math.radians(margin_deg) for side in (width, height))
    found = (z > 0) & ((x / z).abs() <= math.tan(half_x)) & ((y / z).abs() <= math.tan(half_y))
    return found.numpy()


def test_masks_agree_with_boxes(train: list[PanoramaRow]) -> None:
    pixel_deg = 180 / HEIGHT
    filled = []
    for row in train:
        objects = row.records[0].objects
        masks = [
            coco.decode({"size": list(o.mask.size), "counts": o.mask.counts}).astype(bool) for o in objects if o.mask
        ]
        assert len(masks) == len(objects)
        assert np.stack(masks).sum(0).max() == 1
        for item, mask in zip(objects, masks, strict=True):
            assert mask.shape == (HEIGHT, 2 * HEIGHT)
            assert not (mask & ~inside(item.box_deg, pixel_deg)).any()
            filled.append(mask.sum() / inside(item.box_deg, 0).sum())
    assert min(filled) > 0.4
    assert 0.6 < np.mean(filled) < 0.95


def test_masks_survive_the_round_trip() -> None:
    mask = np.zeros((4, 8), dtype=bool)
    mask[1:3, [0, 7]] = True
    rle = encoded(mask)
    assert rle["size"] == [4, 8]
    assert (coco.decode(rle).astype(bool) == mask).all()


def test_a_training_question_has_one_language(train: list[PanoramaRow]) -> None:
    languages = Counter(record.conversations[0].language for record in dialogues(train))
    assert 0.22 < languages["ko"] / languages.total() < 0.38
    for record in dialogues(train):
        assert len({turn.language for turn in record.conversations}) == 1
    for share, wanted in ((0.0, {"en"}), (1.0, {"ko"})):
        row = world_row(0, split="train", **(OPTIONS | {"korean_share": share}))
        assert {record.conversations[0].language for record in row.records} == wanted


def test_a_test_question_has_both_languages(test_rows: list[PanoramaRow]) -> None:
    for row in test_rows:
        pairs = list(zip(row.records[::2], row.records[1::2], strict=True))
        for english, korean in pairs:
            assert english.conversations[0].language == "en"
            assert korean.conversations[0].language == "ko"
            for one, other in zip(english.conversations, korean.conversations, strict=True):
                assert (one.type, one.task) == (other.type, other.task)
                if one.task != "choice":
                    assert one.answer == other.answer
        kinds = Counter(english.conversations[0].type for english, _ in pairs)
        assert max(kinds.values()) == 1


def test_a_polar_world_has_only_questions_without_compass_directions() -> None:
    rows = [world_row(index, split="test", min_latitude_deg=60, **OPTIONS) for index in range(12)]
    for row in rows:
        assert records_from_json(records_to_json(row.records)) == row.records
        for item in row.records[0].objects:
            assert abs(item.box_deg[1]) >= 60
            mask = coco.decode({"size": list(item.mask.size), "counts": item.mask.counts}).astype(bool)
            assert mask.any()
            assert not (mask & ~inside(item.box_deg, 180 / HEIGHT)).any()
    types = {turn.type for record in dialogues(rows) for turn in record.conversations}
    compass = {"direction8", "relation", "turn", "dialogue_direction8", "dialogue_left", "dialogue_where"}
    assert types - {"nearest"} == {*GENERATORS} - compass - {"nearest"}


def test_every_question_type_occurs(train: list[PanoramaRow]) -> None:
    assert TRAIN_QUESTIONS.keys() == TEST_QUESTIONS.keys() == {*GENERATORS, "dialogue"}
    counts = Counter(turn.type for record in dialogues(train) for turn in record.conversations)
    assert counts.keys() == {*GENERATORS, "dialogue_direction8", "dialogue_left", "dialogue_where"}
    for row in train:
        found = Counter(record.conversations[0].type for record in row.records)
        assert all(found[kind] <= TRAIN_QUESTIONS[kind] for kind in GENERATORS)
