"""Training data of the stand-in encoders: random views of synthetic panoramas with captions, on any device.

Each view has a caption. Each patch has a phrase that names the object or the background at it ("upper far left of red
cube") and, on an object, one for its extent in degrees ("14 wide 17 high"). Captions have a fixed grammar, so they are
built as token ids on the device. The panoramas have the split name `views`, which no split of the pipeline uses.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from panollava.corpus.world.render import render
from panollava.corpus.world.scenes import COLOURS, SHAPES, background_names, sample_scene
from panollava.vlm.geometry import directions_to_rays, rays_to_pixels, rotation
from panollava.vlm.views import ERP_WINDOW, PINHOLE, project, view_rays

SPLIT = "views"
HEIGHT, WIDTH = 256, 512
MAX_OBJECTS, SURFACES = 8, 3
SIZES, SIZE_LIMITS_DEG = ("small", "medium", "large"), (14.0, 24.0)
ROWS, COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")
PART_ROWS = ("top", "upper", "middle", "lower", "bottom")
PART_COLUMNS = ("far left", "left", "centre", "right", "far right")
EXTENTS_DEG = (9, 11, 14, 17, 21, 26, 33)
PAD, END = 0, 1
CAPTION_OBJECTS = 4
OBJECT_COVERAGE = 0.15


@dataclass(frozen=True)
class Panoramas:
    """Rendered panoramas and their ground truth.

    Images `[M, 3, H, W]` uint8, labels `[M, H, W]` int8, boxes `[M, 8, 4]` in radians, kinds `[M, 8]` (colour times
    four plus shape, -1 none), surfaces `[M, 3]` (ids into `surface_words`).
    """

    images: Tensor
    labels: Tensor
    boxes: Tensor
    kinds: Tensor
    surfaces: Tensor
    surface_words: tuple[str, ...]

    def to(self, device: str) -> "Panoramas":
        """Return the same panoramas on another device."""
        images, labels, boxes = self.images.to(device), self.labels.to(device), self.boxes.to(device)
        return Panoramas(images, labels, boxes, self.kinds.to(device), self.surfaces.to(device), self.surface_words)


def _render_one(index: int, seed: int) -> tuple[np.ndarray, np.ndarray, list, list, list[str]]:
    scene = sample_scene(seed, split=SPLIT, index=index)
    image, labels = render(scene, HEIGHT, WIDTH)
    names = background_names(scene)
    boxes = [o.box_deg for o in scene.objects]
    kinds = [COLOURS.index(o.colour) * len(SHAPES) + SHAPES.index(o.shape) for o in scene.objects]
    return image, labels, boxes, kinds, [names["ground"], names["walls"], names["above"]]


def render_panoramas(seed: int, count: int, *, start: int = 0, workers: int = 1) -> Panoramas:
    """Render `count` panoramas in `workers` processes."""
    with ProcessPoolExecutor(workers) as pool:
        rendered = list(pool.map(partial(_render_one, seed=seed), range(start, start + count), chunksize=32))
    words = tuple(sorted({word for row in rendered for word in row[4]}))
    boxes, kinds = torch.zeros(count, MAX_OBJECTS, 4), torch.full((count, MAX_OBJECTS), -1)
    for i, row in enumerate(rendered):
        boxes[i, : len(row[2])] = torch.tensor(row[2]).deg2rad()
        kinds[i, : len(row[3])] = torch.tensor(row[3])
    return Panoramas(
        torch.from_numpy(np.stack([row[0] for row in rendered])).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(np.stack([row[1] for row in rendered])),
        boxes,
        kinds,
        torch.tensor([[words.index(w) for w in row[4]] for row in rendered]),
        words,
    )


def random_poses(data: Panoramas, which: Tensor, generator: torch.Generator) -> Tensor:
    """Return poses `[B, 6]` for panoramas `which` `[B]`: one in eight a whole panorama, the rest pinhole views.

    Most pinhole views look roughly towards an object, since views of the background alone teach little; the others look
    anywhere. Half of them have a field of view of 90 degrees and no pitch, like the views of the pipeline.
    """
    count = len(which)
    u = torch.rand(count, 6, generator=generator, device=generator.device)
    boxes = data.boxes[which]
    present = (data.kinds[which] >= 0).sum(-1)
    item = boxes[torch.arange(count, device=boxes.device), (u[:, 5] * present).long()]
    near = u[:, 4] < 0.8
    yaw = torch.where(near, item[:, 0] + (u[:, 0] - 0.5) * math.radians(80), (u[:, 0] - 0.5) * 2 * math.pi)
    tilted = torch.where(near, item[:, 1] + (u[:, 1] - 0.5) * math.radians(60), (u[:, 1] - 0.5) * math.radians(80))
    pitch = torch.where(u[:, 2] < 0.5, 0.0, tilted.clamp(-1.2, 1.2))
    fov = torch.where(u[:, 2] < 0.5, math.pi / 2, torch.deg2rad(70 + 60 * (u[:, 2] - 0.5)))
    whole = u[:, 3] < 1 / 8
    return torch.stack(
        (
            yaw,
            torch.where(whole, 0.0, pitch),
            torch.zeros_like(yaw),
            torch.where(whole, 2 * math.pi, fov),
            torch.where(whole, math.pi, fov),
            torch.where(whole, ERP_WINDOW, PINHOLE),
        ),
        dim=-1,
    )


def cut_views(data: Panoramas, which: Tensor, poses: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return views `[B, 3, size, size]` in [0, 1] and their labels `[B, size, size]`, one pose for each panorama."""
    u, v = rays_to_pixels(view_rays(poses, size, size), HEIGHT, WIDTH)
    u, v = torch.remainder(u, WIDTH), v.clamp(0, HEIGHT - 1)
    images = data.images[which]
    padded = torch.cat((images[..., -1:], images, images[..., :1]), dim=-1).float() / 255
    grid = torch.stack(((2 * (u + 1) + 1) / (WIDTH + 2) - 1, (2 * v + 1) / HEIGHT - 1), dim=-1)
    views = F.grid_sample(padded, grid, align_corners=False)
    columns, rows = torch.remainder(u.round().long(), WIDTH), v.round().long().clamp(0, HEIGHT - 1)
    return views, data.labels[which[:, None, None], rows, columns]


