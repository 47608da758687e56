"""Scenes of the synthetic world: objects with exact boxes, and the background; nothing is drawn here.

The camera is at the origin, 1.6 m above the ground; x right, y up, z forward, metres. `sample_scene` is a pure function
of (seed, split, index) and takes well under a millisecond, so that text-only code can sample scenes without pictures.
"""

import math
import zlib
from dataclasses import dataclass

import numpy as np

from panollava.corpus.world.boxes import Box, bounding_box, cap_radius

COLOURS = ("red", "yellow", "green", "blue", "purple", "white")
SHAPES = ("cube", "ball", "cone", "cylinder")
GROUNDS = {
    "room": ("tiles", "checkerboard", "wooden floor", "carpet"),
    "plaza": ("paving stones", "grass", "sand", "asphalt"),
}
WALLS = {"room": ("brick wall", "panelled wall", "striped wallpaper", "plaster wall"), "plaza": ("skyline",)}
ABOVE = {"room": "ceiling", "plaza": "sky"}

CAMERA_HEIGHT = 1.6
PLAZA_RADIUS = 15.0
HOVER = 0.15  # minimum clearance of a floating object in metres
MIN_GAP_DEG = 3.0
MIN_SIDE_DEG, MAX_SIDE_DEG = 8.0, 41.0
SEAM_SHARE = 0.82  # share of scenes that start with an object across the seam
HIGH_SHARE = 0.16  # share of objects that are proposed above 45 degrees of latitude
# An object over the camera has no upright box; the smallest objects fit up to these latitudes.
STEEPEST_DEG, MAX_LATITUDE_DEG = 82.0, 75.0


@dataclass(frozen=True)
class SceneObject:
    """One object: its name, its exact BFoV box in degrees, and its geometry in metres (`heading` in radians)."""

    colour: str
    shape: str
    yaw_deg: float
    pitch_deg: float
    box_deg: Box
    distance: float
    grounded: bool
    centre: tuple[float, float, float]
    radius: float
    height: float
    heading: float
    tint: tuple[float, float, float]

    @property
    def label(self) -> str:
        """Return the name used in questions, for example `red cube`."""
        return f"{self.colour} {self.shape}"

    @property
    def box(self) -> Box:
        """Return the BFoV box in radians."""
        yaw, pitch, width, height = self.box_deg
        return math.radians(yaw), math.radians(pitch), math.radians(width), math.radians(height)


@dataclass(frozen=True)
class Scene:
    """A panorama's content. A room is `half_width` x `half_depth`, rotated by `heading`; a plaza ignores these."""

    kind: str
    objects: tuple[SceneObject, ...]
    ground: str
    walls: str
    heading: float
    half_width: float
    half_depth: float
    ceiling: float
    sun_yaw_deg: float
    sun_pitch_deg: float
    texture_seed: int


def background_names(scene: Scene) -> dict[str, str]:
    """Return the words for a scene's background: its kind, its ground, its walls and its ceiling or sky."""
    return {"kind": scene.kind, "ground": scene.ground, "walls": scene.walls, "above": ABOVE[scene.kind]}


def sample_scene(seed: int, *, split: str, index: int, min_latitude_deg: float = 0.0) -> Scene:
    """Return scene `index` of a split; equal arguments give equal scenes.

    With a `min_latitude_deg` above 0, the box centres of all objects are at least that far above or below the horizon.

    Raises:
        ValueError: `min_latitude_deg` leaves no room for two objects.
    """
    if not 0 <= min_latitude_deg <= MAX_LATITUDE_DEG:
        raise ValueError(
            f"min_latitude_deg is {min_latitude_deg}; beyond {MAX_LATITUDE_DEG} degrees there is no room for objects, "
            f"choose one from 0 to {MAX_LATITUDE_DEG}"
        )
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(split.encode()), index])))
    kind = "room" if rng.random() < 0.5 else "plaza"
    half_width, half_depth, ceiling = (_uniform(rng, *span) for span in ((3.4, 6.0), (3.4, 6.0), (1.5, 2.6)))
    limits = (min(half_width, half_depth) - 0.2, ceiling - 0.1) if kind == "room" else (PLAZA_RADIUS, 20.0)
    return Scene(
        kind=kind,
        objects=_sample_objects(rng, *limits, min_latitude_deg),
        ground=_choice(rng, GROUNDS[kind]),
        walls=_choice(rng, WALLS[kind]),
        heading=_uniform(rng, -math.pi, math.pi),
        half_width=half_width,
        half_depth=half_depth,
        ceiling=ceiling,
        sun_yaw_deg=_uniform(rng, -180, 180),
        sun_pitch_deg=_uniform(rng, 30, 60),
        texture_seed=int(rng.integers(2**31)),
    )


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    # Scalar `rng.random` is ten times as fast as `rng.uniform`.
    return low + (high - low) * rng.random()


def _choice(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(rng.random() * len(names))]


