"""The comparison of two runs: rows and numbers as in evaluate, seeds pooled, every mismatch refused by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_data import OBJECTS, full_predictions, open_predictions

from panollava.experiments.compare import Comparison, compare_sources
from panollava.experiments.gate import PAIRED
from panollava.io import write_json
from panollava.metrics.detection import average_precision
from panollava.tasks.block_scores import evaluate
from panollava.tasks.detection import detections
from panollava.tasks.prediction import Prediction

Lines = list[dict[str, Any]]


def write(path: Path, lines: Lines) -> str:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def scores_of(lines: Lines) -> dict[str, Any]:
    """Return the scores of evaluate for lines of predictions.jsonl."""
    return evaluate([Prediction.model_validate(line) for line in lines], resamples=2, seed=0)


def changed(lines: Lines, task: str, panoramas: int = 10**6, variant: str = "model", **fields: Any) -> Lines:
    """Return the lines with other fields in the answers of one task about the first panoramas."""
    there = {f"pano_{number}" for number in range(panoramas)}
    return [
        line | fields if (line["task"], line["variant"]) == (task, variant) and line["image_id"] in there else line
        for line in lines
    ]


@pytest.fixture
def base(tmp_path: Path) -> tuple[str, Lines]:
    lines = [line | ({"unparsed": 0} if line["task"] == "detection" else {}) for line in full_predictions(12)]
    return write(tmp_path / "a.jsonl", lines), lines


def compared(a: str, b: str) -> Comparison:
    return compare_sources(a, b, draws=1000)


def test_scores_are_those_of_evaluate(base: tuple[str, Lines], tmp_path: Path) -> None:
    path, lines = base
    others = changed(lines, "choice", 5, correct=True)
    others = changed(others, "grounding", 4, iou=0.2)
    others = changed(others, "direction", 3, error_deg=77.0)
    others = changed(others, "detection", 6, boxes=[])
    comparison = compared(path, write(tmp_path / "b.jsonl", others))
    scores = [scores_of(side) for side in (lines, others)]
    found = {row.metric: row for row in comparison.rows if row.metric}
    assert list(found) == [
        f"evaluate.{language}.{key}"
        for language in ("en", "ko")
        for key in (
            "accuracy.value", "types.existence.value", "direction.median_deg", "grounding.iou50", "detection.ap50",
        )
    ]  # fmt: skip
    for metric, row in found.items():
        values: list[Any] = list(scores)
        for key in metric.split(".")[1:]:
            values = [value[key] for value in values]
        assert (row.test.a, row.test.b) == pytest.approx(tuple(values))
        assert (row.n, row.panoramas) == (12, 12)
        assert row.test.low <= row.test.difference <= row.test.high
        assert row.test.difference != 0


def test_table_and_json_say_the_same(base: tuple[str, Lines], tmp_path: Path) -> None:
    path, lines = base
    worse = write(tmp_path / "b.jsonl", changed(lines, "grounding", iou=0.0))
    comparison = compared(path, worse)
    text = comparison.markdown()
    assert text.startswith(f"A: {path}. B: {worse}.\n\n| Measure | Language | n |")
    rows = [line for line in text.splitlines() if line.startswith("| grounding, IoU ≥ 0.5 | en | 12 | 1.000 | 0.000 |")]
    assert len(rows) == 1
    assert rows[0].endswith("| worse |")
    assert text.count("worse") == 2
    write_json(tmp_path / "out.json", comparison.as_json())
    told = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert (told["a"], told["b"], told["draws"], told["level"]) == ([path], [worse], 1000, 0.95)
    row = next(row for row in told["rows"] if row["metric"] == "evaluate.en.grounding.iou50")
    assert (row["difference"], row["low"], row["high"]) == (-1, -1, -1)
    # Twelve rows, of which the two of grounding are the first in Holm's order.
    assert len(told["rows"]) == 12
    assert row["p_holm"] == pytest.approx(12 * row["p"])


def test_the_same_run_twice_has_no_difference(base: tuple[str, Lines]) -> None:
    for row in compared(base[0], base[0]).rows:
        assert row.test[2:] == (0, 0, 0, 1, 1, 1)
        assert (row.p_holm, row.verdict) == (1, "–")


def test_seeds_are_pooled_by_question(base: tuple[str, Lines], tmp_path: Path) -> None:
    path, lines = base
    others = changed(changed(lines, "direction", error_deg=50.0), "choice", 6, correct=True)
    others = changed(others, "detection", 6, boxes=[])
    other = write(tmp_path / "other.jsonl", others)
    found = {row.metric: row.test for row in compared(f"{path}, {other}", f"{path},{other},{other}").rows}
    errors = [line["error_deg"] for line in lines if (line["task"], line["variant"]) == ("direction", "model")][::2]
    median = found["evaluate.en.direction.median_deg"]
    assert median.a == pytest.approx(np.median((np.array(errors) + 50) / 2))
    assert median.b == pytest.approx(np.median((np.array(errors) + 100) / 3))
    accuracy = found["evaluate.en.accuracy.value"]
    assert (accuracy.a, accuracy.b) == pytest.approx(((0.5 + 0.75) / 2, (0.5 + 1.5) / 3))
    ap50 = []
    for side in (lines, others):
        own = [x for x in side if (x["task"], x["variant"], x["language"]) == ("detection", "model", "en")]
        own_predictions = [Prediction.model_validate(line) for line in own]
        ap50.append(average_precision(*detections(own_predictions), thresholds=(0.5,))["ap50"])
    precision = found["evaluate.en.detection.ap50"]
    assert (precision.a, precision.b) == pytest.approx((sum(ap50) / 2, (ap50[0] + 2 * ap50[1]) / 3))


def test_types_of_other_tasks_have_rows_where_there_are_several(base: tuple[str, Lines], tmp_path: Path) -> None:
    path, lines = base
    several = changed(lines, "grounding", 5, type="seam")
    once, twice = (compared(own, own) for own in (path, write(tmp_path / "b.jsonl", several)))
    names = [row.measure for row in twice.rows if row.language == "en"]
    assert len(names) == sum(row.language == "en" for row in once.rows) + 2
    position = names.index("grounding, IoU ≥ 0.5: seam")
    assert names[position + 1] == "grounding, IoU ≥ 0.5: grounding"
    assert [twice.rows[position].n, twice.rows[position + 1].n] == [5, 7]


def test_masks_are_compared_where_every_run_has_them(base: tuple[str, Lines], tmp_path: Path) -> None:
    plain, lines = base
    masked = changed(lines, "grounding", mask_iou=0.5, mask_ceiling=0.8, mask_majority=0.1, boundary_deg=2.0)
    better = changed(masked, "grounding", 6, mask_iou=0.8)
    a, b = write(tmp_path / "m.jsonl", masked), write(tmp_path / "n.jsonl", better)
    comparison = compared(a, b)
    scores = [scores_of(side)["en"]["segmentation"]["miou"] for side in (masked, better)]
    (row,) = [row for row in comparison.rows if row.metric == "evaluate.en.segmentation.miou"]
    assert (row.measure, row.better, row.n, row.panoramas) == ("segmentation, mean IoU", "higher", 12, 12)
    assert [row.test.a, row.test.b] == pytest.approx(scores)
    assert scores == pytest.approx([0.5, 0.65])
    assert not comparison.notes
    assert PAIRED.fullmatch(row.metric)
    # A run whose data had no masks: nothing is compared, and that is said.
    older = compared(plain, b)
    assert not [row for row in older.rows if row.task == "segmentation"]
    assert older.notes == ("segmentation: 24 questions have a mask in some of the runs only and are left out",)


def test_detection_by_description_is_compared_apart(base: tuple[str, Lines], tmp_path: Path) -> None:
    path, lines = base
    described = [
        line | {"type": "detection_described", "record": 9, "answer": {"objects": OBJECTS[:1]}}
        for line in lines
        if line["task"] == "detection"
    ]
    a = write(tmp_path / "m.jsonl", lines + described)
    b = write(tmp_path / "n.jsonl", lines + changed(described, "detection", 4, boxes=[]))
    plain, both = compared(path, path), compared(a, b)
    found = {row.metric: row for row in both.rows if row.task in ("detection", "detection_described")}
    assert list(found) == [
        f"evaluate.{language}.{block}.ap50"
        for language in ("en", "ko")
        for block in ("detection", "detection_described")
    ]
    assert "detection by description, AP50" in both.markdown()
    for language in ("en", "ko"):
        metric = f"evaluate.{language}.detection.ap50"
        (alone,) = [row for row in plain.rows if row.metric == metric]
        assert found[metric].test == alone.test
        scores = scores_of([*lines, *described])[language]["detection_described"]
        assert found[f"evaluate.{language}.detection_described.ap50"].test.a == pytest.approx(scores["ap50"])
        assert found[f"evaluate.{language}.detection_described.ap50"].test.difference < 0


def test_free_answers_are_compared_by_their_own_chrf(tmp_path: Path) -> None:
    lines = open_predictions()
    a, b = (
        write(tmp_path / "a.jsonl", lines),
        write(tmp_path / "b.jsonl", changed(lines, "open", prediction="A church.")),
    )
    (row,) = compared(a, b).rows
    assert (row.measure, row.metric, row.test.b) == ("open questions, mean chrF of an answer", "", 1)
    assert row.test.a == pytest.approx(scores_of(lines)["en"]["open"]["chrf"])


def test_boxes_without_an_area_are_counted(base: tuple[str, Lines], tmp_path: Path) -> None:
    wide = {"label": "wall", "box_deg": [0.0, 0.0, 200.0, 20.0]}
    lines = changed(base[1], "grounding", 2, answer=wide, iou=None)
    lines = changed(lines, "detection", answer={"objects": [wide]})
    path = write(tmp_path / "wide.jsonl", lines)
    comparison = compared(path, path)
    assert [row.n for row in comparison.rows if row.task == "grounding"] == [10, 10]
    assert not [row for row in comparison.rows if row.task == "detection"]
    assert comparison.notes == (
        "grounding: 4 true boxes of 180° or more have no area and are left out",
        "detection: 24 true boxes of 180° or more have no area and are left out",
        "detection (en): no true box at all, so average precision is undefined",
        "detection (ko): no true box at all, so average precision is undefined",
    )
    assert comparison.markdown().endswith(f"|\n\n{chr(10).join(comparison.notes)}")


def test_a_task_without_a_measure_is_counted(base: tuple[str, Lines], tmp_path: Path) -> None:
    lines = [line | {"task": "depth"} if line["task"] == "description" else line for line in base[1]]
    path = write(tmp_path / "new.jsonl", lines)
    assert compared(path, path).notes == ("depth: a task without a measure, 24 answers are left out",)


def test_different_questions_are_counted_and_named(base: tuple[str, Lines], tmp_path: Path) -> None:
    path, lines = base
    fewer = [line for line in lines if line["image_id"] not in ("pano_3", "pano_7")]
    moved = [line | {"image_id": "new"} if line["image_id"] == "pano_11" else line for line in lines]
    b, c = write(tmp_path / "b.jsonl", fewer), write(tmp_path / "c.jsonl", moved)
    with pytest.raises(ValueError, match="asked different questions") as caught:
        compared(path, b)
    assert f"{path} lacks none; {b} lacks 20 (pano_3 record 0 turn 0 (en), " in str(caught.value)
    with pytest.raises(
        ValueError, match=r"lacks 10 \(new record 0 turn 0 \(en\), .*, …\); .* lacks 10 \(pano_11 record"
    ):
        compared(path, c)
    with pytest.raises(ValueError, match="lacks 10"):  # a seed of one side, too
        compared(f"{path},{c}", path)
    fields = {"references": ["1, 2"], "answer": {"yaw_deg": 1, "pitch_deg": 0}}
    other = write(tmp_path / "d.jsonl", changed(lines, "direction", 2, **fields))
    with pytest.raises(ValueError, match=r"disagree on references, answer of 4 \(pano_0 record 1 turn 0 \(en\)"):
        compared(path, other)


@pytest.mark.parametrize(
    ("task", "fields", "message"),
    [
        ("direction", {"error_deg": float("nan")}, "answer: error_deg: Input should be a finite number, found nan$"),
        ("grounding", {"iou": float("inf")}, "answer: iou: Input should be a finite number, found inf$"),
        ("choice", {"score": float("nan")}, "answer: score: Input should be a finite number, found nan$"),
        (
            "detection",
            {"boxes": [{"label": "a", "box_deg": [0, 0, float("nan"), 1]}]},
            r"boxes\.0\.box_deg\.2: .*finite number, found nan",
        ),
        (
            "detection",
            {"boxes": [{"label": "a", "box_deg": [0, 0, 9, 9]}]},
            "a detection needs `score`; versions before",
        ),
        ("choice", {"correct": None}, "needs `correct`"),
        ("direction", {"error_deg": None}, "needs `error_deg`"),
        ("grounding", {"iou": None}, "`iou` is None"),
        ("choice", {"turn": "x"}, "turn: Input should be a valid integer"),
    ],
)
def test_a_line_that_is_no_score_is_named(tmp_path: Path, task: str, fields: dict[str, Any], message: str) -> None:
    lines = [line for line in full_predictions(3) if line["task"] == task and line["variant"] == "model"]
    lines = [lines[0] | {"variant": "blind"}, *lines[:5], lines[5] | fields]
    path = write(tmp_path / "a.jsonl", lines)
    with pytest.raises(ValueError, match=message) as caught:
        compared(path, path)
    assert str(caught.value).startswith(f"{path}, line 7: ")


def test_files_without_answers_are_refused(base: tuple[str, Lines], tmp_path: Path) -> None:
    path, lines = base
    blind = [line for line in lines if line["variant"] == "blind"]
    twice = [*lines, lines[0]]
    for name, content, message in (
        ("empty", [], "no answers of the variant 'model' among 0 lines"),
        ("blind", blind, f"no answers of the variant 'model' among {len(blind)} lines"),
        ("twice", twice, rf"line {len(twice)}: pano_0 record 0 turn 0 \(en\) is answered twice"),
    ):
        with pytest.raises(ValueError, match=message):
            compared(write(tmp_path / f"{name}.jsonl", content), path)
    with pytest.raises(ValueError, match=r"gone\.jsonl: no such file"):
        compared(path, "gone.jsonl")
    with pytest.raises(ValueError, match="holds an empty name"):
        compared(f"{path},", path)


def test_line_separators_inside_an_answer_end_no_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [line | {"prediction": "A\u2028B\u0085C"} for line in open_predictions()])
    assert compared(path, path).rows[0].n == 1


def test_a_folder_without_a_project_has_no_revisions(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="main: "):
        compare_sources("main", "main", root=tmp_path)
