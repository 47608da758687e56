"""The outlines of a mask as spherical polygons in degrees.

A mask is cut into connected pieces, and pieces that reach far round the sphere into parts of an octant, so that the
inside of each outline is plain: what lies within an odd number of a piece's rings, in the chart of yaw and pitch and in
every perspective view. Rings run with their inside on the left.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

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


class _Piece(NamedTuple):
    """A connected part of a mask, cropped to its bounding box, and the column and row of its upper left corner."""

    mask: NDArray[np.bool_]
    column: int
    row: int


def mask_polygons(mask: NDArray[np.bool_], *, tolerance: float = TOLERANCE) -> list[list[Ring]]:
    """Return the pieces of a mask `[H, W]` of a panorama, the largest first, each as rings of (yaw, pitch) in degrees.

    The first ring of a piece is its outer one. Yaws of a piece astride the seam go on past 180 degrees.
    """
    height, width = mask.shape
    pieces = []
    for piece in _pieces(mask):
        rings = [_simplified(ring, tolerance) for ring in _rings(piece.mask)]
        rings.sort(key=lambda ring: -abs(_area(ring)))
        corner = np.array([piece.column, piece.row])
        pieces.append((int(piece.mask.sum()), [_in_degrees(ring + corner, height, width) for ring in rings]))
    return [rings for _, rings in sorted(pieces, key=lambda item: -item[0])]


def _pieces(mask: NDArray[np.bool_]) -> Iterator[_Piece]:
    """Yield the connected pieces, those that reach far round cut at every quarter of yaw and at the horizon."""
    height, width = mask.shape
    for piece in _connected(mask):
        if piece.mask.shape[1] <= WIDEST * width:
            yield piece
            continue
        whole = np.zeros_like(mask)
        columns = (piece.column + np.arange(piece.mask.shape[1])) % width
        whole[piece.row : piece.row + piece.mask.shape[0], columns] = piece.mask
        for top, bottom in pairwise((0, height // 2, height)):
            for left, right in pairwise((0, width // 4, width // 2, width * 3 // 4, width)):
                labels, _ = ndimage.label(whole[top:bottom, left:right])
                yield from _cropped(labels, left, top)


def _connected(mask: NDArray[np.bool_]) -> Iterator[_Piece]:
    """Yield the connected pieces; those astride the seam go on past the last column."""
    labels, _ = ndimage.label(mask)
    for row in range(len(labels)):
        left, right = labels[row, 0], labels[row, -1]
        if left and right and left != right:
            labels[labels == right] = left
    astride = [label for label in np.unique(labels[:, 0]) if label]
    yield from _cropped(np.where(np.isin(labels, astride), 0, labels), 0, 0)
    for label in astride:
        piece = labels == label
        free = np.flatnonzero(~piece.any(axis=0))
        start = int(free[0]) if len(free) else 0
        yield from _cropped(np.roll(piece, -start, axis=1).astype(int), start, 0)


def _cropped(labels: NDArray[np.int_], column: int, row: int) -> Iterator[_Piece]:
    for label, place in enumerate(ndimage.find_objects(labels), start=1):
        if place is not None:
            yield _Piece(labels[place] == label, column + place[1].start, row + place[0].start)


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
