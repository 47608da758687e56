"""The command line: `panollava ask`, `chat`, `view`, `train`, `evaluate`, `merge`, `import`, `validate` and more.

Answers and reports go to standard output, everything else to standard error. An error that the user can correct ends in
a message and the exit code 1. Each command imports what it needs, so help appears at once.
"""

import argparse
import inspect
from collections.abc import Callable
from typing import Never

from panollava import terminal
from panollava.cli import data, model, pretrained, studies, training, viewing

EXAMPLES = """\
examples:
  panollava ask panorama.jpg "What is to the left of the door?"
  panollava ask panorama.jpg "이 파노라마에서 어떤 객체들을 볼 수 있나요?" --model my/checkpoint
  panollava chat panorama.jpg
  panollava detect panorama.jpg "every red object"
  panollava train my/dataset --output runs/first --encoder siglip --llm vicuna --epochs 3
  panollava evaluate runs/first/finetune_lora runs/first/store --output runs/first
  panollava view panorama.jpg
  panollava view data/store data/evaluate/predictions.jsonl
  panollava merge data/finetune_lora my/checkpoint
  panollava import bench360 360Bench.tsv my/dataset --images ERP_images
  panollava validate my/dataset
  panollava convert smollm2
  panollava compare main vicuna --json comparison.json
  panollava gate --base main
  panollava ablation default mlp
  panollava documents --check
  panollava bench train --json train.json

`panollava COMMAND --help` says more about each command.
"""


class Parser(argparse.ArgumentParser):
    """A parser whose messages hold no control characters of the arguments."""

    def error(self, message: str) -> Never:
        """Print the message and exit with code 2."""
        super().error(terminal.printable(message))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; the help of a command is the docstring of its function, which it sets as `run`."""
    parser = Parser(
        prog="panollava",
        description="Ask a vision-language model about 360° panoramas, and look after its data, weights and numbers.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(function: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        text = inspect.cleandoc(function.__doc__ or "")
        command = commands.add_parser(
            function.__name__.rstrip("_"),  # a function cannot be called `import`
            help=text.partition("\n")[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=function)
        return command

    for theme in (model, viewing, training, data, pretrained, studies):
        theme.add_commands(add)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code."""

    def command() -> int:
        options = build_parser().parse_args(arguments)
        return options.run(options)

    return terminal.run("panollava", command)
