"""Hooks of the site: figures that the pipeline writes to plots/ stand beside the pages, and links to them hold."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PLOTS, PLACE = Path("plots"), "assets/plots"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the figures of plots/ to the files of the site."""
    for figure in sorted(PLOTS.glob("*.png")):
        files.append(File.generated(config, f"{PLACE}/{figure.name}", abs_src_path=str(figure.resolve())))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point `../plots/NAME.png`, which a reader of the repository follows, to the site's own copy."""
    return re.sub(r"\(\.\./plots/([\w.-]+\.png)\)", rf"({PLACE}/\1)", markdown)
