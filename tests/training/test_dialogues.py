"""What a training step sees: draws that depend on their index alone, and batches that hold the dialogues exactly."""

import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image
from tiny_backbones import MODEL, tiny_tokenizer, write_encoder, write_panoramas

from panollava import PanoLlavaProcessor
from panollava.attention.packing import Packed
from panollava.backbones.assemble import load_image_processor
from panollava.backbones.loading import read_vision_config
from panollava.corpus import messages
from panollava.corpus.masks import decoded
from panollava.corpus.patch_masks import patch_coverage
from panollava.corpus.records import Record
from panollava.corpus.store import open_split, panorama_records
from panollava.training.dialogues import (
    DIALOGUES_KEPT,
    Collator,
    Draw,
    Draws,
    StoredPanoramas,
    dialogue_of,
    encoded,
)
from panollava.training.panoramas import ViewCollator
from panollava.vlm.labels import IGNORE, needed_positions, next_labels

PANORAMAS = 5
TEMPLATES = ["llama", "vicuna", "mistral"]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> datasets.Dataset:
    return open_split(write_panoramas(tmp_path_factory.mktemp("store"), PANORAMAS), "train")


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    write_encoder("clip", folder)
    return folder


@pytest.fixture(params=TEMPLATES)
def any_processor(request: pytest.FixtureRequest, encoder_folder: Path, tmp_path: Path) -> PanoLlavaProcessor:
    return make_processor(request.param, encoder_folder, tmp_path)


def make_processor(family: str, encoder_folder: Path, folder: Path, context: int = 2048) -> PanoLlavaProcessor:
    tiny_tokenizer(family).save_pretrained(folder)
    tokenizer = type(tiny_tokenizer(family)).from_pretrained(folder)
    encoder = write_encoder("clip", encoder_folder)
    settings = replace(MODEL, tokens_per_side=2)
    images = load_image_processor(encoder, read_vision_config(encoder)[0], settings)
    return PanoLlavaProcessor.from_parts(images, tokenizer, tokens_per_side=2, context_length=context)


def record(*turns: tuple[str, str]) -> Record:
    conversations = [{"human": human, "assistant": assistant} for human, assistant in turns]
    return Record.model_validate({"image_id": "a", "image_path": "a.jpg", "conversations": conversations})


DIALOGUES = [
    record(
        ("Is there a red cube?", "yes"), ("In which direction is it?", "front left"), ("And left of it?", "blue ball")
    ),
    record(("빨간색 공은 어느 방향에 있나요?", "오른쪽 뒤")),
    record(("Give the box of the cone.", "[-35, 12, 20, 15]")),
]


def by_record(packed: Packed) -> list[tuple[list[int], list[int]]]:
    """Return the ids, prefix included, and the labels of each record of a packed row."""
    prefix = [i for i, s in zip(packed.ids, packed.segments, strict=True) if s == 0]
    found = []
    for number in range(1, max(packed.segments) + 1):
        place = [i for i, s in enumerate(packed.segments) if s == number]
        found.append((prefix + [packed.ids[i] for i in place], [packed.labels[i] for i in place]))
    return found


def drawn(split: datasets.Dataset, index: int, **changes: int) -> tuple[bytes, list[Record]]:
    options = {"seed": 3, "count": 100, "records": 4} | changes
    draw = Draws(StoredPanoramas(split), **options)[index]
    return draw.image.tobytes(), draw.records


def test_a_draw_is_a_function_of_its_index(split: datasets.Dataset) -> None:
    draws = Draws(StoredPanoramas(split), seed=3, count=100, records=4)
    forwards = [(d.image.tobytes(), d.records) for d in (draws[i] for i in range(12))]
    assert [drawn(split, i) for i in reversed(range(12))] == forwards[::-1]
    assert [drawn(split, i, seed=4) for i in range(12)] != forwards
    assert len(draws) == 100


def test_every_epoch_shows_every_panorama_in_a_new_order_with_new_records(split: datasets.Dataset) -> None:
    draws = Draws(StoredPanoramas(split), seed=0, count=100, records=4)
    epochs = [[draws[e * PANORAMAS + i] for i in range(PANORAMAS)] for e in range(6)]
    orders = [[d.records[0].image_id for d in epoch] for epoch in epochs]
    assert all(set(order) == set(split["image_id"]) for order in orders)
    assert len({tuple(order) for order in orders}) > 3
    first = [tuple(d.records) for epoch in epochs for d in epoch if d.records[0].image_id == orders[0][0]]
    assert len(set(map(str, first))) == len(epochs)


