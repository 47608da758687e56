"""`panollava bench views`: how fast views are drawn, beside py360convert and one cached `cv2.remap` of all views.

Same panorama, same views, same process; the sides take turns, and each turn of a side is divided by the turn of the
yardstick next to it. Before anything is timed, all sides must have drawn the same picture.
"""

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from panollava.bench.turns import Side, check_rounds, quartiles, ratios, spread, time_in_turns
from panollava.vlm.geometry import directions_to_rays, erp_rays, rays_to_pixels
from panollava.vlm.image_processing_panollava import views_of_panorama
from panollava.vlm.opencv_views import load_opencv, opencv_views
from panollava.vlm.views import ViewSettings, sample_views, view_poses, view_rays

HEIGHT, SIZE, FOV_DEG, STRIDE_DEG = 2048, 336, 90.0, 45.0
YARDSTICK = "one cached cv2.remap"
GPU, GPU_THERE = "ours, GPU, as it is", "ours, GPU, panorama there"
# At most this many times the yardstick's time ("ratio"), or milliseconds ("ms").
TARGETS: dict[str, tuple[str, float]] = {
    "ours, opencv, as it is": ("ratio", 1.25),
    "ours, opencv, anti-aliased": ("ratio", 2.0),
    GPU_THERE: ("ms", 1.5),
}
# The largest mean difference, in grey levels, between two sides that draw the same picture.
AGREEMENT = 1.0


def picture(height: int, size: int) -> np.ndarray:
    """Return a panorama `[H, 2 H, 3]` of bytes: waves on the sphere, some 25 pixels of a view long, without a seam."""
    rays = erp_rays(height, 2 * height)
    axes = directions_to_rays(torch.tensor([0.3, 2.0, -1.2]), torch.tensor([0.2, -0.6, 0.9]))
    waves = (rays @ axes.T * (size / 8)).sin() * 60 + (rays * 7).cos() * 50
    return (waves + 128).round().clamp(0, 255).to(torch.uint8).numpy()


def remap_side(panorama: np.ndarray, poses: Tensor, size: int) -> Side:
    """Return the yardstick: all views in one call, from maps that are made once."""
    cv2 = load_opencv()
    u, v = rays_to_pixels(view_rays(poses.double(), size, size), *panorama.shape[:2])
    columns, rows = (part.flatten(0, 1).float().numpy() for part in (u, v.clamp(0, panorama.shape[0] - 1)))
    maps = cv2.convertMaps(columns, rows, cv2.CV_16SC2)
    shape = (len(poses), size, size, 3)
    return lambda: cv2.remap(panorama, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP).reshape(shape)


def py360convert_side(panorama: np.ndarray, poses: Tensor, size: int) -> Side:
    """Return py360convert, view by view, at the field of view at which its pixels are ours.

    Raises:
        ValueError: py360convert is not installed.
    """
    try:
        e2p = importlib.import_module("py360convert").e2p
    except ModuleNotFoundError as error:
        raise ValueError("py360convert is not installed; pip install 'panollava[bench]' brings it") from error
    # Its outermost pixel centres lie on the edge of the field of view, ours half a pixel inside.
    half = torch.tan(poses[:, 3].double() / 2) * (size - 1) / size
    fovs = torch.atan(half).mul(2).rad2deg().tolist()
    angles = poses[:, :2].double().rad2deg().tolist()
    return lambda: np.stack(
        [
            e2p(panorama, fov, yaw, pitch, (size, size), mode="bilinear")
            for fov, (yaw, pitch) in zip(fovs, angles, strict=True)
        ]
    )


def torch_sides(panorama: np.ndarray, poses: Tensor, size: int, device: str) -> dict[str, Side]:
    """Return `grid_sample` on a device with the grid cached there: with the way of the panorama there, and without."""
    planes = torch.from_numpy(panorama).to(device).permute(2, 0, 1)[None].contiguous()

    def draw(there: Tensor) -> Tensor:
        return sample_views(there.float(), poses, size)[0].permute(0, 2, 3, 1)

    return {
        GPU: lambda: draw(torch.from_numpy(panorama).to(device).permute(2, 0, 1)[None]),
        GPU_THERE: lambda: draw(planes),
    }


