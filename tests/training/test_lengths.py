"""Records that the context does not hold are named before anything is computed; those that just fit are trained."""

import json
import pickle
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_backbones import CONTEXT, MODEL, RECIPE, tiny_tokenizer, write_panoramas, write_parts
from tiny_models import write_dataset, write_resampler_folder
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from panollava import PanoDataset, PanoLlavaImageProcessor, PanoLLaVAModel, PanoLlavaProcessor, PanoLLaVATrainer
from panollava.backbones.templates import chat_template
from panollava.corpus.reading import RecordErrors
from panollava.corpus.records import Record, Turn
from panollava.corpus.rotation.panorama import Rotation
from panollava.corpus.store import open_records, open_split, panorama_records, write_store
from panollava.corpus.world_records import world_row
from panollava.training import language_stages
from panollava.training.dialogues import (
    Collator,
    Draws,
    StoredPanoramas,
    dialogue_of,
    encoded,
    format_of,
)
from panollava.training.lengths import Context, check_store
from panollava.training.recipe import Augmentation


def record(question: str, answer: str = "a", *, image_id: str = "a") -> Record:
    turns = [{"human": "what?", "assistant": "a"}, {"human": question, "assistant": answer}]
    return Record.model_validate({"image_id": image_id, "image_path": "a.png", "conversations": turns})


def test_the_context_holds_exactly_what_a_batch_takes(processor: PanoLlavaProcessor) -> None:
    context, collator = Context(processor), Collator(processor)
    assert (context.tokens, context.visual_tokens) == (256, 20)
    assert pickle.loads(pickle.dumps(context)).holds(record("9"))  # goes to the processes that load data
    spare = context.tokens - context.length(record("9"))
    fits, longer = record("9" * (1 + spare)), record("9" * (2 + spare))
    assert context.length(fits) == 256
    assert len(collator.packed([fits]).ids) == 256
    assert context.problems([("x", fits)]) == []
    with pytest.raises(ValueError, match="257 tokens"):
        collator.packed([longer])
    (problem,) = map(str, context.problems([("x", longer)]))
    assert problem.startswith("x: conversations.1.human: the record has 257 tokens with its panorama, but the language")
    assert "holds 256; shorten this text" in problem


def test_the_field_is_that_of_the_longest_text(processor: PanoLlavaProcessor) -> None:
    problems = Context(processor).problems(
        [("x", record("b", "9" * 300)), ("y", record("b")), ("z", record("9" * 300))]
    )
    assert [(problem.where, problem.field) for problem in problems] == [
        ("x", "conversations.1.assistant"),
        ("z", "conversations.1.human"),
    ]


def test_marks_are_not_needed(processor: PanoLlavaProcessor) -> None:
    marked = str(processor.chat_template)
    (wanted,) = encoded(processor, dialogue_of(record("9", "b c")))
    encoded.cache_clear()
    format_of.cache_clear()
    processor.chat_template = marked.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    assert processor.chat_template != marked
    assert encoded(processor, dialogue_of(record("9", "b c"))) == (wanted,)


def test_a_template_that_ends_no_answer_is_refused(processor: PanoLlavaProcessor) -> None:
    processor.chat_template = str(processor.chat_template).replace(" + eos_token", " + '; '")
    with pytest.raises(ValueError, match="writes '; ' behind an answer, and no control token, so no answer would end"):
        Context(processor)


def with_long_records(store: Path) -> Path:
    """Write a store whose three splits hold a panorama each, with an over-long record in two of them."""
    for number, split in enumerate(("train", "validation", "test")):
        row = world_row(0, seed=0, split=split, height=64, korean_share=0.0)
        if number != 1:
            texts = ("word " * 3000, "a") if number else ("what?", "9" * 8000)
            row.records.append(record(*texts, image_id=row.image_id))
        write_store(store, split, [row], jpeg_quality=90)
    return store


