"""The robustness figure and table: every number of the block is drawn where it belongs, absent ones are not."""

from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer

from panollava.report.documents import MEASURES, robustness_table
from panollava.report.robustness_figures import LOOKS, robustness_figure
from panollava.report.style import png_bytes

YAWS = ("45", "112.5", "270")


def number(value: float, **fields: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.05, "high": value + 0.04, "n": 10, **fields}


def gap(value: float) -> dict[str, float]:
    return {"gap": value, "low": value - 0.03, "high": value + 0.02, "away": 0.8, "seam": 0.8 - value, "n": 30}


def block(measures: tuple[str, ...] = ("accuracy", "direction", "grounding", "iou")) -> dict[str, Any]:
    """Return a block whose numbers all differ."""
    base = {name: 0.1 * (place + 1) for place, name in enumerate(measures)}
    statistics = ("plain", "mean", "ratio", "agreement", "all", "worst")
    return {
        "yaws": {
            name: {key: number(start + 0.01 * place) for place, key in enumerate(statistics)}
            | {"yaws": {yaw: number(start + 0.07 + 0.01 * place) for place, yaw in enumerate(YAWS)}, "n": 10}
            for name, start in base.items()
            if name != "iou"
        },
        "seam": {"all": gap(0.011)} | {name: gap(start / 10) for name, start in base.items()},
        "latitude": {name: {"0-15": number(start + 0.5), "60-90": number(start + 0.3)} for name, start in base.items()},
        "tilts": {
            angle: {name: number(start + 0.2, plain=start + 0.25) for name, start in base.items()}
            for angle in ("5", "30")
        },
        "panoramas": 7,
        "seed": 3,
        "weights": "standin",
        "encoder": "clip",
        "llm": "llama",
    }


def drawn(axes: Axes, colour: str) -> list[float]:
    """Return the heights of the points with intervals in a colour, each within its interval as drawn."""
    found = []
    for container in axes.containers:
        if isinstance(container, ErrorbarContainer) and container[0].get_color() == colour:
            found += [float(y) for y in container[0].get_ydata()]
            for y, segment in zip(container[0].get_ydata(), container[2][0].get_segments(), strict=True):
                assert [p[1] for p in segment] == pytest.approx([y - 0.05, y + 0.04])
    return found


def test_every_number_is_drawn_in_its_colour() -> None:
    content = block()
    yaws, seam, latitude, tilts = robustness_figure(content).axes
    for name, (colour, _) in LOOKS.items():
        if name != "iou":
            shown = [content["yaws"][name]["plain"], *content["yaws"][name]["yaws"].values()]
            assert drawn(yaws, colour) == pytest.approx([x["value"] for x in shown])
            lines = [float(line.get_ydata()[0]) for line in yaws.lines if line.get_linestyle() in (":", "--")]
            assert content["yaws"][name]["all"]["value"] in lines
        assert drawn(latitude, colour) == pytest.approx([x["value"] for x in content["latitude"][name].values()])
        assert drawn(tilts, colour) == pytest.approx([content["tilts"][angle][name]["value"] for angle in ("5", "30")])
    gaps = [float(c[0].get_xdata()[0]) for c in seam.containers if isinstance(c, ErrorbarContainer)]
    assert gaps == [content["seam"][name]["gap"] for name in ("all", *LOOKS)]
    assert [text.get_text() for text in yaws.get_xticklabels()] == ["none", *(f"{yaw}°" for yaw in YAWS)]
    assert latitude.get_xticklabels()[0].get_text() == "0–15°\n10 / 10 / 10"


def test_the_same_block_gives_the_same_bytes() -> None:
    assert png_bytes(robustness_figure(block())) == png_bytes(robustness_figure(block()))


def test_absent_measures_are_neither_drawn_nor_told() -> None:
    content = block(("accuracy",))
    content["seam"] = {}
    yaws, seam, latitude, _ = robustness_figure(content).axes
    assert not drawn(yaws, LOOKS["direction"][0])
    assert not drawn(latitude, LOOKS["grounding"][0])
    assert not seam.containers
    table = robustness_table({"robustness": content})
    assert "Seam gap of all" not in table
    assert "| seam gap: score away from the seam minus score across it | – | – | – |" in table


def test_the_table_tells_every_number_with_its_interval() -> None:
    content = block()
    table = robustness_table({"robustness": content})
    assert table.startswith("Encoder `clip`, language model `llama`, weights `standin`, seed 3: 7 panoramas at 3 yaws")
    assert "Seam gap of all 30 pairs: 0.011 [-0.019, 0.031]." in table
    rows = [line.strip("|").split("|") for line in table.splitlines()[4:]]
    assert [len(row) for row in rows] == [1 + len(MEASURES)] * (6 + 4 + 2 + 1)
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert cells["worst yaw"] == ["0.150 [0.100, 0.190]", "0.250 [0.200, 0.290]", "0.350 [0.300, 0.390]"]
    assert cells["tilted by 30°"][0] == "0.300 [0.250, 0.340]"
    assert cells["the same questions, no tilt"][0] == "0.350"
    assert cells["object 60–90° above or below the horizon"][2] == "0.600 [0.550, 0.640]"
