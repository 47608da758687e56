"""Validation in training: what its loss is, that it changes nothing, which weights stay, and when training stops."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_backbones
import torch
from test_trainer import Rows, Toy, collate, recipe
from tiny_backbones import LORA, MODEL, write_panoramas, write_parts
from tiny_models import weights_of
from torch import Tensor, nn
from torch.utils.data import Subset

from panollava.backbones.trained import load_finetuned
from panollava.corpus.store import open_split
from panollava.training import language_stages, trainer, vision_stage
from panollava.training.dialogues import Collator, Draw, Draws, StoredPanoramas
from panollava.training.overlap import vicreg
from panollava.training.running import numbers, write_curve
from panollava.training.trainer import PanoTrainer, Validation, set_trainable
from panollava.vlm.labels import IGNORE

SETTINGS: dict[str, Any] = {"dtype": torch.float32, "settings": MODEL}
LANGUAGE = replace(tiny_backbones.RECIPE, mask_weight=1.0)


class Dropping(Toy):
    """The toy with dropout, so that random numbers matter."""

    def forward(self, x: Tensor, labels: Tensor, **kwargs: Tensor) -> dict[str, Tensor]:
        """Return the loss."""
        return super().forward(nn.functional.dropout(x, 0.3, self.training), labels, **kwargs)


def run(folder: Path, *, validation: Validation | None = None, **changes: Any) -> PanoTrainer:
    """Return the toy's trainer; with `validation`, it validates on other rows than it trains on."""
    torch.manual_seed(0)
    model, settings = Dropping(), recipe(**changes)
    set_trainable(model, settings.learning_rates)
    return PanoTrainer(model, settings, folder, draws=Rows(), collator=collate, validation=validation)


def held_out() -> Validation:
    return Validation(Subset(Rows(), range(40, 47)), batch_size=7)


