"""Scenes of the synthetic world: reproducible and varied, with exact boxes that are well apart."""

import hashlib
import math
from collections import Counter

import pytest

from panollava.corpus.world.boxes import bounding_box
from panollava.corpus.world.scenes import (
    ABOVE,
    CAMERA_HEIGHT,
    COLOURS,
    GROUNDS,
    MAX_LATITUDE_DEG,
    SHAPES,
    Scene,
    SceneObject,
    background_names,
    gap_deg,
    sample_scene,
)

# Names, yaws and pitches of the first 200 training scenes of seed 3.
DEFAULT_WORLD = "975f69bfdd957fb9fd5a5f3b9c6e4b681ce8de76d95dbc43c0d128ee85b76b3f"


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample_scene(3, split="train", index=i) for i in range(1500)]


@pytest.fixture(scope="module")
def objects(scenes: list[Scene]) -> list[SceneObject]:
    return [item for scene in scenes for item in scene.objects]


def test_scene_depends_on_seed_split_and_index_only() -> None:
    first = sample_scene(0, split="train", index=5)
    assert sample_scene(0, split="train", index=5) == first
    assert sample_scene(1, split="train", index=5) != first
    assert sample_scene(0, split="test", index=5) != first
    assert sample_scene(0, split="train", index=6) != first


def test_counts_and_names_are_evenly_distributed(scenes: list[Scene], objects: list[SceneObject]) -> None:
    counts = Counter(len(scene.objects) for scene in scenes)
    assert set(counts) == set(range(2, 9))
    assert min(counts.values()) > 0.1 * len(scenes)
    for names, values in ((COLOURS, [o.colour for o in objects]), (SHAPES, [o.shape for o in objects])):
        found = Counter(values)
        assert set(found) == set(names)
        assert all(abs(n * len(names) / len(values) - 1) < 0.1 for n in found.values())
    repeated = [scene for scene in scenes if len({o.label for o in scene.objects}) < len(scene.objects)]
    assert 0.1 < len(repeated) / len(scenes) < 0.6


def test_shares_of_seam_high_and_grounded_objects(scenes: list[Scene], objects: list[SceneObject]) -> None:
    def astride(item: SceneObject) -> bool:
        return 180 - abs(item.yaw_deg) < item.box_deg[2] / 2

    assert sum(map(astride, objects)) >= 0.15 * len(objects)
    assert sum(sum(map(astride, scene.objects)) == 1 for scene in scenes) > 0.6 * len(scenes)
    assert sum(o.pitch_deg > 45 for o in objects) > 0.08 * len(objects)
    assert sum(abs(o.pitch_deg) > 45 for o in objects) >= 0.10 * len(objects)
    assert sum(o.pitch_deg < -45 for o in objects) > 0.02 * len(objects)
    below = [o for o in objects if o.pitch_deg < 0]
    assert 0.4 < sum(o.grounded for o in below) / len(below) < 0.6


def test_boxes_keep_the_limits_of_size_and_gap(scenes: list[Scene], objects: list[SceneObject]) -> None:
    assert all(min(o.box_deg[2:]) >= 8 and max(o.box_deg[2:]) <= 42 for o in objects)
    assert all(-180 <= o.yaw_deg < 180 and o.box_deg[:2] == (o.yaw_deg, o.pitch_deg) for o in objects)
    for scene in scenes[:300]:
        pairs = [(a, b) for i, a in enumerate(scene.objects) for b in scene.objects[:i]]
        assert all(gap_deg(a, b) >= 3 for a, b in pairs)


def assert_inside_the_world(scenes: list[Scene]) -> None:
    for scene in scenes:
        wall = min(scene.half_width, scene.half_depth) if scene.kind == "room" else 19.0
        for item in scene.objects:
            base = item.centre[1] - item.height / 2
            assert base == pytest.approx(-CAMERA_HEIGHT) if item.grounded else base > 0.1 - CAMERA_HEIGHT
            assert item.distance == pytest.approx(math.hypot(*item.centre))
            assert math.hypot(item.centre[0], item.centre[2]) + math.sqrt(2) * item.radius < wall
            if scene.kind == "room":
                assert item.centre[1] + item.height / 2 < scene.ceiling


