"""Features of the frozen encoder: what is kept equals what is computed, and any change means other features."""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from damage import HARMS
from full_disk import full_disk
from tiny_backbones import MODEL, write_panoramas, write_parts

from panollava.attention.plan import use_plans
from panollava.backbones.assemble import assemble
from panollava.corpus.store import open_split
from panollava.training import features
from panollava.training.dialogues import Collator, Draws, StoredPanoramas
from panollava.training.features import frozen_features

PANORAMAS = 5


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    # Views that are not the default ones: what is kept must come with the poses of these.
    settings = replace(MODEL, views=replace(MODEL.views, pitches_deg=(-20,), roll_deg=10))
    model, processor = assemble(write_parts("clip", "llama", tmp_path / "parts"), settings, dtype=torch.float32)
    split = open_split(write_panoramas(tmp_path / "store", PANORAMAS), "train")
    yield SimpleNamespace(
        model=model.eval(), processor=processor, split=split, folder=tmp_path / ".scratch" / "features"
    )


def kept(made: SimpleNamespace, **changes: Any) -> torch.Tensor | None:
    options = {"uses": PANORAMAS} | changes
    return frozen_features(made.model, made.processor.image_processor, made.split, **options)


def files(made: SimpleNamespace) -> set[Path]:
    return set(made.folder.glob("*.bin"))


def test_a_batch_with_kept_features_has_the_loss_and_gradients_of_one_with_views(made: SimpleNamespace) -> None:
    grids = kept(made)
    assert grids is not None
    losses, gradients = [], []
    for options in ({}, {"grids": grids}):
        draws = Draws(StoredPanoramas(made.split, **options), seed=1, count=20, records=3)
        batch = Collator(made.processor)([draws[index] for index in (0, 3, 11)])
        assert ("patch_grids" in batch) == bool(options)
        assert ("pixel_values" in batch) != bool(options)
        use_plans(made.model.model.language_model)
        loss = made.model(**batch).loss
        made.model.zero_grad()
        loss.backward()
        losses.append(loss.item())
        gradients.append({n: p.grad.clone() for n, p in made.model.model.resampler.named_parameters()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-4, atol=1e-6), name


def test_they_are_computed_once(made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kept(made)
    encode = features._encode
    seen: list[int] = []

    def watched(model: Any, image_processor: Any, split: Any, start: int, end: int) -> torch.Tensor:
        seen.append(end - start)
        return encode(model, image_processor, split, start, end)

    monkeypatch.setattr(features, "_encode", watched)
    assert torch.equal(kept(made, uses=1), first)  # they lie there already, so even one use takes them
    assert seen == [1]  # the look at the shape


def test_other_weights_views_or_panoramas_have_files_of_their_own(made: SimpleNamespace, tmp_path: Path) -> None:
    kept(made)
    with torch.no_grad():
        next(made.model.model.vision_tower.parameters()).add_(0.1)
    kept(made)
    made.processor.image_processor.views = asdict(replace(MODEL.views, fov_deg=80))
    kept(made)
    made.split = open_split(write_panoramas(tmp_path / "other", PANORAMAS, split="test"), "test")
    last = kept(made)
    assert len(files(made)) == 4
    for index in range(PANORAMAS):
        views = made.processor.image_processor(made.split[index]["image"], return_tensors="pt")["pixel_values"]
        assert torch.allclose(last[index], made.model.model.encode_views(views)[0], atol=1e-5)


def test_nothing_is_kept_where_it_does_not_pay(made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept(made, uses=(PANORAMAS - 1) // 2) is None
    monkeypatch.setattr(features, "LIMIT_BYTES", 1000)
    assert kept(made) is None
    assert not files(made)


def test_the_oldest_make_room(made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(made)
    (first,) = files(made)
    os.utime(first, (0, 0))
    size = first.stat().st_size
    monkeypatch.setattr(features, "LIMIT_BYTES", 2 * size)
    for number in range(2):
        with torch.no_grad():
            next(made.model.model.vision_tower.parameters()).add_(0.1)
        kept(made)
        assert len(files(made)) == 2
        assert (first in files(made)) == (number == 0)


def test_a_killed_computation_leaves_no_file(made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, calls = features._encode, []

    def dying(*args: Any) -> torch.Tensor:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(*args)

    monkeypatch.setattr(features, "_encode", dying)
    with pytest.raises(KeyboardInterrupt):
        kept(made)
    assert not files(made)
    assert [path.name for path in made.folder.iterdir()] == ["lock"]
    assert kept(made) is not None


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_file_is_computed_again(
    made: SimpleNamespace, capsys: pytest.CaptureFixture, harm: Callable[[Path], None]
) -> None:
    kept(made)
    (file,) = files(made)
    whole = file.read_bytes()
    harm(file)
    kept(made)
    assert file.read_bytes() == whole
    assert (f"{file} is damaged" in capsys.readouterr().out) == (harm is not Path.unlink)


def test_what_killed_computations_left_is_removed(made: SimpleNamespace) -> None:
    made.folder.mkdir(parents=True)
    (made.folder / ".0123456789abcdef.bin.4711.tmp").write_bytes(b"of version 0.9")
    left = made.folder / ".panollava-killed.tmp"
    left.mkdir()
    (left / "content").write_bytes(b"half of the grids")
    kept(made)
    (file,) = files(made)
    assert sorted(path.name for path in made.folder.iterdir()) == sorted([file.name, "lock"])


def test_a_full_disk_names_the_file_and_leaves_nothing(made: SimpleNamespace) -> None:
    with full_disk(1000), pytest.raises(OSError, match=r"nothing was written: .*\.bin"):
        kept(made)
    assert [path.name for path in made.folder.iterdir()] == ["lock"]
    assert kept(made) is not None
