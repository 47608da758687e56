"""Training of the stand-in encoders: phrases and captions are right, and a tiny run works."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_backbones import MODEL
from torch import Tensor

from panollava.backbones.assemble import load_image_processor
from panollava.backbones.loading import load_encoder
from panollava.backbones.presets import resolve
from panollava.backbones.standins import captioned_views
from panollava.backbones.standins import encoders as standin_encoders
from panollava.backbones.standins.captioned_views import (
    EXTENTS_DEG,
    Panoramas,
    Vocabulary,
    captions,
    cut_views,
    patch_phrases,
    random_poses,
    render_panoramas,
)
from panollava.backbones.standins.encoders import FEATURE_LAYER, train_standin_encoder
from panollava.corpus.world.scenes import COLOURS, SHAPES, SceneObject, background_names, sample_scene
from panollava.vlm.geometry import directions_to_rays
from panollava.vlm.views import PINHOLE, project

SEED, COUNT, SIZE, GRID = 5, 9, 120, 12
FAMILIES = ["clip", "dinov2", "siglip"]


@pytest.fixture(scope="module")
def data() -> Panoramas:
    return render_panoramas(SEED, COUNT)


@pytest.fixture(scope="module")
def words(data: Panoramas) -> Vocabulary:
    return Vocabulary(data.surface_words)


def looking_at(item: SceneObject, fov_deg: float) -> Tensor:
    fov = math.radians(fov_deg)
    return torch.tensor([[*item.box[:2], 0.0, fov, fov, PINHOLE]])


def objects(index: int) -> tuple[SceneObject, ...]:
    return sample_scene(SEED, split=captioned_views.SPLIT, index=index).objects


def test_no_panorama_belongs_to_a_split_of_the_pipeline(data: Panoramas) -> None:
    assert captioned_views.SPLIT not in ("train", "validation", "test", "text")
    assert data.images.shape == (COUNT, 3, 256, 512)
    for index in range(COUNT):
        kinds = [COLOURS.index(o.colour) * len(SHAPES) + SHAPES.index(o.shape) for o in objects(index)]
        assert data.kinds[index].tolist() == kinds + [-1] * (8 - len(kinds))
        names = background_names(sample_scene(SEED, split=captioned_views.SPLIT, index=index))
        surfaces = [data.surface_words[number] for number in data.surfaces[index]]
        assert surfaces == [names["ground"], names["walls"], names["above"]]


def test_a_patch_is_named_after_the_object_that_covers_it(data: Panoramas, words: Vocabulary) -> None:
    for index in range(COUNT):
        for number, item in enumerate(objects(index)):
            pose = looking_at(item, 40)
            _, labels = cut_views(data, torch.tensor([index]), pose, SIZE)
            phrase, extent, is_object = patch_phrases(data, torch.tensor([index]), pose, labels, GRID)
            covered = (labels.view(1, GRID, SIZE // GRID, GRID, SIZE // GRID) == number).float().mean((2, 4))[0]
            inside = (covered > 0.6).nonzero().tolist()
            assert inside, item
            nearest = [min(EXTENTS_DEG, key=lambda e: abs(math.log(e / side))) for side in item.box_deg[2:]]
            for row, column in inside:
                assert is_object[0, row, column]
                assert words.phrases[int(phrase[0, row, column])].endswith(f" of {item.label}")
                assert words.extents[int(extent[0, row, column])] == "{} wide {} high".format(*nearest)
            row_name, column_name = (
                words.phrases[int(phrase[0, inside[0][0], inside[0][1]])].split(" of ")[0].split(" ", 1)
            )
            assert row_name in captioned_views.PART_ROWS
            assert column_name in captioned_views.PART_COLUMNS


def test_parts_of_an_object_are_where_the_phrase_says(data: Panoramas, words: Vocabulary) -> None:
    index, number = max(
        ((i, n) for i in range(COUNT) for n in range(len(objects(i)))), key=lambda at: objects(at[0])[at[1]].box_deg[2]
    )
    pose = looking_at(objects(index)[number], 50)
    _, labels = cut_views(data, torch.tensor([index]), pose, SIZE)
    phrase, _, _ = patch_phrases(data, torch.tensor([index]), pose, labels, GRID)
    own = (labels.view(1, GRID, SIZE // GRID, GRID, SIZE // GRID) == number).float().mean((2, 4))[0] > 0.9
    patches = {}
    for r, c in own.nonzero().tolist():
        row, column = words.phrases[int(phrase[0, r, c])].split(" of ")[0].split(" ", 1)
        patches[row, column] = (r, c)
    assert len(patches) >= 9
    for (row, column), (r, c) in patches.items():
        assert (row in ("top", "upper")) <= (r < GRID / 2)
        assert (row in ("lower", "bottom")) <= (r >= GRID / 2)
        assert (column in ("far left", "left")) <= (c < GRID / 2)
        assert (column in ("right", "far right")) <= (c >= GRID / 2)


def test_surfaces_are_named(data: Panoramas, words: Vocabulary) -> None:
    fov = math.radians(60)
    for index in range(COUNT):
        names = background_names(sample_scene(SEED, split=captioned_views.SPLIT, index=index))
        for pitch_deg, surface in ((-89, "ground"), (89, "above")):
            pose = torch.tensor([[0.0, math.radians(pitch_deg), 0.0, fov, fov, PINHOLE]])
            _, labels = cut_views(data, torch.tensor([index]), pose, SIZE)
            phrase, _, is_object = patch_phrases(data, torch.tensor([index]), pose, labels, GRID)
            covered = (labels.view(1, GRID, SIZE // GRID, GRID, SIZE // GRID) == (-1 if pitch_deg < 0 else -3)).float()
            for row, column in (covered.mean((2, 4))[0] > 0.9).nonzero().tolist():
                assert not is_object[0, row, column]
                assert words.phrases[int(phrase[0, row, column])] == names[surface]


def test_captions_name_visible_objects_by_size(data: Panoramas, words: Vocabulary) -> None:
    generator = torch.Generator().manual_seed(0)
    which = torch.arange(COUNT).repeat(6)
    poses = random_poses(data, which, generator)
    _, labels = cut_views(data, which, poses, SIZE)
    names = {number: word for word, number in words.ids.items()}
    for view, ids in enumerate(captions(data, which, poses, labels, words)):
        text = [names[int(number)] for number in ids]
        end = text.index("<end>")
        assert set(text[end + 1 :]) <= {"<pad>"}
        named = [text[start : start + 5] for start in range(0, end, 5)]
        scene = objects(int(which[view]))
        area = {number: int((labels[view] == number).sum()) for number in range(len(scene))}
        seen = sorted((n for n in area if area[n]), key=lambda n: -area[n])
        assert len(named) == min(4, len(seen))
        sizes = [max(area[n] for n in area if f"{scene[n].colour} {scene[n].shape}" == " ".join(t[1:3])) for t in named]
        assert sizes == sorted(sizes, reverse=True)
        for (_, colour, shape, row, column), number in zip(named, seen, strict=False):
            if list(area.values()).count(area[number]) > 1:
                continue
            assert f"{colour} {shape}" == scene[number].label
            x, y, _ = project(directions_to_rays(*torch.tensor(scene[number].box[:2])), poses[view])
            assert row == captioned_views.ROWS[0 if y > 1 / 3 else 2 if y <= -1 / 3 else 1]
            assert column == captioned_views.COLUMNS[0 if x <= -1 / 3 else 2 if x > 1 / 3 else 1]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the encoders one eighth as wide, and the probe short."""
    for name in ("VISION", "SHAPE"):
        small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        small |= {"intermediate_size": 32} if name == "VISION" else {}
        monkeypatch.setattr(standin_encoders, name, getattr(standin_encoders, name) | small)
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    monkeypatch.setattr(standin_encoders, "TEXT", standin_encoders.TEXT | text)
    probe = standin_encoders.probe
    monkeypatch.setattr(standin_encoders, "probe", lambda *args: probe(*args, views=40))


