"""Commands that use a model: ask, chat, detect, segment, merge."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from panollava.cli.arguments import Add, decoded, positive
from panollava.terminal import in_one_line, say, warn

if TYPE_CHECKING:
    from panollava.chat import Chat, PanoLLaVAModel

MODEL = "data/finetune_lora"
# The keys of `corpus.wording.DETECT`, repeated here so that help imports nothing; a test compares them.
LANGUAGES = ("en", "ko")


def open_model(path: str) -> "PanoLLaVAModel":
    """Return a model; raises ValueError if the default one is not there yet, or memory is too short."""
    import warnings

    import torch
    from transformers.utils import logging

    from panollava.chat import PanoLLaVAModel

    if path == MODEL and not Path(path).is_dir():
        raise ValueError(f"there is no {MODEL} here; run `make repro` in the project's folder, or name a --model")
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)  # PEFT uses what transformers will rename
    try:
        return PanoLLaVAModel.from_pretrained(path)
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"the GPU has too little memory for {path}; free it, or hide it: CUDA_VISIBLE_DEVICES="
        ) from error


def open_chat(options: argparse.Namespace) -> "Chat":
    """Return a conversation; the image is opened first, since its path is the likeliest mistake."""
    from panollava.corpus.images import open_panorama

    panorama = open_panorama(options.image)
    return open_model(options.model).chat(panorama)


def ask(options: argparse.Namespace) -> int:
    """Answer one question about a panorama.

    The question may be in any language that the model has learned. Directions are degrees to the right of the image's
    centre and above the horizon, boxes are [yaw, pitch, width, height].
    """
    question = decoded(options.question)
    say(open_chat(options).ask(question, max_new_tokens=options.max_new_tokens))
    return 0


def chat(options: argparse.Namespace) -> int:
    """Talk about a panorama, one question a line.

    Each question sees the earlier ones and their answers; the panorama is computed once. Where the context is full, the
    oldest questions are forgotten. An empty line or Ctrl-D ends the conversation.

    Through a pipe, each line of input gives one line of output: the answer, its line breaks as spaces. A question that
    is refused gives an empty line and a message on standard error, and the exit code is 1 at the end. An empty line
    gives an empty line.
    """
    if sys.stdin is None:
        raise ValueError("standard input is closed, so no question can come; ask through a terminal or a pipe")
    conversation = open_chat(options)
    if sys.stdin.isatty():
        return _talk(conversation, options.max_new_tokens)
    return _answer_lines(conversation, options.max_new_tokens)


def _talk(conversation: "Chat", tokens: int) -> int:
    """Answer the questions that somebody types."""
    told = False
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        try:
            question = input()
        except EOFError:
            print(file=sys.stderr)
            return 0
        if not question.strip():
            return 0
        try:
            told |= _forget(conversation, decoded(question), tokens, quiet=told)
            say(conversation.ask(question, max_new_tokens=tokens))
        except ValueError as error:  # a question that is too long need not end the conversation
            warn(error)


def _answer_lines(conversation: "Chat", tokens: int) -> int:
    """Answer each line of standard input in one line, and return the exit code."""
    refused, told = 0, False
    for number, line in enumerate(sys.stdin, start=1):
        question, answer = line.removesuffix("\n"), ""
        try:
            if question.strip():
                told |= _forget(conversation, decoded(question), tokens, quiet=told, place=f"line {number}: ")
                answer = conversation.ask(question, max_new_tokens=tokens)
        except ValueError as error:
            refused += 1
            warn(f"line {number}: {error}")
        say(in_one_line(answer))
    if refused:
        warn(f"panollava: {refused} of {number} questions were refused; their lines are empty")
    return 1 if refused else 0


def _forget(conversation: "Chat", question: str, tokens: int, *, quiet: bool, place: str = "") -> bool:
    """Make room for a question; return whether something was forgotten for it, and say so unless `quiet`."""
    forgotten = conversation.make_room(question, max_new_tokens=tokens)
    if forgotten and not quiet:
        warn(f"{place}the context is full; from here on, the oldest questions are forgotten")
    return bool(forgotten)


def detect(options: argparse.Namespace) -> int:
    """List all objects that a description fits, such as "every red object", "every door" or "everything".

    One a line: its label and its box [yaw, pitch, width, height], degrees to the right of the image's centre and above
    the horizon. With --language ko the description is Korean, such as "모든 빨간색 물체".
    """
    from panollava.corpus.directions import whole_box
    from panollava.corpus.vocabulary import detection_text

    description = decoded(options.description)
    found = open_chat(options).detect(description, language=options.language, max_new_tokens=options.max_new_tokens)
    for item in found:
        say(in_one_line(detection_text([(item.label, whole_box(item.box_deg))])))
    return 0


def segment(options: argparse.Namespace) -> int:
    """Draw the mask of the object in a question, such as "Give the box of the red cube."

    The mask is a picture of the panorama's size, white where the object is.
    """
    from PIL import Image

    from panollava.io import check_writable, replacing

    question = decoded(options.question)
    check_writable(Path(options.out))
    mask = open_chat(options).segment(question)
    with replacing(Path(options.out)) as file:
        Image.fromarray(mask).save(file, format="PNG")
    say(f"{options.out}: {mask.mean():.1%} of the pixels")
    return 0


def merge(options: argparse.Namespace) -> int:
    """Write a folder of a training stage as one full checkpoint, LoRA weights merged.

    The checkpoint carries its own code: AutoModelForImageTextToText opens it, also where this package is not installed
    (with trust_remote_code=True there). Nothing is left of it should the writing fail. Its README.md is a model card;
    --metrics adds the scores of these weights.
    """
    from panollava.backbones.adapter import ADAPTER
    from panollava.backbones.matching import trained_names
    from panollava.backbones.trained import PARTS
    from panollava.io import check_vacant
    from panollava.report.model_card import read_metrics

    folder = Path(options.lora)
    if not (folder / PARTS).is_file():
        raise ValueError(f"{folder} has no {PARTS}: it is not a folder that a training of PanoLLaVA wrote")
    if not (folder / ADAPTER).is_file() and not any("language_model." in name for name in trained_names(folder)):
        raise ValueError(f"{folder} has neither LoRA weights nor weights of the language model: it is not finetuned")
    check_vacant(Path(options.out))
    metrics = None if options.metrics is None else read_metrics(Path(options.metrics))
    open_model(options.lora).save_pretrained(options.out, metrics=metrics)
    say(f"{options.out}: a full checkpoint")
    return 0


def add_commands(add: Add) -> None:
    """Add these commands and their arguments."""
    commands = {function: add(function) for function in (ask, chat, detect, segment, merge)}
    for function in (ask, chat, detect, segment):
        commands[function].add_argument(
            "image", metavar="IMAGE", help="an equirectangular panorama, twice as wide as high"
        )
        text = "a trained folder, a full checkpoint or a hub id (default: %(default)s)"
        commands[function].add_argument("--model", default=MODEL, metavar="PATH", help=text)
    for function in (ask, chat, detect):
        text = "tokens of the longest answer (default: %(default)s)"
        commands[function].add_argument("--max-new-tokens", type=positive, default=256, metavar="N", help=text)
    for function in (ask, segment):
        commands[function].add_argument("question", metavar="QUESTION", help="the question, in quotes")
    commands[detect].add_argument("description", metavar="DESCRIPTION", help="what to look for, in quotes")
    text = "of the description, one of %(choices)s (default: %(default)s)"
    commands[detect].add_argument("--language", choices=LANGUAGES, default=LANGUAGES[0], help=text)
    commands[segment].add_argument("out", metavar="OUT", help="the PNG file to write")
    commands[merge].add_argument("lora", metavar="LORA", help=f"a folder that finetuning wrote, such as {MODEL}")
    commands[merge].add_argument("out", metavar="OUT", help="the folder to write; if it exists, it must be empty")
    text = "metrics/evaluate.json of the run that wrote LORA; its scores go into the model card"
    commands[merge].add_argument("--metrics", metavar="FILE", help=text)
