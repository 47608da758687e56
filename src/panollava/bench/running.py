"""Run a benchmark by name, print it, write it as JSON. `python -m panollava.bench.running` writes the README's table.

That one runs all three at size tiny, about three minutes on two cores, and keeps the numbers in metrics/bench.json.
"""

import json
from pathlib import Path
from typing import Any

from panollava.bench.asking import bench_ask
from panollava.bench.report import report, speed_table
from panollava.bench.sizes import SIZES
from panollava.bench.training import bench_train
from panollava.bench.views import bench_views
from panollava.bench.views import report as report_views
from panollava.io import replacing
from panollava.markdown import update_between_markers

README, METRICS = Path("README.md"), Path("metrics/bench.json")
# What `panollava bench train --size 7b` and `bench views` wrote on a GPU, each under its name.
LARGE = Path("metrics/bench_7b.json")
MARKER, LARGE_MARKER, ROUNDS = "bench", "bench_7b", 7


def run(what: str, size: str, rounds: int) -> dict[str, Any]:
    """Run and print the benchmark `train`, `ask`, `views` (which knows no sizes) or `all`, and return its numbers.

    Raises:
        ValueError: sides that differ, fewer than two rounds, a missing package or GPU.
    """
    if what == "all":
        return {one: run(one, size, rounds) for one in ("train", "ask", "views")}
    if what == "views":
        result = bench_views(rounds)
        print(report_views(result), flush=True)
    else:
        bench = {"train": bench_train, "ask": bench_ask}[what]
        result = bench(SIZES[size], rounds)
        print(report(what, result), flush=True)
    return result


def write_json(result: dict[str, Any], path: Path) -> None:
    """Write numbers to a file, whole or not at all."""
    with replacing(path) as file:
        file.write((json.dumps(result, indent=1) + "\n").encode())


def updated(readme: str, results: dict[str, Any], large: dict[str, Any]) -> str:
    """Return the README with the tables of both results between their markers."""
    readme = update_between_markers(readme, MARKER, speed_table(results))
    return update_between_markers(readme, LARGE_MARKER, speed_table(large))


def main() -> None:
    """Run everything at size tiny, and rewrite metrics/bench.json and README.md, the large size as it was measured."""
    large = json.loads(LARGE.read_text(encoding="utf-8"))
    results = run("all", "tiny", ROUNDS)
    write_json(results, METRICS)
    README.write_text(updated(README.read_text(encoding="utf-8"), results, large), encoding="utf-8")


if __name__ == "__main__":
    main()