@pytest.mark.parametrize("family", FAMILIES)
def test_training_writes_a_checkpoint_that_loads(
    tiny: None, data: Panoramas, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, family: str
) -> None:
    monkeypatch.setattr(standin_encoders, "render_panoramas", lambda *args, **kwargs: data)
    if family == "dinov2":
        monkeypatch.setattr(standin_encoders, "_head", narrow_head)
    before = torch.get_rng_state()
    train_standin_encoder(family, tmp_path, steps=3, batch=6, panoramas=COUNT, workers=1, device="cpu")
    torch.set_rng_state(before)
    card = json.loads((tmp_path / "card.json").read_text("utf-8"))
    assert math.isfinite(card["final_loss"])
    assert {"colour", "shape", "colour_chance", "shape_chance"} == set(card["linear_probe"])
    backbone = resolve(family, str(tmp_path), feature_layer=FEATURE_LAYER[family])
    encoder = load_encoder(backbone, torch.float32)
    assert all(torch.isfinite(value).all() for value in encoder.state_dict().values())
    states = encoder(pixel_values=torch.randn(1, 3, SIZE, SIZE), output_hidden_states=True).hidden_states
    assert states[-1].shape[1] in (GRID * GRID, GRID * GRID + 1)
    processor: Any = load_image_processor(backbone, encoder.config, MODEL)
    assert list(processor.image_mean) == [standin_encoders.MEAN] * 3


def narrow_head(prototypes: int) -> torch.nn.Module:
    return torch.nn.Linear(32, 16)
