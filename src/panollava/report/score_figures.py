"""Figures of scores: accuracy by question type, free text, and confused answers; each score beside its baselines."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from panollava.corpus.records import ChoiceAnswer
from panollava.corpus.vocabulary import DIRECTIONS
from panollava.metrics import normalise_answer
from panollava.report.inputs import ReportInputs
from panollava.report.style import BLIND, GRID, INK, MAJORITY, MODEL, SHUFFLED, language_name, styled
from panollava.tasks.choice import CHOICE
from panollava.tasks.prediction import Prediction
from panollava.tasks.text import FREE_TEXT, TEXT_SCORES

# A matrix of more classes than this cannot be read at the size of a report.
MAX_CLASSES = 12
OTHER = "(other)"
BASELINES = {"majority": (MAJORITY, "D"), "blind": (BLIND, "s"), "shuffled": (SHUFFLED, "o")}
BASELINE_NAMES = {
    "majority": "majority: the most frequent answer",
    "blind": "blind: a twin trained without images",
    "shuffled": "shuffled: the model shown another panorama",
}
# Rows of a bar chart: a name, and `value`, `n` and, where known, `low`, `high` and the baselines.
Rows = dict[str, dict[str, Any]]


@styled
def accuracy_figure(inputs: ReportInputs) -> Figure | None:
    """Draw the accuracy of each question type with its 95 % interval beside its three baselines."""
    blocks: dict[str, Rows] = {}
    for language, scores in inputs.metrics["evaluate"].items():
        mean = {"mean of closed types": scores["accuracy"]} if "accuracy" in scores else {}
        if rows := mean | scores.get("types", {}):
            blocks[language] = rows
    return _bars(
        blocks,
        "Accuracy by question type; marks: the same without the right image",
        "accuracy: share of right answers",
    )


@styled
def text_figure(inputs: ReportInputs) -> Figure | None:
    """Draw every score of free text beside its baselines; CIDEr, which goes up to 10, as a tenth of itself."""
    blocks: dict[str, Rows] = {}
    for language, scores in inputs.metrics["evaluate"].items():
        rows = {
            f"{title}, {name}{' / 10' if key == 'cider' else ''}": _text_row(block, key)
            for kind, title in FREE_TEXT.items()
            for key, name in TEXT_SCORES.items()
            if key in (block := scores.get(kind, {}))
        }
        if rows:
            blocks[language] = rows
    return _bars(
        blocks, "Free text: similarity to the reference texts; marks: the same without the right image", "score"
    )


def _text_row(block: dict[str, Any], key: str) -> dict[str, Any]:
    scale = 10 if key == "cider" else 1
    names = {"value": key} | {variant: f"{variant}_{key}" for variant in BASELINES}
    return {name: block[found] / scale for name, found in names.items() if found in block} | {"n": block["n"]}


def _bars(blocks: dict[str, Rows], title: str, label: str) -> Figure | None:
    """Draw one panel of bars per language, None where there is none."""
    if not blocks:
        return None
    tallest = max(len(block) for block in blocks.values())
    figure = Figure(figsize=(6.4 * len(blocks) + 0.3, 0.36 * tallest + 1.6), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left")
    grid = figure.subplots(1, len(blocks), squeeze=False)[0]
    for axes, (language, block) in zip(grid, blocks.items(), strict=True):
        _draw_bars(axes, block)
        axes.set_xlabel(label)
        axes.set_title(language_name(language))
    drawn = {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    order = [label for label in ("model", "95 % interval", *BASELINE_NAMES.values()) if label in drawn]
    figure.legend([drawn[label] for label in order], order, loc="outside lower left", ncols=5)
    return figure


def _draw_bars(axes: Axes, block: Rows) -> None:
    """Draw one bar per row of `block`; a gap follows a first row that is the mean of the others."""
    gap = 0.4 if "mean of closed types" in block else 0.0
    positions = [0.0] + [1.0 + gap + row for row in range(len(block) - 1)]
    values = [row["value"] for row in block.values()]
    axes.barh(positions, values, height=0.62, color=MODEL, alpha=0.85, label="model")
    bounded = [(row, y) for row, y in zip(block.values(), positions, strict=True) if "low" in row]
    if bounded:
        spread = [
            [max(0.0, row["value"] - row["low"]) for row, _ in bounded],
            [max(0.0, row["high"] - row["value"]) for row, _ in bounded],
        ]
        middles, heights = [row["value"] for row, _ in bounded], [y for _, y in bounded]
        axes.errorbar(middles, heights, xerr=spread, fmt="none", ecolor=INK, capsize=3, lw=1.3, label="95 % interval")
    for name, (colour, marker) in BASELINES.items():
        found = [(row[name], y) for row, y in zip(block.values(), positions, strict=True) if row.get(name) is not None]
        if found:
            xs, ys = zip(*found, strict=True)
            axes.plot(
                xs,
                ys,
                marker,
                color=colour,
                markeredgecolor="white",
                markersize=8,
                label=BASELINE_NAMES[name],
                clip_on=False,
            )
    for row, y in zip(block.values(), positions, strict=True):
        # The number is right of the bar, its interval and all marks.
        ends = [row[name] + 0.012 for name in BASELINES if row.get(name) is not None]
        end = max(row.get("high", row["value"]), row["value"], *ends)
        axes.text(end + 0.012, y, f"{row['value']:.2f}", va="center", fontsize=8.5)
    axes.set_yticks(positions, [f"{name}  (n = {row['n']})" for name, row in block.items()])
    axes.set_ylim(positions[-1] + 0.6, -0.6)
    axes.set_xlim(0, 1.1)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.grid(axis="x")


def class_order(classes: Sequence[str], language: str) -> list[str]:
    """Return classes in their natural order: compass directions clockwise, numbers by value, else alphabetical."""
    compass = list(DIRECTIONS.get(language, ()))
    if set(classes) <= set(compass):
        return sorted(classes, key=compass.index)
    if all(name.isdecimal() for name in classes):
        return sorted(classes, key=int)
    return sorted(classes)


def confusion(predictions: Sequence[Prediction], language: str) -> tuple[list[str], np.ndarray] | None:
    """Return the classes and the counts `[true, predicted]` of one choice type, None if it has under 2 or too many.

    Answers that name no class count in a last column `OTHER`, present only if there are any.
    """
    truth = [normalise_answer(p.truth(ChoiceAnswer).text) for p in predictions]
    classes = class_order(sorted(set(truth)), language)
    if not 2 <= len(classes) <= MAX_CLASSES:
        return None
    given = [
        true if p.correct else text if (text := normalise_answer(p.prediction)) in classes else OTHER
        for true, p in zip(truth, predictions, strict=True)
    ]
    labels = classes + ([OTHER] if OTHER in given else [])
    return labels, confusion_matrix(truth, given, labels=labels)[: len(classes)]


@styled
def confusion_figure(inputs: ReportInputs, language: str) -> Figure | None:
    """Draw a confusion matrix for each choice type of few classes, each row adding up to 1, with the counts."""
    by_type: dict[str, list[Prediction]] = {}
    for prediction in inputs.of(task=CHOICE.name, language=language):
        by_type.setdefault(prediction.type, []).append(prediction)
    matrices = {kind: confusion(predictions, language) for kind, predictions in sorted(by_type.items())}
    # Small matrices share their rows with small ones: sorted by size, panels of a row are of one height.
    drawn = sorted(((kind, m) for kind, m in matrices.items() if m), key=lambda item: len(item[1][0]))
    if not drawn:
        return None
    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(4.3 * columns, 4.1 * rows + 0.5), layout="constrained")
    figure.suptitle(
        f"Confused answers, {language_name(language)}: share and number of answers for each true answer",
        x=0.01,
        ha="left",
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (kind, (labels, counts)) in zip(grid.flat, drawn, strict=False):
        _draw_confusion(axes, labels, counts)
        axes.set_title(f"{kind}  (n = {counts.sum()})")
    for axes in grid.flat[len(drawn) :]:
        axes.set_visible(False)
    return figure


def _draw_confusion(axes: Axes, labels: list[str], counts: np.ndarray) -> None:
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    size = 8.5 if len(labels) <= 6 else 6.8
    for (row, column), count in np.ndenumerate(counts):
        if count:
            share = shares[row, column]
            colour = "white" if share > 0.55 else INK
            text = f"{share:.2f}\n{count}"
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour, linespacing=0.95)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(counts)), labels[: len(counts)])
    axes.set_xticks(np.arange(0.5, len(labels) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(counts) - 1), minor=True)
    axes.grid(which="minor", color=GRID, linewidth=0.8)
    axes.tick_params(length=0, which="both")
    axes.set(xlabel="given answer", ylabel="true answer")