def sides_of(panorama: np.ndarray, poses: Tensor, size: int) -> dict[str, Side]:
    """Return what is timed, by name, the yardstick first."""
    planes = torch.from_numpy(panorama).permute(2, 0, 1)

    def by_torch(antialias: bool) -> Tensor:
        return views_of_panorama(planes, poses, size, antialias=antialias).permute(0, 2, 3, 1)

    sides: dict[str, Side] = {
        YARDSTICK: remap_side(panorama, poses, size),
        "py360convert, warm": py360convert_side(panorama, poses, size),
        "ours, opencv, as it is": lambda: opencv_views(panorama, poses, size, antialias=False),
        "ours, opencv, anti-aliased": lambda: opencv_views(panorama, poses, size),
        "ours, torch, as it is": lambda: by_torch(False),
        "ours, torch, anti-aliased": lambda: by_torch(True),
    }
    if torch.cuda.is_available():
        sides |= torch_sides(panorama, poses, size, "cuda")
    return sides


def check_agreement(sides: dict[str, Side]) -> dict[str, float]:
    """Return how far each side's picture is from the yardstick's, in grey levels on average.

    Raises:
        ValueError: a side draws something else.
    """
    drawn = {name: torch.as_tensor(side()).float().cpu() for name, side in sides.items()}
    apart = {name: (views - drawn[YARDSTICK]).abs().mean().item() for name, views in drawn.items()}
    for name, distance in apart.items():
        if not distance <= AGREEMENT:
            raise ValueError(f"{name} is {distance:.2f} grey levels from {YARDSTICK}; at most {AGREEMENT} is the same")
    return apart


def judged(name: str, row: dict[str, dict[str, float]]) -> dict[str, Any] | None:
    """Return a side's target (of which number, at most how much) and whether it is met; None where it has none."""
    if name not in TARGETS:
        return None
    of, most = TARGETS[name]
    return {"of": of, "at_most": most, "met": row[of]["median"] <= most}


def bench_views(rounds: int, *, height: int = HEIGHT, size: int = SIZE) -> dict[str, Any]:
    """Return the times and ratios of drawing a ring of `size`-pixel views from a `height`-pixel panorama in memory.

    Raises:
        ValueError: an optional package is missing, sides disagree, fewer than two rounds.
    """
    check_rounds(rounds)
    cv2, panorama = load_opencv(), picture(height, size)
    poses = view_poses(ViewSettings("e2p", fov_deg=FOV_DEG, stride_deg=STRIDE_DEG))
    cv2.setNumThreads(torch.get_num_threads())
    sides = sides_of(panorama, poses, size)
    apart, times = check_agreement(sides), time_in_turns(sides, rounds)
    rows = {}
    for name, taken in times.items():
        row = {"ms": quartiles(taken), "ratio": ratios(taken, times[YARDSTICK])}
        rows[name] = {**row, "grey_levels_apart": apart[name], "target": judged(name, row)}
    work = f"{len(poses)} views of {size} x {size} from {2 * height} x {height} bytes x 3 in memory"
    return {"work": work, "rounds": rounds, "threads": torch.get_num_threads(), "sides": rows}


def report(result: dict[str, Any]) -> str:
    """Return a benchmark's result as text; the ratios are to the yardstick, spreads are interquartile."""
    lines = [f"{result['work']}; {result['rounds']} rounds, {result['threads']} threads; median (interquartile)", ""]
    lines.append(f"{'':28}{'milliseconds':>24}{'times ' + YARDSTICK:>34}  target")
    for name, row in result["sides"].items():
        ms, ratio = spread(row["ms"], 1), spread(row["ratio"])
        lines.append(f"{name:28}{ms:>24}{ratio:>34}  {_verdict(row['target'])}".rstrip())
    return "\n".join(lines)


def _verdict(target: dict[str, Any] | None) -> str:
    if target is None:
        return ""
    return f"{target['of']} <= {target['at_most']:g}: {'met' if target['met'] else 'MISSED'}"
