"""Views: sampling against an analytic panorama, the seam, solid angles, and exact token correspondences."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from py360convert_views import FILE, SIZE, VIEWS
from tiny_configs import poses_of
from torch import Tensor

from panollava.vlm.geometry import angular_distance, erp_rays
from panollava.vlm.views import (
    VIEW_STRATEGIES,
    WHOLE,
    correspondences,
    project,
    sample_views,
    token_solid_angles,
    view_rays,
)


def pinhole(yaw_deg: float, pitch_deg: float = 0.0, fov_deg: float = 90.0, roll_deg: float = 0.0) -> Tensor:
    angles = torch.tensor([yaw_deg, pitch_deg, roll_deg, fov_deg, fov_deg], dtype=torch.float64).deg2rad()
    return torch.cat((angles, angles.new_zeros(1)))


BUDGET = {"token_budget": 128, "tokens_per_side": 4, "panorama_height": 256, "view_size": 40}
TILTED = {"fov_deg": 70, "stride_deg": 60, "pitches_deg": [40, 0, -55], "roll_deg": 20}


@pytest.mark.parametrize("strategy", VIEW_STRATEGIES)
@pytest.mark.parametrize("settings", [{}, TILTED], ids=["default", "tilted"])
def test_sampling_a_panorama_of_its_own_rays_gives_the_rays_of_the_views(strategy: str, settings: dict) -> None:
    poses = poses_of(strategy, **BUDGET, **settings)
    panorama = erp_rays(256, 512).permute(2, 0, 1)[None]
    sampled = F.normalize(sample_views(panorama, poses, 40)[0].permute(0, 2, 3, 1), dim=-1)
    error = angular_distance(sampled, view_rays(poses, 40, 40))
    # Beyond the outermost row centres sampling clamps, at most half a pixel of latitude; elsewhere it is bilinear.
    assert error.max() < math.pi / 256
    assert error.median() < 1e-4


def test_a_rolled_and_tilted_view_samples_its_own_rays() -> None:
    poses = pinhole(170, 25, 70, 30)[None]
    sampled = sample_views(erp_rays(256, 512).permute(2, 0, 1)[None], poses, 32)[0, 0].permute(1, 2, 0)
    assert angular_distance(F.normalize(sampled, dim=-1), view_rays(poses[0], 32, 32).float()).max() < 1e-3


@pytest.mark.parametrize("columns", [1, 7, 32, 64])
def test_turning_the_view_by_whole_pixels_is_rolling_the_panorama(columns: int) -> None:
    panorama = torch.rand(1, 3, 32, 64)
    for yaw in (0.0, 45.0, 180.0):
        turned = sample_views(panorama, pinhole(yaw + 360 * columns / 64, 20)[None], 24)
        rolled = sample_views(panorama.roll(-columns, -1), pinhole(yaw, 20)[None], 24)
        assert torch.allclose(turned, rolled, atol=1e-5)


def test_the_seam_leaves_no_trace() -> None:
    panorama = torch.rand(2, 3, 32, 64)
    across = sample_views(panorama, pinhole(180)[None], 24)
    centred = sample_views(panorama.roll(32, -1), pinhole(0)[None], 24)
    assert torch.allclose(across, centred, atol=1e-5)


def test_defaults_are_the_poses_of_old() -> None:
    quarter, eighth = math.radians(90), math.radians(45)
    ring = [(math.radians((i * 45 + 180) % 360 - 180), 0, 0, quarter, quarter, 0) for i in range(8)]
    whole = [(0, 0, 0, 2 * math.pi, math.pi, 1)]
    cube = [*ring[::2], (0, quarter, 0, quarter, quarter, 0), (0, -quarter, 0, quarter, quarter, 0)]
    old = {"resize": whole, "e2p": ring, "anyres_e2p": whole + ring, "cubemap": cube}
    for strategy, poses in old.items():
        assert torch.equal(poses_of(strategy), torch.tensor(poses)), strategy
    assert eighth == pytest.approx(ring[1][0])


@pytest.mark.parametrize(("strategy", "whole"), [("e2p", 0), ("sliding_window", 0), ("anyres", 1), ("anyres_e2p", 1)])
def test_rows_rolls_strides_and_fields_of_view_are_as_asked(strategy: str, whole: int) -> None:
    poses = poses_of(strategy, **TILTED).rad2deg()
    assert len(poses) == whole + 3 * 6
    local = poses[whole:].view(3, 6, 6)
    assert torch.allclose(local[..., 1], torch.tensor([[40.0], [0], [-55]]).expand(3, 6), atol=1e-4)
    assert torch.allclose(local[..., 0] % 360, (torch.arange(6) * 60.0).expand(3, 6), atol=1e-4)
    assert torch.allclose(poses[:, 2], torch.tensor(20.0))
    assert torch.allclose(local[..., 3:5], torch.tensor(70.0))


def test_windows_are_crops_of_the_panorama() -> None:
    """At its own resolution a window is a rectangle of pixels, wherever it lies; across the seam it wraps."""
    panorama = torch.rand(1, 3, 64, 128)
    poses = poses_of("sliding_window", fov_deg=45, stride_deg=22.5, pitches_deg=[45, -11.25])
    views = sample_views(panorama, poses, 16)[0]
    for pose, view in zip(poses.rad2deg().tolist(), views, strict=True):
        left, top = round((pose[0] + 180 - 22.5) / 360 * 128), round((90 - pose[1] - 22.5) / 180 * 64)
        assert torch.allclose(view, panorama[0].roll(-left, -1)[:, top : top + 16, :16], atol=1e-4)


def test_the_whole_panorama_and_its_tiles_are_those_of_anyres() -> None:
    poses = poses_of("anyres", fov_deg=90, stride_deg=90, pitches_deg=[45, -45])
    assert len(poses) == 1 + 8
    angles = token_solid_angles(poses, 12, 12).sum((1, 2))
    assert torch.allclose(angles[1:], torch.tensor(math.pi / 2), rtol=1e-5)
    rays = view_rays(poses[1:], 8, 8)
    for pose, own in zip(poses[1:], rays, strict=True):
        x, y, inside = project(own, pose)
        assert inside.all()
        centres = (torch.arange(8) + 0.5) / 4 - 1
        assert torch.allclose(x, centres.expand(8, 8), atol=1e-5)
        assert torch.allclose(y, -centres[:, None].expand(8, 8), atol=1e-5)


@pytest.mark.parametrize(
    ("strategy", "total"), [("resize", 4 * math.pi), ("cubemap", 4 * math.pi), ("anyres_e2p", None), ("e2p", None)]
)
def test_solid_angles_of_tokens_add_up(strategy: str, total: float | None) -> None:
    poses = poses_of(strategy)
    angles = token_solid_angles(poses, 24, 24).sum((1, 2))
    expected = torch.where(poses[:, 5] == 1, 4 * math.pi, 4 * math.pi / 6)  # a pinhole of 90 degrees is a cube's face
    assert torch.allclose(angles, expected, rtol=1e-3)
    if total is not None:
        assert angles.sum().item() == pytest.approx(total, rel=1e-3)


def test_the_whole_panorama_has_the_rays_of_its_pixels() -> None:
    assert torch.allclose(view_rays(torch.tensor(WHOLE), 16, 32), erp_rays(16, 32), atol=1e-6)


def test_correspondences_point_at_the_same_direction() -> None:
    source, target = pinhole(20, 10), pinhole(60, -15, 80, 20)
    position, mask = correspondences(source, target, 16)
    assert 0 < mask.sum() < 256
    # The way back, written out: the plane at distance cot(fov / 2), then roll, pitch and yaw.
    local = torch.cat((position, torch.full((16, 16, 1), 1 / math.tan(math.radians(40)))), dim=-1)
    yaw, pitch, roll = (float(value) for value in target[:3])
    turn_z = torch.tensor([[math.cos(roll), math.sin(roll), 0], [-math.sin(roll), math.cos(roll), 0], [0, 0, 1]])
    turn_x = torch.tensor([[1, 0, 0], [0, math.cos(pitch), math.sin(pitch)], [0, -math.sin(pitch), math.cos(pitch)]])
    turn_y = torch.tensor([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]])
    world = F.normalize(local, dim=-1) @ (turn_y @ turn_x @ turn_z).double().T
    rays = view_rays(source, 16, 16)
    assert angular_distance(world, rays)[mask].max() < 1e-6
    # Tokens that are masked lie outside the target's outermost token centres.
    inside = (position.abs().amax(-1) <= 1 - 1 / 16) & (rays @ view_rays(target, 1, 1)[0, 0] > 0)
    assert torch.equal(mask, inside)


def test_correspondences_are_symmetric() -> None:
    views = pinhole(0), pinhole(45)
    forth, mask = correspondences(*views, 16)
    _, back_mask = correspondences(*views[::-1], 16)
    assert torch.equal(mask, back_mask.flip(1))  # mirror images of each other
    # 120 of 256 tokens lie in the other view; two of them in its outer half patch, without four neighbours.
    assert project(view_rays(views[0], 16, 16), views[1])[2].sum() == 120
    assert mask.sum() == 118
    # Following a token into the other view and its direction back ends where it began.
    rays = view_rays(views[0], 16, 16)
    x, y, inside = project(rays, views[0])
    centres = (torch.arange(16, dtype=torch.float64) + 0.5) / 8 - 1
    assert inside.all()
    assert torch.allclose(x, centres.expand(16, 16), atol=1e-9)
    assert torch.allclose(y, -centres[:, None].expand(16, 16), atol=1e-9)
    assert forth[mask].abs().max() <= 1 - 1 / 16


def test_neighbouring_views_of_a_ring_are_related_by_a_homography() -> None:
    delta = math.radians(45)
    position, mask = correspondences(pinhole(0), pinhole(45), 16)
    x = ((torch.arange(16, dtype=torch.float64) + 0.5) / 8 - 1).expand(16, 16)
    y = -x.T
    depth = x * math.sin(delta) + math.cos(delta)
    expected = torch.stack(((x * math.cos(delta) - math.sin(delta)) / depth, y / depth), dim=-1)
    assert torch.allclose(position[mask], expected[mask], atol=1e-9)


def test_shifting_columns_pairs_the_wrong_tokens() -> None:
    """The published pairing (same row, columns moved by half the width) is off by more than a token on average."""
    rays = view_rays(pinhole(0), 16, 16)[:, 8:], view_rays(pinhole(45), 16, 16)[:, :8]
    x, y, _ = project(rays[0], pinhole(45))
    columns, rows = (x + 1) * 8 - 0.5, (1 - y) * 8 - 0.5
    grid_y, grid_x = torch.meshgrid(torch.arange(16.0), torch.arange(8.0), indexing="ij")
    offset = torch.hypot(columns - grid_x, rows - grid_y)
    assert offset.mean() == pytest.approx(1.29, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "fisheye"}, "fisheye"),
        ({"strategy": "e2p", "fov_deg": 180}, "fov_deg is 180"),
        ({"strategy": "e2p", "stride_deg": 50}, "stride_deg is 50"),
        ({"strategy": "e2p", "pitches_deg": []}, r"pitches_deg is \[\]; it must name different rows"),
        ({"strategy": "e2p", "pitches_deg": [0, 0]}, r"pitches_deg is \[0, 0\]"),
        ({"strategy": "e2p", "pitches_deg": [100]}, r"pitches_deg is \[100\]"),
        ({"strategy": "anyres", "pitches_deg": [60]}, "a window of 90.0 degrees at pitch 60 reaches beyond a pole"),
    ],
)
def test_impossible_views_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        poses_of(**arguments)


def test_py360convert_draws_the_same_views_to_a_grey_level() -> None:
    """Its pixels reach from edge to edge of the field of view, ours are cells: hence another field of view."""
    stored = np.load(FILE)
    panorama = torch.from_numpy(stored["panorama"]).permute(2, 0, 1)[None].float()
    for (yaw, pitch, roll, fov), theirs in zip(VIEWS, stored["views"], strict=True):
        half = math.tan(math.radians(fov) / 2) * SIZE / (SIZE - 1)
        pose = pinhole(yaw, pitch, math.degrees(2 * math.atan(half)), roll)
        ours = sample_views(panorama, pose[None], SIZE)[0, 0].permute(1, 2, 0)
        assert (ours - torch.from_numpy(theirs).float()).abs().max() <= 1.01, (yaw, pitch, fov)
