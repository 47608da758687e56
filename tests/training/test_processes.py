"""Two processes against one: the same steps, losses, weights, answers and metrics, sharded or not, killed or not.

One launch of in_processes.py does everything; the tests look at what it left.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import in_processes
import pytest
import torch
from safetensors.torch import load_file
from tiny_backbones import write_panoramas, write_parts
from torch import Tensor

from panollava.backbones import trained
from panollava.training.processes import check_launch, share_of_step

HERE = Path(__file__).resolve().parent
TRAINED = ("train_vision", "train_resampler", "finetune_lora", "finetune_blind", "full")
# The loss does not see them: a bias that all keys of a softmax share, and what moves all features of a variance alike.
# Their gradients are rounding noise, which Adam blows up.
UNSEEN = ("k_proj.bias", "trunk.linear.bias", "trunk.norm.bias")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Run everything in this process, then in two others; `one` and `two` are the folders they worked in."""
    shared, one, two = (tmp_path_factory.mktemp(name) for name in ("shared", "one", "two"))
    parts = write_parts("clip", "llama", shared)
    trained.write_parts(parts, shared)
    write_panoramas(shared / "store", 5)
    write_panoramas(shared / "store", 3, split="test")
    write_panoramas(shared / "store", 3, split="validation")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(one)
        patch.setenv("DVC_ROOT", str(one))
        for name in ("STORE", "MODEL", "BLIND", "read_params"):
            patch.setattr(in_processes.evaluate, name, None)
        outcomes = in_processes.run_all(parts, shared / "store", one / "data")
        outcomes["rounded"] = in_processes.finetune_rounded(parts, shared / "store", one / "data/train_resampler")
    paths = (HERE.parents[1] / "src", HERE.parents[1], HERE.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = [HERE / "in_processes.py", shared, one / "data", two]
    done = subprocess.run([*launch, *script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    found = json.loads((two / "outcome.json").read_text())
    return SimpleNamespace(one=one, two=two, outcomes=outcomes, printed=done.stdout, **found)


def close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    seen = [name for name in one if not name.endswith(UNSEEN)]
    assert seen
    for name in seen:
        assert torch.allclose(other[name], one[name], rtol=1e-4, atol=2e-6), name


def test_a_step_sees_the_same_panoramas(runs: SimpleNamespace) -> None:
    first, second = runs.drawn
    # Of train_vision and train_resampler, one after the other: each process takes two panoramas a step.
    share = in_processes.BATCH // 2
    for step in range(2 * in_processes.STEPS):
        place = slice(step * share, (step + 1) * share)
        start = step % in_processes.STEPS * in_processes.BATCH
        assert sorted(first[place] + second[place]) == list(range(start, start + in_processes.BATCH))


@pytest.mark.parametrize("stage", TRAINED)
def test_losses_and_weights_are_those_of_one_process(runs: SimpleNamespace, stage: str) -> None:
    wanted, found = runs.outcomes[stage], runs.history[stage]
    assert [entry["step"] for entry in found] == list(range(1, in_processes.STEPS + 1))
    for one, other in zip(wanted.history, found, strict=True):
        for number in ("loss", "grad_norm", "learning_rate"):
            assert other[number] == pytest.approx(one[number], rel=1e-4), number
    assert runs.moved[stage] == pytest.approx(wanted.moved, rel=1e-3)
    for file in (runs.one / "data" / stage).glob("*.safetensors"):
        close(load_file(file), load_file(runs.two / "data" / stage / file.name))


@pytest.mark.parametrize("stage", TRAINED)
def test_the_validation_loss_does_not_depend_on_the_processes(runs: SimpleNamespace, stage: str) -> None:
    wanted, found = runs.outcomes[stage], runs.validations[stage]
    assert [entry["step"] for entry in found] == [3, 4]
    for one, other in zip(wanted.validations, found, strict=True):
        assert other["eval_loss"] == pytest.approx(one["eval_loss"], rel=1e-4)
    assert runs.kept[stage] == wanted.kept_step


def test_a_language_model_divided_by_fsdp_trains_to_the_same_weights(runs: SimpleNamespace) -> None:
    wanted, found = (runs.one / "data/full", runs.two / "data/sharded_full")
    assert any("language_model.layers.1." in name for name in load_file(found / "trained.safetensors"))
    close(load_file(wanted / "trained.safetensors"), load_file(found / "trained.safetensors"))


def test_the_folders_hold_the_same_files(runs: SimpleNamespace) -> None:
    files = [{str(file.relative_to(run)) for file in run.glob("data/*/*")} for run in (runs.one, runs.two)]
    assert {file for file in files[1] if "/sharded" not in file} == files[0]


def test_answers_and_metrics_are_those_of_one_process(runs: SimpleNamespace) -> None:
    wanted, found = (
        [json.loads(line) for line in (run / "data/evaluate/predictions.jsonl").read_text().splitlines()]
        for run in (runs.one, runs.two)
    )
    # The probability of an answer is a product over many tokens: its last digits depend on the number of threads.
    scores = [[line.pop("score") for line in lines] for lines in (wanted, found)]
    assert scores[1] == pytest.approx(scores[0], rel=1e-4, abs=0)
    assert found == wanted
    metrics = [json.loads((run / "metrics/evaluate.json").read_text()) for run in (runs.one, runs.two)]
    assert metrics[1] == metrics[0]
    assert json.loads((runs.two / "metrics/latency.json").read_text())["latency"]["first_token_ms"] > 0


def test_only_the_main_process_writes_and_prints(runs: SimpleNamespace) -> None:
    main, other = runs.written
    assert any("trained.safetensors" in file for file in main)
    assert any("predictions.jsonl" in file for file in main)
    # But for the sharded optimizer, of which each writes its part.
    assert all("/checkpoint-" in file and "/optimizer_0/" in file for file in other)
    # Four stages and one without adapters, of which two start twice, and the sharded: three, one twice.
    assert runs.printed.count("parameters train") == 11
    assert runs.printed.count("waiting for data") == 8  # those that came to their end


def test_a_killed_run_was_resumed_and_left_no_checkpoints(runs: SimpleNamespace) -> None:
    assert runs.printed.count("resuming from") == 3
    assert runs.printed.count("/checkpoint-") == 3
    assert not list(runs.two.glob(".scratch/*/*/*"))


def test_a_model_divided_by_fsdp_and_compiled_trains_to_the_same_adapter(runs: SimpleNamespace) -> None:
    assert runs.compilations > 0
    split = runs.split[0]
    assert any("language_model.layers.1." in name and ".lora_" not in name for name in split)
    assert any("vision_tower.encoder.layers.0." in name for name in split)
    assert [entry["loss"] for entry in runs.history["sharded"]] == pytest.approx(
        [entry["loss"] for entry in runs.outcomes["finetune_lora"].history], rel=1e-4
    )
    for file in ("adapter_model.safetensors", "trained.safetensors"):
        close(load_file(runs.one / "data/finetune_lora" / file), load_file(runs.two / "data/sharded" / file))


def test_mixed_precision_under_fsdp_rounds_what_it_rounds_elsewhere(runs: SimpleNamespace) -> None:
    assert runs.split[1]
    (one,), (other,) = runs.outcomes["rounded"].history, runs.history["rounded"]
    (exact, *_) = runs.outcomes["finetune_lora"].history
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert one["loss"] != pytest.approx(exact["loss"], rel=1e-7)


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "processes", "whole", "share"),
    [
        (4, 3, 1, False, (4, 3)),
        (4, 1, 2, False, (2, 1)),
        (1, 16, 8, False, (1, 2)),
        (4, 4, 8, False, (2, 1)),
        (6, 2, 3, False, (4, 1)),
        (8, 2, 2, True, (4, 2)),
    ],
)
def test_processes_divide_a_step(
    batch_size: int, accumulation: int, processes: int, whole: bool, share: tuple[int, int]
) -> None:
    assert share_of_step(batch_size, accumulation, processes, whole_batches=whole) == share
    assert share[0] * share[1] * processes == batch_size * accumulation


def test_a_step_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_size x accumulation is 6 panoramas, which 4 processes cannot divide"):
        share_of_step(3, 2, 4, whole_batches=False)
    with pytest.raises(ValueError, match=r"batch_size is 3 panoramas, which 2 processes .* multiple of 2"):
        share_of_step(3, 2, 2, whole_batches=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"FSDP_VERSION": "1"}, "fsdp_version is 1"), ({"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, "set it to false")],
)
def test_ways_of_sharding_that_cannot_work_are_refused(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    for name, value in in_processes.FSDP.items():
        monkeypatch.setenv(name, value)
    check_launch()
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        check_launch()
