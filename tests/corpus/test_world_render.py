"""Images of the synthetic world: labels agree with the boxes, with solid angles and with the geometry."""

import ast
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from panollava.corpus.world import render as render_module
from panollava.corpus.world.casting import cast, normals
from panollava.corpus.world.render import render
from panollava.corpus.world.scenes import CAMERA_HEIGHT, SHAPES, SceneObject, sample_scene
from panollava.vlm.geometry import erp_rays, erp_solid_angles, rays_in_boxes, rotation

HEIGHT, WIDTH = 512, 1024
SCENES = [sample_scene(11, split="test", index=i) for i in range(8)]


def _tangent(rays: torch.Tensor, box_deg: tuple[float, ...]) -> torch.Tensor:
    """Return tangent-plane positions `[n, 2]` of rays in units of the box's half sides."""
    yaw, pitch, width, height = torch.tensor(box_deg, dtype=torch.float64).deg2rad()
    local = rays.double() @ rotation(yaw, pitch, torch.zeros_like(yaw))
    return local[:, :2] / local[:, 2:] / torch.stack(((width / 2).tan(), (height / 2).tan()))


def test_masks_fill_their_boxes() -> None:
    rays = erp_rays(HEIGHT, WIDTH)
    seam = high = 0
    for scene in SCENES:
        _, labels = render(scene, HEIGHT, WIDTH)
        for index, item in enumerate(scene.objects):
            mask = torch.from_numpy(labels == index)
            inside = rays[mask].double()
            box = torch.tensor(item.box_deg, dtype=torch.float64).deg2rad()
            assert rays_in_boxes(inside, box + torch.tensor([0, 0, 2e-5, 2e-5])).all()
            positions = _tangent(inside, item.box_deg)
            # A pixel and a half; the tip of a cone or a cube's corner is thinner than a pixel near its end.
            pixels = 3 if item.shape in ("cone", "cube") else 1.5
            least = torch.tan(box[2:] / 2 - pixels * math.pi / HEIGHT) / torch.tan(box[2:] / 2)
            assert (positions.amax(0) > least).all(), item
            assert (positions.amin(0) < -least).all(), item
            seam += bool(mask[:, 0].any() and mask[:, -1].any())
            high += abs(item.pitch_deg) > 45
    assert seam >= 4
    assert high >= 3


def _fine_rays(item: SceneObject, steps: int = 801) -> tuple[np.ndarray, np.ndarray]:
    """Return rays through a fine tangent-plane grid that extends 2 % beyond the item's box, and the grid's ticks."""
    ticks = np.linspace(-1.02, 1.02, steps)
    yaw, pitch, width, height = torch.tensor(item.box_deg, dtype=torch.float64).deg2rad()
    x, y = np.meshgrid(ticks * math.tan(width / 2), ticks * math.tan(height / 2))
    local = np.stack((x, y, np.ones_like(x)), -1).reshape(-1, 3)
    world = local @ rotation(yaw, pitch, torch.zeros_like(yaw)).numpy().T
    return (world / np.linalg.norm(world, axis=1, keepdims=True)).astype(np.float32), ticks


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_touch_the_silhouette_on_all_four_sides(shape: str) -> None:
    items = [o for i in range(12) for o in sample_scene(4, split="x", index=i).objects if o.shape == shape]
    for item in items[:8]:
        rays, ticks = _fine_rays(item)
        hit = np.isfinite(cast(item, rays)).reshape(len(ticks), len(ticks))
        for axis in (0, 1):
            reached = ticks[hit.any(axis=axis)]
            # A hundredth of the half side: the fine grid may miss the very tip.
            assert reached[-1] == pytest.approx(1, abs=0.011), item
            assert reached[0] == pytest.approx(-1, abs=0.011), item


def test_balls_cover_the_solid_angle_of_their_caps() -> None:
    areas = erp_solid_angles(HEIGHT, WIDTH).numpy()
    balls = 0
    for scene in SCENES:
        _, labels = render(scene, HEIGHT, WIDTH)
        for index, item in enumerate(scene.objects):
            if item.shape == "ball":
                half_angle = math.asin(item.radius / item.distance)
                assert areas[labels == index].sum() == pytest.approx(2 * math.pi * (1 - math.cos(half_angle)), rel=0.02)
                balls += 1
    assert balls >= 5


