"""The command line: `ask`, `chat`, `detect`, `segment`, `merge`, `import`, `validate`, `compare` and more.

Answers and reports go to standard output, everything else to standard error. What a user can put right ends in a
message and the exit code 1. Each command imports what it needs, so that asking for help costs nothing more.
"""

import argparse
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

if TYPE_CHECKING:
    from panollava.chat import Chat, PanoLLaVAModel

MODEL = "data/finetune_lora"
# The names of `corpus.importers.IMPORTERS`, spelt here so that asking for help imports nothing; a test compares them.
FORMATS = ("quic360", "llava", "coco", "bench360", "vqa", "imagefolder", "stanford2d3d")
# Of `bench`; the sizes are the names of `bench.sizes.SIZES`, compared by a test as well.
BENCHMARKS, SIZES = ("train", "ask", "views", "all"), ("tiny", "7b")
# Of `detect`: the keys of `corpus.wording.DETECT`, compared by a test too.
LANGUAGES = ("en", "ko")
EXAMPLES = """\
examples:
  panollava ask panorama.jpg "What is to the left of the door?"
  panollava ask panorama.jpg "이 파노라마에서 어떤 객체들을 볼 수 있나요?" --model my/checkpoint
  panollava chat panorama.jpg
  panollava detect panorama.jpg "every red object"
  panollava merge data/finetune_lora my/checkpoint
  panollava import bench360 360Bench.tsv my/dataset --images ERP_images
  panollava validate my/dataset
  panollava compare main vicuna --json comparison.json
  panollava gate --base main
  panollava bench train --json train.json

`panollava COMMAND --help` says more about each command.
"""


def open_model(path: str) -> "PanoLLaVAModel":
    """Return a model; raises ValueError if the default one is not there yet."""
    from transformers.utils import logging

    from panollava.chat import PanoLLaVAModel

    if path == MODEL and not Path(path).is_dir():
        raise ValueError(f"there is no {MODEL} here; run `make repro` in the project's folder, or name a --model")
    logging.disable_progress_bar()
    return PanoLLaVAModel.from_pretrained(path)


def open_chat(options: argparse.Namespace) -> "Chat":
    """Return a conversation; the image comes first, for it is what a slip of the pen spoils."""
    from panollava.corpus.images import open_panorama

    panorama = open_panorama(Path(options.image))
    return open_model(options.model).chat(panorama)


def ask(options: argparse.Namespace) -> int:
    """Answer one question about a panorama.

    Any language that the model has learned will do. Directions are degrees to the right of the image's centre and above
    the horizon, boxes are [yaw, pitch, width, height].
    """
    print(open_chat(options).ask(options.question, max_new_tokens=options.max_new_tokens))
    return 0


def chat(options: argparse.Namespace) -> int:
    """Talk about a panorama, one question a line.

    Each question sees the earlier ones and their answers; the panorama is computed once. An empty line or Ctrl-D ends
    the conversation. Questions may also come through a pipe; only the answers go to standard output.
    """
    from rich.console import Console

    conversation, console = open_chat(options), Console(stderr=True, highlight=False)
    while True:
        try:
            question = console.input("[bold cyan]> [/]")
        except (EOFError, KeyboardInterrupt):
            return 0
        if not question.strip():
            return 0
        try:
            print(conversation.ask(question, max_new_tokens=options.max_new_tokens), flush=True)
        except ValueError as error:  # a question that is too long need not end the conversation
            console.print(str(error), style="red", markup=False)


def detect(options: argparse.Namespace) -> int:
    """List all objects that a description fits, such as "every red object", "every door" or "everything".

    One a line: its label and its box [yaw, pitch, width, height], degrees to the right of the image's centre and above
    the horizon. With --language ko the description is Korean, such as "모든 빨간색 물체".
    """
    from panollava.corpus.directions import whole_box
    from panollava.corpus.vocabulary import detection_text

    found = open_chat(options).detect(
        options.description, language=options.language, max_new_tokens=options.max_new_tokens
    )
    for item in found:
        print(detection_text([(item.label, whole_box(item.box_deg))]))
    return 0


def segment(options: argparse.Namespace) -> int:
    """Draw the mask of what a question names, such as "Give the box of the red cube."

    The mask is a picture of the panorama's size, white where the object is.
    """
    from PIL import Image

    from panollava.io import replacing

    mask = open_chat(options).segment(options.question)
    with replacing(Path(options.out)) as file:
        Image.fromarray(mask).save(file, format="PNG")
    print(f"{options.out}: {mask.mean():.1%} of the pixels")
    return 0


