"""Run a benchmark by name and print it."""

from pathlib import Path
from typing import Any

from panollava.bench.asking import bench_ask
from panollava.bench.report import report
from panollava.bench.scaling import bench_scaling
from panollava.bench.scaling_report import scaling_table
from panollava.bench.sizes import SIZES
from panollava.bench.training import bench_train
from panollava.bench.views import bench_views
from panollava.bench.views import report as report_views


def run(what: str, size: str, rounds: int) -> dict[str, Any]:
    """Run and print the benchmark `train`, `ask`, `views` (which knows no sizes) or `all`, and return its numbers.

    Raises:
        ValueError: sides that differ, fewer than two rounds, a missing package or GPU.
    """
    if what == "all":  # the views first: they miss a package at once
        return {one: run(one, size, rounds) for one in ("views", "train", "ask")}
    if what == "views":
        result = bench_views(rounds)
        print(report_views(result), flush=True)
    else:
        bench = {"train": bench_train, "ask": bench_ask}[what]
        result = bench(SIZES[size], rounds)
        print(report(what, result), flush=True)
    return result


def run_scaling(size: str, work: Path, processes: list[int], modes: list[str]) -> dict[str, Any]:
    """Run and print the benchmark `scaling`, and return its numbers.

    Raises:
        ValueError: a launch that failed, or no launch of one process to compare with.
    """
    result = bench_scaling(size, work, processes, modes)
    print(scaling_table(result), flush=True)
    return result
