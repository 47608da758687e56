"""The figure of masks: examples on panoramas, the distribution of their IoU, and its dependence on latitude."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from panollava.corpus.masks import decoded
from panollava.corpus.records import LabelledBox
from panollava.corpus.store import open_records, panorama_records
from panollava.metrics.mask_scores import resized
from panollava.report.inputs import ReportInputs, load_panoramas
from panollava.report.outlines import draw_panorama
from panollava.report.sphere_figures import draw_dependence
from panollava.report.style import MODEL, MUTED, PREDICTED, TRUE, VARIANT_COLOURS, VARIANT_NAMES, language_name, styled
from panollava.tasks.grounding import GROUNDING
from panollava.tasks.prediction import Prediction, Variant

# The answers shown, by their place among all from the worst to the best.
PLACES = (0.9, 0.6, 0.3, 0.05)
OPACITY = 0.55


@styled
def masks_figure(inputs: ReportInputs) -> Figure | None:
    """Draw four masks from good to bad, all IoUs beside the ceiling of the patch grid, and IoU by latitude."""
    language = inputs.languages[0]
    answers = sorted(_masked(inputs, "model", language), key=lambda p: (p.mask_iou, p.key))
    if not answers:
        return None
    shown = [answers[min(int(place * len(answers)), len(answers) - 1)] for place in PLACES]
    panoramas = load_panoramas(inputs, [p.image_id for p in shown])
    truths = _true_masks(inputs, shown)
    figure = Figure(figsize=(15, 6.4), layout="constrained")
    figure.suptitle(
        f"Masks of named objects, {language_name(language)}: four examples from good to bad, and all of them",
        x=0.01,
        ha="left",
    )
    grid = figure.add_gridspec(2, 3, width_ratios=(1.35, 1.35, 1))
    for place, (prediction, truth) in enumerate(zip(shown, truths, strict=True)):
        axes = figure.add_subplot(grid[place // 2, place % 2])
        if prediction.mask is not None:
            _draw_mask(axes, panoramas[prediction.image_id], decoded(prediction.mask), truth)
        axes.set_title(f"{prediction.question}   IoU {prediction.mask_iou:.2f}")
    _draw_spread(figure.add_subplot(grid[0, 2]), inputs, language)
    by_latitude = figure.add_subplot(grid[1, 2])
    latitude = np.array([p.truth(LabelledBox).box_deg[1] for p in answers], dtype=float)
    overlap = np.array([p.mask_iou for p in answers], dtype=float)
    draw_dependence(by_latitude, latitude, overlap, bins=np.arange(-90, 91, 15.0))
    by_latitude.set(xlabel="pitch of the object, degrees (0: horizon)", title="By height above the horizon")
    handles = [
        Patch(color=PREDICTED, alpha=OPACITY, label="marked, but not the object"),
        Patch(color=TRUE, alpha=OPACITY, label="the object, but not marked"),
        Patch(color="white", ec=MUTED, label="the object, and marked (bright)"),
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=3)
    return figure


def _masked(inputs: ReportInputs, variant: Variant, language: str) -> list[Prediction]:
    found = inputs.of(variant=variant, task=GROUNDING.name, language=language)
    return [p for p in found if p.mask_iou is not None and p.mask is not None]


def _true_masks(inputs: ReportInputs, predictions: list[Prediction]) -> list[torch.Tensor]:
    """Return the mask that each prediction was compared with, by the label and box of its question."""
    split = open_records(inputs.store, inputs.split)
    rows = {image_id: row for row, image_id in enumerate(split["image_id"])}
    masks = []
    for prediction in predictions:
        answer = prediction.truth(LabelledBox)
        records = panorama_records(split[rows[prediction.image_id]])
        objects = [item for record in records for item in record.objects if item.mask is not None]
        asked = (answer.label, answer.box_deg)
        masks.append(next(decoded(item.mask) for item in objects if (item.label, item.box_deg) == asked and item.mask))
    return masks


def _draw_mask(axes: Axes, image: NDArray[np.uint8], drawn_mask: torch.Tensor, truth: torch.Tensor) -> None:
    """Colour the parts that were marked wrongly or missed; the right part stays bright, the rest is dimmed."""
    painted = image.astype(float) / 255
    drawn, true = (resized(mask, *image.shape[:2]).numpy() for mask in (drawn_mask, truth))
    painted[~(drawn | true)] *= 0.6
    for mask, colour in ((drawn & ~true, PREDICTED), (true & ~drawn, TRUE)):
        painted[mask] = (1 - OPACITY) * painted[mask] + OPACITY * np.array(to_rgb(colour))
    draw_panorama(axes, (painted * 255).astype(np.uint8))


def _draw_spread(axes: Axes, inputs: ReportInputs, language: str) -> None:
    edges = np.linspace(0, 1, 21)
    for variant in ("model", "shuffled"):
        overlaps = np.array([p.mask_iou for p in _masked(inputs, variant, language)], dtype=float)
        if len(overlaps):
            shares = np.histogram(overlaps, edges)[0] / len(overlaps)
            label = f"{VARIANT_NAMES[variant]}: mean {overlaps.mean():.2f}"
            filled = variant == "model"
            axes.stairs(
                shares, edges, fill=filled, color=VARIANT_COLOURS[variant], alpha=0.8 if filled else 1, lw=1.8,
                label=label,
            )  # fmt: skip
    block = inputs.metrics["evaluate"][language].get("segmentation", {})
    if "ceiling" in block:
        ceiling = f"mean of perfect patches: {block['ceiling']:.2f}"
        axes.axvline(block["ceiling"], ymax=0.74, color=MODEL, linestyle="--", linewidth=1.4, label=ceiling)
    axes.set(xlabel="IoU with the true mask, on the sphere", ylabel="share of answers", xlim=(0, 1), title="All masks")
    axes.legend(fontsize=8)
    axes.grid(axis="y")
