"""The report: complete, self-contained, escaped, the same each time, and without what does not apply."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_data import SCORES, TOP, full_predictions, open_predictions, write_outputs

from panollava.markdown import markdown_table, update_between_markers
from panollava.report.inputs import load_panoramas, read_inputs
from panollava.report.page import write_report
from panollava.report.panorama_figures import detections_figure
from panollava.report.score_figures import text_figure
from panollava.report.tables import all_score_rows, results_table
from panollava.tasks.prediction_files import read_predictions
from panollava.vlm.views import ViewSettings


def report(folder: Path, out: str = "figures", samples: int = 3, strategy: str = "e2p") -> list[Path]:
    return write_report(
        folder / "predictions.jsonl", folder / "metrics", folder / "plots", folder / "store", folder / out,
        folder / f"{out}.html",
        views=ViewSettings(strategy), tokens_per_side=4, samples=samples, seed=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the outputs of a complete pipeline and its report."""
    folder = tmp_path_factory.mktemp("full")
    write_outputs(folder, full_predictions(4), {"en": SCORES, "ko": SCORES}, loss=True, latency=True)
    report(folder)
    return folder


class References(HTMLParser):
    """Collects what a page refers to, and checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                self.links.append(value or "")
            elif name == "id":
                self.ids.add(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_full_run_writes_every_figure_and_the_page_holds_them_all(full: Path) -> None:
    names = {path.name for path in (full / "figures").iterdir()}
    answers = {f"answers_{number:02d}.png" for number in (1, 2, 3)}
    scores = {"accuracy.png", "detections.png", "directions.png", "grounding.png", "losses.png", "latency.png"}
    scores |= {"free_text.png", "pairing.png"}
    assert names == answers | scores | {"confusion_en.png", "confusion_ko.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (full / "figures").glob("*.png"))
    assert (full / "figures.html").read_text("utf-8").count("data:image/png;base64,") == len(names)


def test_the_page_opens_offline_and_its_links_lead_somewhere(full: Path) -> None:
    page = (full / "figures.html").read_text("utf-8")
    parser = References()
    parser.feed(page)
    assert parser.open == []
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in parser.links)
    assert {link[1:] for link in parser.links if link.startswith("#")} <= parser.ids
    text = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?://|file://|url\(|@import|<script", text)


def test_the_page_and_the_table_hold_each_number_with_its_interval_and_baselines(full: Path) -> None:
    page = (full / "figures.html").read_text("utf-8")
    table = results_table({"evaluate": {"en": SCORES}} | TOP)
    for number in ("0.713", "[0.691, 0.735]", "0.281", "0.302", "0.333", "0.912", "3.8°", "[3.5°, 4.2°]", "88.2°",
                   "0.523", "[0.470, 0.574]", "0.345", "[0.310, 0.390]", "0.004", "0.612", "0.441", "0.402", "0.288",
                   "1.250", "0.500"):  # fmt: skip
        assert number in page and number in table
    for value in ("clip", "llama", "standin", "있나요?"):
        assert value in page


def test_the_same_inputs_give_the_same_bytes(full: Path) -> None:
    first = {path.name: path.read_bytes() for path in (full / "figures").iterdir()}
    first["again.html"] = (full / "figures.html").read_bytes()
    assert {path.name: path.read_bytes() for path in report(full, out="again")} == first


def test_one_photograph_with_an_open_question_gives_a_short_report(tmp_path: Path) -> None:
    scores = {"en": {"open": {"chrf": 0.234, "blind_chrf": 0.2, "n": 1}}}
    write_outputs(tmp_path, open_predictions(), scores, loss=False, latency=False)
    assert {path.name for path in report(tmp_path, strategy="resize")} == {
        "answers_01.png",
        "free_text.png",
        "figures.html",
    }
    page = (tmp_path / "figures.html").read_text("utf-8")
    assert "0.234" in page
    for absent in ("accuracy", "detections", "directions", "grounding", "confusion", "pairing", "losses", "latency"):
        assert f'id="{absent}"' not in page and f'href="#{absent}"' not in page


def test_one_panorama_with_every_task_is_drawn(tmp_path: Path) -> None:
    write_outputs(tmp_path, full_predictions(1), {"en": SCORES, "ko": SCORES}, loss=False, latency=False)
    names = {path.name for path in report(tmp_path, samples=1)}
    # One panorama has one true answer a type: nothing to confuse.
    assert names == {
        "accuracy.png", "detections.png", "answers_01.png", "directions.png", "grounding.png", "free_text.png",
        "pairing.png", "figures.html",
    }  # fmt: skip


def test_text_from_data_cannot_become_markup(tmp_path: Path) -> None:
    attack = '"><script>alert(1)</script><img src=x onerror=alert(1)> $\\frac{1}{ {{ 7*7 }}'
    write_outputs(tmp_path, open_predictions(attack), {"en": {}}, loss=False, latency=False)
    report(tmp_path)
    page = (tmp_path / "figures.html").read_text("utf-8")
    assert "<script" not in page and "<img src=x" not in page and "{{ 7*7 }}" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_bad_inputs_are_named(tmp_path: Path) -> None:
    write_outputs(tmp_path, open_predictions(), {"en": {}}, loss=False, latency=False)
    lines = tmp_path / "predictions.jsonl"
    good = lines.read_text("utf-8")
    lines.write_text(good + '{"variant": "model"}\n', "utf-8")
    with pytest.raises(ValueError, match=r"predictions\.jsonl, line 2"):
        report(tmp_path)
    lines.write_text(good.replace("pano_0", "pano_9"), "utf-8")
    with pytest.raises(ValueError, match="no panorama pano_9"):
        report(tmp_path)
    (tmp_path / "metrics" / "evaluate.json").write_text("{")
    with pytest.raises(ValueError, match=r"evaluate\.json: invalid JSON at line 1"):
        report(tmp_path)
    assert not (tmp_path / "figures").exists()


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path: Path) -> None:
    write_outputs(tmp_path, open_predictions("one\u2028two\x85three"), {"en": {}}, loss=False, latency=False)
    assert [p.question for p in read_predictions(tmp_path / "predictions.jsonl")] == ["one\u2028two\x85three"]


def test_large_photographs_are_reduced_before_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_outputs(tmp_path, open_predictions(), {"en": {}}, loss=False, latency=False)
    monkeypatch.setattr("panollava.report.inputs.MAX_WIDTH", 32)
    inputs = read_inputs(*(tmp_path / name for name in ("predictions.jsonl", "metrics", "plots", "store")))
    assert load_panoramas(inputs, ["pano_0"])["pano_0"].shape == (16, 32, 3)


def test_free_text_is_drawn_with_what_there_is_and_cider_as_a_tenth(full: Path) -> None:
    figure = text_figure(read_inputs(full / "predictions.jsonl", full / "metrics", full / "plots", full / "store"))
    assert figure is not None
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "description, chrF  (n = 6)", "description, BLEU  (n = 6)", "description, CIDEr / 10  (n = 6)",
    ]  # fmt: skip
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.612, 0.402, 0.125])
    (blind,) = axes.lines
    assert list(blind.get_xdata()) == pytest.approx([0.441, 0.05])


def test_the_figure_of_detections_is_of_whole_scenes_alone(full: Path) -> None:
    inputs = read_inputs(full / "predictions.jsonl", full / "metrics", full / "plots", full / "store")
    assert detections_figure(inputs, 3) is not None
    described = [p.model_copy(update={"type": "detection_described"}) for p in inputs.predictions]
    assert detections_figure(replace(inputs, predictions=described), 3) is None


def test_score_rows_have_one_headline_per_block_and_skip_absent_ones() -> None:
    rows = all_score_rows({"evaluate": {"en": SCORES, "ko": {"open": {"chrf": 0.3, "n": 2}}}})
    assert [row.name for row in rows if row.headline and row.language == "en"] == [
        "closed questions, mean accuracy", "direction, median error", "grounding, IoU ≥ 0.5", "detection, AP50",
        "description, chrF",
    ]  # fmt: skip
    assert [(row.name, row.value, row.interval) for row in rows if row.language == "ko"] == [
        ("open questions, chrF", "0.300", "–")
    ]


def test_detection_by_description_and_majorities_are_in_the_table() -> None:
    block = {"ap50": 0.5, "low": 0.4, "high": 0.6, "n": 9, "ap75": 0.2, "ap": 0.3, "ap_large": 0.4}
    baselines = {"majority_ap50": 0.003, "blind_ap50": 0.02, "shuffled_ap50": 0.01}
    masks = {"miou": 0.55, "low": 0.5, "high": 0.6, "n": 9, "majority": 0.04, "shuffled": 0.001}
    rows = all_score_rows({"evaluate": {"en": {"segmentation": masks, "detection_described": block | baselines}}})
    told = [(row.name, row.value, row.majority, row.blind, row.shuffled, row.headline) for row in rows]
    assert told == [
        ("segmentation, mean IoU", "0.550", "0.040", "–", "0.001", True),
        ("detection by description, AP50", "0.500", "0.003", "0.020", "0.010", True),
        ("detection by description, AP75", "0.200", "–", "–", "–", False),
        ("detection by description, AP", "0.300", "–", "–", "–", False),
    ]


def test_markdown_cells_cannot_break_the_table() -> None:
    table = markdown_table(["a", "b"], [["x|y", "1\n2"]]).splitlines()
    assert len(table) == 3
    assert table[2] == "| x\\|y | 1 2 |"


def test_the_table_goes_between_its_markers_and_twice_is_once() -> None:
    text = "# T\n<!-- results:start -->\nold\n<!-- results:end -->\nrest\n"
    once = update_between_markers(text, "results", "new\n")
    assert once == "# T\n<!-- results:start -->\nnew\n<!-- results:end -->\nrest\n"
    assert update_between_markers(once, "results", "new") == once
    for broken in ("", text + text, text.replace("start", "stop"), text.replace("start", "x").replace("end", "start")):
        with pytest.raises(ValueError, match="results:start"):
            update_between_markers(broken, "results", "new")