def merge(options: argparse.Namespace) -> int:
    """Write a LoRA folder as one full checkpoint.

    The checkpoint carries its own code: AutoModelForImageTextToText opens it, also where this package is not installed
    (with trust_remote_code=True there). Nothing is left of it should the writing fail.
    """
    from panollava.backbones.assemble import ADAPTER, PARTS
    from panollava.io import check_vacant

    folder = Path(options.lora)
    for name in (ADAPTER, PARTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}: it is not a LoRA folder that a training of PanoLLaVA wrote")
    check_vacant(Path(options.out))
    open_model(options.lora).save_pretrained(options.out)
    print(f"{options.out}: a full checkpoint")
    return 0


def import_(options: argparse.Namespace) -> int:
    """Turn a public data set into a dataset of records, with copies of its images.

    NAME is the layout, SRC what was downloaded:

      quic360       QuIC-360's .tsv or CORA's .csv; or the folder with train, valid and test
      llava         a JSON list of LLaVA conversations
      coco          panoramic detection in COCO's JSON: 360-Indoor, PANDORA
      bench360      360Bench.tsv; the options are put in an order drawn with --seed
      vqa           the folder with one *questions.json and one *annotations.json
      imagefolder   OmniCoT: the folder with metadata.jsonl, or the one above train, validation and test
      stanford2d3d  the folder with assets/ and area_*/pano/

    DST must not exist, or be empty; it appears when it is complete. What is wrong is counted and shown, and nothing is
    written; what is left out is counted and shown. Source and licence are in every record's metadata.
    """
    from panollava.corpus.importers import import_dataset
    from panollava.corpus.importers.common import Request

    report = import_dataset(
        options.name,
        Request(Path(options.src), None if options.images is None else Path(options.images), options.seed),
        Path(options.dst),
        source=options.source,
        licence=options.licence,
        allow_any_aspect=options.allow_any_aspect,
        drop_bad_images=options.drop_bad_images,
    )
    print(report)
    return 0


def validate(options: argparse.Namespace) -> int:
    """Check a dataset and list everything that is wrong with it.

    Records are checked against the format, images are decoded to their end. The exit code is 0 if all is well, else 1.
    """
    from panollava.corpus.validation import validate_dataset

    report = validate_dataset(Path(options.dataset), allow_any_aspect=options.allow_any_aspect)
    print(report)
    return 1 if report.problems else 0


def compare(options: argparse.Namespace) -> int:
    """Test whether two runs differ, question by question.

    A and B are git revisions, DVC experiments or predictions.jsonl files; several seeds of one model are separated by
    commas (A1,A2,A3 B1,B2,B3) and averaged per question. Predictions come out of the DVC cache, nothing is checked
    out. Intervals and p values take panoramas for the units; p (Holm) is corrected for the number of rows.
    """
    from panollava.experiments.compare import compare_sources, write_comparison

    comparison = compare_sources(options.a, options.b, draws=options.draws, seed=options.seed)
    print(comparison.markdown())
    if options.json:
        write_comparison(comparison, Path(options.json))
    return 0


def gate(options: argparse.Namespace) -> int:
    """Compare the benchmark numbers with those accepted last, and refuse what got worse.

    The rules are the section `gate` of params.yaml. The exit code is 0 if they hold, 1 if a number got worse, 2 if one
    is missing.
    """
    from panollava.experiments.gate import main as run_gate

    base = [] if options.base is None else ["--base", options.base]
    return run_gate([*base, *(["--accept"] if options.accept else [])])


def grid(options: argparse.Namespace) -> int:
    """Run every encoder with every language model, and write the combination table into the README.

    Each combination is a named DVC experiment; those that are finished are kept.
    """
    from panollava.experiments.grid import main as run_grid

    return run_grid()


def bench(options: argparse.Namespace) -> int:
    """Time this package beside what one would use instead.

    WHAT is one of

      train   a LoRA step on eight questions of one panorama, beside Hugging Face's LLaVA
      ask     a fresh question, a further one on the same panorama, and sixteen at once, beside LLaVA's generate
      views   drawing pinhole views, beside py360convert and OpenCV; needs pip install 'panollava[bench]'
      all     the three of them

    Both sides have the same random weights, must first compute the same, and then take turns in one process.
    """
    from panollava.bench.running import run, write_json

    result = run(options.what, options.size, options.rounds)
    if options.json is not None:
        write_json(result, Path(options.json))
    return 0


