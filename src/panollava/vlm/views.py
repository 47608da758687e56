"""Views: which parts of a panorama the encoder sees, and where each of their pixels and tokens lies on the sphere.

A view is a pose of six numbers (yaw, pitch, roll, fov_x, fov_y, kind) in radians; kind 0 is a pinhole camera, kind 1
an equirectangular window (a crop of the panorama). All geometry follows from the poses, so a model needs nothing but
`[V, 6]` poses to know the ray and the solid angle of each of its tokens. Sampling is bilinear, one call for all views,
exact across the seam.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import directions_to_rays, rays_to_pixels, rotation
from .rings import covering_rings


@dataclass(frozen=True)
class ViewSettings:
    """Which views of a panorama the encoder sees, as users write it: angles in degrees."""

    strategy: str = "anyres_e2p"
    fov_deg: float = 90.0
    stride_deg: float = 45.0
    pitches_deg: tuple[float, ...] = (0.0,)
    roll_deg: float = 0.0
    token_budget: int | None = None
    panorama_height: int | None = None
    sampler: str = "torch"


POSE_SIZE = 6
PINHOLE, ERP_WINDOW = 0.0, 1.0
# The blur against aliasing in pixels of a view: exp(-2 (pi BLUR f)^2) of a frequency f passes.
BLUR = 0.4
# Two view centres are equally near a direction when the cosines of its distances differ by less.
TIE = 1e-4


Pose = tuple[float, ...]
WHOLE = (0.0, 0.0, 0.0, 2 * math.pi, math.pi, ERP_WINDOW)
# What the views of a model follow from, next to the size of a view; the same names everywhere.
VIEW_SETTINGS = (
    "view_strategy", "fov_deg", "stride_deg", "pitches_deg", "roll_deg", "token_budget", "tokens_per_side",
    "panorama_height",
)  # fmt: skip
# The widest view that `adaptive` chooses; wider ones waste most of their pixels on their corners.
WIDEST_DEG = 120
ABOUT_AS_FINE = 1.1


@dataclass(frozen=True)
class _Settings:
    fov_deg: float
    stride_deg: float
    pitches_deg: tuple[float, ...]
    roll_deg: float
    token_budget: int | None
    tokens_per_side: int | None
    panorama_height: int | None
    view_size: int | None


def _pinhole(yaw_deg: float, pitch_deg: float, fov_deg: float) -> Pose:
    fov = math.radians(fov_deg)
    return (math.radians(yaw_deg), math.radians(pitch_deg), 0.0, fov, fov, PINHOLE)


def _ring(fov_deg: float, count: int, pitch_deg: float = 0.0) -> list[Pose]:
    return [_pinhole((i * 360 / count + 180) % 360 - 180, pitch_deg, fov_deg) for i in range(count)]


def _rows(settings: _Settings) -> list[Pose]:
    count = round(360 / settings.stride_deg)
    return [pose for pitch in settings.pitches_deg for pose in _ring(settings.fov_deg, count, pitch)]


def _windows(settings: _Settings) -> list[Pose]:
    reach = 90 - settings.fov_deg / 2
    for pitch in settings.pitches_deg:
        if abs(pitch) > reach:
            raise ValueError(
                f"a window of {settings.fov_deg} degrees at pitch {pitch} reaches beyond a pole; "
                f"with this fov_deg, pitches_deg lie between {-reach} and {reach}"
            )
    return [(*pose[:5], ERP_WINDOW) for pose in _rows(settings)]


def _cube() -> list[Pose]:
    return [*_ring(90.0, 4), _pinhole(0.0, 90.0, 90.0), _pinhole(0.0, -90.0, 90.0)]


def _sphere(fov_deg: float, stride_deg: float, roll_deg: float) -> list[Pose]:
    roll = math.radians(roll_deg)
    # A rolled square holds an upright one, and that one covers.
    upright = 2 * math.atan(math.tan(math.radians(fov_deg) / 2) / (abs(math.cos(roll)) + abs(math.sin(roll))))
    rings = covering_rings(upright, math.radians(stride_deg))
    return [pose for pitch, count in rings for pose in _ring(fov_deg, count, math.degrees(pitch))]


def _adaptive(settings: _Settings) -> list[Pose]:
    """Return the whole panorama and, as far as the budget allows, views that are finer, but no finer than its pixels.

    These cover the sphere; where the budget is too small for that, they are a ring around the horizon.
    """
    budget = _given("token_budget", settings.token_budget)
    side = _given("tokens_per_side", settings.tokens_per_side)
    height = _given("panorama_height", settings.panorama_height)
    size = _given("view_size", settings.view_size)
    views = budget // side**2
    if not views:
        raise ValueError(
            f"token_budget is {budget}, but a single view of {side} x {side} tokens takes {side**2}; "
            "raise token_budget or lower tokens_per_side"
        )
    # The field of view at whose centre one pixel of a view is one pixel of the panorama.
    finest_deg = math.degrees(2 * math.atan(math.pi * size / (2 * height)))
    if size >= 2 * height or views < 4:
        return [WHOLE]
    sphere = _affordable_sphere(views - 1, finest_deg, settings.roll_deg)
    if sphere:
        return [WHOLE, *sphere]
    count = max(min(views - 1, math.floor(360 / finest_deg)), 3)
    return [WHOLE, *_ring(360 / count, count)]


def _affordable_sphere(views: int, finest_deg: float, roll_deg: float) -> list[Pose]:
    """Return at most `views` views that cover the sphere, as fine as that allows; none if it takes more.

    Of all that are about as fine (within a tenth), the fewest: a step in the number of rings buys next to nothing.
    """
    affordable: list[tuple[float, list[Pose]]] = []
    for fov_deg in range(min(math.ceil(finest_deg), WIDEST_DEG), WIDEST_DEG + 1):
        half = math.radians(fov_deg) / 2
        if affordable and math.tan(half) > ABOUT_AS_FINE * affordable[0][0]:
            break
        # Not even without any overlap: a view sees 4 asin(sin(fov / 2)^2) of the 4 pi steradians.
        if views * math.asin(math.sin(half) ** 2) < math.pi - 1e-9:
            continue
        poses = _sphere(fov_deg, math.inf, roll_deg)
        if len(poses) <= views:
            affordable.append((math.tan(half), poses))
    return min((poses for _, poses in affordable), key=len, default=[])


def _given(name: str, value: int | None) -> int:
    if value is None or value < 1:
        raise ValueError(f"{name} is {value}; the view strategy adaptive needs a whole number of at least 1")
    return value


VIEW_STRATEGIES: dict[str, Callable[[_Settings], list[Pose]]] = {
    "resize": lambda settings: [WHOLE],
    "sliding_window": _windows,
    "e2p": _rows,
    "cubemap": lambda settings: _cube(),
    "anyres": lambda settings: [WHOLE, *_windows(settings)],
    "anyres_e2p": lambda settings: [WHOLE, *_rows(settings)],
    "sphere": lambda settings: _sphere(settings.fov_deg, settings.stride_deg, settings.roll_deg),
    "adaptive": _adaptive,
}


def view_poses(
    strategy: str,
    *,
    fov_deg: float = 90.0,
    stride_deg: float = 45.0,
    pitches_deg: Sequence[float] = (0.0,),
    roll_deg: float = 0.0,
    token_budget: int | None = None,
    tokens_per_side: int | None = None,
    panorama_height: int | None = None,
    view_size: int | None = None,
) -> Tensor:
    """Return the poses `[V, 6]` of a view strategy.

    `resize`: the whole panorama. `e2p`: pinhole views every `stride_deg` around each of the rows `pitches_deg`.
    `sliding_window`: equirectangular windows at the same places. `anyres_e2p`, `anyres`: the whole panorama and one or
    the other. `cubemap`: six faces, whatever the field of view. `sphere`: rings of pinhole views at most `stride_deg`
    apart that see every direction. `adaptive`: what fits `token_budget` tokens, `tokens_per_side` squared a view of
    `view_size` pixels, of a panorama of `panorama_height` pixels. `roll_deg` turns every view about its own axis.

    Raises:
        ValueError: an unknown strategy, a field of view outside (0, 180), a stride that does not divide 360, rows of
            views twice or beyond a pole, a budget below one view.
    """
    if strategy not in VIEW_STRATEGIES:
        raise ValueError(f"view strategy {strategy!r} is unknown; choose one of {', '.join(VIEW_STRATEGIES)}")
    if not 0 < fov_deg < 180:
        raise ValueError(f"fov_deg is {fov_deg}; a pinhole view needs a field of view between 0 and 180 degrees")
    if stride_deg <= 0 or abs(360 / stride_deg - round(360 / stride_deg)) > 1e-9:
        raise ValueError(f"stride_deg is {stride_deg}; it must divide 360 so that the ring of views closes")
    pitches = tuple(pitches_deg)
    if not pitches or len(set(pitches)) < len(pitches) or not all(abs(pitch) <= 90 for pitch in pitches):
        raise ValueError(f"pitches_deg is {list(pitches)}; it must name different rows between -90 and 90 degrees")
    settings = _Settings(
        fov_deg, stride_deg, pitches, roll_deg, token_budget, tokens_per_side, panorama_height, view_size
    )
    return torch.tensor(_poses(strategy, settings), dtype=torch.float32)


@lru_cache(maxsize=64)
def _poses(strategy: str, settings: _Settings) -> list[Pose]:
    roll = math.radians(settings.roll_deg)
    return [(*pose[:2], roll, *pose[3:]) for pose in VIEW_STRATEGIES[strategy](settings)]


def view_rays(poses: Tensor, height: int, width: int) -> Tensor:
    """Return the unit world ray of each cell centre of views, `[..., height, width, 3]`, from poses `[..., 6]`."""
    x, y = _cell_centres(poses, height, width)
    pitch, _, fov_x, fov_y, kind = (p[..., None, None] for p in poses[..., 1:].unbind(-1))
    window_yaw, window_pitch = torch.broadcast_tensors(x * fov_x / 2, pitch + y * fov_y / 2)
    # The unused branch must stay finite: tan of a window's half extent is not.
    half_x, half_y = ((fov / 2).clamp(max=1.5).tan() for fov in (fov_x, fov_y))
    plane_x, plane_y = torch.broadcast_tensors(x * half_x, y * half_y)
    plane = torch.stack((plane_x, plane_y, torch.ones_like(plane_x)), dim=-1)
    window = _pitched(directions_to_rays(window_yaw, window_pitch), -pitch)
    local = torch.where((kind == ERP_WINDOW)[..., None], window, F.normalize(plane, dim=-1))
    return torch.einsum("...ij,...hwj->...hwi", rotation(*poses[..., :3].unbind(-1)), local)


def token_solid_angles(poses: Tensor, height: int, width: int) -> Tensor:
    """Return the solid angle of each cell of views in steradians, `[..., height, width]`; pinhole cells by midpoint.

    A plane cell at (x, y) of area dA covers dA / (1 + x^2 + y^2)^(3/2) steradians.
    """
    x, y = _cell_centres(poses, height, width)
    pitch, _, fov_x, fov_y, kind = (p[..., None, None] for p in poses[..., 1:].unbind(-1))
    half_x, half_y = ((fov / 2).clamp(max=1.5).tan() for fov in (fov_x, fov_y))
    plane = 4 * half_x * half_y / (height * width) * (1 + (x * half_x) ** 2 + (y * half_y) ** 2) ** -1.5
    top, bottom = (pitch + (y + step) * fov_y / 2 for step in (1 / height, -1 / height))
    window = (top.sin() - bottom.sin()) * fov_x / width
    return torch.where(kind == ERP_WINDOW, window.expand_as(plane), plane)


def _pitched(rays: Tensor, pitch: Tensor) -> Tensor:
    """Return rays `[..., 3]` turned upwards by `pitch` `[...]`; a window lies in the panorama's frame."""
    x, y, z = rays.unbind(-1)
    sine, cosine = pitch.sin(), pitch.cos()
    return torch.stack(torch.broadcast_tensors(x, y * cosine + z * sine, z * cosine - y * sine), dim=-1)