@pytest.mark.parametrize("shape", SHAPES)
def test_hits_lie_on_the_surface_and_face_the_camera(shape: str) -> None:
    items = [o for i in range(12) for o in sample_scene(4, split="x", index=i).objects if o.shape == shape]
    for item in items[:8]:
        rays, _ = _fine_rays(item, 61)
        near = cast(item, rays)
        hit = np.isfinite(near)
        points = rays[hit] * near[hit, None] - np.asarray(item.centre, np.float32)
        normal = normals(item, points)
        assert np.linalg.norm(normal, axis=1) == pytest.approx(1, abs=1e-3)
        assert ((normal * rays[hit]).sum(1) <= 1e-3).all()
        # Convexity: the whole solid is behind the tangent plane of each surface point.
        depth = points @ normal.T
        assert (depth <= np.diag(depth) + 5e-3 * item.radius).all()


def test_equal_scenes_have_equal_bytes_and_other_splits_differ() -> None:
    image, labels = render(SCENES[0], 64, 128)
    again, labels_again = render(sample_scene(11, split="test", index=0), 64, 128)
    assert image.tobytes() == again.tobytes()
    assert labels.tobytes() == labels_again.tobytes()
    assert image.shape == (64, 128, 3)
    assert image.dtype == np.uint8
    other, _ = render(sample_scene(11, split="train", index=0), 64, 128)
    assert (image != other).any()


def test_background_labels_follow_the_geometry() -> None:
    for scene in SCENES:
        _, labels = render(scene, 128, 256)
        background = np.where(labels >= 0, 0, labels)
        order = {-3: 0, -2: 1, -1: 2}
        for column in background.T[::16]:
            layers = [order[c] for c in column if c]
            assert layers == sorted(layers)  # above, walls, ground from top to bottom
        if scene.kind == "room":
            # The floor's far corner is where both walls meet.
            corner = math.atan(CAMERA_HEIGHT / math.hypot(scene.half_width, scene.half_depth))
            rows = np.nonzero((background == -1).any(axis=1))[0]
            assert (rows[0] + 0.5) / 128 == pytest.approx(0.5 + corner / math.pi, abs=1.5 / 128)


def test_labels_agree_between_sizes() -> None:
    _, coarse = render(SCENES[1], 64, 128)
    _, fine = render(SCENES[1], 192, 384)
    # The centre of each coarse pixel is the centre of the middle one of its 3 x 3 fine pixels.
    assert (coarse == fine[1::3, 1::3]).mean() > 0.9995


def test_objects_have_their_colour() -> None:
    scene = SCENES[0]
    image, labels = render(scene, 128, 256)
    for index, item in enumerate(scene.objects):
        red, green, blue = image[labels == index].mean(axis=0)
        expected = {
            "red": red > 1.8 * max(green, blue),
            "yellow": min(red, green) > 1.8 * blue,
            "green": green > 1.4 * max(red, blue),
            "blue": blue > 1.3 * max(red, green),
            "purple": min(red, blue) > 1.3 * green,
            "white": min(red, green, blue) > 0.92 * max(red, green, blue),
        }
        assert expected[item.colour], (item.label, red, green, blue)


def test_an_image_without_a_horizon_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16 x 32"):
        render(SCENES[0], 8, 16)


def test_rendering_does_not_depend_on_questions_or_their_wording() -> None:
    for module in Path(render_module.__file__).parent.glob("*.py"):
        nodes = ast.walk(ast.parse(module.read_text("utf-8")))
        names = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        own = {name for name in names if name.startswith("panollava")}
        assert all(name.startswith("panollava.corpus.world.") for name in own), f"{module} imports {own}"


def test_bytes_do_not_depend_on_the_processor_s_blas_kernels() -> None:
    code = (
        "import hashlib; from panollava.corpus.world.render import render;"
        "from panollava.corpus.world.scenes import sample_scene;"
        "print(hashlib.sha256(b''.join(render(sample_scene(11, split='test', index=i), 128, 256)[0].tobytes() "
        "for i in range(12))).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"OPENBLAS_CORETYPE": core}, capture_output=True, check=True
        ).stdout
        for core in ("Haswell", "Prescott", "Nehalem")
    }
    assert len(found) == 1
