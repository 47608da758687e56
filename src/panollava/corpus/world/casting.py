"""Analytic ray casting of the world's objects: intersect rays from the camera at the origin with one upright solid.

Rays are `[n, 3]` unit vectors in float32. All four solids are convex, and the camera is outside of each.
"""

import numpy as np

from panollava.corpus.world.scenes import SceneObject
from panollava.corpus.world.textures import Floats


def dot(a: Floats, b: Floats) -> Floats:
    """Return the inner products of vectors `[..., 3]` by plain sums; a BLAS would round differently per processor."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


def cast(item: SceneObject, rays: Floats) -> Floats:
    """Return the distance `[n]` in metres at which each ray hits the object, infinity if it misses."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return _CASTS[item.shape](item, rays).astype(np.float32, copy=False)


def normals(item: SceneObject, points: Floats) -> Floats:
    """Return the outward unit normals `[n, 3]` at points `[n, 3]` on the object's surface, relative to its middle."""
    x, y, z = points.T
    if item.shape == "ball":
        return points / np.float32(item.radius)
    out = np.zeros_like(points)
    if item.shape == "cube":
        local = _rotate(points, -item.heading)
        face = np.abs(local).argmax(axis=1)
        rows = np.arange(len(points))
        out[rows, face] = np.sign(local[rows, face])
        return _rotate(out, item.heading)
    around = np.hypot(x, z)
    if item.shape == "cylinder":
        flat = np.abs(y) / (item.height / 2) > around / item.radius
        rise = np.float32(0)
    else:
        # From above, the base is hidden, and its rim belongs to the side.
        flat = (y < (0.001 - 0.5) * item.height) & (item.centre[1] > item.height / 2)
        rise = np.float32(item.radius / item.height)
    side = around * np.sqrt(1 + rise**2) + np.float32(1e-9)
    out[:, 0] = np.where(flat, 0, x / side)
    out[:, 1] = np.where(flat, np.sign(y), rise * around / side)
    out[:, 2] = np.where(flat, 0, z / side)
    return out


def _rotate(vectors: Floats, heading: float) -> Floats:
    """Rotate vectors `[n, 3]` about the vertical axis; a positive heading moves forward to the right."""
    c, s = np.float32(np.cos(heading)), np.float32(np.sin(heading))
    x, y, z = vectors.T
    return np.stack((c * x + s * z, y, c * z - s * x), axis=1)


def _cast_ball(item: SceneObject, rays: Floats) -> Floats:
    centre = np.asarray(item.centre)
    along = dot(rays, centre.astype(np.float32))
    inside = along * along - np.float32(dot(centre, centre) - item.radius**2)
    return np.where((inside >= 0) & (along > 0), along - np.sqrt(np.maximum(inside, 0)), np.inf)


def _cast_cube(item: SceneObject, rays: Floats) -> Floats:
    local = _rotate(rays, -item.heading)
    centre = _rotate(np.asarray([item.centre]), -item.heading)[0].astype(np.float32)
    half = np.float32(item.radius)
    a, b = (centre - half) / local, (centre + half) / local
    enter, leave = np.minimum(a, b).max(axis=1), np.maximum(a, b).min(axis=1)
    return np.where((enter <= leave) & (enter > 0), enter, np.inf)


def _cast_cylinder(item: SceneObject, rays: Floats) -> Floats:
    x, y, z = rays.T
    cx, cy, cz = item.centre
    level, along = x * x + z * z, x * np.float32(cx) + z * np.float32(cz)
    inside = along * along - level * np.float32(cx * cx + cz * cz - item.radius**2)
    root = np.sqrt(inside)  # NaN if the ray misses the infinite cylinder; comparisons with it are false
    a, b = np.float32(cy - item.height / 2) / y, np.float32(cy + item.height / 2) / y
    enter = np.maximum((along - root) / level, np.minimum(a, b))
    leave = np.minimum((along + root) / level, np.maximum(a, b))
    return np.where((enter <= leave) & (enter > 0), enter, np.inf)


def _cast_cone(item: SceneObject, rays: Floats) -> Floats:
    """Take the nearest hit of the base disc and of both roots of the double cone that lie on the solid's side."""
    x, y, z = rays.T.astype(np.float64)  # near the apex both roots nearly coincide
    cx, cy, cz = item.centre
    half, slope2 = item.height / 2, (item.radius / item.height) ** 2
    apex = cy + half
    a = x * x + z * z - slope2 * y * y
    b = x * cx + z * cz - slope2 * y * apex
    c = cx * cx + cz * cz - slope2 * apex * apex
    root = np.sqrt(b * b - a * c)
    near = (cy - half) / y
    beyond = (near * x - cx) ** 2 + (near * z - cz) ** 2 > item.radius**2
    near = np.where(beyond | ~(near > 0), np.inf, near)
    for t in ((b - root) / a, (b + root) / a):
        on_side = (t > 0) & (np.abs(t * y - cy) <= half)
        near = np.where(on_side, np.minimum(near, t), near)
    return near


_CASTS = {"ball": _cast_ball, "cube": _cast_cube, "cone": _cast_cone, "cylinder": _cast_cylinder}
