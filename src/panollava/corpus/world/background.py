"""Backgrounds of the world in equirectangular pixels: ground, room walls or a skyline, ceiling or sky.

Vertical surfaces depend on the column only (the distance of the wall there), horizontal ones on row and column through
an outer product, so no per-pixel ray casting is needed. Pictures are planar float32 `[3, H, W]` in [0, 1]. Colours are
muted, since saturated ones and white belong to objects.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from panollava.corpus.world.scenes import CAMERA_HEIGHT, Scene
from panollava.corpus.world.textures import Floats, ground_pattern, lookup, wall_pattern

GROUND, WALLS, ABOVE = -1, -2, -3

Colour = tuple[float, float, float]
# A dark and a light colour per material; patterns mix them.
GROUND_COLOURS: dict[str, tuple[tuple[Colour, Colour], ...]] = {
    "tiles": (((0.38, 0.37, 0.36), (0.64, 0.62, 0.58)), ((0.36, 0.40, 0.42), (0.58, 0.63, 0.65))),
    "checkerboard": (((0.27, 0.27, 0.29), (0.66, 0.64, 0.60)), ((0.40, 0.31, 0.26), (0.68, 0.61, 0.52))),
    "wooden floor": (((0.30, 0.21, 0.15), (0.58, 0.44, 0.32)), ((0.38, 0.30, 0.23), (0.66, 0.55, 0.42))),
    "carpet": (((0.34, 0.29, 0.33), (0.56, 0.49, 0.53)), ((0.30, 0.34, 0.37), (0.50, 0.55, 0.58))),
    "paving stones": (((0.35, 0.34, 0.33), (0.63, 0.61, 0.58)), ((0.43, 0.36, 0.32), (0.66, 0.58, 0.52))),
    "grass": (((0.22, 0.27, 0.15), (0.47, 0.51, 0.33)), ((0.30, 0.30, 0.17), (0.55, 0.54, 0.37))),
    "sand": (((0.50, 0.44, 0.36), (0.72, 0.66, 0.56)), ((0.45, 0.41, 0.37), (0.67, 0.62, 0.56))),
    "asphalt": (((0.20, 0.20, 0.21), (0.46, 0.46, 0.47)), ((0.27, 0.26, 0.26), (0.52, 0.51, 0.50))),
}
WALL_COLOURS: dict[str, tuple[tuple[Colour, Colour], ...]] = {
    "brick wall": (((0.40, 0.28, 0.24), (0.66, 0.58, 0.53)), ((0.36, 0.33, 0.31), (0.62, 0.60, 0.57))),
    "panelled wall": (((0.30, 0.23, 0.18), (0.62, 0.52, 0.43)), ((0.33, 0.38, 0.38), (0.60, 0.65, 0.64))),
    "striped wallpaper": (((0.48, 0.46, 0.53), (0.67, 0.65, 0.70)), ((0.47, 0.50, 0.42), (0.67, 0.68, 0.61))),
    "plaster wall": (((0.52, 0.47, 0.42), (0.70, 0.65, 0.59)), ((0.45, 0.50, 0.53), (0.64, 0.68, 0.70))),
}
CEILING_COLOURS = (((0.38, 0.37, 0.36), (0.62, 0.60, 0.57)), ((0.34, 0.36, 0.38), (0.56, 0.58, 0.60)))
SKY_COLOURS = (((0.36, 0.47, 0.60), (0.66, 0.70, 0.74)), ((0.45, 0.50, 0.56), (0.70, 0.69, 0.67)))  # zenith, horizon
FACADES: tuple[Colour, ...] = (
    (0.55, 0.48, 0.42),
    (0.47, 0.46, 0.47),
    (0.58, 0.44, 0.38),
    (0.62, 0.58, 0.50),
    (0.42, 0.46, 0.50),
    (0.50, 0.42, 0.40),
)


@dataclass(frozen=True)
class Grid:
    """Angles of an equirectangular image's pixel centres: per column `[W]` and per row `[H, 1]`, float32."""

    yaw: Floats
    tangent: Floats
    sine: Floats
    cosine: Floats


@lru_cache(maxsize=8)
def grid(height: int, width: int) -> Grid:
    """Return the angles of an H x W image; raises ValueError if it is too small to show a horizon."""
    if height < 16 or width < 32:
        raise ValueError(f"panorama of {height} x {width} pixels: expected at least 16 x 32")
    yaw = ((np.arange(width) + 0.5) / width - 0.5) * 2 * math.pi
    pitch = ((0.5 - (np.arange(height) + 0.5) / height) * math.pi)[:, None]
    return Grid(*(a.astype(np.float32) for a in (yaw, np.tan(pitch), np.sin(pitch), np.cos(pitch))))


