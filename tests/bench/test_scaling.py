"""The scaling benchmark: what a process measures, how launches are compared, and what a failed launch leaves."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_bench import MICRO

from panollava.bench import scaling, scaling_rank, scaling_work
from panollava.bench.scaling_report import WORKS, scaling_table
from panollava.bench.scaling_work import LOADS, prepare

TEXT = MICRO.text | {"vocab_size": 4096, "max_position_embeddings": 2048}
SMALL = replace(LOADS["tiny"].settings, tokens_per_side=2)
LOAD = replace(
    LOADS["tiny"],
    size=replace(MICRO, text=TEXT),
    settings=SMALL,
    height=64,
    train=4,
    test=2,
    tuned=(1, 2),
    aligned=(2, 1),
)


def run(rate: float, losses: list[float], answers: list[str], processes: int) -> dict[str, Any]:
    """Return what the launch of `processes` wrote that took `1 / rate` seconds a step of 8 panoramas."""
    count = len(losses)
    training = {
        "step": [*range(1, count + 1)], "loss": losses, "seconds": [5 + step / rate for step in range(count)],
        "waited": [0.1 * step / rate for step in range(count)], "panoramas": 8, "peak_gb": [1.0, 2.0],
    }  # fmt: skip
    asked = {"seconds": 2.0 / processes, "answers": [{"answer": text} for text in answers], "peak_gb": [3.0]}
    return {"processes": processes, "device": "a device", "torch": "1",
            "measured": {"train_resampler": training, "answers": asked}}  # fmt: skip


def write(folder: Path, **runs: dict[str, Any]) -> Path:
    for name, content in runs.items():
        (folder / f"{name.replace('_', '-')}.json").write_text(json.dumps(content))
    return folder


def test_a_process_measures_what_the_stages_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling_work, "LOADS", {"tiny": LOAD})
    prepare(LOAD, tmp_path, 1)
    steps, out = 4, tmp_path / "out"
    trained = scaling_rank.measured("finetune_lora", LOAD, tmp_path, out, steps, 10)
    assert (out / "finetune_lora/adapter_model.safetensors").is_file()
    assert trained["step"] == [1, 2, 3, 4]
    assert trained["panoramas"] == 2
    assert trained["seconds"] == sorted(trained["seconds"])
    assert 0 <= trained["waited"][-1] <= trained["seconds"][-1]
    asked = scaling_rank.measured("answers", LOAD, tmp_path, out, steps, 10)
    assert {json.dumps(one["variant"]) for one in asked["answers"]} == {'"model"', '"shuffled"'}
    assert asked["seconds"] > 0


def test_what_is_prepared_is_not_prepared_again(tmp_path: Path) -> None:
    prepare(LOAD, tmp_path, 1)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    prepare(LOAD, tmp_path, 1)
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_runs_are_compared_with_one_process(tmp_path: Path) -> None:
    losses = [4.0, 3.0, 2.0, 2.0, 1.0, 1.0]
    one, two = run(1.0, losses, ["a", "b"], 1), run(1.5, [4.0, 3.3, *losses[2:]], ["a", "c"], 2)
    result = scaling.collect("tiny", write(tmp_path, ddp_1=one, ddp_2=two))
    rows = result["runs"]["ddp-2"]["measured"]
    trained, asked = rows["train_resampler"], rows["answers"]
    assert trained["rate"]["median"] == pytest.approx(12.0)
    assert trained["efficiency"] == pytest.approx(0.75)
    assert trained["waited"] == pytest.approx(0.1)
    assert trained["peak_gb"] == 2.0
    assert (trained["first_apart"], trained["apart"]) == (0.0, pytest.approx(0.1))
    assert asked["efficiency"] == pytest.approx(1.0)
    assert asked["equal_answers"] == 0.5
    table = scaling_table(result)
    assert "| train_resampler | DDP | 2 | 12.00 (12.00-12.00) | 0.75 | 10.0% | 2.0 | 0.0e+00 | 1.0e-01 |" in table
    assert "| answers | DDP | 2 | 2.0 | 1.00 | – | 3.0 | – | 50.0% of answers |" in table


def test_without_one_process_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run of one process; run it too: --processes 1"):
        scaling.collect("tiny", write(tmp_path, ddp_2=run(1.0, [1.0] * 6, [], 2)))


def test_a_failed_launch_is_named_and_leaves_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "prepare", lambda *_: None)
    monkeypatch.setattr(scaling, "_launcher", lambda *_: ["false"])
    (tmp_path / "results").mkdir()
    with pytest.raises(ValueError, match="DDP on 2 processes ended with exit code 1"):
        scaling.bench_scaling("tiny", tmp_path, [2], ["ddp"])
    assert not list((tmp_path / "results").glob("*.json"))


def test_a_launch_that_was_cut_off_is_repeated_and_a_whole_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "prepare", lambda *_: None)
    monkeypatch.setattr(scaling, "_launcher", lambda *_: ["false"])
    (tmp_path / "results").mkdir()
    whole = run(1.0, [1.0] * 6, ["a"], 1)
    cut = whole | {"measured": dict(whole["measured"])}
    whole["measured"] |= dict.fromkeys(WORKS[:-1], whole["measured"]["train_resampler"])
    write(tmp_path / "results", ddp_1=whole)
    assert scaling.bench_scaling("tiny", tmp_path, [1], ["ddp"])["runs"].keys() == {"ddp-1"}
    write(tmp_path / "results", ddp_1=cut)
    with pytest.raises(ValueError, match="DDP on 1 processes ended"):
        scaling.bench_scaling("tiny", tmp_path, [1], ["ddp"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can be sharded over")
def test_fsdp_without_a_gpu_is_refused_and_not_measured_as_something_else(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--modes fsdp needs GPUs"):
        scaling.bench_scaling("tiny", tmp_path, [2], ["ddp", "fsdp"])
    assert not list(tmp_path.iterdir())


def test_each_work_is_a_choice_of_the_processes() -> None:
    assert {work.partition(",")[0] for work in WORKS} == {"train_resampler", "finetune_lora", "answers"}
