"""Figures with panoramas: detected and true boxes, and questions with their answers."""

import random
import unicodedata
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from panollava.corpus.records import DetectionAnswer, DirectionAnswer, LabelledBox
from panollava.metrics import pairwise_iou
from panollava.report.inputs import ReportInputs, load_panoramas
from panollava.report.outlines import box_radians, draw_box, draw_direction, draw_panorama
from panollava.report.style import INK, MUTED, PREDICTED, RIGHT, TRUE, WRONG, language_name, styled
from panollava.tasks.choice import CHOICE
from panollava.tasks.detection import DETECTION, is_whole
from panollava.tasks.prediction import Prediction
from panollava.tasks.table import TASKS

QUESTIONS_PER_FIGURE = 8
_TEXT_COLUMNS = 70
# The legend of one panorama with its questions.
_MARKS = [
    Line2D([], [], color="#e08e00", linewidth=2, label="answered box; ×: answered direction"),
    Line2D([], [], color="#00a5b5", linewidth=2, linestyle=(0, (3, 2)), label="true box; +: true direction"),
    Line2D([], [], color=RIGHT, marker="$✓$", linestyle="none", label="right"),
    Line2D([], [], color=WRONG, marker="$✗$", linestyle="none", label="wrong"),
]


def verdict(prediction: Prediction) -> bool | None:
    """Return whether an answer is right, None for tasks that have no right or wrong (lists and free text)."""
    return TASKS[prediction.task].right(prediction)


def detection_score(prediction: Prediction) -> float:
    """Return how well the predicted boxes of one panorama match the true ones, in [0, 1].

    Sum of the IoUs of greedily matched boxes of equal label, over the larger of the two numbers of boxes.
    """
    found, true = prediction.boxes or [], prediction.truth(DetectionAnswer).objects
    if not found or not true:
        return 0.0
    of_found, of_true = (torch.stack([box_radians(box.box_deg) for box in boxes]) for boxes in (found, true))
    ious = pairwise_iou(of_found, of_true).tolist()
    pairs = [(ious[i][j], i, j) for i, f in enumerate(found) for j, t in enumerate(true) if f.label == t.label]
    used_found: set[int] = set()
    used_true: set[int] = set()
    total = 0.0
    for iou, i, j in sorted(pairs, reverse=True):
        if i not in used_found and j not in used_true:
            total += iou
            used_found.add(i)
            used_true.add(j)
    return total / max(len(found), len(true))


