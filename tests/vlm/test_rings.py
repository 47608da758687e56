"""Coverage of the strategies `sphere` and `adaptive`, checked by sampling, and the soundness of the exact proof."""

import math
from functools import cache
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from panollava.vlm import views
from panollava.vlm.geometry import angular_distance, directions_to_rays
from panollava.vlm.rings import Ring, covering_rings, covers
from panollava.vlm.views import PINHOLE, project, view_poses, view_rays

# The edges of a cube's faces touch; rounded to float32 they may part by a ten-millionth of a radian.
ROUNDING = torch.tensor([0, 0, 0, 1e-6, 1e-6, 0])


@pytest.fixture(autouse=True)
def rings_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Search the rings of each field of view once; many budgets ask for the same ones."""
    monkeypatch.setattr(views, "covering_rings", RINGS)


RINGS = cache(covering_rings)


@cache
def directions(count: int) -> Tensor:
    """Return `count` rays evenly over the sphere, and as many again close to the poles and to the meridians."""
    generator = torch.Generator().manual_seed(0)
    yaw, height, near = torch.rand(3, count, dtype=torch.float64, generator=generator)
    yaw, pitch = (yaw - 0.5) * 2 * math.pi, (2 * height - 1).asin()
    polar = directions_to_rays(yaw, (math.pi / 2 - 0.05 * near) * (height - 0.5).sign())
    seam = directions_to_rays((yaw * 24 / math.pi).round() * math.pi / 24, pitch)
    return torch.cat((directions_to_rays(yaw, pitch), polar, seam))


def unseen(poses: Tensor, rays: Tensor) -> Tensor:
    """Return the rays that no pinhole view at `poses` sees."""
    for pose in poses.double()[poses[:, 5] == PINHOLE]:
        forward, corner = directions_to_rays(pose[0], pose[1]), 1 / (1 + 2 * (pose[3] / 2).tan() ** 2).sqrt()
        # Only rays as near to the view's centre as its corners can be inside.
        near = (rays @ forward >= corner - 1e-9).nonzero()[:, 0]
        kept = torch.ones(len(rays), dtype=torch.bool)
        kept[near[project(rays[near], pose)[2]]] = False
        rays = rays[kept]
        if not len(rays):
            break
    return rays


def as_poses(rings: list[Ring], fov: float) -> Tensor:
    poses = [(i * 2 * math.pi / count, pitch, 0, fov, fov, 0) for pitch, count in rings for i in range(count)]
    return torch.tensor(poses, dtype=torch.float64).view(-1, 6)


def test_a_sphere_covers_every_direction_and_both_poles() -> None:
    fovs = (25, 30, 37.5, 45, 52, 60, 66, 75, 81, 90, 100, 110, 120, 135, 150, 170)
    for fov_deg, stride_deg in product(fovs, (22.5, 45, 60, 90, 120)):
        poses = view_poses("sphere", fov_deg=fov_deg, stride_deg=stride_deg)
        holes = unseen(poses + ROUNDING, directions(20_000))
        assert not len(holes), f"fov {fov_deg}, stride {stride_deg}: no view sees {holes[0].tolist()}"
        pitches = {round(math.degrees(pitch)) for pitch in poses[:, 1].tolist()}
        assert pitches >= {-90, 90}, f"fov {fov_deg}, stride {stride_deg}: no view at a pole, pitches {pitches}"


def test_a_sphere_of_rolled_views_covers_every_direction() -> None:
    for roll_deg in (10, 45, -30, 90):
        poses = view_poses("sphere", fov_deg=80, stride_deg=60, roll_deg=roll_deg)
        assert torch.allclose(poses[:, 2], torch.tensor(math.radians(roll_deg)))
        assert not len(unseen(poses, directions(20_000))), f"roll {roll_deg} leaves a hole"


def test_neighbours_on_a_sphere_are_at_most_the_stride_apart() -> None:
    for fov_deg, stride_deg in ((60, 30), (90, 45), (75, 72), (40, 60)):
        poses = view_poses("sphere", fov_deg=fov_deg, stride_deg=stride_deg)
        centres = view_rays(poses.double(), 1, 1)[:, 0, 0]
        rows = sorted({round(pitch, 5) for pitch in poses[:, 1].tolist()})
        nearest = angular_distance(centres[:, None], centres) + 10 * torch.eye(len(poses))
        most = math.radians(stride_deg) + 1e-4
        assert max(b - a for a, b in pairwise(rows)) <= most, (fov_deg, stride_deg)
        assert nearest.min(1).values.max() <= most, (fov_deg, stride_deg)


def test_a_sphere_of_90_degrees_is_a_cube() -> None:
    assert torch.equal(
        view_poses("sphere", fov_deg=90, stride_deg=90).sort(0).values, view_poses("cubemap").sort(0).values
    )


def test_one_view_less_in_any_ring_leaves_a_hole() -> None:
    for fov_deg in range(24, 150, 9):
        fov = math.radians(fov_deg)
        rings = RINGS(fov, math.inf)
        assert covers(rings, fov), fov_deg
        for index, (pitch, count) in enumerate(rings):
            others = [*rings[:index], *rings[index + 1 :]]
            fewer = [*rings[:index], (pitch, count - 1), *rings[index + 1 :]]
            assert not covers(fewer, fov), f"fov {fov_deg}: ring {index} of {rings} has a view too many"
            # Only rays that the other rings miss can be in the hole, and they are near the ring.
            near = directions(100_000)
            near = near[(near[:, 1].asin() - pitch).abs() < fov]
            holes = unseen(as_poses([(pitch, count - 1)], fov), unseen(as_poses(others, fov), near))
            assert len(holes), f"fov {fov_deg}: sampling finds no hole with {count - 1} views in ring {index}"


def test_random_rings_that_are_proved_to_cover_have_no_hole() -> None:
    proved = 0
    for seed in range(60):
        draw = torch.rand(8, generator=torch.Generator().manual_seed(seed)).tolist()
        fov, steps = math.radians(70 + 60 * draw[0]), 2 + int(draw[1] * 3)
        rings = [(math.pi * (row / steps - 0.5), 1 + int(draw[row + 2] * 7)) for row in range(steps + 1)]
        for candidate in (rings, rings[:-1]):
            if covers(candidate, fov):
                proved += 1
                assert not len(unseen(as_poses(candidate, fov), directions(20_000))), (math.degrees(fov), candidate)
    assert proved > 5


SETTING = {"tokens_per_side": 4, "panorama_height": 1024, "view_size": 224}
BUDGETS = (16, 50, 64, 80, 96, 112, 150, 200, 333, 400, 640, 1000)
SIZES = ((256, 64), (256, 224), (1024, 224), (4096, 336), (120, 224))


def test_adaptive_keeps_the_budget_and_the_resolution_of_the_panorama() -> None:
    for token_budget, (height, size) in product(BUDGETS, SIZES):
        case = f"budget {token_budget}, panorama height {height}, view size {size}"
        sizes = {"tokens_per_side": 4, "panorama_height": height, "view_size": size}
        poses = view_poses("adaptive", token_budget=token_budget, **sizes)
        assert torch.equal(poses, view_poses("adaptive", token_budget=token_budget, **sizes)), case
        assert len(poses) * 16 <= token_budget, case
        assert poses[0, 3] == pytest.approx(2 * math.pi), case
        fovs = poses[1:, 3].double()
        # At its centre no view is finer than the panorama, unless it could not be any wider.
        finer = size / (2 * (fovs / 2).tan()) > height / math.pi * (1 + 1e-6)
        assert not (finer & (fovs < math.radians(119.99))).any(), case
        if len(poses) >= 6:
            assert not len(unseen(poses + ROUNDING, directions(20_000))), f"{case}: a hole"
        if size >= 2 * height:
            assert len(poses) == 1, case


def test_views_of_a_larger_budget_are_coarser_by_at_most_a_tenth() -> None:
    fovs = [view_poses("adaptive", token_budget=budget, **SETTING)[-1, 3].item() for budget in range(96, 700, 16)]
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
        view_poses("adaptive", **(SETTING | {"token_budget": 100} | changes))
