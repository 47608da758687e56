"""Draw a scene as an equirectangular picture with exact labels.

The analytic ray at a pixel's centre decides its label: the object's index, or -1 ground, -2 walls or skyline,
-3 ceiling or sky. The colours of silhouettes are averaged over 3 x 3 rays per pixel. Equal scenes give equal bytes.
"""

import colorsys
import math

import numpy as np
from numpy.typing import NDArray

from panollava.corpus.world.background import GROUND, draw_background
from panollava.corpus.world.boxes import cap_radius
from panollava.corpus.world.casting import cast, dot, normals
from panollava.corpus.world.scenes import CAMERA_HEIGHT, Scene, SceneObject
from panollava.corpus.world.textures import Floats, lookup

RAYS_PER_SIDE = 3
# Ranges of hue in degrees, saturation and value within which the colour's name fits.
TINTS = {
    "red": ((352, 364), (0.80, 0.92), (0.78, 0.92)),
    "yellow": ((47, 54), (0.80, 0.92), (0.92, 1.00)),
    "green": ((112, 142), (0.65, 0.85), (0.58, 0.75)),
    "blue": ((210, 228), (0.72, 0.90), (0.75, 0.95)),
    "purple": ((276, 294), (0.55, 0.75), (0.60, 0.78)),
    "white": ((30, 60), (0.00, 0.02), (0.98, 1.00)),
}


