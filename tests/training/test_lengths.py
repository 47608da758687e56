"""Steps sorted by length see the same panoramas, waste less padding, and train to the same losses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from in_processes import ACCUMULATED, SETTINGS
from tiny_backbones import write_panoramas, write_parts

from panollava.backbones.assemble import Parts, assemble
from panollava.corpus.store import open_split
from panollava.training import stages
from panollava.training.data import Collator, Draw, Draws, StoredPanoramas
from panollava.training.lengths import ByLength

STEP, BATCH, STEPS = 8, 2, 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_panoramas(tmp_path_factory.mktemp("store"), 12)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return write_parts("clip", "llama", tmp_path_factory.mktemp("backbones"))


@pytest.fixture(scope="module")
def collator(parts: Parts) -> Collator:
    _, processor = assemble(parts, **SETTINGS["settings"], dtype=torch.float32)
    return Collator(processor, blind=True)


def both(store: Path, collator: Collator) -> tuple[Draws, ByLength]:
    """Return draws as they come, and sorted."""
    split = open_split(store, "train")
    draws, texts = (
        Draws(StoredPanoramas(split, images=images), seed=0, count=STEPS * STEP, records=4) for images in (True, False)
    )
    return draws, ByLength(draws, texts, panoramas=STEP, length=collator.length)


def content(draw: Draw) -> tuple[bytes, str]:
    assert draw.image is not None
    return draw.image.tobytes(), str(draw.records)


def test_every_step_sees_what_it_would_see_anyway_the_longest_first(store: Path, collator: Collator) -> None:
    plain, ordered = both(store, collator)
    assert len(ordered) == len(plain)
    moved = 0
    for start in range(0, len(plain), STEP):
        wanted = [content(plain[start + place]) for place in range(STEP)]
        found = [content(ordered[start + place]) for place in range(STEP)]
        assert sorted(found) == sorted(wanted)
        moved += found != wanted
        lengths = [collator.length(ordered[start + place].records) for place in range(STEP)]
        assert lengths == sorted(lengths, reverse=True)
    assert moved == STEPS


def test_a_place_in_the_order_is_a_function_of_its_index(store: Path, collator: Collator) -> None:
    (_, forwards), (_, backwards) = both(store, collator), both(store, collator)
    wanted = [content(forwards[index]) for index in range(len(forwards))]
    assert [content(backwards[index]) for index in reversed(range(len(backwards)))] == wanted[::-1]


def test_batches_hold_less_padding(store: Path, collator: Collator) -> None:
    shares = []
    for draws in both(store, collator):
        batches = [collator([draws[at], draws[at + 1]])["layout"]["mask"] for at in range(0, len(draws), BATCH)]
        lengths = [collator.length(draws[at].records) for at in range(len(draws))]
        shares.append(sum(lengths) / sum(mask.shape[0] * mask.shape[-1] for mask in batches))
    assert shares[1] > shares[0] + 0.02


def test_steps_have_the_losses_and_gradients_of_unsorted_ones(parts: Parts, store: Path, tmp_path: Path) -> None:
    recipe = replace(ACCUMULATED, batch_size=2, accumulation=3, sort_by_length=False)
    untrained = replace(recipe, overlap=("vicreg", "none"))
    folders = (parts.encoder, store, tmp_path / "vision", tmp_path / "ckpt")
    stages.train_vision(*folders, recipe=untrained, blocks=1, **SETTINGS)
    plain, ordered = (
        stages.train_resampler(
            parts, store, tmp_path / "vision", tmp_path / name, tmp_path / f"{name}.ckpt",
            recipe=replace(recipe, sort_by_length=name == "sorted"), records=4, **SETTINGS,
        ).history
        for name in ("plain", "sorted")
    )  # fmt: skip
    for one, other in zip(plain, ordered, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