def draw_background(scene: Scene, height: int, width: int) -> tuple[Floats, NDArray[np.int8]]:
    """Return the picture `[3, H, W]` without objects and the class of each pixel `[H, W]`."""
    rng = np.random.Generator(np.random.PCG64(scene.texture_seed))
    g = grid(height, width)
    if scene.kind == "room":
        distance, along, shade = _room_walls(scene, g.yaw)
        roof = np.full(width, scene.ceiling, np.float32)
        facade = None
    else:
        distance, along, roof, facade = _skyline(rng, g.yaw)
        shade = (0.9 + 0.2 * np.cos(g.yaw - math.radians(scene.sun_yaw_deg))).astype(np.float32)
    # Row positions of the walls' upper and lower edges, per column.
    top, bottom = ((0.5 - np.arctan(level / distance) / math.pi) * height - 0.5 for level in (roof, -CAMERA_HEIGHT))
    first, last = max(0, math.floor(top.min())), min(height, math.ceil(bottom.max()) + 1)
    sky_end, ground_start = min(height, math.ceil(top.max()) + 1), max(0, math.floor(bottom.min()))

    image = np.empty((3, height, width), np.float32)
    up = g.tangent[first:last] * distance  # metres above the camera
    if facade is None:
        walls = _mix(wall_pattern(scene.walls, along, up), *_pick(rng, WALL_COLOURS[scene.walls]))
        image[:, first:last] = walls * (shade * np.where(up < 0.12 - CAMERA_HEIGHT, np.float32(0.7), np.float32(1)))
        above = _ceiling(scene, rng, g, sky_end)
    else:
        image[:, first:last] = _windows(along, up, facade * shade, rng)
        above = _sky(scene, rng, g, sky_end)
    rows = np.arange(height, dtype=np.float32)[:, None]
    image[:, :first] = above[:, :first]
    strip = image[:, first:sky_end]
    strip += np.clip(top - rows[first:sky_end] + 0.5, 0, 1) * (above[:, first:] - strip)
    ground = _ground(scene, rng, g, ground_start)
    image[:, last:] = ground[:, last - ground_start :]
    strip = image[:, ground_start:last]
    strip += np.clip(rows[ground_start:last] - bottom + 0.5, 0, 1) * (ground[:, : last - ground_start] - strip)

    labels = np.full((height, width), WALLS, np.int8)
    labels[rows < top] = ABOVE
    labels[rows > bottom] = GROUND
    return image, labels


def _pick(rng: np.random.Generator, pairs: tuple[tuple[Colour, Colour], ...]) -> tuple[Floats, Floats]:
    """Return a dark and a light colour, slightly varied in brightness and hue."""
    dark, light = pairs[int(rng.integers(len(pairs)))]
    gain = rng.uniform(0.9, 1.08) + rng.uniform(-0.03, 0.03, 3)
    return (np.asarray(dark) * gain).astype(np.float32), (np.asarray(light) * gain).astype(np.float32)


def _mix(pattern: Floats, dark: Floats, light: Floats) -> Floats:
    pattern = np.clip(pattern, 0, 1)
    return np.stack([d + (b - d) * pattern for d, b in zip(dark, light, strict=True)])


def _room_walls(scene: Scene, yaw: Floats) -> tuple[Floats, Floats, Floats]:
    """Return per column `[W]` the wall's horizontal distance, the position along the walls and the brightness."""
    sine, cosine = np.sin(yaw - np.float32(scene.heading)), np.cos(yaw - np.float32(scene.heading))
    to_side = np.float32(scene.half_width) / np.maximum(np.abs(sine), np.float32(1e-6))
    to_end = np.float32(scene.half_depth) / np.maximum(np.abs(cosine), np.float32(1e-6))
    side = to_side < to_end
    distance = np.where(side, to_side, to_end)
    along = np.where(side, cosine * distance + 20 * np.sign(sine), sine * distance + 50 + 20 * np.sign(cosine))
    shade = np.where(side, 1 + 0.08 * np.sign(sine), 0.97 + 0.05 * np.sign(cosine))
    return distance, along.astype(np.float32), shade.astype(np.float32)