def _sample_objects(
    rng: np.random.Generator, reach: float, roof: float, min_latitude_deg: float
) -> tuple[SceneObject, ...]:
    """Place 2 to 8 objects within `reach` metres (horizontally) and below `roof`; crowded scenes may drop some."""
    count = 2 + int(rng.random() * 7)
    widest = 42 - 2 * count
    objects: list[SceneObject] = []
    seam = rng.random() < SEAM_SHARE
    while len(objects) < 2:
        for _ in range(count - len(objects)):
            colour, shape, high = _choice(rng, COLOURS), _choice(rng, SHAPES), rng.random() < HIGH_SHARE
            for _ in range(40):
                width_deg = 9 + (widest - 9) * rng.random() ** 1.5
                pitch_deg = _sample_pitch(rng, high, min_latitude_deg)
                yaw_deg = 180 + _uniform(rng, -0.3, 0.3) * width_deg if seam else _uniform(rng, -180, 180)
                proposal = _propose(rng, colour, shape, (yaw_deg, pitch_deg, width_deg), reach, roof)
                if proposal is not None and _fits(proposal, objects, min_latitude_deg):
                    objects.append(proposal)
                    seam = False
                    break
    return tuple(objects[i] for i in rng.permutation(len(objects)))


def _sample_pitch(rng: np.random.Generator, high: bool, min_latitude_deg: float) -> float:
    if min_latitude_deg:
        return _uniform(rng, min_latitude_deg, STEEPEST_DEG) * (1 if rng.random() < 0.5 else -1)
    if high:
        return _uniform(rng, 47, 64) if rng.random() < 0.75 else _uniform(rng, -62, -47)
    return _uniform(rng, -40, 42)


def _propose(
    rng: np.random.Generator, colour: str, shape: str, aim: tuple[float, float, float], reach: float, roof: float
) -> SceneObject | None:
    """Build an object near the aimed (yaw, pitch, width) in degrees, or None if it does not fit there."""
    yaw, pitch, width = (math.radians(a) for a in aim)
    aspect = _uniform(rng, 1.1, 1.5) if shape in ("cone", "cylinder") else 1.0
    if shape == "cone" and aim[1] > 30:
        aspect *= 1.7  # a blunt cone seen from below would hide its tip behind its base
    slope = math.tan(width / 2) / (1.2 if shape == "cube" else 1.0)  # radius over distance
    grounded = aim[1] < 0 and rng.random() < 0.55
    if grounded:
        # The base is on the ground: away * tan(pitch) = away * slope * aspect - CAMERA_HEIGHT.
        away = CAMERA_HEIGHT / (slope * aspect - math.tan(pitch))
        distance = away / math.cos(pitch)
        radius = away * slope
    else:
        rise = roof if pitch > 0 else CAMERA_HEIGHT - HOVER
        farthest = min(rise / (abs(math.sin(pitch)) + slope * aspect), 0.9 * reach / math.cos(pitch))
        distance = min(0.9, farthest) * (farthest / min(0.9, farthest)) ** rng.random()
        away = distance * math.cos(pitch)
        radius = distance * slope
    half_height = radius * aspect
    level = half_height - CAMERA_HEIGHT if grounded else distance * math.sin(pitch)
    if not 1.8 * radius < away < reach - 1.5 * radius or distance < 0.6:
        return None
    if level + half_height > roof or (not grounded and level - half_height < HOVER - CAMERA_HEIGHT):
        return None
    centre = (away * math.sin(yaw), level, away * math.cos(yaw))
    heading = _uniform(rng, 0, math.pi / 2)
    box = bounding_box(shape, centre, radius=radius, height=2 * half_height, heading=heading)
    yaw_deg, pitch_deg, width_deg, height_deg = (math.degrees(a) for a in box)
    if min(width_deg, height_deg) < MIN_SIDE_DEG or max(width_deg, height_deg) > MAX_SIDE_DEG:
        return None
    yaw_deg = (yaw_deg + 180) % 360 - 180
    return SceneObject(
        colour=colour,
        shape=shape,
        yaw_deg=yaw_deg,
        pitch_deg=pitch_deg,
        box_deg=(yaw_deg, pitch_deg, width_deg, height_deg),
        distance=math.hypot(*centre),
        grounded=grounded,
        centre=centre,
        radius=radius,
        height=2 * half_height,
        heading=heading,
        tint=(rng.random(), rng.random(), rng.random()),
    )


def gap_deg(a: SceneObject, b: SceneObject) -> float:
    """Return the angle in degrees between the caps around the boxes of `a` and `b`; negative if they overlap."""
    (yaw_a, pitch_a, *_), (yaw_b, pitch_b, *_) = box_a, box_b = a.box, b.box
    cosine = math.sin(pitch_a) * math.sin(pitch_b) + math.cos(pitch_a) * math.cos(pitch_b) * math.cos(yaw_a - yaw_b)
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))) - cap_radius(box_a) - cap_radius(box_b))


def _fits(proposal: SceneObject, objects: list[SceneObject], min_latitude_deg: float) -> bool:
    apart = all(gap_deg(proposal, other) >= MIN_GAP_DEG for other in objects)
    return apart and abs(proposal.pitch_deg) >= min_latitude_deg
