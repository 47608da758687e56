"""The high-level trainer trains what it says on the data it is given, and its folder opens as the trained model."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_backbones import write_parts as write_backbones
from tiny_models import weights_of, write_dataset, write_resampler_folder

from panollava import PanoDataset, PanoLLaVAModel, PanoLLaVATrainer
from panollava.corpus.masks import decoded, encoded
from panollava.metrics import mask_iou
from panollava.training.dialogues import Collator, Draws
from panollava.training.trainer import PanoTrainer

FAST: dict[str, Any] = {"batch_size": 2, "learning_rate": 1e-2, "resampler_learning_rate": 1e-2, "rank": 2, "alpha": 4}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model, a LoRA folder, and two datasets of two panoramas each."""
    root = tmp_path_factory.mktemp("finetuning")
    write_resampler_folder(write_backbones("clip", "llama", root), root / "base", lora=root / "lora")
    write_dataset(root / "train", 2, seed=1)
    write_dataset(root / "val", 2, seed=2)
    return root


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch folders lie in the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)


def trainer(root: Path, model: str, **changes: Any) -> PanoLLaVATrainer:
    settings: dict[str, Any] = {"steps": 2, "output_dir": "out"} | FAST | changes
    settings = {"train_dataset": PanoDataset(root / "train")} | settings
    return PanoLLaVATrainer(model=PanoLLaVAModel.from_pretrained(root / model, device="cpu"), **settings)


def weights(model: PanoLLaVAModel) -> dict[str, torch.Tensor]:
    model.merge_lora_weights()
    return weights_of(model.model)


def test_a_dataset_groups_records_by_panorama_and_opens_images_when_asked(root: Path) -> None:
    dataset = PanoDataset(root / "train" / "annotations.json", image_height=32)
    assert len(dataset) == 2
    assert len(dataset.records) == 6
    draw = dataset[1]
    assert [record.image_id for record in draw.records] == ["1_1"] * 3
    assert draw.image.size == (64, 32)
    assert [file.name for file in dataset.image_files()] == ["1_0.png", "1_1.png"]
    (root / "broken").mkdir()
    (root / "broken" / "records.jsonl").write_text('{"image_id": "a"}\n{"image_id": 3}\n')
    with pytest.raises(ValueError, match=r"(?s)record 0 \(line 1\).*record 1 \(line 2\)"):
        PanoDataset(root / "broken")


def test_every_epoch_shows_every_panorama_once_with_some_of_its_records(root: Path) -> None:
    dataset = PanoDataset(root / "train")
    draws = [Draws(dataset, seed=0, count=20, records=2)[index] for index in range(20)]
    names = [draw.records[0].image_id for draw in draws]
    assert all({*names[start : start + 2]} == {"1_0", "1_1"} for start in range(0, 20, 2))
    assert len({tuple(names[start : start + 2]) for start in range(0, 20, 2)}) == 2
    asked = [tuple(record.conversations[0].human for record in draw.records) for draw in draws]
    assert all(len(set(texts)) == 2 for texts in asked)
    assert len({text for texts in asked for text in texts}) == 3


