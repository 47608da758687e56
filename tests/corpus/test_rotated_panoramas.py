"""Rotated panoramas, directions and boxes against panoramas that are drawn rotated."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from panollava.corpus.rotation.panorama import Rotation, rotate_image, sample_rotated, whole_pixel_yaw_deg
from panollava.corpus.world.boxes import bounding_box
from panollava.corpus.world.scenes import SceneObject, sample_scene
from panollava.tasks.degrees import angle_deg, box_iou
from panollava.vlm.geometry import erp_rays, rotation

HEIGHT, WIDTH = 64, 128
ROTATIONS = [Rotation(40), Rotation(-22.5), Rotation(tilt_deg=10), Rotation(70, -30), Rotation(180, 85)]


def smooth(rays: Tensor) -> Tensor:
    """Return three smooth functions of the ray `[..., 3]` in the range of bytes, `[3, ...]`."""
    x, y, z = rays.unbind(-1)
    return 120 + torch.stack((60 * x + 30 * y * z, 70 * y - 20 * x * x, 50 * z + 40 * x * y))


def drawn(rotation: Rotation) -> Tensor:
    """Return the rotated panorama of `smooth`, drawn by looking up each ray before the rotation."""
    back = torch.linalg.inv(rotation.matrix)
    return smooth(erp_rays(HEIGHT, WIDTH, torch.float64) @ back.T)


def image(panorama: Tensor) -> Image.Image:
    return Image.fromarray(panorama.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


@pytest.mark.parametrize("rotation", ROTATIONS, ids=str)
def test_a_rotated_panorama_is_the_panorama_drawn_rotated(rotation: Rotation) -> None:
    # Bilinear sampling of so smooth a function is off by less than half a level; the outermost rows clamp.
    found = sample_rotated(smooth(erp_rays(HEIGHT, WIDTH, torch.float64)), rotation)
    assert (found - drawn(rotation)).abs().max() < 4
    assert (found - drawn(rotation)).abs().median() < 0.3


@pytest.mark.parametrize("pixels", [0, 1, 8, 64, 127, -5, 300])
def test_a_yaw_of_whole_pixels_moves_columns(pixels: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    rotated = np.asarray(rotate_image(Image.fromarray(noise), Rotation(pixels * 360 / WIDTH)))
    assert (rotated == np.roll(noise, pixels, axis=1)).all()


def test_a_yaw_of_half_a_pixel_interpolates_across_the_seam() -> None:
    noise = torch.randint(0, 256, (3, HEIGHT, WIDTH)).double()
    half = sample_rotated(noise, Rotation(0.5 * 360 / WIDTH))
    torch.testing.assert_close(half, (noise + noise.roll(1, dims=-1)) / 2)


@pytest.mark.parametrize("rotation", ROTATIONS, ids=str)
def test_images_and_directions_rotate_alike(rotation: Rotation) -> None:
    # A small disc in the image must move with its direction; otherwise every rotated answer is wrong.
    for direction in ((0.0, 0.0), (100.0, 20.0), (-178.0, -25.0)):
        ray = Rotation(*direction).matrix[:, 2]
        disc = ((erp_rays(HEIGHT, WIDTH, torch.float64) @ ray) > math.cos(math.radians(9))).double() * 255
        seen = torch.from_numpy(np.array(rotate_image(image(disc.expand(3, -1, -1)), rotation)))[..., 0].double()
        weights = seen * torch.linspace(math.pi / 2, -math.pi / 2, HEIGHT).cos()[:, None]
        centre = (erp_rays(HEIGHT, WIDTH, torch.float64) * weights[..., None]).sum(dim=(0, 1))
        yaw, pitch = math.atan2(centre[0], centre[2]), math.atan2(centre[1], math.hypot(centre[0], centre[2]))
        assert angle_deg((math.degrees(yaw), math.degrees(pitch)), rotation.direction(*direction)) < 1


def test_a_tilt_lifts_the_front_and_lowers_the_back() -> None:
    tilt = Rotation(tilt_deg=10)
    assert tilt.direction(0, 0) == pytest.approx((0, 10))
    assert tilt.direction(-180, 0) == pytest.approx((-180, -10))
    assert tilt.direction(90, 0) == pytest.approx((90, 0), abs=1e-9)


def test_yaws_add_up_and_keep_the_pitch_exactly() -> None:
    for a, b in ((22.5, 67.5), (337.5, 112.5), (-500, 3)):
        once, twice = Rotation(a + b).direction(130, 12.5), Rotation(b).direction(*Rotation(a).direction(130, 12.5))
        assert twice == pytest.approx(once)
        assert twice[1] == 12.5
        assert -180 <= twice[0] < 180


def balls(count: int) -> list[SceneObject]:
    scenes = (sample_scene(3, split="train", index=index) for index in range(count))
    return [o for scene in scenes for o in scene.objects if o.shape == "ball"]


@pytest.mark.parametrize(
    "rotation", [Rotation(100), Rotation(tilt_deg=5), Rotation(tilt_deg=30), Rotation(31, -20)], ids=str
)
def test_the_box_of_a_ball_rotates_exactly(rotation: Rotation) -> None:
    for ball in balls(20):
        x, y, z = (rotation.matrix @ torch.tensor(ball.centre, dtype=torch.float64)).tolist()
        if math.hypot(x, z) <= ball.radius:
            continue
        exact = bounding_box("ball", (x, y, z), radius=ball.radius, height=ball.height, heading=0)
        found = rotation.box(ball.box_deg)
        assert box_iou(found, tuple(map(math.degrees, exact))) == pytest.approx(1, abs=1e-6)  # type: ignore[arg-type]


def fitted(points: Tensor, guess: tuple[float, float]) -> tuple[float, ...]:
    """Return the box in degrees of points `[n, 3]`, iterating its centre until the extents are symmetric."""
    yaw, pitch = (torch.tensor(angle, dtype=torch.float64).deg2rad() for angle in guess)
    for _ in range(60):
        x, y, z = (points @ rotation(yaw, pitch, torch.zeros_like(yaw))).unbind(-1)
        across, up = torch.atan2(x, z), torch.atan2(y, z)
        yaw = yaw + 0.7 * (across.max() + across.min()) / 2 / pitch.cos()
        pitch = pitch + 0.7 * (up.max() + up.min()) / 2
    return tuple(torch.stack((yaw, pitch, across.max() - across.min(), up.max() - up.min())).rad2deg().tolist())


@pytest.mark.parametrize(("tilt_deg", "mean"), [(5, 0.94), (10, 0.9), (30, 0.78)])
def test_the_kept_box_of_a_tilted_cube_is_near_its_exact_box(tilt_deg: float, mean: float) -> None:
    tilt, found = Rotation(tilt_deg=tilt_deg), []
    for index in range(15):
        for item in sample_scene(5, split="train", index=index).objects:
            if item.shape == "cube":
                signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
                heading = torch.tensor(item.heading, dtype=torch.float64)
                flat = torch.tensor(0.0, dtype=torch.float64)
                corners = signs * item.radius @ rotation(heading, flat, flat).T + torch.tensor(item.centre)
                assert box_iou(fitted(corners, item.box_deg[:2]), item.box_deg) > 0.999  # type: ignore[arg-type]
                kept = tilt.box(item.box_deg)
                found.append(box_iou(fitted(corners @ tilt.matrix.T, kept[:2]), kept))  # type: ignore[arg-type]
    assert np.mean(found) > mean
    assert min(found) > 0.5


def test_the_yaw_of_whole_pixels_is_the_nearest() -> None:
    for yaw in (0, 100.3, -77.7, 359.9):
        found = whole_pixel_yaw_deg(yaw, 512)
        assert abs(found - yaw) <= 180 / 512
        assert found * 512 / 360 == pytest.approx(round(found * 512 / 360))


@pytest.mark.parametrize("angle", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("make", [lambda a: Rotation(yaw_deg=a), lambda a: Rotation(tilt_deg=a)], ids=["yaw", "tilt"])
def test_an_angle_that_is_not_finite_is_refused(make: Callable[[float], Rotation], angle: float) -> None:
    with pytest.raises(ValueError, match=f"_deg is {angle}"):
        make(angle)
