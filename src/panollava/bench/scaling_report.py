"""The numbers of `panollava bench scaling` as a table."""

from typing import Any

from panollava.bench.turns import spread
from panollava.markdown import NOTHING, markdown_table

MODES = {"ddp": "DDP", "fsdp": "FSDP 2"}
# The works in the order of the table.
ALIGNED, TUNED, ANSWERS = "train_resampler", "finetune_lora", "answers"
WORKS = (ALIGNED, f"{ALIGNED}, compiled", TUNED, f"{TUNED}, compiled", ANSWERS)


def scaling_table(result: dict[str, Any]) -> str:
    """Return the numbers as markdown: a row a kind of work, a mode and a number of processes."""
    rows = []
    for what in WORKS:
        for name, run in result["runs"].items():
            if row := run["measured"].get(what):
                rows.append([what, MODES[name.partition("-")[0]], str(run["processes"]), *_cells(row)])
    header = ["Work", "Mode", "Processes", "Panoramas or answers a second", "Efficiency", "Waiting", "Peak GB",
              "First loss apart", "Ten losses apart"]  # fmt: skip
    text = f"Size `{result['size']}`, {result['device']}, torch {result['torch']}; median (interquartile) of the steps."
    return f"{text}\n\n{markdown_table(header, rows, left=2)}"


def _cells(row: dict[str, Any]) -> list[str]:
    if row["unit"] == "answers":
        apart = [NOTHING, f"{1 - row['equal_answers']:.1%} of answers"]
        return [f"{row['rate']['median']:.1f}", f"{row['efficiency']:.2f}", NOTHING, f"{row['peak_gb']:.1f}", *apart]
    waited = f"{row['waited']:.1%}"
    apart = [f"{row[name]:.1e}" for name in ("first_apart", "apart")]
    return [spread(row["rate"]), f"{row['efficiency']:.2f}", waited, f"{row['peak_gb']:.1f}", *apart]