class Vocabulary:
    """The words of captions and phrases, and both kinds of phrases as tables of token ids `[phrases, L]`."""

    def __init__(self, surface_words: Sequence[str]) -> None:
        parts = [
            f"{row} {column} of {colour} {shape}"
            for colour in COLOURS for shape in SHAPES for row in PART_ROWS for column in PART_COLUMNS
        ]  # fmt: skip
        self.phrases = [*parts, *surface_words]
        self.extents = [f"{width} wide {height} high" for width in EXTENTS_DEG for height in EXTENTS_DEG]
        named = [word for phrase in (*self.phrases, *self.extents) for word in phrase.split()]
        words = ["<pad>", "<end>", *ROWS, *COLUMNS, *SIZES, *COLOURS, *SHAPES, *named]
        self.ids = {word: number for number, word in enumerate(dict.fromkeys(words))}
        self.table, self.extent_table = self._table(self.phrases), self._table(self.extents)

    def _table(self, phrases: Sequence[str]) -> Tensor:
        longest = max(len(phrase.split()) for phrase in phrases) + 1
        return torch.tensor([self.encode(phrase, longest) for phrase in phrases])

    def encode(self, phrase: str, length: int) -> list[int]:
        """Return the token ids of a phrase with its end token, padded to `length`."""
        ids = [self.ids[w] for w in phrase.split()] + [END]
        return ids + [PAD] * (length - len(ids))

    def lookup(self, words: Sequence[str], device: torch.device) -> Tensor:
        """Return the ids of single words as a tensor."""
        return torch.tensor([self.ids[w] for w in words], device=device)


def size_class(boxes: Tensor) -> Tensor:
    """Return 0 small, 1 medium, 2 large by the longer side of boxes `[..., 4]`."""
    return torch.bucketize(boxes[..., 2:].amax(-1).rad2deg(), torch.tensor(SIZE_LIMITS_DEG, device=boxes.device))


