"""Directions as questions use them: sectors, relative yaws and whole degrees, at the seam too."""

import math

import pytest

from panollava.corpus.directions import relative_yaw_deg, sector, whole_box
from panollava.corpus.world.scenes import sample_scene

SECTOR_CENTRES = {0: 0, 1: 45, 2: 90, 3: 135, 4: 180, 5: -135, 6: -90, 7: -45}


def test_sectors_have_45_degrees_and_a_margin_at_their_borders() -> None:
    for number, centre in SECTOR_CENTRES.items():
        for offset in (-18, 0, 18):
            assert sector(centre + offset) == sector(centre + offset - 360) == number
        assert sector(centre + 20) is None
        assert sector(centre - 22.5) is None
    assert sector(-179) == sector(179) == 4


def test_relative_yaws_and_whole_boxes_wrap_at_the_seam() -> None:
    scene = next(
        s
        for s in (sample_scene(11, split="train", index=i) for i in range(500))
        if any(o.box_deg[0] >= 179.5 for o in s.objects)
    )
    item = next(o for o in scene.objects if o.box_deg[0] >= 179.5)
    assert whole_box(item.box_deg)[0] == -180
    for other in scene.objects:
        if other is not item:
            assert relative_yaw_deg(item, other) == pytest.approx(math.remainder(other.yaw_deg - item.yaw_deg, 360))
            assert relative_yaw_deg(item, other) == pytest.approx(-relative_yaw_deg(other, item))
