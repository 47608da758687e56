"""The figure of the ablation study: one panel a measure, one line an arm.

A line leads from the lowest to the highest value over the seeds, a circle marks their mean.
"""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from panollava.report.style import BLIND, GRID, MODEL, styled

TITLES = {
    "accuracy": "answers, accuracy", "median_deg": "direction, median error",
    "grounding": "grounding, IoU ≥ 0.5", "ap50": "detection, AP50", "masks": "masks, IoU",
}  # fmt: skip


@styled
def ablation_figure(rows: Mapping[str, dict[str, Any]]) -> Figure:
    """Draw the rows of metrics/ablation.json, all arms side by side."""
    figure = Figure(figsize=(15, 0.32 * len(rows) + 1.6), layout="constrained")
    figure.suptitle("Ablation: mean over seeds, lowest to highest", x=0.01, ha="left")
    heights = range(len(rows))
    for axes, (name, title) in zip(figure.subplots(1, len(TITLES), sharey=True), TITLES.items(), strict=True):
        for height, row in zip(heights, rows.values(), strict=True):
            if name in row:
                axes.plot([row[name]["low"], row[name]["high"]], [height, height], color=MODEL, linewidth=2)
                axes.plot(row[name]["mean"], height, "o", color=MODEL, markersize=6)
            if name == "accuracy" and "blind" in row:
                axes.plot(row["blind"]["mean"], height, "s", color=BLIND, markersize=5)
        axes.set_title(title)
        axes.set_yticks(heights, list(rows))
        axes.grid(axis="x", color=GRID)
        if name == "median_deg":
            axes.set_xscale("log")
            axes.set_xticks([5, 10, 20, 40, 90], ["5°", "10°", "20°", "40°", "90°"])
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.set_xlim(left=0)
    figure.axes[0].invert_yaxis()
    figure.axes[0].set_xlabel("circles: the model; squares: its blind twin")
    return figure
