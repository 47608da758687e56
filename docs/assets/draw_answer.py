"""Draw the picture of the README from a finished run: a panorama, questions, the model's answers and a box it drew.

`python docs/assets/draw_answer.py` reads data/store and data/evaluate and writes docs/assets/answer.jpg. The box is
drawn on the panorama by its true outline of great circles, and on the hemisphere around it as the camera sees it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from panollava.corpus.store import open_images
from panollava.report.outlines import box_outline, box_polylines
from panollava.report.style import INK, MUTED, PREDICTED, styled
from panollava.vlm.geometry import rays_to_pixels, rotation

STORE, PREDICTIONS, OUT = Path("data/store"), Path("data/evaluate/predictions.jsonl"), Path("docs/assets/answer.jpg")
PANORAMA = "test_00135"
BOX = (18, 0)  # record and turn of the question whose answer is drawn
TALK = (BOX, (26, 0), (26, 1), (13, 0))
DPI, GLOBE = 110, 520
DIRECTIONS = {-180: "behind", -90: "left", 0: "front", 90: "right", 180: "behind"}


def answers() -> dict[tuple[int, int], dict[str, Any]]:
    """Return the model's predictions about the panorama by record and turn."""
    with PREDICTIONS.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {(p["record"], p["turn"]): p for p in rows if p["variant"] == "model" and p["image_id"] == PANORAMA}


def panorama() -> np.ndarray:
    """Return the panorama `[H, W, 3]` from the test split."""
    split = open_images(STORE, "test")
    return np.asarray(split[split["image_id"].index(PANORAMA)]["image"].convert("RGB"))


def draw_panorama(axes: Axes, image: np.ndarray, box_deg: list[float]) -> None:
    """Draw the panorama and the outline of a box, which may cross the seam."""
    height, width = image.shape[:2]
    axes.imshow(image, interpolation="bicubic")
    for piece in box_polylines(box_deg, height, width):
        axes.plot(piece[:, 0], piece[:, 1], color="black", linewidth=4.5, alpha=0.5)
        axes.plot(piece[:, 0], piece[:, 1], color=PREDICTED, linewidth=2.6)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), yticks=[])
    columns = [(yaw / 360 + 0.5) * width - 0.5 for yaw in DIRECTIONS]
    axes.set_xticks(columns, DIRECTIONS.values(), fontsize=9.5, color=MUTED)
    axes.get_xticklabels()[0].set_horizontalalignment("left")
    axes.get_xticklabels()[-1].set_horizontalalignment("right")
    axes.tick_params(length=0, pad=5)
    axes.spines[:].set_visible(False)


def draw_hemisphere(axes: Axes, image: np.ndarray, box_deg: list[float]) -> None:
    """Draw the half of the sphere around a box, as the camera sees it, in orthographic projection."""
    yaw, pitch = (torch.tensor(angle, dtype=torch.float64).deg2rad() for angle in box_deg[:2])
    frame = rotation(yaw, pitch, torch.zeros_like(yaw))
    y, x = torch.meshgrid(*[torch.linspace(1, -1, GLOBE, dtype=torch.float64)] * 2, indexing="ij")
    x = -x
    depth = (1 - x * x - y * y).clamp(min=0).sqrt()
    colours = sampled(image, torch.stack((x, y, depth), dim=-1) @ frame.T)
    shade = 0.55 + 0.45 * depth.numpy()[..., None]
    disc = np.where((x * x + y * y <= 1).numpy()[..., None], colours * shade, 255).astype(np.uint8)
    axes.imshow(disc, extent=(-1, 1, -1, 1), interpolation="bilinear")
    outline = box_outline(box_deg) @ frame
    axes.plot(outline[:, 0], outline[:, 1], color="black", linewidth=4.5, alpha=0.5)
    axes.plot(outline[:, 0], outline[:, 1], color=PREDICTED, linewidth=2.6)
    axes.set_axis_off()
    axes.text(0, -1.07, "the same box on the sphere", fontsize=9.5, color=MUTED, ha="center", va="top")


def sampled(image: np.ndarray, rays: Tensor) -> np.ndarray:
    """Return the colours `[..., 3]` of a panorama along rays `[..., 3]`, bilinear and closed across the seam."""
    height, width = image.shape[:2]
    u, v = (position.numpy() for position in rays_to_pixels(rays, height, width))
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    total = np.zeros((*u.shape, 3))
    for column, row in ((0, 0), (1, 0), (0, 1), (1, 1)):
        weight = (1 - abs(u - left - column)) * (1 - abs(v - top - row))
        total += weight[..., None] * image[(top + row).clip(0, height - 1), (left + column) % width]
    return total


def draw_talk(axes: Axes, talk: list[dict[str, Any]]) -> None:
    """Write each question and its answer on a line."""
    axes.set(xlim=(0, 1), ylim=(len(talk), 0))
    axes.set_axis_off()
    for row, prediction in enumerate(talk):
        axes.text(0, row + 0.5, prediction["question"], fontsize=12, color=INK, va="center")
        plate = {"boxstyle": "round,pad=0.35", "facecolor": PREDICTED if row == 0 else "#e8eef5", "edgecolor": "none"}
        axes.text(0.45, row + 0.5, prediction["prediction"], fontsize=12, color=INK, va="center", bbox=plate)


@styled
def main() -> None:
    """Write the picture."""
    said, image = answers(), panorama()
    box_deg = json.loads(said[BOX]["prediction"])
    figure = Figure(figsize=(11, 5.4), dpi=DPI)
    draw_panorama(figure.add_axes((0.02, 0.335, 0.665, 0.65)), image, box_deg)
    draw_hemisphere(figure.add_axes((0.70, 0.345, 0.29, 0.64)), image, box_deg)
    draw_talk(figure.add_axes((0.033, 0.01, 0.95, 0.25)), [said[key] for key in TALK])
    figure.savefig(OUT, dpi=DPI, pil_kwargs={"quality": 88, "optimize": True})
    with Image.open(OUT) as drawn:
        print(f"{OUT}: {drawn.width} x {drawn.height}, box {box_deg}, IoU {said[BOX]['iou']:.2f}")


if __name__ == "__main__":
    main()
