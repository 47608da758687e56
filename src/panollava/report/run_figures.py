"""Figures of the run: the loss of each training stage, and the time of each part of an answer."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from panollava.report.inputs import ReportInputs
from panollava.report.style import BLIND, MODEL, SHUFFLED, styled

STAGE_TITLES = {
    "train_vision": "1  train_vision: overlap of views",
    "train_resampler": "2  train_resampler: alignment with the language model",
    "finetune_lora": "3  finetune_lora: the model",
    "finetune_blind": "3b  finetune_blind: its twin without images",
}
LATENCIES = {
    "projection_ms": "cutting views out of the panorama",
    "encoder_ms": "image encoder",
    "first_token_ms": "first token, from panorama to text",
    "per_token_ms": "each further token",
    "follow_up_ms": "first token of a follow-up question",
}
_SMOOTHING = 25


@styled
def losses_figure(inputs: ReportInputs) -> Figure | None:
    """Draw the loss of each stage, smoothed over its raw values; further losses of a stage as thin lines."""
    known = [stage for stage in STAGE_TITLES if stage in inputs.losses]
    stages = known + [stage for stage in inputs.losses if stage not in STAGE_TITLES]
    if not stages:
        return None
    columns = min(2, len(stages))
    rows = -(-len(stages) // columns)
    figure = Figure(figsize=(6 * columns, 3.1 * rows + 0.5), layout="constrained")
    figure.suptitle("Training loss of each stage (pale: raw values, dark: smoothed)", x=0.01, ha="left")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, stage in zip(grid.flat, stages, strict=False):
        _draw_loss(axes, inputs.losses[stage])
        axes.set_title(STAGE_TITLES.get(stage, stage))
    for axes in grid.flat[len(stages) :]:
        axes.set_visible(False)
    return figure


def _draw_loss(axes: Axes, table: pd.DataFrame) -> None:
    """Draw column `loss` against `step`, and each further numeric column but the learning rate."""
    extra_colours = iter((BLIND, SHUFFLED, "#d1591b", "#b8860b"))
    for name in [c for c in table.columns if c not in ("step", "learning_rate", "epoch")]:
        curve = table[["step", name]].dropna()
        if curve.empty:
            continue
        window = max(1, min(_SMOOTHING, len(curve) // 8))
        smooth = curve[name].rolling(window, min_periods=1, center=True).mean()
        colour = MODEL if name == "loss" else next(extra_colours, "#7a7f87")
        if name == "loss":
            axes.plot(curve["step"], curve[name], color=colour, alpha=0.25, linewidth=0.9)
        label = f"{name}: {smooth.iloc[0]:.3g} → {smooth.iloc[-1]:.3g}"
        axes.plot(curve["step"], smooth, color=colour, linewidth=2 if name == "loss" else 1.2, label=label)
    axes.set(xlabel="optimiser step", ylabel="loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    axes.legend(fontsize=8.5)


@styled
def latency_figure(inputs: ReportInputs) -> Figure | None:
    """Draw the wall-clock time of each part of an answer; the title holds the peak memory."""
    parts = {name: inputs.latency[name] for name in LATENCIES if inputs.latency.get(name) is not None}
    if not parts:
        return None
    figure = Figure(figsize=(8.5, 0.48 * len(parts) + 1.5), layout="constrained")
    axes = figure.subplots()
    positions = np.arange(len(parts))
    values = list(parts.values())
    axes.barh(positions, values, height=0.6, color=MODEL, alpha=0.85)
    for value, y in zip(values, positions, strict=True):
        axes.text(value, float(y), f" {value:.3g} ms", va="center", fontsize=9)
    axes.set_yticks(positions, [LATENCIES[name] for name in parts])
    axes.invert_yaxis()
    axes.set_xlim(0, max(values) * 1.14 or 1)
    axes.set_xlabel("wall-clock time in milliseconds")
    axes.grid(axis="x")
    memory = inputs.latency.get("peak_memory_mb")
    axes.set_title(
        "Time of each part of an answer" + ("" if memory is None else f"   (peak memory {memory:,.0f} MB)"), loc="left"
    )
    return figure
