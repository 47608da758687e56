"""A turned draw is what a turned panorama would give: pixels, codes, masks, questions.

The panorama is painted with its own rays, so each pixel of a view says where it looked before the turn.
"""

from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from panollava import PanoLlavaImageProcessor, PanoLlavaProcessor
from panollava.corpus.masks import decoded, encoded
from panollava.corpus.patch_masks import patch_coverage
from panollava.corpus.records import Record
from panollava.corpus.rotation.panorama import Rotation, rotate_image
from panollava.corpus.rotation.rewording import placed_objects
from panollava.corpus.rotation.rotated_records import rotated_record
from panollava.corpus.wording import turn_json
from panollava.corpus.world.scenes import sample_scene
from panollava.corpus.world_questions import sample_dialogues
from panollava.training.augmentation import Augmentation, rotated_sample, yawed_views
from panollava.training.data import Collator, Draw, Draws
from panollava.vlm.geometry import erp_rays
from panollava.vlm.views import kept_tokens, view_poses, view_rays

HEIGHT, SIDE = 128, 32
TYPES = ("existence", "direction8", "relation", "pointing", "grounding", "detection", "dialogue")
TURNINGS = [Augmentation(8), Augmentation(500), Augmentation(1, 10.0), Augmentation(8, 10.0)]


def painted() -> Image.Image:
    """Return a panorama whose colours are its rays."""
    return Image.fromarray(((erp_rays(HEIGHT, 2 * HEIGHT) + 1) * 127.5).round().to(torch.uint8).numpy())