def extent_class(boxes: Tensor) -> Tensor:
    """Return the index of the extent phrase nearest in ratio to width and height of boxes `[..., 4]`."""
    sizes = torch.tensor(EXTENTS_DEG, device=boxes.device).log()
    width, height = torch.bucketize(boxes[..., 2:].rad2deg().log(), (sizes[1:] + sizes[:-1]) / 2).unbind(-1)
    return width * len(EXTENTS_DEG) + height


def _part(x: Tensor, parts: int) -> Tensor:
    """Return the index of a coordinate among `parts` equal parts of [-1, 1]; values outside go to the nearest part."""
    return ((x + 1) / 2 * parts).floor().clamp(0, parts - 1).long()


def patch_phrases(
    data: Panoramas, which: Tensor, poses: Tensor, labels: Tensor, grid: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return phrase, extent phrase and whether they describe an object, for each patch of views, all `[B, grid, grid]`.

    A patch belongs to an object that covers enough of it. Its phrase names one of 5 x 5 parts of the object's box, that
    of the patch centre. On the background the extent phrase has no meaning.
    """
    count, size = labels.shape[0], labels.shape[1]
    cell = size // grid
    # Classes 0..2 are the surfaces (-3, -2, -1), 3.. the objects.
    cells = labels.long().view(count, grid, cell, grid, cell).transpose(2, 3).flatten(3)
    cover = torch.stack([(cells == number).float().mean(-1) for number in range(-SURFACES, MAX_OBJECTS)], dim=-1)
    object_cover, item = cover[..., SURFACES:].max(-1)
    is_object = object_cover >= OBJECT_COVERAGE
    rows = torch.arange(count, device=labels.device)[:, None, None]
    boxes, kinds = data.boxes[which][rows, item], data.kinds[which][rows, item].clamp_min(0)
    box_frame = rotation(boxes[..., 0], boxes[..., 1], torch.zeros_like(boxes[..., 0]))
    x, y, z = torch.einsum("...ij,...i->...j", box_frame, view_rays(poses, grid, grid)).unbind(-1)
    column = _part(x / z.clamp_min(1e-3) / (boxes[..., 2] / 2).tan().clamp_min(1e-3), len(PART_COLUMNS))
    row = _part(-y / z.clamp_min(1e-3) / (boxes[..., 3] / 2).tan().clamp_min(1e-3), len(PART_ROWS))
    object_phrase = (kinds * len(PART_ROWS) + row) * len(PART_COLUMNS) + column
    surface = cover[..., :SURFACES].argmax(-1)
    objects = len(COLOURS) * len(SHAPES) * len(PART_ROWS) * len(PART_COLUMNS)
    # Label -1 is the ground, -2 the walls, -3 the ceiling or sky, in the order of `Panoramas.surfaces`.
    surface_phrase = objects + data.surfaces[which][rows, 2 - surface]
    return torch.where(is_object, object_phrase, surface_phrase), extent_class(boxes), is_object


def captions(data: Panoramas, which: Tensor, poses: Tensor, labels: Tensor, words: Vocabulary) -> Tensor:
    """Return captions `[B, L]`: up to four objects by visible size ("small red cube upper left"), then padding."""
    device = labels.device
    count = labels.shape[0]
    visible = torch.stack([(labels == number).float().mean((1, 2)) for number in range(MAX_OBJECTS)], dim=-1)
    area, order = visible.topk(CAPTION_OBJECTS, dim=-1)
    rows = torch.arange(count, device=device)[:, None]
    boxes, kinds = data.boxes[which][rows, order], data.kinds[which][rows, order].clamp_min(0)
    x, y, _ = project(directions_to_rays(boxes[..., 0], boxes[..., 1]), poses[:, None])
    parts = (
        words.lookup(SIZES, device)[size_class(boxes)],
        words.lookup(COLOURS, device)[kinds // len(SHAPES)],
        words.lookup(SHAPES, device)[kinds % len(SHAPES)],
        words.lookup(ROWS, device)[_part(-y, len(ROWS))],
        words.lookup(COLUMNS, device)[_part(x, len(COLUMNS))],
    )
    ids = (torch.stack(parts, dim=-1) * (area > 0)[..., None]).flatten(1)
    length = (area > 0).sum(-1) * len(parts)
    ids = F.pad(ids, (0, 1))
    return ids.scatter(1, length[:, None], END)