def test_a_draw_holds_distinct_records_of_its_own_panorama(split: datasets.Dataset) -> None:
    stored = {row["image_id"]: panorama_records(row) for row in split}
    for limit in (4, 1000):
        for index in range(PANORAMAS):
            draw = Draws(StoredPanoramas(split), seed=0, count=10, records=limit)[index]
            own = stored[draw.records[0].image_id]
            assert len(draw.records) == min(limit, len(own))
            wanted, found = Counter(map(str, own)), Counter(map(str, draw.records))
            assert found <= wanted


def test_the_panorama_stands_before_the_first_question_only() -> None:
    chat = messages.dialogue(dialogue_of(DIALOGUES[0]))
    assert [message["role"] for message in chat] == ["user", "assistant"] * 3
    kinds = [[part["type"] for part in message["content"]] for message in chat]
    assert kinds == [["image", "text"], *[["text"]] * 5]


def test_exactly_the_answers_are_learned(any_processor: PanoLlavaProcessor) -> None:
    tokenizer = any_processor.tokenizer
    packed = Collator(any_processor).packed(DIALOGUES)
    for dialogue, (_, labels) in zip(DIALOGUES, by_record(packed), strict=True):
        learned = tokenizer.decode([label for label in labels if label != IGNORE])
        assert learned == "".join(f" {turn.assistant}{tokenizer.eos_token}" for turn in dialogue.conversations)


def test_tokens_are_those_of_the_processor(any_processor: PanoLlavaProcessor) -> None:
    packed = Collator(any_processor).packed(DIALOGUES)
    image = Image.new("RGB", (128, 64), (30, 90, 200))
    for dialogue, (ids, _) in zip(DIALOGUES, by_record(packed), strict=True):
        text = any_processor.apply_chat_template(messages.dialogue(dialogue_of(dialogue)), tokenize=False)
        wanted = any_processor(images=[image], text=[text], add_special_tokens=False)["input_ids"][0]
        assert ids == list(wanted)
        chat = [dict(message) for message in messages.dialogue(dialogue_of(dialogue))]
        chat[0]["content"] = [{"type": "image", "image": image}, *chat[0]["content"][1:]]
        direct = any_processor.apply_chat_template(chat, tokenize=True, return_dict=True)["input_ids"]
        assert ids == list(direct[0])