def test_objects_are_inside_the_world(scenes: list[Scene]) -> None:
    assert_inside_the_world(scenes)


def test_the_default_world_is_unchanged(scenes: list[Scene]) -> None:
    lines = [f"{o.label} {o.yaw_deg:.3f} {o.pitch_deg:.3f}" for scene in scenes[:200] for o in scene.objects]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == DEFAULT_WORLD
    assert sample_scene(3, split="train", index=7, min_latitude_deg=0.0) == scenes[7]


@pytest.mark.parametrize("latitude", [30, 60, MAX_LATITUDE_DEG])
def test_objects_of_a_polar_world_are_near_the_poles_and_varied(latitude: float) -> None:
    polar = [sample_scene(3, split="train", index=i, min_latitude_deg=latitude) for i in range(300)]
    found = [item for scene in polar for item in scene.objects]
    assert min(abs(o.pitch_deg) for o in found) >= latitude
    assert 0.4 < sum(o.pitch_deg > 0 for o in found) / len(found) < 0.6
    assert all(len(scene.objects) >= 2 for scene in polar)
    assert len({len(scene.objects) for scene in polar}) >= 4
    for names, values in ((COLOURS, [o.colour for o in found]), (SHAPES, [o.shape for o in found])):
        shares = Counter(values)
        assert all(abs(shares[name] * len(names) / len(values) - 1) < 0.3 for name in names)
    assert all(min(o.box_deg[2:]) >= 8 and max(o.box_deg[2:]) <= 42 for o in found)
    for scene in polar:
        assert all(gap_deg(a, b) >= 3 for i, a in enumerate(scene.objects) for b in scene.objects[:i])
    assert_inside_the_world(polar)


@pytest.mark.parametrize("latitude", [-1.0, 80.0])
def test_a_latitude_without_room_is_refused(latitude: float) -> None:
    with pytest.raises(ValueError, match=rf"min_latitude_deg is {latitude}.*from 0 to 75"):
        sample_scene(0, split="train", index=0, min_latitude_deg=latitude)


def test_background_names_describe_the_scene(scenes: list[Scene]) -> None:
    for scene in scenes[:50]:
        words = background_names(scene)
        assert words["ground"] in GROUNDS[scene.kind]
        assert (words["kind"], words["above"]) == (scene.kind, ABOVE[scene.kind])
        assert (words["walls"] == "skyline") == (scene.kind == "plaza")


def test_the_front_face_of_a_cube_fills_its_box() -> None:
    yaw, pitch, width, height = bounding_box("cube", (0.0, 0.0, 3.0), radius=1.0, height=2.0, heading=0.0)
    # The front face is two metres away and fills the box.
    assert (yaw, pitch) == pytest.approx((0, 0), abs=1e-9)
    assert (width, height) == pytest.approx((2 * math.atan(0.5), 2 * math.atan(0.5)))


def test_box_of_a_level_cylinder_is_bounded_by_its_tangents() -> None:
    _, pitch, width, height = bounding_box("cylinder", (2.0, 0.0, 0.0), radius=0.5, height=1.0, heading=0.0)
    assert pitch == pytest.approx(0, abs=1e-12)
    assert width == pytest.approx(2 * math.asin(0.25))
    assert height == pytest.approx(2 * math.atan(0.5 / 1.5))


@pytest.mark.parametrize("shape", SHAPES)
def test_object_over_the_camera_is_refused(shape: str) -> None:
    with pytest.raises(ValueError, match="over the camera"):
        bounding_box(shape, (0.1, 2.0, 0.1), radius=0.5, height=1.0, heading=0.0)


def test_unknown_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="torus"):
        bounding_box("torus", (0.0, 0.0, 3.0), radius=0.5, height=1.0, heading=0.0)