def test_training_moves_lora_and_resampler_and_the_folder_opens_as_the_trained_model(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = trainer(root, "base", steps=12, val_dataset=PanoDataset(root / "val"))
    before, start = weights(PanoLLaVAModel.from_pretrained(root / "base")), training.evaluate(training.train_dataset)
    found = training.train()
    printed = capsys.readouterr().out
    assert "parameters train" in printed
    assert f"validation loss {found.validation_loss:.4f}" in printed
    assert training.evaluate(training.train_dataset) < start - 0.1
    assert found.history[-1]["loss"] < found.history[0]["loss"]
    assert not (Path("out") / "model.safetensors").exists()
    after, saved = weights(training.model), weights(PanoLLaVAModel.from_pretrained("out"))
    torch.testing.assert_close(saved, after)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(".resampler." in name or (".language_model." in name and "_proj" in name) for name in moved)
    assert {name for name in before if ".resampler." in name} <= moved
    assert sum("_proj" in name for name in moved) == 2 * 7
    assert not list(Path(".scratch").rglob("checkpoint-*"))


def with_masks(root: Path, folder: Path) -> Path:
    """Write the training data with one object to a panorama, its mask, and a question about it."""
    records = json.loads((root / "train" / "annotations.json").read_text("utf-8"))
    shutil.copytree(root / "train", folder)
    box, mask = [-90.0, 0.0, 90.0, 60.0], np.zeros((64, 128), dtype=bool)
    mask[20:44, 16:48] = True
    item = {"label": "red cube", "box_deg": box}
    for record, other in zip(records[:2], records[2:4], strict=True):
        turn = {"human": "Give the box of the red cube.", "assistant": "[-90, 0, 90, 60]"}
        record["conversations"] = [turn | {"task": "grounding", "answer": item}]
        # The objects are the panorama's, and may stand with another record of it.
        other["objects"] = [item | {"mask": encoded(mask)}]
    (folder / "annotations.json").write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    return folder


def test_masks_train_the_mask_head_and_it_is_saved(root: Path, tmp_path: Path) -> None:
    dataset = PanoDataset(with_masks(root, tmp_path / "masked"))
    assert dataset.has_masks()
    assert not PanoDataset(root / "train").has_masks()
    training = trainer(root, "base", train_dataset=dataset, steps=40)
    start = weights(PanoLLaVAModel.from_pretrained(root / "base"))
    question, image = "Give the box of the red cube.", dataset.image_files()[0]
    truth = decoded(next(item.mask for record in dataset[0].records for item in record.objects if item.mask))

    def overlap(model: PanoLLaVAModel) -> float:
        return mask_iou(torch.tensor(model.segment(image, question)), truth)

    assert overlap(training.model) < 0.1
    training.train()
    assert overlap(training.model) > 0.5
    saved = PanoLLaVAModel.from_pretrained("out", device="cpu")
    assert overlap(saved) == overlap(training.model)
    after = weights(training.model)
    heads = [name for name in start if name.startswith("mask_head.")]
    assert heads
    assert all(not torch.equal(start[name], after[name]) for name in heads)


def test_a_merged_model_is_trained_further_and_written_in_full(root: Path) -> None:
    training = trainer(root, "lora")
    assert training.train().validation_loss is None
    assert (Path("out") / "model.safetensors").is_file()
    torch.testing.assert_close(weights(PanoLLaVAModel.from_pretrained("out")), weights(training.model))


def test_a_killed_run_continues_to_the_same_weights(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer(root, "base", steps=4, save_steps=2, output_dir="whole").train()

    class KilledError(Exception):
        pass

    training_step, steps = PanoTrainer.training_step, []

    def until_killed(self: PanoTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        steps.append(self.state.global_step)
        if self.state.global_step == 3 and steps.count(3) == 1:
            raise KilledError
        return training_step(self, *args, **kwargs)

    monkeypatch.setattr(PanoTrainer, "training_step", until_killed)
    with pytest.raises(KilledError):
        trainer(root, "base", steps=4, save_steps=2).train()
    assert not Path("out").exists()
    trainer(root, "base", steps=4, save_steps=2).train()
    assert steps == [0, 1, 2, 3, 2, 3]
    whole, resumed = (weights(PanoLLaVAModel.from_pretrained(out)) for out in ("whole", "out"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_validation_loss_is_the_mean_over_all_answer_tokens(root: Path) -> None:
    """However the records are packed, and whatever the panoramas' numbers of records."""
    training = trainer(root, "base")
    dataset = PanoDataset(root / "val")
    dataset.panoramas = [dataset.panoramas[0], dataset.panoramas[1][:1]]
    found = {records: trainer(root, "base", records_per_panorama=records).evaluate(dataset) for records in (1, 2, 8)}
    model, collator, losses = training.model.model, Collator(training.model.processor), []
    for panorama in range(2):
        for record in dataset[panorama].records:
            row = collator.packed([record])
            views = training.model.processor.image_processor(dataset[panorama].image, return_tensors="pt")
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([row.ids]), **views).logits[0, :-1]
            targets = torch.tensor(row.labels[1:])
            losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none")[targets != -100])
    for value in found.values():
        assert value == pytest.approx(torch.cat(losses).mean().item(), rel=1e-4)


def test_what_would_spoil_a_run_is_refused_before_it_starts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"'1_0' is the image of '1_0' in .*; one panorama is trained on or validated"):
        trainer(root, "base", val_dataset=PanoDataset(root / "train"))
    Path("full").mkdir()
    Path("full/mine").touch()
    with pytest.raises(ValueError, match="full exists and is not an empty folder"):
        trainer(root, "base", output_dir="full")
    training = trainer(root, "base")
    training.model.load_lora_weights(root / "lora")
    with pytest.raises(ValueError, match=r"call merge_lora_weights\(\) before training"):
        training.train()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="under FSDP run the stages"):
        trainer(root, "base").train()
