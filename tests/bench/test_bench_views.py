"""`panollava bench views`: what it times is the same picture, and what is missing is named."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_configs import poses_of

from panollava.bench import running
from panollava.bench import views as bench
from panollava.cli import main
from panollava.vlm.image_processing_panollava import views_of_panorama

PACKAGES = {"cv2": "OpenCV", "py360convert": "py360convert"}


def test_a_side_that_draws_something_else_is_refused() -> None:
    picture = np.zeros((2, 4, 4, 3), np.uint8)
    sides = {bench.YARDSTICK: lambda: picture, "brighter": lambda: picture + 3}
    with pytest.raises(ValueError, match=r"brighter is 3.00 grey levels from one cached cv2.remap"):
        bench.check_agreement(sides)


def test_the_sides_of_a_gpu_draw_what_the_yardstick_draws() -> None:
    """With and without the way of the panorama there; on the CPU, for want of a GPU."""
    panorama, poses = bench.picture(256, 64), poses_of("e2p", fov_deg=90, stride_deg=90)
    planes = torch.from_numpy(panorama).permute(2, 0, 1)
    yardstick = views_of_panorama(planes, poses, 64, antialias=False).permute(0, 2, 3, 1)
    sides = bench.torch_sides(panorama, poses, 64, "cpu")
    assert set(sides) == {bench.GPU, bench.GPU_THERE}
    apart = bench.check_agreement({bench.YARDSTICK: lambda: yardstick} | sides)
    assert max(apart.values()) < 0.6  # one of the two rounds to bytes


@pytest.mark.parametrize(("name", "ms", "ratio", "met"), [
    (bench.GPU_THERE, 1.4, 9.0, True), (bench.GPU_THERE, 1.6, 0.1, False), ("ours, opencv, as it is", 9.0, 1.3, False),
])  # fmt: skip
def test_a_target_is_about_its_own_number(name: str, ms: float, ratio: float, met: bool) -> None:
    row = {"ms": {"median": ms}, "ratio": {"median": ratio}}
    target = bench.judged(name, row)
    assert target is not None
    assert target["met"] == met
    assert bench.judged(bench.YARDSTICK, row) is None


def test_the_picture_has_no_seam() -> None:
    picture = bench.picture(512, 336).astype(int)
    steps = np.abs(np.diff(picture, axis=1)).max(axis=(0, 2))
    assert np.abs(picture[:, 0] - picture[:, -1]).max() <= steps.max()
    assert picture.std() > 30


@pytest.mark.parametrize("missing", PACKAGES)
def test_a_missing_package_is_named_with_its_remedy(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.import_module

    def without(name: str) -> object:
        if name == missing:
            raise ModuleNotFoundError(name)
        return find(name)

    monkeypatch.setattr("importlib.import_module", without)
    if missing == "cv2":
        assert main(["bench", "views"]) == 1
        message = capsys.readouterr().err
    else:
        with pytest.raises(ValueError) as caught:
            bench.py360convert_side(bench.picture(8, 8), poses_of("e2p"), 8)
        message = str(caught.value)
    assert f"{PACKAGES[missing]} is not installed; pip install 'panollava[bench]' brings it" in message


def test_all_sides_draw_the_same_and_the_numbers_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A small run; where the extra is not installed, the command says so and writes nothing."""
    small, out = bench.bench_views, tmp_path / "views.json"
    monkeypatch.setattr(running, "bench_views", lambda rounds: small(rounds, height=512, size=64))
    code = main(["bench", "views", "--rounds", "2", "--json", str(out)])
    output = capsys.readouterr()
    if any(importlib.util.find_spec(name) is None for name in PACKAGES):
        assert code == 1
        assert "pip install 'panollava[bench]'" in output.err
        assert not out.exists()
        return
    assert code == 0
    sides = json.loads(out.read_text())["sides"]
    assert {"py360convert, warm", "ours, opencv, as it is", "ours, torch, anti-aliased"} < set(sides)
    assert sides[bench.YARDSTICK]["ratio"] == {"median": 1.0, "q1": 1.0, "q3": 1.0}
    for name, row in sides.items():
        assert row["grey_levels_apart"] < 1
        assert 0 < row["ms"]["q1"] <= row["ms"]["median"] <= row["ms"]["q3"]
        assert name in output.out


def test_a_spread_of_one_round_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "views", "--rounds", "1"]) == 1
    assert "rounds is 1; a spread takes at least 2" in capsys.readouterr().err
