"""Commands that work on data sets: import, validate."""

import argparse
import math
from pathlib import Path

from panollava.cli.arguments import Add, whole
from panollava.terminal import say

# The names of `corpus.importers.IMPORTERS`, repeated here so that help imports nothing; a test compares them.
FORMATS = ("quic360", "llava", "coco", "bench360", "vqa", "imagefolder", "stanford2d3d")


def import_(options: argparse.Namespace) -> int:
    """Turn a public data set into a dataset of records, with copies of its images.

    NAME is the layout, SRC the download:

      quic360       QuIC-360's .tsv or CORA's .csv; or the folder with train, valid and test
      llava         LLaVA conversations, a JSON list or one a line (.jsonl)
      coco          panoramic detection in COCO's JSON: 360-Indoor, PANDORA
      bench360      360Bench.tsv; the options are put in an order drawn with --seed
      vqa           the folder with one *questions.json and one *annotations.json
      imagefolder   OmniCoT: the folder with metadata.jsonl, or the one above train, validation and test
      stanford2d3d  the folder with assets/ and area_*/pano/

    DST must not exist, or be empty; it appears when it is complete. Bad samples are counted and shown by kind, and
    nothing is written then, unless --drop-bad-records leaves them out. Omissions are counted and shown. Every record's
    metadata holds source and licence.
    """
    from panollava.corpus.importers import import_dataset
    from panollava.corpus.importers.common import Request
    from panollava.tasks.checks import answer_problems

    report = import_dataset(
        options.name,
        Request(Path(options.src), None if options.images is None else Path(options.images), options.seed),
        Path(options.dst),
        answer_problems,
        source=options.source,
        licence=options.licence,
        allow_any_aspect=options.allow_any_aspect,
        drop_bad_images=options.drop_bad_images,
        drop_bad_records=options.drop_bad_records,
    )
    say(report)
    return 0


def validate(options: argparse.Namespace) -> int:
    """Check a dataset and list all of its errors.

    Records are checked against the format, texts of answers against their typed answers, images are decoded to their
    end. With --model, records are also checked against the context of its language model, as before a training. Of a
    checkpoint or a trained folder, every file is compared with its hash in files.json. The exit code is 0 if all is
    well, else 1.
    """
    if (Path(options.dataset) / "files.json").is_file():
        from panollava.backbones.files import check_files

        check_files(Path(options.dataset), hashed_bytes=math.inf)
        say(f"{options.dataset}: all files are as they were written")
        return 0
    from panollava.corpus.validation import Check, validate_dataset
    from panollava.tasks.checks import answer_problems

    checks: list[Check] = [answer_problems]
    if options.model is not None:
        from panollava.backbones.checkpoint import load_processor
        from panollava.training.lengths import Context

        checks.append(Context(load_processor(options.model)).problems)
    report = validate_dataset(Path(options.dataset), *checks, allow_any_aspect=options.allow_any_aspect)
    say(report)
    return 1 if report.problems else 0


def add_commands(add: Add) -> None:
    """Add these commands and their arguments."""
    importing, validating = add(import_), add(validate)
    _add_import_arguments(importing)
    validating.add_argument("dataset", metavar="DATASET", help="a .json or .jsonl file, or a folder with one")
    text = "check the lengths too: a trained folder, a full checkpoint or a hub id"
    validating.add_argument("--model", metavar="PATH", help=text)
    for command in (importing, validating):
        text = "accept images that are not twice as wide as high"
        command.add_argument("--allow-any-aspect", action="store_true", help=text)


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
    text = "leave out samples that cannot be read, and count them by kind"
    command.add_argument("--drop-bad-records", action="store_true", help=text)
