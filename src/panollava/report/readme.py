"""The results of the last run in the README: `python -m panollava.report.readme` writes them between their markers."""

import json
from pathlib import Path

from panollava.report.tables import results_table, update_between_markers

README, METRICS = Path("README.md"), Path("metrics/evaluate.json")
MARKER = "results"


def updated(readme: str, metrics: dict) -> str:
    """Return the README with the table of `metrics` between the results markers."""
    return update_between_markers(readme, MARKER, results_table(metrics))


def main() -> None:
    """Rewrite README.md."""
    metrics = json.loads(METRICS.read_text(encoding="utf-8"))
    README.write_text(updated(README.read_text(encoding="utf-8"), metrics), encoding="utf-8")


if __name__ == "__main__":
    main()
