"""`panollava bench scaling`: the same work on one process and on several, by `accelerate launch`, DDP and FSDP 2.

Each launch leaves its numbers in a file of the folder WORK/results and is not repeated while that is there, so that
launches may run one after the other or beside each other. All are compared with one process on the same work.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from panollava.bench.scaling_report import ANSWERS, MODES, WORKS
from panollava.bench.scaling_work import LOADS, prepare
from panollava.bench.turns import quartiles

RESULTS = "results"
ONE = "ddp-1"
# Of each training, steps that warm up, and how many are taken in all.
WARM, STEPS = 3, 12
FSDP_CONFIG = Path("docs/fsdp.yaml")


def bench_scaling(size: str, work: Path, processes: list[int], modes: list[str]) -> dict[str, Any]:
    """Run the launches that have not been run, and return the numbers of all that WORK/results holds.

    Raises:
        ValueError: FSDP without a GPU, a launch that failed, or no launch of one process to compare with.
    """
    if "fsdp" in modes and not torch.cuda.is_available():
        raise ValueError("--modes fsdp needs GPUs; accelerate shards models on nothing else")
    prepare(LOADS[size], work, os.cpu_count() or 1)
    for mode in modes:
        for count in processes:
            if mode == "ddp" or count > 1:
                _launch(size, work, mode, count)
    return collect(size, work / RESULTS)


def collect(size: str, results: Path) -> dict[str, Any]:
    """Return the numbers of all launches that a folder of results holds, each beside those of one process.

    Raises:
        ValueError: no launch of one process to compare with.
    """
    found = {file.stem: json.loads(file.read_text("utf-8")) for file in sorted(results.glob("*.json"))}
    if ONE not in found:
        raise ValueError(f"{results} holds no run of one process; run it too: --processes 1 --modes ddp")
    runs = {name: {what: _numbers(one) for what, one in run["measured"].items()} for name, run in found.items()}
    compared = {name: _compared(run, found[name], runs[ONE], found[ONE]) for name, run in runs.items()}
    return {"size": size, "device": found[ONE]["device"], "torch": found[ONE]["torch"], "runs": compared}


def _launch(size: str, work: Path, mode: str, count: int) -> None:
    """Start one launch; FSDP does not answer, for evaluation divides the panoramas, not the model."""
    out = work / RESULTS / f"{mode}-{count}"
    what = [name for name in WORKS if name != ANSWERS or mode == "ddp"]
    # A launch that was killed has written down only what it had measured by then.
    file = out.with_suffix(".json")
    if file.is_file() and json.loads(file.read_text("utf-8"))["measured"].keys() >= set(what):
        return
    script = ["-m", "panollava.bench.scaling_rank", size, str(work), str(out), "--steps", str(STEPS), "--what", *what]
    print(f"{MODES[mode]}, {count} processes", file=sys.stderr, flush=True)
    done = subprocess.run([*_launcher(mode, count), *script], check=False)
    if done.returncode:
        file.unlink(missing_ok=True)
        raise ValueError(f"{MODES[mode]} on {count} processes ended with exit code {done.returncode}; see above")


def _launcher(mode: str, count: int) -> list[str]:
    if not torch.cuda.is_available():  # accelerate starts one process on a CPU
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    with socket.socket() as free:
        free.bind(("", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(count)]
    if mode == "fsdp":
        return [*command, "--main_process_port", port, "--config_file", str(FSDP_CONFIG)]
    several = ["--multi_gpu", "--main_process_port", port] if count > 1 else []
    return [*command, *several, "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]


def _numbers(one: dict[str, Any]) -> dict[str, Any]:
    """Return panoramas or answers a second, and the peak memory of a process."""
    peak = max(one["peak_gb"])
    if "answers" in one:
        rate = len(one["answers"]) / one["seconds"]
        return {"unit": "answers", "rate": {"median": rate, "q1": rate, "q3": rate}, "peak_gb": peak}
    seconds = [
        later - earlier for earlier, later in zip(one["seconds"][WARM - 1 :], one["seconds"][WARM:], strict=False)
    ]
    rates = quartiles([one["panoramas"] / taken for taken in seconds])
    waited = (one["waited"][-1] - one["waited"][WARM - 1]) / sum(seconds)
    return {"unit": "panoramas", "rate": rates, "peak_gb": peak, "waited": waited}


def _compared(
    run: dict[str, Any], found: dict[str, Any], one: dict[str, Any], found_one: dict[str, Any]
) -> dict[str, Any]:
    """Return a run's numbers with its efficiency and how far its losses or answers are from those of one process."""
    rows = {}
    for what, numbers in run.items():
        speedup = numbers["rate"]["median"] / one[what]["rate"]["median"]
        mine, theirs = found["measured"][what], found_one["measured"][what]
        numbers = numbers | {"speedup": speedup, "efficiency": speedup / found["processes"]}
        if what == ANSWERS:
            pairs = zip(mine["answers"], theirs["answers"], strict=True)
            equal = statistics.mean(a["answer"] == b["answer"] for a, b in pairs)
            rows[what] = numbers | {"equal_answers": equal}
        else:
            apart = [abs(a - b) / abs(b) for a, b in zip(mine["loss"], theirs["loss"], strict=True)]
            rows[what] = numbers | {"loss": mine["loss"], "first_apart": apart[0], "apart": max(apart[:10])}
    return {"processes": found["processes"], "measured": rows}
