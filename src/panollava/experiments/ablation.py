"""The ablation study: which parts of the design earn their place, each arm with several seeds, as DVC experiments.

An arm changes some parameters of params.yaml; a seed draws everything anew, the world and the weights. The experiments
are named ARM-sSEED; see `experiments.py` for how they run. `make ablation ARMS="default code-yaw"` runs two arms.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from ruamel.yaml import YAML

from panollava.experiments.gate import flatten
from panollava.experiments.runner import README, command, own_files, run_missing, write_table
from panollava.io import replacing
from panollava.report.style import BLIND, GRID, MODEL, png_bytes, styled
from panollava.report.tables import NOTHING, degrees, markdown_table, share, update_between_markers

MARKER = "ablation"
FIGURE = Path("plots/ablation.png")
SEEDS = (0, 1, 2)

# Each arm by the parameters that it changes; * stands for the chosen weights. The first is the default. Views and
# resamplers have about as many visual tokens as the stand-ins' default (144). The last two see a world of their own,
# with all objects near the poles, and compare with each other alone.
SPHERE = {
    "model.*.view_strategy": "sphere",
    "model.*.stride_deg": "90",
    "model.*.tokens_per_side": "5",
    "train_vision.*.pairing": "none",
}
POLES = {"dataset.world.min_latitude_deg": "60"}
ARMS: dict[str, dict[str, str]] = {
    "default": {},
    "overlap-none": {"train_vision.*.pairing": "none"},
    "overlap-strip": {"train_vision.*.pairing": "strip"},
    "overlap-batchwise": {"train_vision.*.loss": "vicreg_batchwise"},
    "code-none": {"model.*.position_code": "none"},
    "code-yaw": {"model.*.position_code": "yaw"},
    "unturned": {"train_resampler.*.augmentation.yaw_steps": "1", "finetune_lora.*.augmentation.yaw_steps": "1"},
    "resize": {"model.*.view_strategy": "resize", "model.*.tokens_per_side": "12", "train_vision.*.pairing": "none"},
    "cubemap": {"model.*.view_strategy": "cubemap", "model.*.tokens_per_side": "5", "train_vision.*.pairing": "none"},
    "e2p": {"model.*.view_strategy": "e2p"},
    "anyres": {"model.*.view_strategy": "anyres"},
    "sphere": SPHERE,
    "adaptive": {
        "model.*.view_strategy": "adaptive",
        "model.*.token_budget": "144",
        "model.*.tokens_per_side": "3",
        "train_vision.*.pairing": "none",
    },
    "unique": {"model.*.token_reduction": "unique"},
    "mlp": {"model.*.resampler": "mlp"},
    "perceiver": {"model.*.resampler": "perceiver"},
    "c_abstractor": {"model.*.resampler": "c_abstractor"},
    "poles-anyres_e2p": POLES,
    "poles-sphere": POLES | SPHERE,
}

# Name in the table's files -> key in a language's block of metrics/evaluate.json.
MEASURES = {
    "accuracy": "accuracy.value",
    "blind": "accuracy.blind",
    "median_deg": "direction.median_deg",
    "grounding": "grounding.iou50",
    "ap50": "detection.ap50",
    "masks": "segmentation.miou",
}


def cells(arms: Sequence[str], seeds: Sequence[int], weights: str) -> dict[str, dict[str, str]]:
    """Return the experiments of arms and seeds: name -> the parameters that it sets.

    Raises:
        ValueError: an unknown arm.
    """
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise ValueError(f"ablation: no arm is called {', '.join(unknown)}; choose from {', '.join(ARMS)}")
    found = {}
    for arm in arms:
        settings = {key.replace("*", weights): value for key, value in ARMS[arm].items()}
        for seed in seeds:
            found[f"{arm}-s{seed}"] = settings | {"seed": str(seed)}
    return found


def summarise(metrics: Mapping[str, dict[str, Any]], arms: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """Return for each arm and measure of the first language the mean over seeds, the lowest and the highest."""
    rows: dict[str, Any] = {}
    for arm in arms:
        runs = [next(iter(metrics[f"{arm}-s{seed}"]["evaluate"].values())) for seed in seeds]
        leaves = [flatten(run) for run in runs]
        rows[arm] = {"seeds": len(seeds)}
        for name, key in MEASURES.items():
            values = [value for run in leaves if isinstance(value := run.get(key), float | int)]
            if len(values) == len(seeds):
                rows[arm][name] = {"mean": statistics.fmean(values), "low": min(values), "high": max(values)}
    return rows


def markdown(rows: Mapping[str, dict[str, Any]]) -> str:
    """Return the table: a row per arm, each number as mean [lowest, highest] over the seeds."""
    header = [
        "Arm",
        "Seeds",
        "QA accuracy",
        "Blind",
        "Direction, median error",
        "Grounding, IoU ≥ 0.5",
        "AP50",
        "Masks, IoU",
    ]
    lines = []
    for arm, row in rows.items():
        spelt = []
        for name in MEASURES:
            spell = degrees if name == "median_deg" else share
            block = row.get(name)
            low, mean, high = (spell(block[key]) for key in ("low", "mean", "high")) if block else (NOTHING,) * 3
            spelt.append(f"{mean} [{low}, {high}]" if block else NOTHING)
        lines.append([arm, str(row["seeds"]), *spelt])
    return f"{markdown_table(header, lines)}\n\n![The arms of the ablation study]({FIGURE.as_posix()})"


@styled
def figure(rows: Mapping[str, dict[str, Any]]) -> Figure:
    """Draw the measures of all arms side by side: the mean over seeds, and a line from the lowest to the highest."""
    titles = {
        "accuracy": "answers, accuracy", "median_deg": "direction, median error",
        "grounding": "grounding, IoU ≥ 0.5", "ap50": "detection, AP50", "masks": "masks, IoU",
    }  # fmt: skip
    drawn = Figure(figsize=(15, 0.32 * len(rows) + 1.6), layout="constrained")
    drawn.suptitle("Ablation: mean over seeds, lowest to highest", x=0.01, ha="left")
    places = range(len(rows))
    for axes, (name, title) in zip(drawn.subplots(1, len(titles), sharey=True), titles.items(), strict=True):
        for place, row in zip(places, rows.values(), strict=True):
            if name in row:
                axes.plot([row[name]["low"], row[name]["high"]], [place, place], color=MODEL, linewidth=2)
                axes.plot(row[name]["mean"], place, "o", color=MODEL, markersize=6)
            if name == "accuracy" and "blind" in row:
                axes.plot(row["blind"]["mean"], place, "s", color=BLIND, markersize=5)
        axes.set_title(title)
        axes.set_yticks(places, list(rows))
        axes.grid(axis="x", color=GRID)
        if name == "median_deg":
            axes.set_xscale("log")
            axes.set_xticks([5, 10, 20, 40, 90], ["5°", "10°", "20°", "40°", "90°"])
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.set_xlim(left=0)
    drawn.axes[0].invert_yaxis()
    drawn.axes[0].set_xlabel("circles: the model; squares: its blind twin")
    return drawn


def run_ablation(arms: Sequence[str], root: Path = Path(), seeds: Sequence[int] = SEEDS) -> dict[str, Any]:
    """Run what is missing, write metrics/ablation.*, the figure and the README's table, and return the rows.

    Raises:
        ValueError: an unknown arm, a README without a place for the table, or what `run_missing` raises.
    """
    update_between_markers((root / README).read_text(encoding="utf-8"), MARKER, "")
    weights = YAML(typ="safe").load(root / "params.yaml")["weights"]
    metrics = run_missing(root, cells(arms, seeds, weights), [*own_files(MARKER), FIGURE.as_posix()])
    rows = summarise(metrics, arms, seeds)
    with replacing(root / FIGURE) as file:
        file.write(png_bytes(figure(rows)))
    write_table(root, MARKER, rows, markdown(rows))
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Run the study, or the named arms of it, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arms", nargs="*", default=list(ARMS), help=f"by default all: {', '.join(ARMS)}")
    options = parser.parse_args(arguments)
    return command(lambda: markdown(run_ablation(options.arms)))


if __name__ == "__main__":
    sys.exit(main())
