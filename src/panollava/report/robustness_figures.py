"""The figure of metrics/robustness.json: yaws, the seam, latitude and tilts, each number with its 95 % interval.

Each measure has one colour and marker in all panels; a measure without questions is not drawn.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from panollava.report.style import BLIND, INK, MODEL, MUTED, SHUFFLED, styled

Block = Mapping[str, Any]
NAMES = {
    "accuracy": "closed questions, accuracy",
    "direction": "directions within 15°",
    "grounding": "boxes with IoU ≥ 0.5",
    "iou": "boxes, mean IoU",
}
LOOKS = {"accuracy": (MODEL, "o"), "direction": (SHUFFLED, "s"), "grounding": ("#d1591b", "D"), "iou": (BLIND, "^")}
# Measures at one place are a little apart, so that their intervals do not overlap.
APART = {"accuracy": -0.12, "direction": -0.04, "grounding": 0.04, "iou": 0.12}


@styled
def robustness_figure(robustness: Block) -> Figure:
    """Draw the block `robustness` of metrics/robustness.json in four panels."""
    figure = Figure(figsize=(13.6, 8.8), layout="constrained")
    figure.suptitle(
        "How much do the answers depend on the orientation of the camera? (bars: 95 % intervals)", x=0.01, ha="left"
    )
    yaws, seam, latitude, tilts = figure.subplots(2, 2).flat
    _draw_yaws(yaws, robustness["yaws"])
    _draw_seam(seam, robustness["seam"])
    _draw_latitude(latitude, robustness["latitude"])
    _draw_tilts(tilts, robustness["tilts"])
    drawn = [Line2D([], [], color=colour, marker=marker, linestyle="none") for colour, marker in LOOKS.values()]
    figure.legend(drawn, list(NAMES.values()), loc="outside lower left", ncols=4)
    return figure


def _draw_yaws(axes: Axes, yaws: Block) -> None:
    """Draw the score without a rotation, the score at each yaw, and the share that is right at every yaw."""
    measures = [name for name in NAMES if name in yaws]
    angles: list[str] = []
    for name in measures:
        block, (colour, _) = yaws[name], LOOKS[name]
        angles = list(block["yaws"])
        shown = [block["plain"], *block["yaws"].values()]
        places = [place + APART[name] for place in range(len(shown))]
        _points(axes, name, places, shown)
        axes.axhline(block["plain"]["value"], color=colour, linewidth=1.2, linestyle=":")
        axes.axhline(block["all"]["value"], color=colour, linewidth=1.4, linestyle="--", alpha=0.8)
    axes.set_xticks(range(len(angles) + 1), ["none", *(f"{angle}°" for angle in angles)])
    axes.set(
        xlabel="yaw by which the panorama is rotated to the right", ylabel="share of right answers", ylim=(0, 1.02)
    )
    axes.set_title("Rotation about the vertical axis")
    handles = [Line2D([], [], color=MUTED, linestyle=":"), Line2D([], [], color=MUTED, linestyle="--")]
    axes.legend(
        handles, ["without a rotation", "right at every yaw"], loc="lower right", bbox_to_anchor=(1, 0.06), fontsize=8.5
    )
    axes.grid(axis="y")


def _draw_seam(axes: Axes, seam: Block) -> None:
    """Draw the loss of each measure when its object lies across the seam."""
    looks = {"all": (INK, "o"), **LOOKS}
    measures = [name for name in looks if name in seam]
    for row, name in enumerate(measures):
        block, (colour, marker) = seam[name], looks[name]
        spread = [[block["gap"] - block["low"]], [block["high"] - block["gap"]]]
        axes.errorbar(
            [block["gap"]], [row], xerr=spread, color=colour, marker=marker, markersize=7, capsize=3, lw=1.8
        )  # fmt: skip
        gap = f"{block['gap']:+.3f}   ({block['away']:.3f} in front, {block['seam']:.3f} across the seam)"
        under = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axes.text(block["gap"], row - 0.2, gap, ha="center", va="bottom", fontsize=8.5, bbox=under)
    titles = {"all": "all right answers", **NAMES}
    axes.set_yticks(range(len(measures)), [f"{titles[name]}\n(n = {seam[name]['n']})" for name in measures])
    axes.set_ylim(len(measures) - 0.4, -0.7)
    reach = max([0.1, *(1.3 * abs(seam[name][end]) for name in measures for end in ("low", "high"))])
    axes.set_xlim(-reach, reach)
    axes.axvline(0, color=MUTED, linewidth=1.2)
    axes.set(xlabel="score in front minus score across the seam (right of 0: the seam does harm)")
    axes.set_title("The same object in front and across the ±180° seam")
    axes.grid(axis="x")


def _draw_latitude(axes: Axes, latitude: Block) -> None:
    """Draw each measure by the latitude of the object asked about."""
    measures = [name for name in NAMES if name in latitude]
    bands = sorted({band for name in measures for band in latitude[name]}, key=lambda band: int(band.split("-")[0]))
    for name in measures:
        found = [(bands.index(band) + APART[name], block) for band, block in latitude[name].items()]
        _points(axes, name, [place for place, _ in found], [block for _, block in found], joined=True)
    # Boxes are counted once, though they are measured twice.
    counted = [name for name in measures if name != "iou"]
    counts = [" / ".join(str(latitude[name].get(band, {"n": 0})["n"]) for name in counted) for band in bands]
    ticks = [f"{band.replace('-', '–')}°\n{count}" for band, count in zip(bands, counts, strict=True)]
    axes.set_xticks(range(len(bands)), ticks)
    kinds = " / ".join(NAMES[name].split(",")[0].split(" with")[0] for name in counted)
    axes.set(xlabel=f"degrees above or below the horizon; number of {kinds}", ylabel="score", ylim=(0, 1.02))
    axes.set_title("Height of the object above or below the horizon, without a rotation")
    axes.grid(axis="y")


def _draw_tilts(axes: Axes, tilts: Block) -> None:
    """Draw each measure at each tilt, filled, and of the same questions without a tilt, open."""
    angles = list(tilts)
    for name, (colour, marker) in LOOKS.items():
        places = [place for place, angle in enumerate(angles) if name in tilts[angle]]
        blocks = [tilts[angles[place]][name] for place in places]
        shifted = [place + APART[name] for place in places]
        _points(axes, name, shifted, blocks, joined=True)
        plain = [block["plain"] for block in blocks]
        axes.plot(shifted, plain, linestyle="none", marker=marker, color=colour, markerfacecolor="white", markersize=7)
    axes.set_xticks(range(len(angles)), [f"{angle}°" for angle in angles])
    axes.set(xlabel="tilt of the panorama, front upwards", ylabel="score", ylim=(0, 1.02), title="Tilt of the camera")
    styles = {"tilted": MUTED, "the same questions without a tilt": "white"}
    handles = [
        Line2D([], [], color=MUTED, marker="o", linestyle="none", markerfacecolor=fill) for fill in styles.values()
    ]
    axes.legend(handles, list(styles), loc="lower left", fontsize=8.5)
    axes.grid(axis="y")


def _points(axes: Axes, name: str, places: Sequence[float], blocks: Sequence[Block], *, joined: bool = False) -> None:
    """Draw values with their intervals, and a thin line through them where their places have an order."""
    colour, marker = LOOKS[name]
    middles = [block["value"] for block in blocks]
    # The interval of a bootstrap need not hold the value itself.
    below = [max(0.0, block["value"] - block["low"]) for block in blocks]
    above = [max(0.0, block["high"] - block["value"]) for block in blocks]
    axes.errorbar(
        places, middles, yerr=[below, above], color=colour, marker=marker, markersize=6, capsize=2.5, elinewidth=1.3,
        linestyle="-" if joined else "none", linewidth=0.9,
    )  # fmt: skip
