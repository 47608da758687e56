"""Packing many records behind one panorama computes exactly what each record computes alone."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
import torch
from torch import Tensor

from panollava import PanoLlavaForConditionalGeneration
from panollava.attention.packing import Packed, flatten, flattened_offsets, pack
from panollava.attention.plan import IMPLEMENTATION
from panollava.attention.stacking import packed_mask, stack
from panollava.vlm.labels import IGNORE

Make = Callable[..., PanoLlavaForConditionalGeneration]
Record = tuple[list[int], list[int]]
PLACEHOLDERS, PAD = 20, 2
# None: no window; 12: shorter than the panorama, so a record does not even see the whole prefix.
WINDOWS = [("llama", None), ("mistral", None), ("mistral", 12)]


def record(rng: Random, length: int, answers: int) -> Record:
    """Return a record whose last `answers` tokens are to be learned, and one in its middle."""
    ids = [rng.randrange(3, 300) for _ in range(length)]
    labels = [IGNORE] * (length - answers) + ids[length - answers :]
    labels[length // 2] = ids[length // 2]
    return ids, labels


@pytest.fixture
def prefix() -> list[int]:
    return [0, 7, *[300] * PLACEHOLDERS]


@pytest.fixture
def records() -> list[list[Record]]:
    rng = Random(0)
    return [
        [record(rng, length, answers) for length, answers in row]
        for row in (((9, 3), (17, 5), (40, 8), (16, 1)), ((33, 4), (6, 2)))
    ]


@pytest.fixture
def views() -> dict[str, Tensor]:
    poses = torch.zeros(2, 5, 6)
    poses[..., 0], poses[..., 3:5] = torch.arange(5), 1.5
    return {"pixel_values": torch.randn(2, 5, 3, 32, 32), "view_poses": poses}


def windowed(make_config: Callable, language: str, window: int | None) -> PanoLlavaForConditionalGeneration:
    config = make_config(language=language)
    config.text_config.sliding_window = window
    if window is None and language == "llama":
        del config.text_config.sliding_window
    torch.manual_seed(1)
    model = PanoLlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, weight in model.model.language_model.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                weight.mul_(8)  # attention that attends to something
    return model


def inputs(rows: list[Packed], attention: str, window: int | None) -> dict:
    if attention == IMPLEMENTATION:
        return flatten(rows, PAD)
    batch = stack(rows, PAD)
    segments = batch.pop("segments")
    return batch | {"attention_mask": packed_mask(segments, batch["position_ids"], window)}


def gradients(model: PanoLlavaForConditionalGeneration) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize(("language", "window"), WINDOWS)
@pytest.mark.parametrize("attention", ["sdpa", IMPLEMENTATION])
def test_packed_rows_have_the_loss_and_gradients_of_separate_records(
    make_config: Callable, prefix, records, views, attention: str, language: str, window: int | None
) -> None:
    model = windowed(make_config, language, window)
    model.model.language_model.set_attn_implementation("sdpa")
    total, targets = torch.zeros(()), 0
    for panorama, row in enumerate(records):
        for ids, labels in row:
            alone = {
                "input_ids": torch.tensor([prefix + ids]),
                "labels": torch.tensor([[IGNORE] * len(prefix) + labels]),
            }
            alone["labels"][0, len(prefix)] = IGNORE  # the first token of a record is nobody's target
            here = {name: value[panorama : panorama + 1] for name, value in views.items()}
            count = int((alone["labels"] != IGNORE).sum())
            total, targets = total + model(**alone, **here).loss * count, targets + count
    (total / targets).backward()
    wanted = gradients(model)

    model.model.language_model.set_attn_implementation(attention)
    batch = inputs([pack(prefix, row) for row in records], attention, window)
    loss = model(**batch, **views).loss
    loss.backward()
    found = gradients(model)
    assert torch.allclose(loss, total / targets, rtol=1e-5)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        scale = gradient.abs().max() + 1e-5  # that of a bias of keys is nothing but rounding
        assert (found[name] - gradient).abs().max() < 2e-4 * scale, name
    assert max(g.abs().max() for n, g in found.items() if "vision_tower" in n) > 0


@pytest.mark.parametrize(("language", "window"), WINDOWS)
def test_records_of_no_panorama_have_the_loss_and_gradients_that_they_have_alone(
    make_config: Callable, prefix, records, views, language: str, window: int | None
) -> None:
    model = windowed(make_config, language, window)
    texts, total, targets = records[1] + records[0][:2], torch.zeros(()), 0
    model.model.language_model.set_attn_implementation("sdpa")
    for ids, labels in texts:
        alone = {"input_ids": torch.tensor([ids]), "labels": torch.tensor([[IGNORE, *labels[1:]]])}
        count = int((alone["labels"] != IGNORE).sum())
        total, targets = total + model(**alone).loss * count, targets + count
    model.model.language_model.set_attn_implementation(IMPLEMENTATION)
    rows = [pack(prefix, row) for row in records]
    seen = flatten(rows, PAD)
    count = int((seen["labels"] != IGNORE).sum())
    total, targets = total + model(**seen, **views).loss * count, targets + count
    (total / targets).backward()
    wanted = gradients(model)

    batch = flatten(rows, PAD, texts=pack([], texts))
    assert batch["plan"].texts == sum(len(ids) for ids, _ in texts)
    loss = model(**batch, **views).loss
    loss.backward()
    found = gradients(model)
    assert torch.allclose(loss, total / targets, rtol=1e-5)
    for name, gradient in wanted.items():
        scale = gradient.abs().max() + 1e-5
        assert (found[name] - gradient).abs().max() < 2e-4 * scale, name


def positions_of(rows: list[Packed], attention: str, row: int, record: int) -> slice:
    """Return the positions of a record of a row in the flattened logits of a batch."""
    start, length = rows[row].segments.index(record), rows[row].segments.count(record)
    if attention == IMPLEMENTATION:
        start += flattened_offsets(rows)[row]
    else:
        start += row * stack(rows, PAD)["input_ids"].shape[1]
    return slice(start, start + length)


@pytest.mark.parametrize(("language", "window"), WINDOWS)
@pytest.mark.parametrize("attention", ["sdpa", IMPLEMENTATION])
def test_a_record_does_not_leak_into_the_next(
    make_config: Callable, prefix, records, views, attention: str, language: str, window: int | None
) -> None:
    model = windowed(make_config, language, window)
    model.model.language_model.set_attn_implementation(attention)
    for row, number in ((0, 1), (1, 1)):
        ids, labels = records[row][0]
        changed_records = [list(own) for own in records]
        changed_records[row][0] = [(id_ + 1) % 297 + 3 for id_ in ids], labels
        logits = []
        for own in (records, changed_records):
            rows = [pack(prefix, row_records) for row_records in own]
            batch = inputs(rows, attention, window)
            del batch["labels"]
            with torch.no_grad():
                logits.append(model(**batch, **views).logits.flatten(0, 1))
        changed = (logits[0] - logits[1]).abs()
        own_positions = positions_of(rows, attention, row, number)
        assert changed[own_positions].amax(-1).min() > 1e-3
        changed[own_positions] = 0
        assert changed.max() < 1e-6


def test_dropout_acts_in_training_alone_and_keeps_records_apart(make_model: Make, prefix, records, views) -> None:
    model = make_model(text={"attention_dropout": 0.4})
    model.model.language_model.set_attn_implementation(IMPLEMENTATION)
    (ids, labels), *rest = records[0]
    other = [(id_ + 1) % 297 + 3 for id_ in ids]

    def logits(seed: int, first: list[int] = ids) -> Tensor:
        batch = inputs([pack(prefix, [(first, labels), *rest]), pack(prefix, records[1])], IMPLEMENTATION, None)
        del batch["labels"]
        torch.manual_seed(seed)
        with torch.no_grad():
            return model(**batch, **views).logits[0]

    assert torch.equal(logits(1), logits(2))
    model.train()
    dropped = logits(1)
    assert torch.equal(dropped, logits(1))
    assert (dropped - logits(2)).abs().max() > 1e-3
    changed = (dropped - logits(1, other)).abs()
    own = positions_of([pack(prefix, row) for row in records], IMPLEMENTATION, 0, 1)
    assert changed[own].max() > 1e-3
    changed[own] = 0
    assert changed.max() < 1e-6


def test_checkpointed_activations_are_computed_again_with_the_same_dropout(
    make_model: Make, prefix, records, views
) -> None:
    model = make_model(text={"attention_dropout": 0.4}).train()
    model.model.language_model.set_attn_implementation(IMPLEMENTATION)
    batch, found = inputs([pack(prefix, row) for row in records], IMPLEMENTATION, None), []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        torch.manual_seed(1)
        model(**batch, **views).loss.backward()
        found.append(gradients(model))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert torch.allclose(found[1][name], gradient, atol=1e-6), name


@pytest.mark.parametrize("attention", ["sdpa", IMPLEMENTATION])
def test_padding_is_finite_and_no_gradient_turns_into_nan(make_model: Make, prefix, records, views, attention) -> None:
    model = make_model().train()
    model.model.language_model.set_attn_implementation(attention)
    rows = [pack(prefix, records[0]), pack(prefix, [records[1][1]])]
    batch = inputs(rows, attention, None)
    padding = batch["input_ids"].numel() - sum(len(row.ids) for row in rows)
    assert (batch["input_ids"] == PAD).sum() == padding
    assert padding > (1 if attention == IMPLEMENTATION else 60)
    model(**batch, **views).loss.backward()
    assert all(torch.isfinite(gradient).all() for gradient in gradients(model).values())
    del batch["labels"]
    assert torch.isfinite(model(**batch, **views).logits).all()


def test_a_packed_row_holds_prefix_and_records_in_order() -> None:
    packed = pack([5, 6], [([1, 2, 3], [IGNORE, 2, 3]), ([4, 5], [4, 5])])
    assert packed.ids == [5, 6, 1, 2, 3, 4, 5]
    assert packed.positions == [0, 1, 2, 3, 4, 2, 3]
    assert packed.segments == [0, 0, 1, 1, 1, 2, 2]
    # Only alone would a record's first token follow the prefix.
    assert packed.labels == [IGNORE, IGNORE, IGNORE, 2, 3, IGNORE, 5]
    batch = stack([packed, pack([5, 6], [([1], [IGNORE])])], PAD, multiple=4)
    assert batch["input_ids"].shape == (2, 8)
    assert batch["segments"][0].tolist() == [0, 0, 1, 1, 1, 2, 2, -1]
    assert batch["input_ids"][1].tolist() == [5, 6, 1, *[PAD] * 5]
    assert (batch["labels"][1] == IGNORE).all()


@pytest.mark.parametrize("window", [None, 3])
def test_mask_is_what_the_words_say(window: int | None) -> None:
    rng = Random(2)
    rows = [
        pack(
            [0] * rng.randint(1, 5), [([1] * n, [1] * n) for n in (rng.randint(1, 6) for _ in range(rng.randint(1, 4)))]
        )
        for _ in range(6)
    ]
    batch = stack(rows, PAD, multiple=8)
    mask = packed_mask(batch["segments"], batch["position_ids"], window)
    assert mask.dtype == torch.bool
    assert mask.shape == (6, 1, *batch["segments"].shape[1:] * 2)
    for row in range(len(rows)):
        segments, positions = batch["segments"][row].tolist(), batch["position_ids"][row].tolist()
        for query, own in enumerate(segments):
            seen = {
                key
                for key in range(query + 1)
                if own >= 0
                and segments[key] in (0, own)
                and (window is None or positions[query] - positions[key] < window)
            }
            assert set(mask[row, 0, query].nonzero()[:, 0].tolist()) == (seen or {query})


def test_a_flattened_row_has_all_prefixes_first_and_every_token_once(prefix, records) -> None:
    rows = [pack(prefix, row) for row in records]
    flat = flatten(rows, PAD)
    plan, length = flat["plan"], len(prefix)
    total = sum(len(row.ids) for row in rows)
    assert flat["input_ids"].shape == (1, -(-(total + 2) // 32) * 32)
    assert plan.span == length + 40  # the longest record
    assert flat["input_ids"][0, : 2 * length].tolist() == prefix * 2
    assert flat["input_ids"][0, total:].unique().tolist() == [PAD]
    assert (flat["labels"][0, total:] == IGNORE).all()
    for row, offset in zip(rows, flattened_offsets(rows), strict=True):
        there = slice(offset + length, offset + len(row.ids))
        for name, values in (("input_ids", row.ids), ("position_ids", row.positions), ("labels", row.labels)):
            assert flat[name][0, there].tolist() == values[length:], name
        assert plan.segments[there].tolist() == row.segments[length:]
    lengths = [[9, 17, 40, 16], [33, 6]]
    assert plan.lengths == tuple(sum(own) for own in lengths)
    parts = (plan.prefixes, plan.groups, plan.records)
    assert [offsets.diff().tolist() for offsets, _ in parts] == [[length] * 2, [82, 39], lengths[0] + lengths[1]]
    assert [longest for _, longest in parts] == [length, 82, 40]


def test_prefixes_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"prefixes of \[2, 3\] tokens"):
        flatten([pack([0] * n, [([1, 1], [1, 1])]) for n in (2, 3)], PAD)


def test_a_label_that_a_prefix_would_predict_is_refused() -> None:
    row = pack([0, 0], [([1, 1], [1, 1])])
    with pytest.raises(ValueError, match="a label is learned within a prefix or right behind one"):
        flatten([replace(row, labels=[IGNORE, IGNORE, 1, 1])], PAD)
