"""The report: every figure as a PNG file, and one HTML page that holds all of them and needs no other file."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from panollava.io import replacing
from panollava.report.inputs import ReportInputs, read_inputs
from panollava.report.mask_figures import masks_figure
from panollava.report.pairing_figure import pairing_figure
from panollava.report.panorama_figures import answers_figure, detections_figure, sample_panoramas, verdict
from panollava.report.run_figures import latency_figure, losses_figure
from panollava.report.score_figures import accuracy_figure, confusion_figure, text_figure
from panollava.report.sphere_figures import directions_figure, grounding_figure
from panollava.report.style import language_name, png_bytes
from panollava.report.tables import ScoreRow, all_score_rows
from panollava.tasks.prediction import Prediction, Variant
from panollava.vlm.views import ViewSettings


@dataclass(frozen=True)
class ReportFigure:
    """A drawn figure: its file stem, its section of the report, and the PNG."""

    stem: str
    section: str
    png: bytes

    @property
    def data_uri(self) -> str:
        """Return the PNG as a data URI."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode('ascii')}"


@dataclass(frozen=True)
class AnswerRow:
    """One question with the answer of each variant; `right` is None where nothing is right or wrong."""

    prediction: Prediction
    right: bool | None
    blind: str
    shuffled: str


def draw_figures(
    inputs: ReportInputs, *, views: ViewSettings, tokens_per_side: int, samples: int, seed: int
) -> list[ReportFigure]:
    """Draw each figure whose inputs exist, in the order of the report."""
    builders: list[tuple[str, str, Callable[[], Figure | None]]] = [
        ("accuracy", "accuracy", partial(accuracy_figure, inputs)),
        ("detections", "detections", partial(detections_figure, inputs, samples)),
    ]
    for number, image_id in enumerate(sample_panoramas(inputs, samples=samples, seed=seed), start=1):
        builders.append((f"answers_{number:02d}", "answers", partial(answers_figure, inputs, image_id, seed)))
    builders += [
        ("directions", "directions", partial(directions_figure, inputs)),
        ("grounding", "grounding", partial(grounding_figure, inputs)),
        ("masks", "masks", partial(masks_figure, inputs)),
    ]
    for language in inputs.languages:
        builders.append((f"confusion_{language}", "confusion", partial(confusion_figure, inputs, language)))
    builders += [
        ("free_text", "free_text", partial(text_figure, inputs)),
        ("pairing", "pairing", partial(pairing_figure, views, tokens_per_side)),
        ("losses", "losses", partial(losses_figure, inputs)),
        ("latency", "latency", partial(latency_figure, inputs)),
    ]
    drawn = ((stem, section, build()) for stem, section, build in builders)
    return [ReportFigure(stem, section, png_bytes(figure)) for stem, section, figure in drawn if figure is not None]


def answer_rows(inputs: ReportInputs, *, samples: int, seed: int) -> list[AnswerRow]:
    """Return every question about the sampled panoramas with the answers of the model and of its baselines."""
    shown = set(sample_panoramas(inputs, samples=samples, seed=seed))
    baselines: tuple[Variant, ...] = ("blind", "shuffled")
    others = {
        variant: {p.key: p.prediction for p in inputs.of(variant=variant) if p.image_id in shown}
        for variant in baselines
    }
    questions = sorted((p for p in inputs.of() if p.image_id in shown), key=lambda p: p.key)
    return [AnswerRow(p, verdict(p), *(others[v].get(p.key, "") for v in baselines)) for p in questions]


def type_examples(inputs: ReportInputs) -> list[Prediction]:
    """Return one question of each type in the first language; later turns of a dialogue need the earlier ones."""
    asked = sorted((p for p in inputs.of(language=inputs.languages[0])), key=lambda p: (p.turn, p.key))
    first = {p.type: p for p in reversed(asked)}
    return [first[kind] for kind in dict.fromkeys(p.type for p in inputs.of()) if kind in first]


def flatten(content: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested values as (dotted name, text), in the order of the file."""
    flat: list[tuple[str, str]] = []
    for key, value in content.items():
        if isinstance(value, dict):
            flat.extend(flatten(value, f"{prefix}{key}."))
        else:
            text = f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
            flat.append((f"{prefix}{key}", text.strip('"')))
    return flat


def render_html(inputs: ReportInputs, figures: list[ReportFigure], *, samples: int, seed: int) -> str:
    """Return the report as one HTML page; all text from data is escaped."""
    environment = Environment(
        loader=PackageLoader("panollava.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    rows: list[ScoreRow] = all_score_rows(inputs.metrics)
    sections: dict[str, list[ReportFigure]] = {}
    for figure in figures:
        sections.setdefault(figure.section, []).append(figure)
    return environment.get_template("report.html.jinja").render(
        run={key: inputs.metrics[key] for key in ("encoder", "llm", "weights", "seed")},
        panoramas=len({p.image_id for p in inputs.predictions}),
        rows=rows,
        headlines=[row for row in rows if row.headline],
        sections=sections,
        examples=type_examples(inputs) if "accuracy" in sections else [],
        language_name=language_name,
        answers=answer_rows(inputs, samples=samples, seed=seed),
        details={name: flatten(content) for name, content in inputs.other_metrics.items()},
    )


def write_report(
    predictions: Path, metrics: Path, plots: Path, store: Path, out: Path, page: Path, *, views: ViewSettings,
    tokens_per_side: int, samples: int, seed: int, split: str = "test",
) -> list[Path]:  # fmt: skip
    """Write the figures as PNG into the folder `out`, the report to the file `page`, and return all files written.

    `metrics` and `plots` are the pipeline's folders, `store` the preprocessed panoramas with the `split` that was
    asked; `views` and `tokens_per_side` are settings of the model. `samples` panoramas are shown, drawn by `seed`.

    Raises:
        ValueError: an input cannot be read; the message names the file.
    """
    inputs = read_inputs(predictions, metrics, plots, store, split)
    figures = draw_figures(inputs, views=views, tokens_per_side=tokens_per_side, samples=samples, seed=seed)
    html = render_html(inputs, figures, samples=samples, seed=seed)
    contents = {out / f"{figure.stem}.png": figure.png for figure in figures} | {page: html.encode("utf-8")}
    out.mkdir(parents=True, exist_ok=True)
    for path, content in contents.items():
        with replacing(path) as file:
            file.write(content)
    return list(contents)