def _skyline(rng: np.random.Generator, yaw: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return per column the distance, the position along the street, the roof's height and the facade's colour."""
    count = int(rng.integers(14, 24))
    edges = np.cumsum(rng.uniform(0.5, 1.5, count))
    edges *= 2 * math.pi / edges[-1]
    around = np.mod(yaw + rng.uniform(0, 2 * math.pi), 2 * math.pi)
    house = np.minimum(np.searchsorted(edges, around, side="right"), count - 1)
    distance = rng.uniform(19, 36, count)
    roof = rng.uniform(3, 17, count) * np.where(rng.random(count) < 0.2, 0.15, 1)
    colours = np.asarray(FACADES)[rng.integers(len(FACADES), size=count)] * rng.uniform(0.85, 1.1, (count, 1))
    along = around * distance[house]
    facade = colours[house].T[:, None].astype(np.float32)
    return distance[house].astype(np.float32), along.astype(np.float32), roof[house].astype(np.float32), facade


def _windows(along: Floats, up: Floats, facade: Floats, rng: np.random.Generator) -> Floats:
    """Return facades `[3, h, W]` with rows of windows, some of them lit."""
    bay = along / np.float32(rng.uniform(2.4, 3.2))
    floor = (up + np.float32(CAMERA_HEIGHT)) / np.float32(3.1)
    wide = np.abs(bay - np.floor(bay) - 0.5) < 0.27
    pane = wide & (np.abs(floor - np.floor(floor) - 0.55) < 0.28)
    lit = lookup(0.0, np.broadcast_to(np.floor(bay) * 7, up.shape), np.floor(floor) * 13) > 0.72
    wall = 0.95 + 0.25 * (lookup(1.5, np.broadcast_to(along * 10, up.shape), up * 10) - 0.5)
    glass, lamp = (0.30, 0.34, 0.39), (0.66, 0.60, 0.46)
    planes = (np.where(pane, np.where(lit, b, a), c * wall) for a, b, c in zip(glass, lamp, facade, strict=True))
    return np.stack([p.astype(np.float32) for p in planes])


def _ceiling(scene: Scene, rng: np.random.Generator, g: Grid, rows: int) -> Floats:
    """Return the uppermost rows `[3, rows, W]` of a ceiling of panels with one lamp."""
    away = np.float32(scene.ceiling) / np.maximum(g.tangent[:rows], np.float32(0.02))
    x, z = away * np.sin(g.yaw - np.float32(scene.heading)), away * np.cos(g.yaw - np.float32(scene.heading))
    side = np.float32(rng.uniform(0.7, 1.2))
    fade = 1 / (1 + (away / 4) ** 2)
    joint = np.maximum(np.abs((x / side) % 1 - 0.5), np.abs((z / side) % 1 - 0.5)) > 0.48
    pattern = 0.65 - 0.35 * fade * joint + 0.35 * (lookup(1.5, x * 30, z * 30) - 0.5)
    image = _mix(pattern, *_pick(rng, CEILING_COLOURS))
    lamp_x, lamp_z = rng.uniform(-1, 1, 2).astype(np.float32)
    lamp = (np.abs(x - lamp_x) < 0.18) & (np.abs(z - lamp_z) < 0.7)
    image[:, lamp] = np.asarray([[0.82], [0.77], [0.64]], np.float32)
    return image


def _sky(scene: Scene, rng: np.random.Generator, g: Grid, rows: int) -> Floats:
    """Return the uppermost rows `[3, rows, W]` of a sky: a gradient, clouds on a plane and the sun's glow."""
    sine, cosine = g.sine[:rows], g.cosine[:rows]
    depth = 1 - np.clip(sine, 0, 1) ** np.float32(0.6)
    zenith, horizon = _pick(rng, SKY_COLOURS)
    away = cosine / (np.maximum(sine, 0) + np.float32(0.25)) * 70
    start, shift = rng.uniform(0, 2 * math.pi), rng.uniform(0, 512, 2).astype(np.float32)
    yaw_from_start = g.yaw - np.float32(start)
    clouds = lookup(1.7, away * np.sin(yaw_from_start) + shift[0], away * np.cos(yaw_from_start) + shift[1])
    cover = np.clip((clouds - np.float32(rng.uniform(0.42, 0.6))) * 4, 0, 1) * (1 - depth * depth) * np.float32(0.8)
    pitch, yaw = math.radians(scene.sun_pitch_deg), np.float32(math.radians(scene.sun_yaw_deg))
    towards = np.maximum(cosine * (np.float32(math.cos(pitch)) * np.cos(g.yaw - yaw)) + sine * math.sin(pitch), 0)
    glow = towards**2
    for _ in range(4):
        glow = glow * glow
    disc = np.clip((towards - np.float32(math.cos(0.035))) * 4000, 0, 1)
    planes = []
    for low, high, cloud, sun in zip(zenith, horizon, (0.74, 0.75, 0.77), (0.92, 0.86, 0.70), strict=True):
        plane = low + (high - low) * depth
        plane = plane + cover * (np.float32(cloud) - plane)
        planes.append(plane + np.maximum(0.6 * glow, disc) * (np.float32(sun) - plane))
    return np.stack(planes)


def _ground(scene: Scene, rng: np.random.Generator, g: Grid, start: int) -> Floats:
    """Return the rows `[3, H - start, W]` of the ground, from row `start` down."""
    away = np.float32(CAMERA_HEIGHT) / np.maximum(-g.tangent[start:], np.float32(0.02))
    x, z = away * np.sin(g.yaw - np.float32(scene.heading)), away * np.cos(g.yaw - np.float32(scene.heading))
    pixel = (away**2 + CAMERA_HEIGHT**2) / CAMERA_HEIGHT * (math.pi / len(g.tangent))
    fade = 1 / (1 + (pixel / np.float32(0.45)) ** 2)
    shift = rng.uniform(0, 9, 2).astype(np.float32)
    pattern = ground_pattern(scene.ground, x + shift[0], z + shift[1], fade)
    return _mix(pattern, *_pick(rng, GROUND_COLOURS[scene.ground]))
