"""The outlines of a mask as spherical polygons in degrees.

A mask is cut into connected pieces, and pieces that reach far round the sphere into parts of an octant, so that the
inside of each outline is plain: what lies within an odd number of a piece's rings, in the chart of yaw and pitch and in
every perspective view. Rings run with their inside on the left.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Ring = list[tuple[float, float]]
# How far a ring may run from the edges of pixels, in pixels: it smooths the stairs of a slanted edge.
TOLERANCE = 0.75
# Longer sides get points between: a row of pixels is no great circle.
STEP_DEG = 3.0
# A piece that takes more of all columns than this is cut.
WIDEST = 1 / 3


def mask_polygons(mask: NDArray[np.bool_], *, tolerance: float = TOLERANCE) -> list[list[Ring]]:
    """Return the pieces of a mask `[H, W]` of a panorama, the largest first, each as rings of (yaw, pitch) in degrees.

    The first ring of a piece is its outer one. Yaws of a piece astride the seam go on past 180 degrees.
    """
    height, width = mask.shape
    pieces = []
    for piece in _pieces(mask):
        # Begin at a column that the piece does not touch: there it crosses no border.
        free = int(np.flatnonzero(~piece.any(axis=0))[0])
        rings = [_simplified(ring, tolerance) for ring in _rings(np.roll(piece, -free, axis=1))]
        rings.sort(key=lambda ring: -abs(_area(ring)))
        offset = np.array([free, 0])
        pieces.append((int(piece.sum()), [_in_degrees(ring + offset, height, width) for ring in rings]))
    return [rings for _, rings in sorted(pieces, key=lambda item: -item[0])]


def _pieces(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Return the connected pieces, those that reach far round cut at every quarter of yaw and at the horizon."""
    height, width = mask.shape
    pieces = []
    for piece in _connected(mask):
        if piece.any(axis=0).sum() <= WIDEST * width:
            pieces.append(piece)
            continue
        quarters = np.arange(width) * 4 // width
        halves = np.arange(height) * 2 // height
        for part in range(8):
            inside = (halves == part // 4)[:, None] & (quarters == part % 4)
            pieces += _connected(piece & inside)
    return pieces


def _connected(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    labels, count = ndimage.label(mask)
    for left, right in zip(labels[:, 0], labels[:, -1], strict=True):  # across the seam
        if left and right and left != right:
            labels[labels == right] = left
    return [labels == label for label in range(1, count + 1) if (labels == label).any()]


def _rings(piece: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Return the closed rings `[n, 2]` of corners (x, y) of pixels round a piece, y downwards."""
    padded = np.pad(piece, 1)
    inside = padded[1:-1, 1:-1]
    sides = (  # the neighbour, and the edge towards it: from and to, seen from the upper left corner (x, y)
        (padded[2:, 1:-1], (0, 1), (1, 1)),
        (padded[1:-1, 2:], (1, 1), (1, 0)),
        (padded[:-2, 1:-1], (1, 0), (0, 0)),
        (padded[1:-1, :-2], (0, 0), (0, 1)),
    )
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for neighbour, (x0, y0), (x1, y1) in sides:
        for y, x in np.argwhere(inside & ~neighbour).tolist():
            following.setdefault((x + x0, y + y0), []).append((x + x1, y + y1))
    rings = []
    while following:
        start = point = next(iter(following))
        ring = []
        while point in following:
            ring.append(point)
            ends = following[point]
            after = ends.pop()
            if not ends:
                del following[point]
            point = after
            if point == start:
                break
        rings.append(np.array(ring, dtype=np.float64))
    return rings


def _simplified(ring: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """Return fewer points of a closed ring, none of which it leaves by more than `tolerance` (Douglas and Peucker)."""
    far = int(((ring - ring[0]) ** 2).sum(axis=1).argmax())
    closed = np.concatenate((ring, ring[:1]))
    kept = {0, far}
    spans = [(0, far), (far, len(ring))]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        chord = closed[last] - closed[first]
        offsets = closed[first + 1 : last] - closed[first]
        length = float(np.hypot(*chord))
        across = np.abs(chord[0] * offsets[:, 1] - chord[1] * offsets[:, 0]) / length if length else None
        distances = np.hypot(*offsets.T) if across is None else across
        worst = int(distances.argmax())
        if distances[worst] > tolerance:
            middle = first + 1 + worst
            kept.add(middle)
            spans += [(first, middle), (middle, last)]
    simple = ring[sorted(kept)]
    # A speck of a few pixels keeps its corners.
    return simple if len(simple) > 2 and abs(_area(simple)) > 0 else ring


def _area(ring: NDArray[np.float64]) -> float:
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _in_degrees(ring: NDArray[np.float64], height: int, width: int) -> Ring:
    directions = np.stack(((ring[:, 0] / width - 0.5) * 360, 90 - ring[:, 1] / height * 180), axis=1)
    directions[:, 0] -= 360 * round(float(directions[:, 0].mean()) / 360)
    points: Ring = []
    for start, end in zip(directions, np.roll(directions, -1, axis=0), strict=True):
        steps = max(1, int(np.ceil(np.abs(end - start).max() / STEP_DEG)))
        points += [(round(float(yaw), 3), round(float(pitch), 3)) for yaw, pitch in _between(start, end, steps)]
    return points


def _between(start: NDArray[np.float64], end: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    return start + (end - start) * (np.arange(steps) / steps)[:, None]