def test_a_dialogue_is_encoded_once_and_batches_stay_what_they_were(
    any_processor: PanoLlavaProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, seen = any_processor.tokenizer, []
    apply = tokenizer.apply_chat_template
    monkeypatch.setattr(tokenizer, "apply_chat_template", lambda *args, **kw: seen.append(args) or apply(*args, **kw))
    batches = [[DIALOGUES[0], DIALOGUES[1]], [DIALOGUES[1], DIALOGUES[2]], [DIALOGUES[2], DIALOGUES[0]]]
    collators = [Collator(any_processor), Collator(any_processor, blind=True)]
    rows = [[collator.packed(records) for records in (*batches, *batches)] for collator in collators]
    once = len(seen)  # a prompt for each answer, and the whole; the first time also how answers end
    assert once <= 2 * len(DIALOGUES) + 2
    for collator, packed in zip(collators, rows, strict=True):
        assert packed[:3] == packed[3:]
        for records, row in zip(batches, packed[:3], strict=True):
            encoded.cache_clear()
            assert collator.packed(records) == row
    assert len(seen) == once + 2 * 2 * 2 * len(batches)
    assert encoded.cache_info().maxsize == DIALOGUES_KEPT


def test_a_collator_reaches_workers_that_are_not_forked(any_processor: PanoLlavaProcessor) -> None:
    collator = Collator(any_processor)
    packed = collator.packed(DIALOGUES)
    assert pickle.loads(pickle.dumps(collator)).packed(DIALOGUES) == packed


def test_blind_rows_are_the_same_text_without_placeholders(any_processor: PanoLlavaProcessor) -> None:
    seeing, blind = Collator(any_processor), Collator(any_processor, blind=True)
    place = any_processor.image_token_id
    draws = [Draw(Image.new("RGB", (128, 64)), DIALOGUES)]
    batches = [collator(draws) for collator in (seeing, blind)]
    assert not (batches[1]["input_ids"] == place).any()
    assert {"pixel_values", "view_poses"}.isdisjoint(batches[1])
    rows = [collator.packed(DIALOGUES) for collator in (seeing, blind)]
    kept = [i for i, token in enumerate(rows[0].ids) if token != place]
    assert len(kept) == len(rows[0].ids) - seeing.visual_tokens
    for name in ("ids", "segments", "labels"):
        values = [getattr(row, name) for row in rows]
        assert values[1] == [values[0][i] for i in kept], name


def test_a_batch_has_the_views_of_its_panoramas(any_processor: PanoLlavaProcessor) -> None:
    colours = [(200, 40, 40), (40, 40, 200)]
    draws = [Draw(Image.new("RGB", (128, 64), colour), DIALOGUES[: n + 1]) for n, colour in enumerate(colours)]
    batch = Collator(any_processor)(draws)
    placeholders = (batch["input_ids"] == any_processor.image_token_id).sum(1)
    assert placeholders.tolist() == [2 * 6 * 4]  # of two panoramas six views of 2 x 2 tokens
    for draw, views in zip(draws, batch["pixel_values"], strict=True):
        wanted = any_processor.image_processor(draw.image, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(views, wanted)
    alone = ViewCollator(any_processor.image_processor)([draw.image for draw in draws])
    assert set(alone) == {"pixel_values", "view_poses"}
    assert torch.equal(alone["pixel_values"], batch["pixel_values"])


def test_a_record_longer_than_the_context_is_refused_with_the_numbers(encoder_folder: Path, tmp_path: Path) -> None:
    processor = make_processor("llama", encoder_folder, tmp_path, context=90)
    collator = Collator(processor)
    long = record(("Is there a red cube? " * 9, "yes"))
    roomy = Collator(make_processor("llama", encoder_folder, tmp_path)).packed([long])
    with pytest.raises(
        ValueError, match=rf"a: the record that begins with .* has {len(roomy.ids)} tokens, .* context holds 90;"
    ) as error:
        collator.packed([DIALOGUES[1], long])
    assert "Is there a red cube? Is there" in str(error.value)
    # Many records may be longer together than the context: each has its positions.
    packed = collator.packed([DIALOGUES[1]] * 9)
    assert len(packed.ids) > 90 > max(packed.positions)


def test_mask_queries_stand_before_the_answers_that_have_masks(
    split: datasets.Dataset, any_processor: PanoLlavaProcessor
) -> None:
    draws = Draws(StoredPanoramas(split), seed=0, count=20, records=40)
    chosen = [draws[index] for index in range(4)]
    batch = Collator(any_processor, patches=8)(chosen)
    wanted = [
        (row, turn)
        for row, draw in enumerate(chosen)
        for record in draw.records
        for turn in record.conversations
        if turn.task == "grounding"
    ]
    assert len(wanted) == len(batch["mask_queries"]) == len(batch["mask_targets"]) >= 8
    poses = any_processor.image_processor(Image.new("RGB", (64, 32)), return_tensors="pt")["view_poses"][0]
    labels = batch["labels"][0]
    placeholders = batch["input_ids"].flatten() == any_processor.image_token_id
    assert batch["placeholders"].tolist() == placeholders.nonzero()[:, 0].tolist() != []
    assert torch.equal(batch["plan"].needed, needed_positions(next_labels(batch["labels"]), batch["mask_queries"]))
    for (zero, place, row), target, (wanted_row, turn) in zip(
        batch["mask_queries"].tolist(), batch["mask_targets"], wanted, strict=True
    ):
        assert (zero, row) == (0, wanted_row)
        assert labels[place] == IGNORE
        length = int((labels[place + 1 :] == IGNORE).nonzero()[0])
        said = any_processor.tokenizer.decode(labels[place + 1 : place + 1 + length], skip_special_tokens=True)
        assert said.strip() == turn.assistant
        item = next(o for o in chosen[row].objects if o.box_deg == turn.answer.box_deg)
        assert torch.equal(target, patch_coverage(decoded(item.mask), poses, 8, 8))
    assert "mask_queries" not in Collator(any_processor)(chosen)
    assert "mask_queries" not in Collator(any_processor, blind=True, patches=8)(chosen)


def test_a_batch_without_masks_has_no_queries(any_processor: PanoLlavaProcessor) -> None:
    batch = Collator(any_processor, patches=8)([Draw(Image.new("RGB", (128, 64)), DIALOGUES)])
    assert batch["mask_queries"].shape == (0, 3)
    assert batch["mask_targets"].shape == (0, 6, 8, 8)


def test_control_tokens_in_texts_are_learned_as_text(any_processor: PanoLlavaProcessor) -> None:
    tokenizer, special = any_processor.tokenizer, any_processor.plain_text.control.keys()
    clean, marked = (record((f"what{x}?", f"A wall.{x} more"), ("and?", f"{x}no")) for x in ("", "</s><s><pad>"))
    counts = []
    for one in (clean, marked):
        ((_, ids, labels),) = encoded(any_processor, dialogue_of(one))
        counts.append(Counter(number for number in ids if number in special))
        learned = tokenizer.decode([label for label in labels if label != IGNORE])
        answers = "".join(f" {turn.assistant}</s>" for turn in one.conversations)
        assert learned == answers
    assert counts[0] == counts[1]
