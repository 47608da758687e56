"""The numbers of `bench train` and `bench ask` as text, as a table of the README, and beside their goals."""

from typing import Any

from panollava.bench.turns import spread
from panollava.markdown import NOTHING, markdown_table

VIEWS = {"ms": "ms", "ratio": "times one cached cv2.remap"}
WORK = {"train": "Training", "ask": "Asking", "views": "Views"}
# What each size should reach, by benchmark: the measure, at least (+1) or at most (-1), the number.
GOALS: dict[tuple[str, str], dict[str, tuple[int, float]]] = {
    ("train", "tiny"): {"documented": (1, 5.0), "one dialogue": (1, 1.2)},
    ("ask", "tiny"): {
        "follow-up, documented": (1, 5.0),
        "many questions, one by one": (1, 6.0),
        "many questions, batched": (1, 3.0),
    },
    ("train", "7b"): {
        f"{name}{suffix}": (1, least)
        for suffix in ("", ", compiled")
        for name, least in (("documented", 7.0), ("one dialogue", 1.3), ("share of the frozen-weight limit", 0.55))
    }
    | {
        "peak memory, GB": (-1, 60.0),
        "peak memory, activation checkpointing, GB": (-1, 24.0),
    },
    ("ask", "7b"): {
        f"{name}{suffix}": (-1, most)
        for suffix in ("", ", compiled")
        for name, most in (
            ("first token, ms", 50.0),
            ("follow-up, ms", 9.0),
            ("ms a token", 4.2),
            ("many questions, ms", 250.0),
        )
    },
}


def judgement(what: str, size: str, measure: str, value: float) -> str:
    """Return a measure's goal and whether it is met, as text; nothing where there is no goal."""
    if measure not in GOALS.get((what, size), {}):
        return ""
    sign, goal = GOALS[what, size][measure]
    return f"{'>=' if sign > 0 else '<='} {goal:g}: {'met' if sign * value >= sign * goal else 'MISSED'}"


def report(what: str, result: dict[str, Any]) -> str:
    """Return a benchmark's result as text; ratios are to ours, spreads are interquartile."""
    flops, copied = (result["limits"][name] / 1e9 for name in ("flops_per_s", "bytes_per_s"))
    lines = [
        f"{result['size']}, {result['device']}, {result['rounds']} rounds; median (interquartile)",
        result["work"],
        f"limits in this run: {flops:,.0f} GFLOP/s of a matrix product, {copied:,.0f} GB/s of a copy",
    ]
    for load, rows in result["workloads"].items():
        lines += ["", f"{load:40}{'milliseconds':>28}{'times ours':>22}"]
        lines += [f"  {name:38}{spread(row['ms'], 1):>28}{spread(row['ratio']):>22}" for name, row in rows.items()]
    lines += ["", f"{'measure':42}{'value':>10}  goal"]
    for measure, value in result["measures"].items():
        lines.append(f"{measure:42}{value:>10.4g}  {judgement(what, result['size'], measure, value)}".rstrip())
    return "\n".join(lines)


def speed_table(results: dict[str, Any]) -> str:
    """Return the results of `train`, `views` and, if it has been run, `ask` as a markdown table, goals below it."""
    rows, notes = [], []
    for what in (what for what in ("train", "ask") if what in results):
        sides, goals = _rows(what, results[what])
        rows += sides
        notes += goals
    for name, row in results["views"]["sides"].items():
        rows.append(["views", name, spread(row["ms"], 1), NOTHING])
        if target := row.get("target"):
            of, most = target["of"], target["at_most"]
            verdict = f"<= {most:g}: {'met' if target['met'] else 'MISSED'}"
            notes.append(["views", f"{name}, {VIEWS[of]}", f"{row[of]['median']:.2f}", verdict])
    train = results["train"]
    work = [f"Size `{train['size']}`, {train['device']}, {train['rounds']} rounds."]
    work += [f"{title}: {results[what]['work']}." for what, title in WORK.items() if what in results]
    return f"{' '.join(work)}\n\n{_tables(rows, notes)}"


def _rows(what: str, result: dict[str, Any]) -> tuple[list[list[str]], list[list[str]]]:
    """Return the rows of a benchmark's sides, and those of its measures that have goals."""
    sides = [
        [load, name, spread(row["ms"], 1), spread(row["ratio"])]
        for load, found in result["workloads"].items()
        for name, row in found.items()
    ]
    judged = [(measure, value, judgement(what, result["size"], measure, value))
              for measure, value in result["measures"].items()]  # fmt: skip
    return sides, [[what, measure, f"{value:.2f}", goal] for measure, value, goal in judged if goal]


def _tables(rows: list[list[str]], notes: list[list[str]]) -> str:
    sides = markdown_table(["Workload", "Side", "ms", "times ours"], rows, left=2)
    return f"{sides}\n\n{markdown_table(['Benchmark', 'Measure', 'Value', 'Goal'], notes, left=2)}"
