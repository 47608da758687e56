"""Tables in the documents: each stands between two markers of a page and shows one metrics file, or what code says.

`panollava documents` writes them from the working tree. `panollava documents --check` compares the committed pages with
the committed metrics. It reads nothing else, so a run on another machine does not fail it.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from panollava.backbones.family_table import family_rows
from panollava.bench.report import speed_table
from panollava.bench.scaling_report import scaling_table
from panollava.experiments import ablation, grid
from panollava.experiments.workspace import git
from panollava.io import replacing
from panollava.markdown import NOTHING, markdown_table, share, update_between_markers
from panollava.report.encoder_table import encoder_rows
from panollava.report.tables import ScoreRow, results_table, score_rows

# The rows of the README's table, by the names of `report.tables`.
HEADLINES = (
    "closed questions, mean accuracy",
    "direction, median error",
    "grounding, IoU ≥ 0.5",
    "segmentation, mean IoU",
    "detection, AP50",
    "description, chrF",
)
LANGUAGES = {"en": "English", "ko": "Korean"}
MEASURES = {
    "accuracy": "Closed questions, mean accuracy",
    "direction": "Direction within 15°",
    "grounding": "Grounding, IoU ≥ 0.5",
}
YAWS = {
    "plain": "not rotated",
    "mean": "mean over the yaws",
    "ratio": "mean over the yaws / not rotated",
    "worst": "worst yaw",
    "all": "right at every yaw",
    "agreement": "same answer as when not rotated",
}


def headline_table(metrics: dict[str, Any]) -> str:
    """Return the headline results of metrics/evaluate.json: three columns for each language."""
    found = {
        language: {row.name: row for row in score_rows(language, s)} for language, s in metrics["evaluate"].items()
    }
    header = ["Measure"]
    for language in found:
        header += [f"{LANGUAGES.get(language, language)} [95 % interval]", "Majority", "Blind"]
    lines = [
        [name, *(cell for rows in found.values() for cell in _headline_cells(rows.get(name)))]
        for name in HEADLINES
        if any(name in rows for rows in found.values())
    ]
    return markdown_table(header, lines)


def _headline_cells(row: ScoreRow | None) -> list[str]:
    return [NOTHING] * 3 if row is None else [f"**{row.value}** {row.interval}", row.majority, row.blind]


def robustness_table(metrics: dict[str, Any]) -> str:
    """Return metrics/robustness.json as a table: a row a condition, a column a measure."""
    block = metrics["robustness"]
    yaws, seam, tilts, bands = block["yaws"], block["seam"], block["tilts"], block["latitude"]
    rows = [[name, *(_number(yaws.get(m, {}).get(key)) for m in MEASURES)] for key, name in YAWS.items()]
    for angle, tilt in tilts.items():
        rows.append([f"tilted by {angle}°", *(_number(tilt.get(m)) for m in MEASURES)])
        rows.append(["the same questions, no tilt", *(share(tilt.get(m, {}).get("plain")) for m in MEASURES)])
    for name in dict.fromkeys(name for band in bands.values() for name in band):
        title = f"object {name.replace('-', '–')}° above or below the horizon"
        rows.append([title, *(_number(bands.get(m, {}).get(name)) for m in MEASURES)])
    rows.append(
        ["seam gap: score away from the seam minus score across it", *(_number(seam.get(m), "gap") for m in MEASURES)]
    )
    rotated = next(yaws[m] for m in MEASURES if m in yaws)
    run = f"Encoder `{block['encoder']}`, language model `{block['llm']}`, weights `{block['weights']}`, "
    run += (
        f"seed {block['seed']}: {block['panoramas']} panoramas at {len(rotated['yaws'])} yaws and {len(tilts)} tilts."
    )
    if "all" in seam:
        run += f" Seam gap of all {seam['all']['n']} pairs: {_number(seam['all'], 'gap')}."
    return f"{run}\n\n{markdown_table(['Condition', *MEASURES.values()], rows)}"


def _number(block: Mapping[str, Any] | None, name: str = "value") -> str:
    """Return a number of a block with its interval, `–` where there is no block."""
    return NOTHING if block is None else f"{share(block[name])} [{share(block['low'])}, {share(block['high'])}]"


class Table(NamedTuple):
    """A table of the documents: its page and marker, the metrics file that it shows, and the function that makes it.

    A table that shows no metrics is made of nothing.
    """

    page: str
    marker: str
    metrics: str | None
    make: Callable[[dict[str, Any]], str]


TABLES = (
    Table("README.md", "results", "metrics/evaluate.json", headline_table),
    Table("docs/metrics.md", "all-results", "metrics/evaluate.json", results_table),
    Table("docs/robustness.md", "robustness", "metrics/robustness.json", robustness_table),
    Table("docs/models.md", "encoders", None, encoder_rows),
    Table("docs/models.md", "families", None, family_rows),
    Table("docs/experiments.md", "combinations", "metrics/combinations.json", grid.markdown),
    Table("docs/experiments.md", "ablation", "metrics/ablation.json", ablation.markdown),
    Table("docs/benchmarks.md", "bench", "metrics/bench.json", speed_table),
    Table("docs/benchmarks.md", "bench_7b", "metrics/bench_7b.json", speed_table),
    Table("docs/many_gpus.md", "scaling_7b", "metrics/scaling_7b.json", scaling_table),
)


def updated(read: Callable[[str], str]) -> dict[str, str]:
    """Return each page with its tables made anew; `read` returns the text of a page or a metrics file.

    Raises:
        ValueError: a page without the markers of one of its tables.
    """
    pages: dict[str, str] = {}
    for table in TABLES:
        text = pages[table.page] if table.page in pages else read(table.page)
        try:
            shown = {} if table.metrics is None else json.loads(read(table.metrics))
            pages[table.page] = update_between_markers(text, table.marker, table.make(shown))
        except ValueError as error:
            raise ValueError(f"{table.page}, from {table.metrics or table.make.__name__}: {error}") from error
    return pages


def write_documents(root: Path) -> list[str]:
    """Write all tables from the working tree's metrics and return the changed pages."""
    changed = []
    for page, text in updated(lambda path: (root / path).read_text(encoding="utf-8")).items():
        if text != (root / page).read_text(encoding="utf-8"):
            changed.append(page)
            with replacing(root / page) as file:
                file.write(text.encode())
    return changed


def check_documents(root: Path) -> None:
    """Compare the committed pages with the committed metrics.

    Raises:
        ValueError: a page that shows other numbers; a page or a metrics file that is not committed.
    """

    def committed(path: str) -> str:
        return git(root, "show", f"HEAD:{path}")

    if outdated := [page for page, text in updated(committed).items() if text != committed(page)]:
        raise ValueError(
            f"{', '.join(outdated)} of HEAD: the tables do not show the metrics of HEAD; run `make results` where the "
            "working tree holds these metrics, and commit the pages"
        )