def records_of(index: int) -> list[Record]:
    """Return the records of a scene, its objects with box-shaped masks."""
    scene, rng = sample_scene(3, split="train", index=index), Random(index)
    objects = []
    for item in scene.objects:
        mask = np.zeros((HEIGHT, 2 * HEIGHT), dtype=bool)
        yaw, pitch, width, height = (round(v * HEIGHT / 180) for v in item.box_deg)
        rows = np.arange(HEIGHT // 2 - pitch - height // 2, HEIGHT // 2 - pitch + height // 2 + 1)
        columns = np.arange(HEIGHT + yaw - width // 2, HEIGHT + yaw + width // 2 + 1)
        mask[np.ix_(rows.clip(0, HEIGHT - 1), columns % (2 * HEIGHT))] = True
        objects.append({"label": item.label, "box_deg": list(item.box_deg), "mask": encoded(mask)})
    dialogues = sample_dialogues(scene, rng, per_type=dict.fromkeys(TYPES, 2))
    shared = {"image_id": f"p{index}", "image_path": f"p{index}.png"}
    return [
        Record.model_validate(
            shared
            | {"conversations": [turn_json(question, "en", rng) for question in dialogue]}
            | ({"objects": objects} if number == 0 else {})
        )
        for number, dialogue in enumerate(dialogues)
    ]


class Painted:
    """Panoramas that all look alike, with the records of different scenes."""

    def __init__(self, *, images: bool = True) -> None:
        self.images = images

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Draw:
        return Draw(painted() if self.images else None, records_of(index))


def processor_of(strategy: str, tokenizer: object, **views: object) -> PanoLlavaProcessor:
    white = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "size": {"height": SIDE, "width": SIDE}}
    images = PanoLlavaImageProcessor(view_strategy=strategy, stride_deg=90.0, **white, **views)
    return PanoLlavaProcessor.from_parts(images, tokenizer, tokens_per_side=2, context_length=4096)


def draws(augmentation: Augmentation, **changes: object) -> Draws:
    return Draws(Painted(**changes), seed=0, count=12, records=5, augmentation=augmentation)


@pytest.mark.parametrize("augmentation", TURNINGS, ids=str)
@pytest.mark.parametrize("strategy", ["e2p", "anyres_e2p", "anyres", "cubemap", "resize"])
def test_poses_say_where_views_look_in_the_turned_panorama(
    strategy: str, augmentation: Augmentation, tokenizer: object
) -> None:
    collator = Collator(processor_of(strategy, tokenizer))
    drawn = [draws(augmentation)[index] for index in range(3)]
    batch = collator(drawn)
    for draw, pixels, poses in zip(drawn, batch["pixel_values"], batch["view_poses"], strict=True):
        assert draw.rotation != Rotation() or augmentation.yaw_steps == 8
        looked = (pixels.permute(0, 2, 3, 1).double() * 2 - 1) @ draw.rotation.matrix.T
        apart = (looked - view_rays(poses, SIDE, SIDE)).norm(dim=-1)
        assert apart.median() < 0.03
        assert apart.mean() < 0.05  # at the poles of a small panorama rays blur


def test_a_roll_from_view_to_view_gives_the_batch_of_the_rolled_panorama(tokenizer: object) -> None:
    collator = Collator(processor_of("e2p", tokenizer, pitches_deg=[-30.0, 30.0]))
    for index in range(4):
        draw = draws(Augmentation(4))[index]
        rolled = rotate_image(painted(), draw.rotation)
        found, wanted = collator([draw]), collator([Draw(rolled, draw.records)])
        rays = [view_rays(batch["view_poses"], 3, 3) for batch in (found, wanted)]
        assert torch.allclose(*rays, atol=1e-6)
        assert torch.allclose(found["pixel_values"], wanted["pixel_values"], atol=1e-5)
        assert torch.equal(found["input_ids"], wanted["input_ids"])


@pytest.mark.parametrize("augmentation", [Augmentation(), *TURNINGS], ids=str)
def test_masks_turn_with_the_views(augmentation: Augmentation, tokenizer: object) -> None:
    collator, found = Collator(processor_of("anyres_e2p", tokenizer), patches=8), 0
    for draw in map(draws(augmentation).__getitem__, range(8)):
        batch = collator([draw])
        asked = [t.answer for r in draw.records for t in r.conversations if t.type == "grounding"]
        assert len(asked) == len(batch["mask_targets"])
        for answer, target in zip(asked, batch["mask_targets"], strict=True):
            (item,) = [item for item in draw.objects if item.box_deg == answer.box_deg]
            mask = Image.fromarray(decoded(item.mask).numpy().astype(np.uint8) * 255).convert("RGB")
            turned = torch.from_numpy(np.asarray(rotate_image(mask, draw.rotation))[..., 0] > 127)
            wanted = patch_coverage(turned, batch["view_poses"][0], 8, 8)
            assert (target - wanted).abs().mean() < 0.01
            assert float((target * wanted).sum()) > 0.7 * float(wanted.square().sum())
            found += 1
    assert found > 3


def test_records_are_told_of_the_turned_panorama() -> None:
    rotations = set()
    for index in range(12):
        draw = draws(Augmentation(8))[index]
        stored = next(r for r in map(records_of, range(6)) if r[0].image_id == draw.records[0].image_id)
        told = [rotated_record(record, draw.rotation, placed_objects(stored))[0] for record in stored]
        texts = [[t.model_dump() for t in record.conversations] for record in told if record is not None]
        rotations.add(draw.rotation)
        assert len(draw.records) == 5
        for record in draw.records:
            assert [t.model_dump() for t in record.conversations] in texts
    assert len(rotations) > 4


def test_without_augmentation_records_are_drawn_as_they_are() -> None:
    records = records_of(0)
    assert rotated_sample(records, 4, Rotation(), Random(5)) == Random(5).sample(records, 4)
    assert draws(Augmentation())[3].rotation == Rotation()


def test_a_panorama_of_which_no_record_can_be_turned_is_shown_as_it_is() -> None:
    plain = Record.model_validate(
        {
            "image_id": "p",
            "image_path": "p.png",
            "conversations": [{"human": "What is to the left?", "assistant": "a door"}],
        }
    )

    class Plain(Painted):
        def __getitem__(self, index: int) -> Draw:
            return Draw(None, [plain])

    for index in range(6):
        draw = Draws(Plain(), seed=0, count=6, records=5, augmentation=Augmentation(500))[index]
        assert draw.records == [plain]
        assert draw.rotation == Rotation()


def test_a_draw_is_a_function_of_its_index_and_needs_no_image() -> None:
    forwards = [draws(Augmentation(8, 5.0))[index] for index in range(12)]
    backwards = [draws(Augmentation(8, 5.0), images=False)[index] for index in reversed(range(12))]
    for one, other in zip(forwards, reversed(backwards), strict=True):
        assert one.rotation == other.rotation
        assert one.records == other.records


def test_views_keep_their_places_where_their_tokens_depend_on_each_other(tokenizer: object) -> None:
    processor = processor_of("e2p", tokenizer)
    processor.token_reduction = "unique"
    collator, drawn = Collator(processor), draws(Augmentation(8))[0]
    assert drawn.rotation.yaw_deg
    batch = collator([drawn])
    assert torch.equal(batch["pixel_values"], Collator(processor)([Draw(painted(), drawn.records)])["pixel_values"])
    kept = [kept_tokens(poses, 4, "unique") for poses in (collator.poses[0], batch["view_poses"][0])]
    assert torch.equal(*kept)


def test_views_take_the_places_of_those_where_they_come_to_look() -> None:
    poses = view_poses("anyres_e2p", stride_deg=45.0)
    order, rolled = yawed_views(poses, Rotation(135.0))
    assert order[0] == 0
    assert sorted(order.tolist()) == list(range(9))
    assert torch.allclose(_looks(rolled[1:]), _looks(poses[1:]), atol=1e-6)
    assert rolled[0, 0] == pytest.approx(np.radians(135.0))
    _, near = yawed_views(poses, Rotation(150.0))
    assert torch.all((_looks(near[1:]) * _looks(poses[1:])).sum(-1) > np.cos(np.radians(22.6)))


def _looks(poses: Tensor) -> Tensor:
    return view_rays(poses, 1, 1)[:, 0, 0]