def positive(text: str) -> int:
    """Return a positive whole number; raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def whole(text: str) -> int:
    """Return a whole number from 0 on; raises ArgumentTypeError."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _add_import_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", metavar="NAME", choices=FORMATS, help=f"the layout: {', '.join(FORMATS)}")
    command.add_argument("src", metavar="SRC", help="the annotations, a file or a folder")
    command.add_argument("dst", metavar="DST", help="the folder to write; if it exists, it must be empty")
    text = "the folder that image names are relative to (default: that of the annotations)"
    command.add_argument("--images", metavar="DIR", help=text)
    text = "decides the order of options and the wording of questions (default: %(default)s)"
    command.add_argument("--seed", type=whole, default=0, metavar="N", help=text)
    command.add_argument("--source", metavar="TEXT", help="where the data comes from, instead of what is known of NAME")
    command.add_argument("--licence", metavar="TEXT", help="its licence, instead of what is known of NAME")
    text = "leave out images that are missing, damaged or not 2:1, with their records, and count them"
    command.add_argument("--drop-bad-images", action="store_true", help=text)


def _add_bench_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("what", metavar="WHAT", choices=BENCHMARKS, help=f"what to time: {', '.join(BENCHMARKS)}")
    text = "of the models: tiny takes two cores a minute, 7b a GPU with 80 GB eight (default: %(default)s)"
    command.add_argument("--size", choices=SIZES, default=SIZES[0], help=text)
    command.add_argument("--json", metavar="OUT", help="also write the numbers to this file")
    text = "how often each side is timed (default: %(default)s)"
    command.add_argument("--rounds", type=positive, default=7, metavar="N", help=text)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; a command's help is the docstring of its function, which it sets as `run`."""
    parser = argparse.ArgumentParser(
        prog="panollava",
        description="Ask a vision-language model about 360° panoramas, and look after its data, weights and numbers.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    added = {}
    for function in (ask, chat, detect, segment, merge, import_, validate, compare, gate, grid, bench):
        text = inspect.cleandoc(function.__doc__ or "")
        added[function] = commands.add_parser(
            function.__name__.rstrip("_"),  # `import` is no name for a function
            help=text.partition("\n")[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added[function].set_defaults(run=function)
    for command in (added[ask], added[chat], added[detect], added[segment]):
        command.add_argument("image", metavar="IMAGE", help="an equirectangular panorama, twice as wide as high")
        text = "a trained folder, a full checkpoint or a hub id (default: %(default)s)"
        command.add_argument("--model", default=MODEL, metavar="PATH", help=text)
    for command in (added[ask], added[chat], added[detect]):
        text = "tokens of the longest answer (default: %(default)s)"
        command.add_argument("--max-new-tokens", type=positive, default=256, metavar="N", help=text)
    for command in (added[ask], added[segment]):
        command.add_argument("question", metavar="QUESTION", help="the question, in quotes")
    added[detect].add_argument("description", metavar="DESCRIPTION", help="what to look for, in quotes")
    text = "of the description, one of %(choices)s (default: %(default)s)"
    added[detect].add_argument("--language", choices=LANGUAGES, default=LANGUAGES[0], help=text)
    added[segment].add_argument("out", metavar="OUT", help="the PNG file to write")
    added[merge].add_argument("lora", metavar="LORA", help=f"a folder that finetuning wrote, such as {MODEL}")
    added[merge].add_argument("out", metavar="OUT", help="the folder to write; if it exists, it must be empty")
    _add_import_arguments(added[import_])
    added[validate].add_argument("dataset", metavar="DATASET", help="a .json or .jsonl file, or a folder with one")
    text = "accept images that are not twice as wide as high"
    for command in (added[import_], added[validate]):
        command.add_argument("--allow-any-aspect", action="store_true", help=text)
    for name in ("a", "b"):
        text = "a revision, an experiment or a .jsonl file, or several separated by commas"
        added[compare].add_argument(name, metavar=name.upper(), help=text)
    added[compare].add_argument("--json", metavar="OUT", help="write all numbers to this file too")
    text = "resamples and exchanges drawn for each row (default: %(default)s)"
    added[compare].add_argument("--draws", type=positive, default=10_000, metavar="N", help=text)
    added[compare].add_argument("--seed", type=int, default=0, help="of the draws (default: %(default)s)")
    _add_bench_arguments(added[bench])
    choice = added[gate].add_mutually_exclusive_group()
    choice.add_argument("--base", metavar="REV", help="a git revision to compare with instead")
    choice.add_argument("--accept", action="store_true", help="accept the present numbers")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = build_parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError, SafetensorError) as error:
        print(f"panollava: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
