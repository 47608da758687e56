"""Exact BFoV boxes of the world's four shapes, seen from the camera at the origin (x right, y up, z forward).

A box is (yaw, pitch, width, height) in radians. Its centre is the direction for which the silhouette's extents on the
tangent plane are symmetric, so that all four sides touch the object. All shapes are upright. `radius` is that of the
ball, of the base of the cone and of the cylinder, and half the side of the cube.
"""

import math

Box = tuple[float, float, float, float]
Point = tuple[float, float, float]


def bounding_box(shape: str, centre: Point, *, radius: float, height: float, heading: float) -> Box:
    """Return the exact BFoV box in radians of an upright object with its middle at `centre` (metres).

    Raises:
        ValueError: the shape is unknown, or the object reaches over or under the camera.
    """
    reach = radius * math.sqrt(2) if shape == "cube" else radius
    if math.hypot(centre[0], centre[2]) <= reach:
        raise ValueError(f"{shape} at {centre} with radius {radius} reaches over the camera: it has no upright box")
    if shape == "ball":
        return _ball_box(centre, radius)
    if shape == "cube":
        return _cube_box(centre, radius, heading)
    if shape == "cylinder":
        return _round_box(centre, [(-height / 2, radius), (height / 2, radius)])
    if shape == "cone":
        return _round_box(centre, [(-height / 2, radius), (height / 2, 0.0)])
    raise ValueError(f"shape {shape!r}: expected cube, ball, cone or cylinder")


def cap_radius(box: Box) -> float:
    """Return the angular radius in radians of the smallest cap that contains a box and has its centre."""
    return math.atan(math.hypot(math.tan(box[2] / 2), math.tan(box[3] / 2)))


def _ball_box(centre: Point, radius: float) -> Box:
    x, y, z = centre
    across = 2 * math.asin(radius / math.sqrt(x * x + y * y + z * z))
    return math.atan2(x, z), math.atan2(y, math.hypot(x, z)), across, across


def _round_box(centre: Point, circles: list[tuple[float, float]]) -> Box:
    """Return the box of the hull of horizontal circles (height above the middle, radius) on one vertical axis.

    By symmetry the box is centred on the axis. A circle's steepest and flattest directions lie in that plane; sideways
    the ratio R sin t / (z + R cos(pitch) cos t) peaks at R / sqrt(z^2 - R^2 cos^2(pitch)).
    """
    x, y, z = centre
    away = math.hypot(x, z)
    angles = [math.atan2(y + up, away + side) for up, r in circles for side in (-r, r)]
    pitch = (max(angles) + min(angles)) / 2
    cosine, sine = math.cos(pitch), math.sin(pitch)
    half_width = max(r / math.sqrt((away * cosine + (y + up) * sine) ** 2 - (r * cosine) ** 2) for up, r in circles)
    return math.atan2(x, z), pitch, 2 * math.atan(half_width), max(angles) - min(angles)


def _cube_box(centre: Point, half: float, heading: float) -> Box:
    """Return the box of a cube by iterating its yaw; each yaw has its symmetric pitch in closed form."""
    x, y, z = centre
    cosine, sine = half * math.cos(heading), half * math.sin(heading)
    corners = [(x + i * cosine + j * sine, z - i * sine + j * cosine) for i, j in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
    low, high = y - half, y + half
    yaw = math.atan2(x, z)
    for _ in range(100):
        c, s = math.cos(yaw), math.sin(yaw)
        rotated = [(px * c - pz * s, px * s + pz * c) for px, pz in corners]
        angles = [math.atan2(level, ahead) for _, ahead in rotated for level in (low, high)]
        top, bottom = max(angles), min(angles)
        pitch = (top + bottom) / 2
        cp, sp = math.cos(pitch), math.sin(pitch)
        slopes = [side / (ahead * cp + level * sp) for side, ahead in rotated for level in (low, high)]
        right, left = math.atan(max(slopes)), math.atan(min(slopes))
        offset = (right + left) / 2
        if abs(offset) < 1e-10:
            return math.remainder(yaw, 2 * math.pi), pitch, right - left, top - bottom
        yaw += offset / cp
    raise ValueError(f"cube at {centre} with half side {half}: its box did not converge")
