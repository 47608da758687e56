"""The table of image encoders in the documents, from the table that the code reads them by."""

from collections.abc import Mapping
from typing import Any

from panollava.markdown import markdown_table
from panollava.vlm.encoders import FAMILIES, TIMM, Family

RESIZES = {"always": "any", "asked": "any", "never": "its own"}


def encoder_rows(metrics: Mapping[str, Any]) -> str:
    """Return the families of image encoders as a table; it shows no metrics."""
    rows = [_row(name, family) for name, family in FAMILIES.items()]
    header = ["Family", "`model_type`", "Grid", "Tokens before the patches", "Views of any size", "Layers"]
    return markdown_table(header, rows, left=3)


def _row(name: str, family: Family) -> list[str]:
    kinds = [name, *([family.composite] if family.composite else [])]
    before = "as the model says" if family.prefix is None else str(family.prefix)
    return [
        "everything that timm opens" if name == TIMM else family.title,
        ", ".join(f"`{kind}`" for kind in kinds),
        family.grid,
        f"{before} and registers" if family.registers else before,
        "if the model can" if name == TIMM else RESIZES[family.resizes],
        family.layers,
    ]
