"""Masks and patches: shares add up to areas, and a mask that is transferred to patches comes back unchanged."""

import math

import pytest
import torch
from torch import Tensor

from panollava.corpus.patch_masks import patch_coverage, splat
from panollava.vlm.geometry import angular_distance, directions_to_rays, erp_rays, erp_solid_angles
from panollava.vlm.views import token_solid_angles, view_poses

HEIGHT, WIDTH = 128, 256


def cap(yaw_deg: float, pitch_deg: float, radius_deg: float) -> Tensor:
    """Return the mask of all directions within a radius of one direction."""
    centre = directions_to_rays(torch.tensor(math.radians(yaw_deg)), torch.tensor(math.radians(pitch_deg)))
    return angular_distance(erp_rays(HEIGHT, WIDTH), centre) < math.radians(radius_deg)


def overlap(first: Tensor, second: Tensor) -> float:
    areas = erp_solid_angles(HEIGHT, WIDTH)
    return float((areas * (first & second)).sum() / (areas * (first | second)).sum())


@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (180, 10), (40, 80), (-100, -90)])
def test_shares_of_the_patches_of_a_cube_add_up_to_the_area(yaw: float, pitch: float) -> None:
    poses = view_poses("cubemap")
    covered = patch_coverage(cap(yaw, pitch, 25), poses, 12, 12)
    area = (covered * token_solid_angles(poses, 12, 12)).sum()
    assert float(area) == pytest.approx(2 * math.pi * (1 - math.cos(math.radians(25))), rel=0.02)
    assert covered.min() == 0
    assert covered.max() == 1


def test_a_mask_rotated_by_one_view_covers_the_patches_of_the_next_view() -> None:
    poses, mask = view_poses("e2p", stride_deg=45), cap(170, 12, 20)
    before = patch_coverage(mask, poses, 6, 6)
    after = patch_coverage(mask.roll(WIDTH // 8, dims=1), poses, 6, 6)
    assert before.max() == 1
    assert torch.allclose(after.roll(-1, dims=0), before, atol=0.07)  # rays near a pixel's edge may round differently
    assert torch.allclose(after.roll(-1, dims=0).sum(), before.sum(), rtol=0.01)


@pytest.mark.parametrize("strategy", ["cubemap", "anyres_e2p", "sphere", "sliding_window"])
def test_a_mask_comes_back_nearly_unchanged(strategy: str) -> None:
    poses = view_poses(strategy)
    for yaw in (0, 180, 67):
        mask = cap(yaw, 15, 30)
        back = splat(patch_coverage(mask, poses, 16, 16)[None] - 0.5, poses, HEIGHT, WIDTH)[0] > 0
        assert overlap(back, mask) > 0.9, f"yaw {yaw}"


def test_finer_patches_restore_a_mask_better() -> None:
    poses, mask = view_poses("anyres_e2p"), cap(100, -20, 12)
    overlaps = [
        overlap(splat(patch_coverage(mask, poses, side, side)[None] - 0.5, poses, HEIGHT, WIDTH)[0] > 0, mask)
        for side in (4, 8, 16)
    ]
    assert overlaps == sorted(overlaps)
    assert overlaps[0] < overlaps[2] - 0.1


def test_a_constant_stays_constant_and_unseen_pixels_are_minus_infinity() -> None:
    everywhere = splat(torch.full((2, 9, 5, 5), 3.0), view_poses("anyres_e2p"), HEIGHT, WIDTH)
    assert everywhere.shape == (2, HEIGHT, WIDTH)
    assert torch.allclose(everywhere, torch.tensor(3.0), atol=1e-5)
    ring = splat(torch.full((1, 8, 5, 5), 3.0), view_poses("e2p"), HEIGHT, WIDTH)[0]
    assert torch.isneginf(ring[0]).all()  # the zenith
    assert torch.allclose(ring[HEIGHT // 2], torch.tensor(3.0), atol=1e-5)


def test_fine_views_dominate_the_whole_panorama() -> None:
    values = torch.zeros(1, 9, 8, 8)
    values[:, 0] = 1.0  # 1 in the whole panorama, 0 in the views around the horizon
    drawn = splat(values, view_poses("anyres_e2p"), HEIGHT, WIDTH)[0]
    assert drawn[HEIGHT // 2].max() < 0.1
    assert torch.allclose(drawn[0], torch.tensor(1.0))
