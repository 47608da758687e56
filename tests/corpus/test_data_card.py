"""Data cards: valid for the hub, with the counts of the data, the same text for the same data."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard
from PIL import Image

from panollava.corpus.data_card import CARD, SHOWN, count, data_card
from panollava.corpus.importers import import_dataset
from panollava.corpus.importers.common import Request
from panollava.corpus.records import Record
from panollava.corpus.world_records import world_row
from panollava.params import Dataset, Preprocess
from stages import preprocess


def record(number: int, **metadata: Any) -> Record:
    turn = {"human": "What is there?", "assistant": "A hall."}
    fields = {"image_id": f"p{number}", "image_path": "a.png", "conversations": [turn], "metadata": metadata}
    return Record.model_validate(fields)


def test_a_card_counts_what_the_records_hold() -> None:
    records = world_row(0, seed=0, split="train", height=32, korean_share=0.5).records
    text = data_card("Halls", "Made by hand.", count(records), dropped={"damaged images": 3})
    card = DatasetCard(text)
    turns = [turn for each in records for turn in each.conversations]
    assert card.data.language == ["en", "ko"]
    assert card.data.pretty_name == "Halls"
    assert card.data.license == "other"
    assert card.data.size_categories == "n<1K"
    assert f"| records | {len(records)} |" in card.text
    assert "| images | 1 |" in card.text
    assert f"| turns | {len(turns)} |" in card.text
    for task in {turn.task for turn in turns}:
        assert f"| turns of the task `{task}` | {sum(turn.task == task for turn in turns)} |" in card.text
    assert "- 3 × damaged images" in card.text
    assert "not stated; licence: not stated" in card.text
    assert text == data_card("Halls", "Made by hand.", count(reversed(records)), dropped={"damaged images": 3})


def test_many_sources_are_counted_instead_of_listed() -> None:
    text = data_card("Halls", "", count(record(n, source=f"site {n:02}", licence="CC0") for n in range(SHOWN + 5)))
    assert text.count("licence: CC0") == SHOWN
    assert "- and 5 more" in text


def test_an_imported_dataset_has_a_card(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (16, 8)).save(source / name)
    (source / "b.png").write_bytes(b"no image")
    turns = [{"from": "human", "value": "<image>\nWhat is there?"}, {"from": "gpt", "value": "A hall."}]
    items = [{"id": name, "image": name, "conversations": turns} for name in ("a.png", "b.png")]
    (source / "llava.json").write_text(json.dumps(items))
    cards = []
    for out in (tmp_path / "halls", tmp_path / "elsewhere" / "halls"):
        out.parent.mkdir(exist_ok=True)
        import_dataset(
            "llava", Request(source / "llava.json"), out, source="our halls", licence="CC BY 4.0", drop_bad_images=True
        )
        cards.append((out / CARD).read_text("utf-8"))
    assert cards[0] == cards[1]
    card = DatasetCard(cards[0])
    assert card.data.pretty_name == "halls"
    assert "`panollava import llava`" in card.text
    assert "- our halls; licence: CC BY 4.0" in card.text
    assert "| records | 1 |" in card.text
    assert "- 1 × images missing or not usable" in card.text
    assert str(tmp_path) not in card.content


def test_the_generated_world_has_a_card_that_does_not_change(tmp_path: Path, monkeypatch: Any) -> None:
    sizes = {"train": 2, "validation": 1, "test": 1}
    world = {"panoramas": sizes, "korean_share": 0.5, "min_latitude_deg": 0}
    shares = {"train": 0.8, "validation": 0.1, "test": 0.1}
    dataset = Dataset.model_validate(
        {"source": "world", "path": "data/raw", "shares": shares, "allow_any_aspect": False, "world": world}
    )
    settings = Preprocess(image_height=32, jpeg_quality=95)
    params = preprocess.PreprocessParams(
        seed=0, weights="standin", dataset=dataset, preprocess={"standin": settings, "hub": settings}
    )
    monkeypatch.setattr(preprocess, "read_params", lambda view, stage: params)
    cards = []
    for name in ("first", "second"):
        folder = tmp_path / name
        (folder / "metrics").mkdir(parents=True)
        monkeypatch.chdir(folder)
        preprocess.main()
        cards.append((folder / preprocess.STORE / CARD).read_text("utf-8"))
    assert cards[0] == cards[1]
    card = DatasetCard(cards[0])
    assert card.data.license == "mit"
    assert "32 pixels high" in card.text
    assert "Panoramas: 2 for train, 1 for validation, 1 for test." in card.text
    assert "| images | 4 |" in card.text