def test_a_stage_names_all_long_records_of_all_splits_before_anything_costly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, store = write_parts("clip", "llama", tmp_path), with_long_records(tmp_path / "store")

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("work began before the check")

    monkeypatch.setattr(language_stages, "load_trained", forbidden)
    monkeypatch.setattr(language_stages, "frozen_features", forbidden)
    folders = (parts, store, tmp_path / "previous", tmp_path / "out", tmp_path / "checkpoints")
    with pytest.raises(RecordErrors, match="2 problems") as error:
        language_stages.train_resampler(
            *folders, recipe=RECIPE, records=4, dtype=language_stages.torch.float32, settings=MODEL
        )
    assert [str(problem.where).rsplit(", ", 1)[0].split(": ")[1] for problem in error.value.problems] == [
        f"split {split}, image_id {open_records(store, split)[0]['image_id']!r}" for split in ("test", "train")
    ]
    assert not (tmp_path / "out").exists()


def test_the_trainer_names_all_long_records_of_both_datasets(tmp_path: Path) -> None:
    write_resampler_folder(write_parts("clip", "llama", tmp_path), tmp_path / "base")
    model = PanoLLaVAModel.from_pretrained(tmp_path / "base", device="cpu")
    datasets = []
    for seed, name in enumerate(("train", "val"), start=1):
        file = write_dataset(tmp_path / name, 2, seed=seed) / "annotations.json"
        records = json.loads(file.read_text("utf-8"))
        records[3]["conversations"][0]["assistant"] = "9" * (4 * CONTEXT)
        file.write_text(json.dumps(records), encoding="utf-8")
        datasets.append(PanoDataset(file))
    with pytest.raises(RecordErrors, match="2 problems") as error:
        PanoLLaVATrainer(model=model, train_dataset=datasets[0], val_dataset=datasets[1], output_dir=tmp_path / "out")
    for dataset in datasets:
        assert f"{dataset.file}: record 3: conversations.0.assistant: the record has" in str(error.value)


def test_a_record_that_a_rotation_makes_too_long_is_not_drawn_rotated(tmp_path: Path) -> None:
    store = write_panoramas(tmp_path / "store", 1)
    panoramas = StoredPanoramas(open_split(store, "train"), images=False)
    asked: list[Record] = []

    def holds(one: Record) -> bool:
        asked.append(one)
        return False

    options: dict[str, Any] = {"seed": 0, "count": 6, "records": 3, "augmentation": Augmentation(yaw_steps=8)}
    known = panorama_records(open_records(store, "train")[0])
    draws = [Draws(panoramas, **options, holds=holds)[index] for index in range(6)]
    assert asked
    assert all(one in known for draw in draws for one in draw.records)
    assert all(draw.rotation == Rotation() for draw in draws)
    free = [Draws(panoramas, **options)[index] for index in range(6)]
    assert any(draw.rotation != Rotation() for draw in free)


def test_a_store_of_the_synthetic_world_passes(tmp_path: Path, processor: PanoLlavaProcessor) -> None:
    processor.tokenizer.model_max_length = 2048
    check_store(processor, write_panoramas(tmp_path / "store", 2))


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=2, max_size=6))
@pytest.mark.parametrize("family", ["llama", "vicuna", "mistral"])
def test_what_needs_no_counting_fits(family: str, texts: list[str]) -> None:
    context = context_of(family)
    turns = [{"human": f"{a}.", "assistant": f"{b}."} for a, b in pairwise(texts)]
    one = Record.model_construct(image_id="a", conversations=[Turn.model_construct(**turn) for turn in turns])
    length = context.length(one)
    context.tokens = length - 1
    assert not context.surely_holds(one)


@lru_cache
def context_of(family: str) -> Context:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tiny_tokenizer(family).backend_tokenizer.to_str()),
        chat_template=chat_template(family), bos_token="<s>", eos_token="</s>", pad_token="<pad>",
    )  # fmt: skip
    images = PanoLlavaImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.2] * 3)
    return Context(PanoLlavaProcessor.from_parts(images, tokenizer, tokens_per_side=2, context_length=2048))