def choose_detections(predictions: Sequence[Prediction], per_group: int) -> list[tuple[str, float, Prediction]]:
    """Return (group, score, prediction) of the best, the median and the worst panoramas, no panorama twice."""
    one_each = {p.image_id: p for p in reversed(predictions)}
    ranked = sorted(((detection_score(p), image_id) for image_id, p in one_each.items()), key=lambda x: (-x[0], x[1]))
    if len(ranked) == 1:
        return [("only", ranked[0][0], one_each[ranked[0][1]])]
    middle = max(0, len(ranked) // 2 - per_group // 2)
    groups = {
        "best": ranked[:per_group],
        "worst": ranked[-per_group:],
        "median": ranked[middle : middle + per_group],
    }
    chosen: dict[str, list[tuple[str, float, Prediction]]] = {"best": [], "median": [], "worst": []}
    taken: set[str] = set()
    for group, members in groups.items():
        for score, image_id in members:
            if image_id not in taken:
                chosen[group].append((group, score, one_each[image_id]))
                taken.add(image_id)
    return [item for members in chosen.values() for item in members]


@styled
def detections_figure(inputs: ReportInputs, samples: int) -> Figure | None:
    """Draw about `samples` panoramas with predicted and true boxes: the best, the median and the worst ones."""
    for language in inputs.languages:
        predictions = [p for p in inputs.of(task=DETECTION.name, language=language) if is_whole(p)]
        if predictions:
            break
    else:
        return None
    chosen = choose_detections(predictions, max(1, samples // 3))
    panoramas = load_panoramas(inputs, [p.image_id for _, _, p in chosen])
    columns = min(2, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(6.5 * columns + 0.2, 3.65 * rows + 0.75), layout="constrained")
    title = f"Detection of all objects, {language_name(language)}: the best, the median and the worst panoramas"
    figure.suptitle(title, x=0.01, ha="left")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (group, score, prediction) in zip(grid.flat, chosen, strict=False):
        _draw_detection(axes, panoramas[prediction.image_id], group, score, prediction)
    for axes in grid.flat[len(chosen) :]:
        axes.set_visible(False)
    handles = [
        Line2D([], [], color="#e08e00", linewidth=2, label="predicted box, its label above"),
        Line2D([], [], color="#00a5b5", linewidth=2, linestyle=(0, (3, 2)), label="true box, its label below"),
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=2)
    return figure


def _draw_detection(axes: Axes, image: np.ndarray, group: str, score: float, prediction: Prediction) -> None:
    draw_panorama(axes, image)
    found, true = prediction.boxes or [], prediction.truth(DetectionAnswer).objects
    for truth in true:
        draw_box(axes, truth.box_deg, image, colour=TRUE, dashed=True, label=truth.label, below=True)
    for box in found:
        draw_box(axes, box.box_deg, image, colour=PREDICTED, dashed=False, label=box.label, below=False)
    counts = f"{len(found)} predicted, {len(true)} true boxes" if prediction.parsed else "answer unreadable"
    axes.set_title(f"{group}: {prediction.image_id}   mean IoU {score:.2f}; {counts}")


def sample_panoramas(inputs: ReportInputs, *, samples: int, seed: int) -> list[str]:
    """Return the ids of the panoramas whose questions are shown, drawn at random by `seed`."""
    image_ids = sorted({p.image_id for p in inputs.of()})
    return random.Random(seed).sample(image_ids, min(samples, len(image_ids)))


def choose_questions(
    predictions: Sequence[Prediction], languages: Sequence[str], rng: random.Random
) -> list[Prediction]:
    """Return up to `QUESTIONS_PER_FIGURE` predictions of one panorama, most in the first language, types mixed.

    Later turns of a dialogue are left out: without the earlier ones they cannot be understood.
    """
    chosen: list[Prediction] = []
    asked = [language for language in languages if any(p.language == language for p in predictions)]
    others = len(asked) - 1
    for position, language in enumerate(asked):
        share = QUESTIONS_PER_FIGURE if not others else 5 if position == 0 else max(1, 3 // others)
        pool = [p for p in predictions if p.language == language and p.turn == 0]
        rng.shuffle(pool)
        first_of_type = list({p.type: p for p in reversed(pool)}.values())
        first_of_type.sort(key=lambda p: (p.task == CHOICE.name, p.type))
        spatial = [p for p in first_of_type if p.task != CHOICE.name]
        closed = [p for p in first_of_type if p.task == CHOICE.name]
        rng.shuffle(spatial)
        rng.shuffle(closed)
        mixed = spatial[: share // 2] + closed + spatial[share // 2 :]
        chosen.extend(mixed[:share])
    return chosen


@styled
def answers_figure(inputs: ReportInputs, image_id: str, seed: int) -> Figure:
    """Draw one panorama beside its questions, the answers given and the true ones."""
    predictions = [p for p in inputs.of() if p.image_id == image_id]
    chosen = choose_questions(predictions, inputs.languages, random.Random(f"{seed}/{image_id}"))
    image = load_panoramas(inputs, [image_id])[image_id]
    blocks = [answer_lines(number, prediction) for number, prediction in enumerate(chosen, start=1)]
    line, gap, picture, width = 0.185, 0.11, 7.3, 13.0
    picture_height = picture * image.shape[0] / image.shape[1]
    panel = max(picture_height + 1.7, sum(len(block) * line + gap for block in blocks))
    height = panel + 0.55
    top = panel + 0.1
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0.4 / width, (top - picture_height) / height, picture / width, picture_height / height))
    draw_panorama(axes, image)
    for number, prediction in enumerate(chosen, start=1):
        _draw_answer(axes, image, number, prediction)
    figure.legend(
        handles=_MARKS, loc="upper left", bbox_to_anchor=(0.35 / width, (top - picture_height - 0.45) / height)
    )
    figure.text(0.4 / width, 1 - 0.3 / height, f"Questions about {image_id}", fontsize=12, weight="bold")
    y = top - 0.75 * line
    for block in blocks:
        for text, colour, weight in block:
            figure.text((picture + 0.65) / width, y / height, text, fontsize=8.5, color=colour, weight=weight)
            y -= line
        y -= gap
    return figure


def answer_lines(number: int, prediction: Prediction) -> list[tuple[str, str, str]]:
    """Return the (text, colour, weight) lines that show one question, its answer, and the truth where it differs."""
    question = wrap(f"{number}  {prediction.question}", lines=2)
    right = verdict(prediction)
    sign, colour = {True: ("✓", RIGHT), False: ("✗", WRONG), None: ("·", INK)}[right]
    measure = ""
    if prediction.error_deg is not None:
        measure = f"   ({prediction.error_deg:.1f}° off)"
    elif prediction.iou is not None:
        measure = f"   (IoU {prediction.iou:.2f})"
    answer = wrap(f"    {sign} {prediction.prediction or '(no answer)'}{measure}", lines=2)
    exact = right is True and prediction.task == CHOICE.name
    truth = [] if exact else wrap(f"    true: {prediction.reference}", lines=2)
    return (
        [(line, INK, "bold") for line in question]
        + [(line, colour, "normal") for line in answer]
        + [(line, MUTED, "normal") for line in truth]
    )


def wrap(text: str, *, lines: int, columns: int = _TEXT_COLUMNS) -> list[str]:
    """Break text into at most `lines` lines of `columns` cells; an ellipsis marks what is cut off."""
    indent = " " * (len(text) - len(text.lstrip()))
    broken: list[str] = []
    line = indent
    for word in text.split():
        while word:
            space = " " if line.strip() else ""
            if cells(line + space + word) <= columns:
                line, word = line + space + word, ""
            elif line.strip():
                broken.append(line)
                line = indent
            else:
                fitting = next(n for n in range(len(word), 0, -1) if cells(indent + word[:n]) <= columns or n == 1)
                line, word = indent + word[:fitting], word[fitting:]
    broken.append(line)
    if len(broken) > lines:
        broken = broken[:lines]
        broken[-1] += " …"
    return broken


def cells(text: str) -> int:
    """Return the width of a text in cells of a Latin letter; wide East Asian letters take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _draw_answer(axes: Axes, image: np.ndarray, number: int, prediction: Prediction) -> None:
    """Mark on the panorama the true place that the numbered question asks for, and the answered one."""
    label = str(number)
    shift = 5 * (number - (QUESTIONS_PER_FIGURE + 1) / 2)  # two questions may be about one object
    match prediction.answer:
        case LabelledBox(box_deg=true):
            draw_box(axes, true, image, colour=TRUE, dashed=True, label=label, below=True, shift=shift)
            for found in [box.box_deg for box in prediction.boxes or []]:
                draw_box(axes, found, image, colour=PREDICTED, dashed=False, label=label, below=False, shift=shift)
        case DirectionAnswer(yaw_deg=yaw, pitch_deg=pitch):
            draw_direction(axes, (yaw, pitch), image, colour=TRUE, marker="+", label=label)
            if prediction.direction is not None:
                draw_direction(axes, prediction.direction, image, colour=PREDICTED, marker="x", label=label)
