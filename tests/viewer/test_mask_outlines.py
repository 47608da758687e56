"""Outlines of masks: the inside of their rings is the mask, at the seam, at the poles and with holes."""

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from numpy.typing import NDArray

from panollava.viewer.mask_outlines import Ring, mask_polygons

HEIGHT, WIDTH = 64, 128


def filled(pieces: list[list[Ring]]) -> NDArray[np.bool_]:
    """Return the pixels whose centre lies within an odd number of the rings of a piece."""
    yaw = (np.arange(WIDTH) + 0.5) / WIDTH * 360 - 180
    pitch = 90 - (np.arange(HEIGHT) + 0.5) / HEIGHT * 180
    inside = np.zeros((HEIGHT, WIDTH), bool)
    for rings in pieces:
        piece = np.zeros((HEIGHT, WIDTH), bool)
        for ring in rings:
            for turn in (-360, 0, 360):
                points = np.stack(np.meshgrid(yaw + turn, pitch), axis=-1).reshape(-1, 2)
                piece ^= Outline([*ring, ring[0]], closed=True).contains_points(points).reshape(HEIGHT, WIDTH)
        inside |= piece
    return inside


def disc(column: float, row: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    across = (columns - column + WIDTH / 2) % WIDTH - WIDTH / 2
    return across**2 + (rows - row) ** 2 <= radius**2


MASKS = {
    "middle": disc(60, 30, 9),
    "seam": disc(0.3, 30, 9),
    "joined": disc(0, 20, 3)
    | disc(0, 40, 3)
    | ((np.arange(WIDTH) == WIDTH - 1) & (np.arange(HEIGHT) % 50 > 17)[:, None]),
    "pole": disc(30, 0, 7) | disc(90, HEIGHT - 1, 5),
    "hole": disc(127, 30, 9) & ~disc(127, 30, 5),
    "nested": (disc(64, 30, 12) & ~disc(64, 30, 9)) | disc(64, 30, 4),
    "diagonal": np.eye(HEIGHT, WIDTH, dtype=bool),
    "speck": disc(5, 5, 0.5) | disc(WIDTH - 1, 50, 0.5),
    "sky": np.arange(HEIGHT)[:, None] * np.ones((1, WIDTH)) < 40,
    "band": np.abs(np.arange(HEIGHT)[:, None] * np.ones((1, WIDTH)) - 32) < 5,
    "everything": np.ones((HEIGHT, WIDTH), bool),
    "noise": np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.5,
}


@pytest.mark.parametrize("name", MASKS)
def test_the_inside_of_the_rings_is_the_mask(name: str) -> None:
    assert np.array_equal(filled(mask_polygons(MASKS[name], tolerance=0)), MASKS[name])


@pytest.mark.parametrize("name", ["middle", "seam", "pole", "hole"])
def test_simpler_rings_stay_near_the_edge_of_the_mask(name: str) -> None:
    mask, pieces = MASKS[name], mask_polygons(MASKS[name])
    wrong = filled(pieces) ^ mask
    padded = np.pad(mask, ((1, 1), (0, 0)), mode="edge")
    around = [np.roll(padded, (y, x), axis=(0, 1))[1:-1] for y in (-1, 0, 1) for x in (-1, 0, 1)]
    edge = np.any(around, axis=0) & ~np.all(around, axis=0)
    assert not (wrong & ~edge).any()
    exact = sum(len(ring) for rings in mask_polygons(mask, tolerance=0) for ring in rings)
    assert sum(len(ring) for rings in pieces for ring in rings) < exact


def test_rings_have_their_inside_on_the_left_and_the_outer_one_comes_first() -> None:
    ((outer, hole),) = mask_polygons(MASKS["hole"])

    def area(ring: Ring) -> float:
        x, y = np.array(ring).T
        return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)

    assert area(outer) > -area(hole) > 0


def test_pieces_stay_within_what_a_perspective_view_can_fill() -> None:
    for name in ("sky", "band", "everything"):
        for rings in mask_polygons(MASKS[name]):
            yaw, pitch = np.array(rings[0]).T
            assert np.ptp(yaw) <= 90
            assert pitch.min() >= 0 or pitch.max() <= 0


def test_an_empty_mask_has_no_outline() -> None:
    assert mask_polygons(np.zeros((HEIGHT, WIDTH), bool)) == []
