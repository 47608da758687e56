"""Coverage: that `sphere` and `adaptive` see every direction, by integration, and that the proof behind it is one."""

import math
from itertools import pairwise

import pytest
import torch
from tiny_configs import poses_of
from torch import Tensor

from panollava.vlm.geometry import angular_distance, directions_to_rays
from panollava.vlm.rings import Ring, covering_rings, covers
from panollava.vlm.views import PINHOLE, project, view_rays


def directions(count: int) -> Tensor:
    """Return `count` rays drawn evenly over the sphere, and as many again close to the poles and to the meridians."""
    generator = torch.Generator().manual_seed(0)
    yaw, height, near = torch.rand(3, count, dtype=torch.float64, generator=generator)
    yaw, pitch = (yaw - 0.5) * 2 * math.pi, (2 * height - 1).asin()
    polar = directions_to_rays(yaw, (math.pi / 2 - 0.05 * near) * (height - 0.5).sign())
    seam = directions_to_rays((yaw * 24 / math.pi).round() * math.pi / 24, pitch)
    return torch.cat((directions_to_rays(yaw, pitch), polar, seam))


def coverage(poses: Tensor, rays: Tensor) -> float:
    """Return the share of rays that some pinhole view at `poses` sees."""
    seen = torch.zeros(len(rays), dtype=torch.bool)
    for pose in poses.double()[poses[:, 5] == PINHOLE]:
        seen |= project(rays, pose)[2]
    return seen.double().mean().item()


@pytest.mark.parametrize("fov_deg", [25, 30, 37.5, 45, 52, 60, 66, 75, 81, 90, 100, 110, 120, 135, 150, 170])
@pytest.mark.parametrize("stride_deg", [22.5, 45, 60, 90, 120])
def test_sphere_sees_every_direction(fov_deg: float, stride_deg: float) -> None:
    poses = poses_of("sphere", fov_deg=fov_deg, stride_deg=stride_deg)
    # The edges of a cube's faces touch; rounded to float32 they may part by a ten-millionth of a radian.
    assert coverage(poses + torch.tensor([0, 0, 0, 1e-6, 1e-6, 0]), directions(20_000)) == 1
    assert {round(math.degrees(pitch)) for pitch in poses[:, 1].tolist()} >= {-90, 90}


@pytest.mark.parametrize("roll_deg", [10, 45, -30, 90])
def test_rolled_views_of_a_sphere_see_every_direction_too(roll_deg: float) -> None:
    poses = poses_of("sphere", fov_deg=80, stride_deg=60, roll_deg=roll_deg)
    assert torch.allclose(poses[:, 2], torch.tensor(math.radians(roll_deg)))
    assert coverage(poses, directions(20_000)) == 1


@pytest.mark.parametrize(("fov_deg", "stride_deg"), [(60, 30), (90, 45), (75, 72), (40, 60)])
def test_neighbours_on_a_sphere_are_no_farther_apart_than_the_stride(fov_deg: float, stride_deg: float) -> None:
    poses = poses_of("sphere", fov_deg=fov_deg, stride_deg=stride_deg)
    centres = view_rays(poses.double(), 1, 1)[:, 0, 0]
    rows = sorted({round(pitch, 5) for pitch in poses[:, 1].tolist()})
    assert max(b - a for a, b in pairwise(rows)) <= math.radians(stride_deg) + 1e-4
    nearest = angular_distance(centres[:, None], centres) + 10 * torch.eye(len(poses))
    assert nearest.min(1).values.max() <= math.radians(stride_deg) + 1e-4


def test_a_cube_is_found() -> None:
    assert torch.equal(poses_of("sphere", fov_deg=90, stride_deg=90).sort(0).values, poses_of("cubemap").sort(0).values)


@pytest.mark.parametrize("fov_deg", range(24, 150, 9))
def test_one_view_less_in_any_ring_leaves_a_hole(fov_deg: int) -> None:
    fov = math.radians(fov_deg)
    rings = covering_rings(fov, math.inf)
    assert covers(rings, fov)
    rays = directions(100_000)
    for index, (pitch, count) in enumerate(rings):
        fewer = [*rings[:index], (pitch, count - 1), *rings[index + 1 :]]
        assert not covers(fewer, fov)
        assert coverage(as_poses(fewer, fov), rays) < 1


@pytest.mark.parametrize("seed", range(60))
def test_what_is_said_to_cover_does(seed: int) -> None:
    """Random rings: never is a hole overlooked."""
    draw = torch.rand(8, generator=torch.Generator().manual_seed(seed)).tolist()
    fov, steps = math.radians(70 + 60 * draw[0]), 2 + int(draw[1] * 3)
    rings = [(math.pi * (row / steps - 0.5), 1 + int(draw[row + 2] * 7)) for row in range(steps + 1)]
    seen = coverage(as_poses(rings, fov), directions(20_000))
    assert not covers(rings, fov) or seen == 1
    assert not covers(rings[:-1], fov) or coverage(as_poses(rings[:-1], fov), directions(20_000)) == 1


def as_poses(rings: list[Ring], fov: float) -> Tensor:
    poses = [(i * 2 * math.pi / count, pitch, 0, fov, fov, 0) for pitch, count in rings for i in range(count)]
    return torch.tensor(poses, dtype=torch.float64)


SETTING = {"tokens_per_side": 4, "panorama_height": 1024, "view_size": 224}


@pytest.mark.parametrize("token_budget", [16, 50, 64, 80, 96, 112, 150, 200, 333, 400, 640, 1000])
@pytest.mark.parametrize(("height", "size"), [(256, 64), (256, 224), (1024, 224), (4096, 336), (120, 224)])
def test_adaptive_keeps_the_budget_and_the_panorama_s_resolution(token_budget: int, height: int, size: int) -> None:
    sizes = {"tokens_per_side": 4, "panorama_height": height, "view_size": size}
    poses = poses_of("adaptive", token_budget=token_budget, **sizes)
    assert torch.equal(poses, poses_of("adaptive", token_budget=token_budget, **sizes))
    assert len(poses) * 16 <= token_budget
    assert poses[0, 3] == pytest.approx(2 * math.pi)
    fovs = poses[1:, 3].double()
    # At its centre no view is finer than the panorama, unless it could not be any wider.
    finer = size / (2 * (fovs / 2).tan()) > height / math.pi * (1 + 1e-6)
    assert not (finer & (fovs < math.radians(119.99))).any()
    if len(poses) >= 6:
        assert coverage(poses + torch.tensor([0, 0, 0, 1e-6, 1e-6, 0]), directions(20_000)) == 1
    if size >= 2 * height:
        assert len(poses) == 1


def test_a_larger_budget_never_means_coarser_views_by_more_than_a_tenth() -> None:
    fovs = [poses_of("adaptive", token_budget=budget, **SETTING)[-1, 3].item() for budget in range(96, 700, 16)]
    halves = [math.tan(fov / 2) for fov in fovs]
    assert all(later <= earlier * 1.1 + 1e-6 for earlier, later in pairwise(halves))
    assert halves[-1] < halves[0] / 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_budget": 15}, "token_budget is 15, but a single view of 4 x 4 tokens takes 16"),
        ({"token_budget": None}, "token_budget is None; the view strategy adaptive needs"),
        ({"panorama_height": None}, "panorama_height is None"),
        ({"tokens_per_side": 0}, "tokens_per_side is 0"),
    ],
)
def test_a_budget_that_cannot_be_met_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        poses_of("adaptive", **(SETTING | {"token_budget": 100} | changes))
