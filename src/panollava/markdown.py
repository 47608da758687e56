"""Markdown: numbers as text, tables, and blocks between two markers of a file.

Tables are GitHub-flavoured. A marker is an HTML comment, so readers do not see it.
"""

import math

NOTHING = "–"


def share(value: float | None) -> str:
    """Return a number between 0 and 1 (or a CIDEr, up to 10) as text, `–` where there is none."""
    return NOTHING if value is None or math.isnan(value) else f"{value:.3f}"


def degrees(value: float | None) -> str:
    """Return an angle in degrees as text, `–` where there is none."""
    return NOTHING if value is None or math.isnan(value) else f"{value:.1f}°"


def markdown_table(header: list[str], rows: list[list[str]], *, left: int = 1) -> str:
    """Return a table; the first `left` columns are aligned left, the others right."""
    rule = [":--" if column < left else "--:" for column in range(len(header))]
    lines = [header, rule, *([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def update_between_markers(text: str, marker: str, body: str) -> str:
    """Return `text` with `body` between `<!-- marker:start -->` and `<!-- marker:end -->`.

    Raises:
        ValueError: the two markers are not there exactly once each and in this order.
    """
    start, end = f"<!-- {marker}:start -->", f"<!-- {marker}:end -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"expected `{start}` and, after it, `{end}`, each exactly once, to put the table between")
    before, rest = text.split(start)
    return f"{before}{start}\n{body.strip()}\n{end}{rest.split(end)[1]}"