def render(scene: Scene, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    """Return the picture `[H, W, 3]` and the labels `[H, W]`: object index, -1 ground, -2 walls, -3 above."""
    image, labels = draw_background(scene, height, width)
    for item in scene.objects:
        if item.grounded:
            _shadow(scene, item, image, labels)
    for index, item in enumerate(scene.objects):
        _draw(scene, index, item, image, labels)
    np.clip(image, 0, 1, out=image)
    image *= 255
    image += 0.5
    return np.ascontiguousarray(image.astype(np.uint8).transpose(1, 2, 0)), labels


def _window(yaw: float, pitch: float, radius: float, height: int, width: int) -> tuple[NDArray[np.intp], ...]:
    """Return the rows `[n, 1]` and the (wrapped) columns `[m]` that cover a cap; all columns if it contains a pole."""
    top, bottom = ((0.5 - (pitch + side) / math.pi) * height - 0.5 for side in (radius, -radius))
    rows = np.arange(max(0, math.floor(top)), min(height, math.ceil(bottom) + 1))[:, None]
    if abs(pitch) + radius >= math.pi / 2 - 1e-6:
        return rows, np.arange(width)
    half = math.asin(math.sin(radius) / math.cos(pitch)) / (2 * math.pi) * width
    middle = (yaw / (2 * math.pi) + 0.5) * width - 0.5
    columns = np.arange(math.floor(middle - half), math.ceil(middle + half) + 1)
    return rows, columns[:width] % width


def _rays(yaw: NDArray[np.float64], pitch: NDArray[np.float64]) -> Floats:
    """Return unit rays `[n, 3]` of broadcastable angles, in row-major order."""
    cosine = np.cos(pitch)
    planes = np.broadcast_arrays(cosine * np.sin(yaw), np.sin(pitch), cosine * np.cos(yaw))
    return np.stack([p.ravel() for p in planes], axis=1).astype(np.float32)


def _draw(scene: Scene, index: int, item: SceneObject, image: Floats, labels: NDArray[np.int8]) -> None:
    """Draw one object over the image `[3, H, W]` and enter its index into the labels."""
    height, width = labels.shape
    box = item.box
    rows, columns = _window(box[0], box[1], cap_radius(box), height, width)
    yaw = ((columns + 0.5) / width - 0.5) * (2 * math.pi)
    pitch = (0.5 - (rows + 0.5) / height) * math.pi
    colours, hit = _trace(scene, item, _rays(yaw, pitch))
    shape = (len(rows), len(columns))
    colours, hit = colours.reshape(3, *shape), hit.reshape(shape)
    labels[rows, columns] = np.where(hit, np.int8(index), labels[rows, columns])

    # Where the tone jumps (silhouettes, edges of faces), a pixel is the mean over a finer grid of rays.
    cover = hit.astype(np.float32)
    y, x = np.nonzero(_rough(colours.sum(axis=0)))
    steps = ((np.arange(RAYS_PER_SIDE) + 0.5) / RAYS_PER_SIDE - 0.5) * math.pi / height
    fine_pitch, fine_yaw = pitch[y, 0, None, None] - steps[:, None], yaw[x, None, None] + steps
    fine_colours, fine_hit = _trace(scene, item, _rays(fine_yaw, fine_pitch))
    colours[:, y, x] = fine_colours.reshape(3, len(y), RAYS_PER_SIDE**2).mean(axis=2)
    cover[y, x] = fine_hit.reshape(len(y), RAYS_PER_SIDE**2).mean(axis=1)
    image[:, rows, columns] = image[:, rows, columns] * (1 - cover) + colours


def _rough(tone: Floats) -> NDArray[np.bool_]:
    """Return which pixels `[n, m]` differ clearly from a neighbour above, below, left or right."""
    down, right = (np.abs(np.diff(tone, axis=axis)) > 0.15 for axis in (0, 1))
    out = np.zeros(tone.shape, bool)
    out[1:] |= down
    out[:-1] |= down
    out[:, 1:] |= right
    out[:, :-1] |= right
    return out


def _trace(scene: Scene, item: SceneObject, rays: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the colour `[3, n]` of the object at each ray, black if the ray misses, and which rays hit."""
    near = cast(item, rays)
    hit = np.isfinite(near)
    colours = np.zeros((3, len(rays)), np.float32)
    colours[:, hit] = _shade(scene, item, rays[hit], near[hit])
    return colours, hit


def _shade(scene: Scene, item: SceneObject, rays: Floats, near: Floats) -> Floats:
    """Return the colours `[3, n]` of hits: ambient, sun and camera light, a highlight, and a faint surface grain."""
    points = rays * near[:, None] - np.asarray(item.centre, np.float32)
    normal = normals(item, points)
    yaw, pitch = math.radians(scene.sun_yaw_deg), math.radians(scene.sun_pitch_deg)
    sun = np.asarray((math.cos(pitch) * math.sin(yaw), math.sin(pitch), math.cos(pitch) * math.cos(yaw)), np.float32)
    aside = np.asarray(
        (math.cos(yaw), 0.3, -math.sin(yaw)), np.float32
    )  # a fill light, so that faces have different shades
    facing, lit = dot(normal, rays), dot(normal, sun)
    light = 0.66 + 0.13 * normal[:, 1] + 0.28 * np.maximum(lit, 0) + 0.10 * dot(normal, aside) - 0.14 * facing
    shine = np.maximum((lit - facing) / np.sqrt(np.maximum(2 - 2 * dot(rays, sun), np.float32(1e-6))), 0) ** 2
    for _ in range(4):
        shine = shine * shine
    x, y, z = points.T * np.float32(60 / item.radius)
    light *= 0.94 + 0.06 * (lookup(0.8, x + z, y) + lookup(0.8, x - z, y))
    colour = np.asarray(_colour(item), np.float32)[:, None]
    return np.minimum(colour * light + 0.25 * shine, 1).astype(np.float32, copy=False)


def _colour(item: SceneObject) -> tuple[float, float, float]:
    hue, saturation, value = (
        low + (high - low) * t for (low, high), t in zip(TINTS[item.colour], item.tint, strict=True)
    )
    return colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value)


def _shadow(scene: Scene, item: SceneObject, image: Floats, labels: NDArray[np.int8]) -> None:
    """Darken the ground around the base of a grounded object, with a tail away from the sun."""
    height, width = labels.shape
    x, _, z = item.centre
    reach = 3 * item.radius
    away = math.hypot(x, z)
    pitch = -math.atan2(CAMERA_HEIGHT, away)
    radius = math.asin(min(1.0, reach / math.hypot(away, CAMERA_HEIGHT)))
    rows, columns = _window(math.atan2(x, z), pitch, radius, height, width)
    rows = rows[rows[:, 0] > height / 2]
    yaw = ((columns + 0.5) / width - 0.5) * (2 * math.pi)
    ground = CAMERA_HEIGHT / np.tan(((rows + 0.5) / height - 0.5) * math.pi)
    dx, dz = ((ground * np.sin(yaw) - x) / item.radius, (ground * np.cos(yaw) - z) / item.radius)
    sun = math.radians(scene.sun_yaw_deg)
    # Distance to the segment from the base's centre to one radius away from the sun.
    tail = np.clip(-dx * math.sin(sun) - dz * math.cos(sun), 0, 1.0)
    beyond = np.maximum(np.hypot(dx + tail * math.sin(sun), dz + tail * math.cos(sun)) - 0.75, 0)
    dark = 0.62 * np.exp(-((beyond / 0.45) ** 2)) * (1 - 0.45 * tail)
    dark = np.where(labels[rows, columns] == GROUND, dark, 0).astype(np.float32)
    image[:, rows, columns] = image[:, rows, columns] * (1 - dark)
