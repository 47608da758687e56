"""Rings of pinhole views that together cover the sphere, proved exactly on the edges of the views.

A ring is (pitch, count): square views of one field of view at equally spaced yaws, the first at yaw 0. The edge of a
pinhole view is a great circle, tan(latitude) = a cos(yaw) + b sin(yaw). The difference of two edges is thus a sinusoid.
If it is nonnegative at both ends of an interval shorter than pi, it is nonnegative in between. Radians throughout.
"""

import math

Ring = tuple[float, int]
# Tolerance for edges that touch, such as those of a cube.
TOLERANCE = 1e-9
# Layouts with a few more rows than necessary are tried too, because some need fewer views.
EXTRA_ROWS = 4


def covering_rings(fov: float, stride: float) -> list[Ring]:
    """Return rings, pitch ascending, of few views of width `fov` that cover the sphere.

    Neighbouring views are at most `stride` apart along a ring and between rings, poles included. With an infinite
    stride only coverage counts, and rings that add none are dropped.
    """
    rows = math.ceil(math.pi / min(stride, fov) - TOLERANCE)
    layouts = []
    for steps in range(max(rows, 1), rows + EXTRA_ROWS):
        pitches = [math.pi * (row / steps - 0.5) for row in range(steps + 1)]
        least = [_least(pitch, stride) for pitch in pitches]
        rings = [(pitch, max(_least(pitch, fov), count)) for pitch, count in zip(pitches, least, strict=True)]
        if not covers(rings, fov):
            if fov <= math.pi / steps:
                continue
            rings = [_filled(ring, fov, math.pi / steps) for ring in rings]
        layouts.append(_thinned(rings, least, fov))
    return min(layouts, key=lambda layout: sum(count for _, count in layout))


def _least(pitch: float, stride: float) -> int:
    """Return the number of views that a ring needs for its stride: 0 for an infinite stride, 1 at a pole."""
    return 0 if math.isinf(stride) else max(math.ceil(2 * math.pi * math.cos(pitch) / stride - TOLERANCE), 1)


def covers(rings: list[Ring], fov: float) -> bool:
    """Return whether rings, pitch ascending, of views of width `fov` cover the sphere.

    At each yaw, the nearest view of a ring covers an interval of latitudes. The intervals must join without a gap from
    pole to pole. Edges change at the centres of views and half way between them, so checking there suffices.
    """
    chain = [ring for ring in rings if ring[1]]
    if not chain:
        return False
    for (pitch, count), above in zip(chain, [*chain[1:], None], strict=True):
        yaws = [step * math.pi / count for step in range(2 * count)]
        if any(_exceeds(*_interval(pitch, count, fov, yaw)) for yaw in yaws):
            return False
        if above is not None:
            yaws += [step * math.pi / above[1] for step in range(2 * above[1])]
            if any(_exceeds(_interval(*above, fov, yaw)[0], _interval(pitch, count, fov, yaw)[1]) for yaw in yaws):
                return False
    ends = [(chain[0], 0, -math.inf), (chain[-1], 1, math.inf)]
    return all(
        _interval(pitch, count, fov, step * math.pi / count)[end] == pole
        for (pitch, count), end, pole in ends
        for step in range(2 * count)
    )


def _exceeds(low: float, high: float) -> bool:
    return low > high + TOLERANCE * max(1.0, abs(low)) if math.isfinite(low) else low > high


def _interval(pitch: float, count: int, fov: float, yaw: float) -> tuple[float, float]:
    """Return the lowest and the highest tan(latitude) that the nearest view of a ring covers at a yaw."""
    spacing = 2 * math.pi / count
    offset = abs(yaw - round(yaw / spacing) * spacing)
    if pitch < 0:
        low, high = _interval_at(-pitch, fov, offset)
        return -high, -low
    return _interval_at(pitch, fov, offset)


def _interval_at(pitch: float, fov: float, offset: float) -> tuple[float, float]:
    """Return the interval of tan(latitude) that a view at `pitch` >= 0 covers at `offset` from its meridian.

    A ray (cos f sin o, sin f, cos f cos o) in the view's frame is (x, y, z); inside means |x| <= t z and |y| <= t z
    with t = tan(fov / 2). Divided by cos f, each is linear in tan f.
    """
    sine, cosine, half = math.sin(pitch), math.cos(pitch), math.tan(fov / 2)
    across, along = math.sin(offset), math.cos(offset)
    lows, high = [along * (sine - half * cosine) / (cosine + half * sine)], math.inf
    slope, reach = cosine - half * sine, along * (sine + half * cosine)
    if slope > TOLERANCE:
        high = reach / slope
    elif slope < -TOLERANCE:  # the view reaches beyond the pole
        lows.append(reach / slope)
    elif reach < -TOLERANCE:
        high = -math.inf
    if sine > TOLERANCE:
        lows.append((across / half - along * cosine) / sine)
    elif across > half * along + TOLERANCE:
        high = -math.inf
    return max(lows), high


def _filled(ring: Ring, fov: float, step: float) -> Ring:
    """Return a ring with enough views to cover all latitudes within half a step of its pitch."""
    pitch, count = ring
    if abs(pitch) > math.pi / 2 - TOLERANCE:
        return ring
    count, band = max(count, 1), (math.tan(pitch - step / 2), math.tan(pitch + step / 2))
    while any(
        _exceeds(low, band[0]) or _exceeds(band[1], high)
        for low, high in (_interval(pitch, count, fov, yaw) for yaw in (0.0, math.pi / count))
    ):
        count += 1
    return pitch, count


def _thinned(rings: list[Ring], least: list[int], fov: float) -> list[Ring]:
    """Return the rings without the views that coverage does not need, but with at least `least` views in each."""
    kept = list(rings)
    for index, (pitch, count) in enumerate(rings):
        for fewer in [least[index], *range(count - 1, least[index], -1)]:
            trial = [*kept[:index], (pitch, fewer), *kept[index + 1 :]]
            if fewer < kept[index][1] and covers(trial, fov):
                kept = trial
            elif fewer != least[index]:
                break
    return [ring for ring in kept if ring[1]]
