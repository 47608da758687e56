"""The trainer on a toy module: what trains, how fast, what a checkpoint holds, and which checkpoint counts."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from damage import HARMS, zero
from full_disk import full_disk
from safetensors.torch import load_file
from tiny_models import weights_of
from torch import Tensor, nn
from torch.utils.data import Dataset

from panollava.backbones.files import FILES, write_manifest
from panollava.training.checkpoints import WEIGHTS, last_checkpoint
from panollava.training.recipe import Recipe
from panollava.training.trainer import PanoTrainer, set_trainable, trainable_table


class Toy(nn.Module):
    """Two linear layers behind names like the model's."""

    def __init__(self) -> None:
        super().__init__()
        self.tower, self.resampler, self.frozen = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor, labels: Tensor, **kwargs: Tensor) -> dict[str, Tensor]:
        """Return the mean squared error, normalised over the accumulated batch."""
        out = self.frozen(self.resampler(self.tower(x)).tanh())[:, 0]
        items = kwargs.get("num_items_in_batch", torch.tensor(len(x)))
        return {"loss": (out - labels).square().sum() / items}


class Rows(Dataset):
    """Rows that depend on their index alone."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Tensor:
        return torch.randn(5, generator=torch.Generator().manual_seed(index))


def collate(rows: list[Tensor]) -> dict[str, Tensor]:
    batch = torch.stack(rows)
    return {"x": batch[:, :4], "labels": batch[:, 4]}


def recipe(**changes) -> Recipe:
    values = {
        "learning_rates": {"tower.": 1e-3, "resampler.": 1e-1},
        "steps": 6,
        "batch_size": 4,
        "accumulation": 1,
        "warmup": 0.0,
        "schedule": "cosine",
        "save_steps": 2,
        "seed": 0,
        "bf16": False,
    }
    return Recipe(**(values | changes))


def trainer(folder: Path, **changes) -> PanoTrainer:
    torch.manual_seed(0)
    model, settings = Toy(), recipe(**changes)
    set_trainable(model, settings.learning_rates)
    return PanoTrainer(model, settings, folder, draws=Rows(), collator=collate)


def test_exactly_the_named_parts_require_gradients() -> None:
    model = Toy()
    assert set_trainable(model, ["resampler."]) == {"resampler.": 20}
    wanting = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert wanting == {"resampler.weight", "resampler.bias"}
    with pytest.raises(ValueError, match="no parameter of the model has 'lora_' in its name"):
        set_trainable(model, ["resampler.", "lora_"])


def test_the_table_says_what_trains() -> None:
    model = Toy()
    table = trainable_table(model, set_trainable(model, ["resampler."]))
    assert "20  resampler." in table
    assert "25  everything else" in table
    assert "44.44 % of 45 parameters train" in table


def test_each_group_has_its_learning_rate_and_all_follow_the_schedule(tmp_path: Path) -> None:
    run = trainer(tmp_path, warmup=0.5, steps=4)
    groups = {len(group["params"]): group["lr"] for group in run.create_optimizer().param_groups if group["params"]}
    assert groups == {2: 1e-1}  # both groups hold two parameters; the later one is the resampler's
    by_parameter = {
        id(parameter): group["lr"] for group in run.create_optimizer().param_groups for parameter in group["params"]
    }
    wanted = {"tower.weight": 1e-3, "tower.bias": 1e-3, "resampler.weight": 1e-1, "resampler.bias": 1e-1}
    found = {name: by_parameter[id(p)] for name, p in run.model.named_parameters() if id(p) in by_parameter}
    assert found == wanted
    run.run()
    assert run.lr_scheduler.base_lrs == [1e-3, 1e-1]


def test_only_the_named_parts_move(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    before = weights_of(run.model)
    losses = run.run()
    assert len(losses) == 6
    for name, value in weights_of(run.model).items():
        assert torch.equal(value, before[name]) == name.startswith("frozen"), name


def test_accumulated_batches_equal_one_large_batch(tmp_path: Path) -> None:
    large = trainer(tmp_path / "large", batch_size=4, accumulation=1)
    small = trainer(tmp_path / "small", batch_size=2, accumulation=2)
    histories = [run.run() for run in (large, small)]
    for one, other in zip(*histories, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    for name, value in weights_of(large.model).items():
        assert torch.allclose(value, weights_of(small.model)[name], atol=1e-5), name


def test_a_checkpoint_holds_the_trained_parameters_alone(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.run()
    saved = load_file(tmp_path / "checkpoint-6" / WEIGHTS)
    assert set(saved) == {"tower.weight", "tower.bias", "resampler.weight", "resampler.bias"}
    assert all(torch.equal(value, weights_of(run.model)[name]) for name, value in saved.items())
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]


def test_an_interrupted_run_continues_to_the_same_weights(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    whole.run()

    class Stop(Exception):
        pass

    def stop_after(rows: list[Tensor]) -> dict[str, Tensor]:
        if len(seen) == 4:
            raise Stop
        seen.append(rows)
        return collate(rows)

    seen: list[list[Tensor]] = []
    run = trainer(tmp_path / "cut")
    run.data_collator = stop_after
    with pytest.raises(Stop):
        run.run()
    # What a kill in the middle of writing leaves: a later checkpoint without the file that is written last.
    torn = tmp_path / "cut" / "checkpoint-5"
    torn.mkdir()
    (torn / WEIGHTS).write_bytes(b"cut off")
    again = trainer(tmp_path / "cut")
    again.run()
    assert not torn.exists()
    for name, value in weights_of(whole.model).items():
        assert torch.equal(value, weights_of(again.model)[name]), name


@pytest.mark.parametrize("limit", [2000, 8000])
def test_a_full_disk_while_a_checkpoint_is_written_loses_nothing(tmp_path: Path, limit: int) -> None:
    whole = trainer(tmp_path / "whole")
    whole.run()
    run = trainer(tmp_path / "cut", save_steps=4)
    # Room for the weights, or for the optimizer's state too, but not for that of the random generators.
    with full_disk(limit), pytest.raises(OSError, match=r"nothing was written: .*checkpoint-4'"):
        run.run()
    assert list((tmp_path / "cut").glob("checkpoint-*"))
    assert last_checkpoint(tmp_path / "cut") is None
    again = trainer(tmp_path / "cut")
    again.run()
    for name, value in weights_of(whole.model).items():
        assert torch.equal(value, weights_of(again.model)[name]), name


def checkpoint(folder: Path, number: int) -> Path:
    path = folder / f"checkpoint-{number}"
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "file").write_text("x")
    write_manifest(path)
    return path


def test_a_cut_off_checkpoint_is_ignored_and_removed(tmp_path: Path) -> None:
    whole, half, garbage, empty = (checkpoint(tmp_path, number) for number in (8, 10, 12, 14))
    (half / FILES).unlink()
    (garbage / FILES).write_text('{"inner/file": ')
    (empty / FILES).write_text("{}")
    assert last_checkpoint(tmp_path) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-8"]


CHECKPOINT = {WEIGHTS, "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """Return the folder of a run with the checkpoints 4 and 6, and the weights that it came to."""
    folder = tmp_path_factory.mktemp("finished")
    run = trainer(folder)
    run.run()
    return folder, weights_of(run.model)


@pytest.mark.parametrize("name", sorted(CHECKPOINT))
@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_taken(
    finished: tuple[Path, dict[str, Tensor]], tmp_path: Path, capsys: pytest.CaptureFixture,
    name: str, harm: Callable[[Path], None],
) -> None:  # fmt: skip
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    assert {file.name for file in (tmp_path / "checkpoint-6").iterdir()} == CHECKPOINT | {FILES}
    harm(tmp_path / "checkpoint-6" / name)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(str(tmp_path / "checkpoint-6" / name))
    assert line.endswith("this checkpoint cannot be used")
    assert not (tmp_path / "checkpoint-6").exists()


def test_from_the_checkpoint_before_training_comes_to_the_same_bytes(
    finished: tuple[Path, dict[str, Tensor]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, wanted = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    zero(tmp_path / "checkpoint-6/optimizer.pt")
    run = trainer(tmp_path)
    run.run()
    assert f"resuming from {tmp_path / 'checkpoint-4'}" in capsys.readouterr().out
    assert all(torch.equal(value, wanted[key]) for key, value in weights_of(run.model).items())
    assert (tmp_path / "checkpoint-6" / WEIGHTS).read_bytes() == (folder / "checkpoint-6" / WEIGHTS).read_bytes()


def test_without_a_whole_checkpoint_training_starts_anew(
    finished: tuple[Path, dict[str, Tensor]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, wanted = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for number, name in ((4, "optimizer.pt"), (6, "rng_state.pth")):
        zero(tmp_path / f"checkpoint-{number}" / name)
    run = trainer(tmp_path)
    run.run()
    printed = capsys.readouterr().out
    assert printed.count("this checkpoint cannot be used") == 2
    assert "no whole checkpoint is left; training starts from the beginning" in printed
    assert "resuming" not in printed
    assert all(torch.equal(value, wanted[key]) for key, value in weights_of(run.model).items())


def test_without_checkpoints_there_is_none(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    assert last_checkpoint(tmp_path / "missing") is None


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, steps=2).run()
    other = trainer(tmp_path, steps=2)
    other.model.tower = nn.Sequential(nn.Linear(4, 4))
    set_trainable(other.model, ["tower.", "resampler."])
    with pytest.raises(ValueError, match=r"checkpoint-2: tower\.\w+ is no parameter of this model"):
        other.run()
    wide = trainer(tmp_path, steps=2)
    wide.model.tower.bias = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match=r"checkpoint-2: tower\.bias is \[4\], in this model \[1\]"):
        wide.run()
