"""One look for all figures: colours, fonts, matplotlib settings, and PNG files that depend on their data alone.

Figures are built as `matplotlib.figure.Figure` (no pyplot, no display) by functions decorated with `styled`.
"""

import io
from importlib.metadata import distribution
from pathlib import Path

from matplotlib import font_manager, rc_context
from matplotlib.figure import Figure

MODEL = "#2563a8"
BLIND = "#8e63b0"
SHUFFLED = "#2a9d8f"
MAJORITY = "#7a7f87"
RIGHT = "#1a7f37"
WRONG = "#c62828"
INK = "#1f2328"
MUTED = "#59636e"
GRID = "#d8dee4"
# Drawn on panoramas, so bright, and always over a dark edge.
PREDICTED = "#ffab1a"
TRUE = "#4df0ff"

VARIANT_COLOURS = {"model": MODEL, "shuffled": SHUFFLED, "blind": BLIND}
VARIANT_NAMES = {"model": "model", "shuffled": "model shown another panorama", "blind": "blind twin"}
LANGUAGE_NAMES = {"en": "English", "ko": "Korean"}
DPI = 100

# Importing koreanize_matplotlib would change matplotlib's global settings (and needs the removed distutils), so only
# its font files are used. DejaVu Sans comes first: Latin letters, arrows and ticks keep one face.
_FONTS = Path(str(distribution("koreanize-matplotlib").locate_file("koreanize_matplotlib/fonts")))
for _file, _weight in (("NanumGothic.ttf", 400), ("NanumGothicBold.ttf", 700)):
    # Entered by hand: `addfont` would read the bold face as weight 600, and each bold text would log a warning.
    font_manager.fontManager.ttflist.append(
        font_manager.FontEntry(fname=str(_FONTS / _file), name="NanumGothic", weight=_weight, size="scalable")
    )

styled = rc_context(
    {
        "font.family": ["DejaVu Sans", "NanumGothic"],
        "font.size": 9.5,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": False,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "text.color": INK,
        # Questions and answers are data: a dollar sign in them is no formula.
        "text.parse_math": False,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "legend.facecolor": "white",
        "legend.edgecolor": "white",
        "legend.framealpha": 0.85,
        "figure.facecolor": "white",
        "figure.titlesize": 12.5,
        "figure.titleweight": "bold",
        "savefig.dpi": DPI,
    }
)


def language_name(code: str) -> str:
    """Return the English name of a language, or its code where the name is not known."""
    return LANGUAGE_NAMES.get(code, code)


@styled
def png_bytes(figure: Figure) -> bytes:
    """Return the figure as PNG; the same figure gives the same bytes (no date, no version inside)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