def _cell_centres(poses: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return cell centres in [-1, 1]: x `[width]` to the right, y `[height, 1]` upwards."""
    x = (torch.arange(width, dtype=poses.dtype, device=poses.device) + 0.5) * (2 / width) - 1
    y = 1 - (torch.arange(height, dtype=poses.dtype, device=poses.device) + 0.5) * (2 / height)
    return x, y[:, None]


def project(rays: Tensor, pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return view coordinates x, y in [-1, 1] of world rays `[..., 3]` and whether they fall inside the view.

    `pose` is `[6]` or broadcasts with the leading shape of `rays` as `[..., 6]`.
    """
    yaw, pitch, roll, fov_x, fov_y, kind = pose.unbind(-1)
    local = torch.einsum("...ij,...i->...j", rotation(yaw, pitch, roll), rays)
    x, y, z = local.unbind(-1)
    across, up, along = _pitched(local, pitch).unbind(-1)
    window_x = torch.atan2(across, along) / (fov_x / 2)
    window_y = (torch.atan2(up, torch.hypot(across, along)) - pitch) / (fov_y / 2)
    depth = z.clamp_min(1e-6)
    plane_x, plane_y = x / depth / (fov_x / 2).clamp(max=1.5).tan(), y / depth / (fov_y / 2).clamp(max=1.5).tan()
    is_window = kind == ERP_WINDOW
    out_x, out_y = torch.where(is_window, window_x, plane_x), torch.where(is_window, window_y, plane_y)
    inside = (out_x.abs() <= 1) & (out_y.abs() <= 1) & (is_window | (z > 0))
    return out_x, out_y, inside


def correspondences(source: Tensor, target: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return where each token of view `source` lies in view `target`, both `[6]` poses with size x size tokens.

    Returns the position `[size, size, 2]` (x, y in [-1, 1], y upwards) and the mask `[size, size]` of tokens whose
    centre has a full bilinear neighbourhood in the target, that is, lies between its outermost token centres.
    Two overlapping pinhole views are related by a homography; no row-to-row pairing of tokens is exact.
    """
    x, y, inside = project(view_rays(source, size, size), target)
    reach = 1 - 1 / size
    return torch.stack((x, y), dim=-1), inside & (x.abs() <= reach) & (y.abs() <= reach)


def kept_tokens(poses: Tensor, size: int, reduction: str) -> Tensor:
    """Return which tokens `[V, size, size]` of views at poses `[V, 6]` become language tokens.

    `none`: all. `unique`: of the views of one kind and field of view, only the one with the nearest centre keeps a
    direction, the first of two equally near; so each direction is kept once at each scale. Rotation all poses together
    keeps the same tokens.
    """
    if reduction == "none":
        return torch.ones(len(poses), size, size, dtype=torch.bool, device=poses.device)
    rays, centres = view_rays(poses, size, size), view_rays(poses, 1, 1)[:, 0, 0]
    nearness = rays @ centres.T
    own = nearness.diagonal(dim1=0, dim2=3).permute(2, 0, 1)[..., None]
    order = torch.arange(len(poses), device=poses.device)
    first = order < order[:, None, None, None]
    nearer = (nearness > own + TIE) | (first & (nearness > own - TIE))
    sees = torch.stack([project(rays, pose)[2] for pose in poses], dim=-1)
    same_scale = (poses[:, None, 3:] == poses[None, :, 3:]).all(-1)[:, None, None, :]
    return ~(nearer & sees & same_scale).any(-1)


def box_factor(pose: Tensor, size: int, height: int, width: int) -> int:
    """Return by how much a panorama is too fine for a pinhole view: a power of two that divides its sides.

    Reduced by it, the panorama has about twice the resolution of the view's centre, or more.
    """
    wanted = 4 * math.pi * size / (2 * math.tan(float(pose[3:5].max()) / 2))
    factor = 1
    while width / (2 * factor) >= wanted * 0.9 and height % (2 * factor) == width % (2 * factor) == 0:
        factor *= 2
    return factor


def blur_of_view(pose: Tensor, size: int, height: int) -> float:
    """Return the standard deviation, in pixels of a panorama, of the blur that keeps a pinhole view from aliasing.

    It is `BLUR` pixels at the view's centre: a Gaussian then lets 45 % of the view's Nyquist frequency through, 17 % of
    one and a half times that, 4 % of twice.
    """
    pixel = 2 * math.tan(float(pose[3:5].max()) / 2) / size
    return BLUR * pixel * height / math.pi


@lru_cache(maxsize=64)
def _cached_grid(poses: tuple[float, ...], size: int, height: int, width: int, device: torch.device) -> Tensor:
    rays = view_rays(torch.tensor(poses, dtype=torch.float64).view(-1, POSE_SIZE), size, size)
    u, v = rays_to_pixels(rays, height, width)
    u = torch.remainder(u, width) + 1  # one wrapped column is padded on each side
    v = v.clamp(0, height - 1)
    grid = torch.stack(((2 * u + 1) / (width + 2) - 1, (2 * v + 1) / height - 1), dim=-1)
    return grid.flatten(0, 1).float().to(device)


def sample_views(panoramas: Tensor, poses: Tensor, size: int) -> Tensor:
    """Return the square views `[P, V, 3, size, size]` of panoramas `[P, 3, H, W]` (float) at poses `[V, 6]`.

    One bilinear `grid_sample` for all views; the panorama is padded by one wrapped column a side, so that a view
    across the seam equals the same view of the rolled panorama; rows beyond the outermost centres clamp.
    """
    count, _, height, width = panoramas.shape
    padded = torch.cat((panoramas[..., -1:], panoramas, panoramas[..., :1]), dim=-1)
    grid = _cached_grid(tuple(poses.double().flatten().tolist()), size, height, width, panoramas.device)
    sampled = F.grid_sample(padded, grid.expand(count, -1, -1, -1), mode="bilinear", align_corners=False)
    return sampled.unflatten(2, (len(poses), size)).transpose(1, 2)