def test_validation_changes_no_weight(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain")
    plain.run()
    validated = run(tmp_path / "other", validation=held_out(), validate_every=1)
    validated.run()
    assert [entry["step"] for entry in validated.validations] == [1, 2, 3, 4, 5, 6]
    assert plain.validations == []
    for name, value in weights_of(plain.model).items():
        assert torch.equal(value, weights_of(validated.model)[name]), name


def test_the_last_step_is_validated_and_every_validation_has_a_training_loss(tmp_path: Path) -> None:
    validated = run(tmp_path, validation=held_out(), validate_every=4, steps=150, save_steps=1000)
    history = validated.run()
    steps = [entry["step"] for entry in validated.validations]
    assert steps == [*range(4, 150, 4), 150]
    assert {*steps} <= {entry["step"] for entry in history}
    rows = collate([Rows()[index] for index in range(40, 47)])
    with torch.no_grad():
        wanted = validated.model.eval()(**rows)["loss"]
    assert validated.validations[-1]["eval_loss"] == pytest.approx(float(wanted), rel=1e-5)


def scripted(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Let the validations give these losses, step by step."""

    def evaluate(self: PanoTrainer, *args: Any, **kwargs: Any) -> dict[str, float]:
        metrics = {"eval_loss": losses[self.state.global_step - 1]}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    monkeypatch.setattr(PanoTrainer, "evaluate", evaluate)


FALLS_AND_RISES = [5.0, 3.0, 4.0, 2.0, 6.0, 7.0]


@pytest.mark.parametrize(("keep", "step"), [("best", 4), ("last", 6)])
def test_the_best_or_the_last_weights_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str, step: int
) -> None:
    scripted(monkeypatch, FALLS_AND_RISES)
    found = run(tmp_path / "found", validation=held_out(), validate_every=1, keep=keep, save_steps=100)
    found.run()
    assert found.kept_step == step
    # The same first steps, of a schedule that is as long.
    wanted = run(tmp_path / "wanted")
    taken = []
    training_step = trainer.Trainer.training_step

    def noting(self: PanoTrainer, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        taken.append(weights_of(model))
        return training_step(self, model, *args, **kwargs)

    monkeypatch.setattr(PanoTrainer, "training_step", noting)
    wanted.run()
    states = [*taken, weights_of(wanted.model)]
    for name, value in states[step].items():
        assert torch.equal(weights_of(found.model)[name], value), name


def test_the_best_checkpoint_outlives_later_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [5.0, 1.0, 4.0, 2.0, 6.0, 7.0])
    run(tmp_path, validation=held_out(), validate_every=1, keep="best", save_steps=1).run()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-6"]


@pytest.mark.parametrize(("patience", "steps"), [(1, 3), (2, 6), (3, 6)])
def test_training_stops_when_patience_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int, steps: int
) -> None:
    scripted(monkeypatch, FALLS_AND_RISES)
    found = run(tmp_path, validation=held_out(), validate_every=1, keep="best", patience=patience)
    assert [entry["step"] for entry in found.run()] == list(range(1, steps + 1))
    assert found.kept_step == (2 if patience == 1 else 4)


@pytest.mark.parametrize("killed_after", [1, 4])
def test_a_killed_run_remembers_its_patience_and_its_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    scripted(monkeypatch, [3.0, 2.0, 4.0, 5.0, 6.0, 1.0])
    options: dict[str, Any] = {"validate_every": 1, "keep": "best", "patience": 3, "save_steps": 1}
    whole = run(tmp_path / "whole", validation=held_out(), **options)
    whole.run()
    assert (whole.state.global_step, whole.kept_step) == (5, 2)

    class KilledError(Exception):
        pass

    training_step = trainer.Trainer.training_step

    def until_killed(self: PanoTrainer, *args: Any, **kwargs: Any) -> Tensor:
        if self.state.global_step == killed_after:
            raise KilledError
        return training_step(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(PanoTrainer, "training_step", until_killed)
        run(tmp_path / "killed", validation=held_out(), **options).run()
    for _ in range(2):  # and once more after it has ended, as if killed before its results were written
        again = run(tmp_path / "killed", validation=held_out(), **options)
        again.run()
        assert (again.state.global_step, again.kept_step) == (5, 2)
        assert [entry["eval_loss"] for entry in again.validations] == [3.0, 2.0, 4.0, 5.0, 6.0]
        for name, value in weights_of(whole.model).items():
            assert torch.equal(weights_of(again.model)[name], value), name


def test_losses_that_are_no_numbers_have_no_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [float("nan")] * 6)
    with pytest.raises(ValueError, match="no validation loss was a number"):
        run(tmp_path, validation=held_out(), validate_every=3, keep="best").run()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return backbones, a store with a validation split, and the folder of a resampler trained on it."""
    root = tmp_path_factory.mktemp("validation")
    store = write_panoramas(root / "store", 3)
    write_panoramas(store, 3, split="validation")
    parts = write_parts("clip", "llama", root)
    vision = replace(LANGUAGE, overlap=("vicreg", "exact"), steps=1, validate_every=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(root))
        outcome = vision_stage.train_vision(
            parts.encoder, store, root / "vision", root / "c", recipe=vision, blocks=0, **SETTINGS
        )
        language_stages.train_resampler(
            parts, store, root / "vision", root / "resampler", root / "d", recipe=LANGUAGE, records=4, **SETTINGS
        )
    return parts, store, root / "resampler", outcome


def test_the_validation_loss_is_the_mean_over_all_learned_tokens(
    folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    parts, store, previous, _ = folders
    own = replace(LANGUAGE, validate_every=2)
    outcome = language_stages.finetune_lora(
        parts, store, previous, tmp_path / "out", tmp_path / "c", recipe=own, records=4, lora=LORA,
        save_lora_only=True, **SETTINGS,
    )  # fmt: skip
    assert [entry["step"] for entry in outcome.validations] == [2, 3]
    model, processor = load_finetuned(tmp_path / "out")
    language_stages.use_plans(model.model.language_model)
    split = open_split(store, "validation")
    draws = Draws(StoredPanoramas(split), seed=own.seed, count=3, records=4)
    total = tokens = 0.0
    for index in range(3):
        drawn: Draw = draws[index]
        assert len(drawn.records) == 4
        batch = Collator(processor)([drawn])
        with torch.no_grad():
            total += float(model(**batch, num_items_in_batch=1).loss)
        tokens += int((batch["labels"][:, 1:] != IGNORE).sum())
    assert outcome.validations[-1]["eval_loss"] == pytest.approx(total / tokens, rel=1e-4)


def test_the_overlap_loss_is_validated_in_whole_batches(folders: Any) -> None:
    outcome = folders[3]
    (entry,) = outcome.validations
    assert 0 < entry["eval_loss"] < 1000
    assert outcome.trained.keys() == {"model.resampler.trunk."}  # no block of the encoder was asked for
    assert vicreg in trainer.OVERLAP_LOSSES.values()


def test_a_store_without_a_validation_split_is_named_before_training(folders: Any, tmp_path: Path) -> None:
    parts, _, previous, _ = folders
    store = write_panoramas(tmp_path / "store", 2)
    with pytest.raises(ValueError, match=r"validation.arrow: no such split; splits in this folder: train"):
        language_stages.train_resampler(
            parts, store, previous, tmp_path / "out", tmp_path / "c", recipe=replace(LANGUAGE, validate_every=1),
            records=4, **SETTINGS,
        )  # fmt: skip


def test_curve_and_numbers_hold_the_validations(folders: Any, tmp_path: Path) -> None:
    outcome = folders[3]
    write_curve(outcome, tmp_path / "loss.csv")
    header, row = (tmp_path / "loss.csv").read_text().splitlines()
    assert header == "step,loss,learning_rate,validation_loss"
    assert float(row.split(",")[3]) == outcome.validations[0]["eval_loss"]
    write_curve(replace(outcome, validations=[]), tmp_path / "plain.csv")
    assert (tmp_path / "plain.csv").read_text().splitlines()[0] == "step,loss,learning_rate"
    found = numbers(replace(outcome, validations=[{"step": 2, "eval_loss": 1.5}, {"step": 4, "eval_loss": 2.5}]))
    assert found["validation"] == {
        "first_loss": 1.5, "last_loss": 2.5, "best_loss": 1.5, "best_step": 2, "last_step": 4, "kept_step": 1,
    }  # fmt: skip
    assert "validation" not in numbers(replace(outcome, validations=[]))
