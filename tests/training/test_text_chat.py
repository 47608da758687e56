"""Text-only chat in finetuning: drawn by index alone, learned without a panorama, off by default."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_backbones import LORA, MODEL, RECIPE, write_panoramas, write_parts
from tiny_models import write_resampler_folder

from panollava import PanoLlavaProcessor
from panollava.corpus.problems import RecordErrors
from panollava.corpus.store import open_split
from panollava.corpus.text_chat import Texts, read_text_chat
from panollava.hashes import file_hash
from panollava.training import language_stages
from panollava.training.dialogues import Collator, Draw, Draws, StoredPanoramas, encoded_text
from panollava.training.recipe import TextChat
from panollava.training.text_chat import open_texts
from panollava.vlm.labels import IGNORE

TEXTS = [((f"What is {n} and {n}?", f"It is {2 * n}."),) for n in range(40)]
TEXTS.append((("Hello!", "Hello."), ("And who are you?", "A model.")))


def write(file: Path, *lines: Any) -> Path:
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
    return file


def lines_of(texts: list) -> list[dict]:
    return [{"conversations": [{"human": a, "assistant": b} for a, b in turns]} for turns in texts]


def test_a_file_is_read_and_every_bad_line_is_named(tmp_path: Path) -> None:
    assert read_text_chat(write(tmp_path / "a.jsonl", *lines_of(TEXTS))) == TEXTS
    bad = [
        {"conversations": []},
        {"conversations": [{"human": "a", "assistant": " "}]},
        {"conversations": [{"human": "see <pano>", "assistant": "b"}]},
        {"conversations": [{"human": "a", "assistant": "b"}], "image_id": "x"},
        "no JSON",
    ]
    with pytest.raises(RecordErrors) as error:
        read_text_chat(write(tmp_path / "b.jsonl", *lines_of(TEXTS[:2]), *bad))
    assert len(error.value.problems) == len(bad)
    for text in ("record 2 (line 3)", "conversations.0.assistant", "contains <pano>", "image_id", "line 7"):
        assert text in str(error.value)
    with pytest.raises(ValueError, match="no such file"):
        read_text_chat(tmp_path / "c.jsonl")
    with pytest.raises(ValueError, match="holds no dialogue"):
        read_text_chat(write(tmp_path / "d.jsonl", ""))


def test_the_file_is_the_one_that_the_parameters_name(tmp_path: Path, processor: PanoLlavaProcessor) -> None:
    file = write(tmp_path / "a.jsonl", *lines_of(TEXTS))
    chosen = TextChat(str(file), 0.1, file_hash(file)[:12])
    texts = open_texts(chosen, processor, 3)
    assert texts is not None
    assert texts.dialogues == TEXTS
    assert open_texts(None, processor, 3) is open_texts(replace(chosen, share=0.0), processor, 3) is None
    with pytest.raises(ValueError, match=rf"has the SHA-256 {chosen.sha256}.*, but params.yaml says 0123456789ab; "):
        open_texts(replace(chosen, sha256="0123456789ab"), processor, 3)
    file = write(tmp_path / "long.jsonl", *lines_of([(("a " * 300, "b"),)]))
    with pytest.raises(ValueError, match=r"long.jsonl: dialogue 0, which begins with 'a a .* context holds 256"):
        open_texts(TextChat(str(file), 0.1, file_hash(file)), processor, 3)


def test_draws_have_the_share_and_depend_on_their_index_alone() -> None:
    texts = Texts(TEXTS, 0.2, seed=0)
    drawn = [texts.drawn(index, 8) for index in range(2000)]
    assert [texts.drawn(index, 8) for index in reversed(range(2000))] == drawn[::-1]
    count = sum(map(len, drawn))
    assert count / (count + 8 * 2000) == pytest.approx(0.2, abs=0.005)
    assert set(Counter(map(len, drawn))) == {2}  # 8 of 10 are about a panorama
    assert set(Counter(len(texts.drawn(index, 5)) for index in range(200))) == {1, 2}
    assert len({text for own in drawn for text in own}) == len(TEXTS)
    assert [Texts(TEXTS, 0.2, seed=1).drawn(index, 8) for index in range(20)] != drawn[:20]


def test_the_draws_of_panoramas_stay_as_they_are(tmp_path: Path) -> None:
    panoramas = StoredPanoramas(open_split(write_panoramas(tmp_path / "store", 3), "train"), images=False)
    options: dict[str, Any] = {"seed": 0, "count": 12, "records": 4}
    plain = Draws(panoramas, **options)
    mixed = Draws(panoramas, **options, texts=Texts(TEXTS, 0.5, seed=0))
    for index in range(12):
        assert plain[index].texts == ()
        assert len(mixed[index].texts) == len(mixed[index].records)
        assert replace(mixed[index], texts=()) == plain[index]


@pytest.mark.parametrize("blind", [False, True])
def test_texts_come_last_in_a_row_without_panorama(processor: PanoLlavaProcessor, blind: bool, tmp_path: Path) -> None:
    panoramas = StoredPanoramas(open_split(write_panoramas(tmp_path / "store", 2), "train"), images=False)
    processor.tokenizer.model_max_length = 2048
    image = Image.new("RGB", (128, 64))
    draws = [Draw(image, panoramas[index].records[:2]) for index in range(2)]
    collator = Collator(processor, blind=blind)
    plain = collator(draws)
    mixed = collator([replace(draw, texts=(TEXTS[index], TEXTS[-1])) for index, draw in enumerate(draws)])
    rows = [row for index in range(2) for text in (TEXTS[index], TEXTS[-1]) for row in encoded_text(processor, text)]
    before = int((plain["plan"].segments >= 0).sum())
    ids = [number for row in rows for number in row.ids]
    stop = before + len(ids)
    assert mixed["plan"].texts == len(ids)
    assert mixed["input_ids"][0, :stop].tolist() == [*plain["input_ids"][0, :before].tolist(), *ids]
    assert mixed["position_ids"][0, before:stop].tolist() == [n for row in rows for n in range(len(row.ids))]
    labels = [label for row in rows for label in (IGNORE, *row.labels[1:])]
    assert mixed["labels"][0, before:stop].tolist() == labels
    assert processor.image_token_id not in ids
    for name in plain.keys() - {"input_ids", "position_ids", "labels", "plan"}:
        one, other = plain[name], mixed[name]
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, name


@pytest.mark.parametrize("blind", [False, True])
def test_finetuning_learns_the_texts(tmp_path: Path, blind: bool) -> None:
    parts = write_parts("clip", "llama", tmp_path / "backbones")
    store = write_panoramas(tmp_path / "store", 2)
    previous = write_resampler_folder(parts, tmp_path / "train_resampler")
    file = write(tmp_path / "a.jsonl", *lines_of(TEXTS))
    losses = []
    for number, share in enumerate((None, 0.0, 0.5)):
        chosen = None if share is None else TextChat(str(file), share, file_hash(file))
        out = tmp_path / f"out{number}"
        outcome = language_stages.finetune_lora(
            parts, store, previous, out, out.with_suffix(".ckpt"), recipe=replace(RECIPE, steps=2), records=2,
            lora=LORA, save_lora_only=True, dtype=torch.float32, settings=MODEL, blind=blind, text_chat=chosen,
        )  # fmt: skip
        losses.append([entry["loss"] for entry in outcome.history])
    assert losses[0] == losses[1] != losses[2]
