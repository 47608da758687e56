"""Figures of directions and boxes: errors around the compass, and the overlap of the boxes of named objects."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes

from panollava.corpus.records import DirectionAnswer, LabelledBox
from panollava.report.inputs import ReportInputs
from panollava.report.style import GRID, INK, MODEL, MUTED, VARIANT_COLOURS, VARIANT_NAMES, language_name, styled
from panollava.tasks.direction import DIRECTION
from panollava.tasks.grounding import GROUNDING, HALF
from panollava.tasks.prediction import Prediction, Variant

SECTORS = 12
ERROR_RINGS_DEG = (1, 5, 15, 45, 90, 180)
# A mean over fewer answers than this is noise and is not drawn.
MIN_PER_BIN = 3


@styled
def directions_figure(inputs: ReportInputs) -> Figure | None:
    """Draw direction errors around the compass of true directions, and their distribution, one row per language."""
    languages = [language for language in inputs.languages if _with_error(inputs, "model", language)]
    if not languages:
        return None
    figure = Figure(figsize=(12, 5.1 * len(languages) + 0.5), layout="constrained")
    figure.suptitle("Direction of a named object: the angle between answer and truth", x=0.01, ha="left")
    for row, language in enumerate(languages):
        compass = figure.add_subplot(len(languages), 2, 2 * row + 1, projection="polar")
        assert isinstance(compass, PolarAxes)
        _draw_compass(compass, _with_error(inputs, "model", language))
        compass.set_title(f"{language_name(language)}: error by the true yaw, seen from above", pad=16)
        _draw_error_histogram(figure.add_subplot(len(languages), 2, 2 * row + 2), inputs, language)
    return figure


def _with_error(inputs: ReportInputs, variant: Variant, language: str) -> list[Prediction]:
    found = inputs.of(variant=variant, task=DIRECTION.name, language=language)
    return [p for p in found if p.error_deg is not None]


def _errors(predictions: list[Prediction]) -> np.ndarray:
    return np.array([p.error_deg for p in predictions], dtype=float)


def _draw_compass(axes: PolarAxes, predictions: list[Prediction]) -> None:
    """Draw each answer at its true yaw, the further out the larger its error; medians per sector as arcs."""
    yaw = np.radians([p.truth(DirectionAnswer).yaw_deg for p in predictions])
    errors = _errors(predictions)
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    axes.plot(
        yaw,
        np.log1p(errors),
        "o",
        color=MODEL,
        alpha=0.35,
        markersize=4,
        markeredgewidth=0,
        label="one answer (centre: no error)",
    )
    # Sectors are centred on the compass points, so that front and behind are sectors and not borders.
    sector = np.round(yaw / (2 * np.pi) * SECTORS).astype(int) % SECTORS
    label: str | None = f"median error per {360 // SECTORS}° sector"
    for index in np.unique(sector):
        inside = errors[sector == index]
        if len(inside) >= MIN_PER_BIN:
            arc = (index + np.linspace(-0.5, 0.5, 20)) * 2 * np.pi / SECTORS
            axes.plot(arc, np.full(20, np.log1p(np.median(inside))), color="#d1591b", linewidth=2.4, label=label)
            label = None
    axes.set_rlim(0, np.log1p(180))
    axes.set_rticks(np.log1p(ERROR_RINGS_DEG), [f"{ring}°" for ring in ERROR_RINGS_DEG])
    axes.set_rlabel_position(22.5)
    names = ("front\n0°", "45°", "right\n90°", "135°", "behind\n±180°", "−135°", "left\n−90°", "−45°")
    axes.set_xticks(np.arange(8) * np.pi / 4, names)
    axes.tick_params(labelsize=8)
    axes.grid(color=GRID)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.2, -0.12), fontsize=8)


def _draw_error_histogram(axes: Axes, inputs: ReportInputs, language: str) -> None:
    """Draw the share of answers per error bin for the model and its baselines, with their medians."""
    edges = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 5.5, 7.5, 10, 15, 20, 30, 45, 60, 90, 120, 180])
    for variant in ("model", "shuffled", "blind"):
        errors = _errors(_with_error(inputs, variant, language))
        if not len(errors):
            continue
        shares = np.histogram(errors, edges)[0] / len(errors)
        median = float(np.median(errors))
        name = f"{VARIANT_NAMES[variant]}: median {median:.1f}° (n = {len(errors)})"
        filled = variant == "model"
        axes.stairs(
            shares, edges, fill=filled, color=VARIANT_COLOURS[variant], alpha=0.8 if filled else 1, lw=1.8, label=name
        )
        axes.axvline(median, ymax=0.77, color=VARIANT_COLOURS[variant], linestyle="--", linewidth=1.4)
    axes.set_xscale("function", functions=(np.log1p, np.expm1))
    axes.set_xlim(0, 180)
    axes.set_xticks(ERROR_RINGS_DEG, [f"{tick}°" for tick in ERROR_RINGS_DEG])
    axes.set(xlabel="error in degrees (logarithmic scale)", ylabel="share of answers per bin")
    axes.set_title(f"{language_name(language)}: distribution of errors (dashed: median)")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.3)
    axes.legend(loc="upper right", fontsize=8.5)
    axes.grid(axis="y")


@styled
def grounding_figure(inputs: ReportInputs) -> Figure | None:
    """Draw the IoU of grounded boxes: its distribution, and how it depends on the size and latitude of the object."""
    model = [p for p in inputs.of(task=GROUNDING.name) if p.iou is not None]
    if not model:
        return None
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    figure.suptitle(
        "Grounding: how well the box of a named object fits (IoU: overlap, 1 is a perfect fit)", x=0.01, ha="left"
    )
    histogram, by_size, by_latitude = figure.subplots(1, 3)
    edges = np.linspace(0, 1, 21)
    for variant in ("model", "shuffled", "blind"):
        ious = np.array([p.iou for p in inputs.of(variant=variant, task=GROUNDING.name) if p.iou is not None])
        if len(ious):
            share = float((ious >= 0.5).mean())
            label = f"{VARIANT_NAMES[variant]}: {share:.0%} at IoU ≥ 0.5"
            shares = np.histogram(ious, edges)[0] / len(ious)
            filled = variant == "model"
            histogram.stairs(
                shares, edges, fill=filled, color=VARIANT_COLOURS[variant], alpha=0.8 if filled else 1, lw=1.8,
                label=label,
            )  # fmt: skip
    histogram.axvline(HALF, ymax=0.8, color=MUTED, linestyle=":", linewidth=1.4)
    histogram.set(xlabel="IoU with the true box, on the sphere", ylabel="share of answers", xlim=(0, 1))
    histogram.set_title("All answers (dotted: found from here on)")
    histogram.legend(fontsize=8.5)
    histogram.grid(axis="y")
    boxes = np.array([p.truth(LabelledBox).box_deg for p in model], dtype=float)
    ious = np.array([p.iou for p in model], dtype=float)
    size = np.sqrt(boxes[:, 2] * boxes[:, 3])
    draw_dependence(by_size, size, ious, bins=np.quantile(size, np.linspace(0, 1, 7)))
    by_size.set(xlabel="size of the true box, √(width × height), degrees", title="By size of the object")
    draw_dependence(by_latitude, boxes[:, 1], ious, bins=np.arange(-90, 91, 15.0))
    by_latitude.set(xlabel="pitch of the true box, degrees (0: horizon)", title="By height above the horizon")
    return figure


def draw_dependence(axes: Axes, x: np.ndarray, iou: np.ndarray, bins: np.ndarray) -> None:
    """Draw single answers as dots and the mean per bin, with its standard error, as a line."""
    axes.plot(x, iou, "o", color=MODEL, alpha=0.25, markersize=4, markeredgewidth=0, label="one answer")
    index = np.clip(np.searchsorted(bins, x, side="right") - 1, 0, len(bins) - 2)
    groups = [(x[index == b], iou[index == b]) for b in range(len(bins) - 1) if (index == b).sum() >= MIN_PER_BIN]
    if groups:
        axes.errorbar(
            [float(a.mean()) for a, _ in groups], [float(i.mean()) for _, i in groups],
            yerr=[float(i.std(ddof=1) / np.sqrt(len(i))) for _, i in groups],
            color="#d1591b", marker="o", markersize=6, capsize=3, lw=1.8, label="mean ± standard error",
        )  # fmt: skip
        axes.legend(loc="upper left", ncols=2, fontsize=8.5)
    axes.axhline(HALF, color=MUTED, linestyle=":", linewidth=1.4)
    axes.set(ylabel="IoU on the sphere", ylim=(-0.03, 1.28), yticks=np.linspace(0, 1, 6))
    axes.yaxis.label.set_color(INK)
    axes.grid(axis="y")
