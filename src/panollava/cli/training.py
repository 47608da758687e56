"""Commands that train and evaluate without DVC, on the code of the pipeline's stages: train, evaluate."""

import argparse
import re
from pathlib import Path

from panollava.cli.arguments import Add, positive, whole

# By the names of the command those of the pipeline, which name the folders too.
STAGES = {"vision": "train_vision", "resampler": "train_resampler", "finetune": "finetune_lora"}
# The settings where there is no params.yaml.
DEFAULTS = Path(__file__).with_name("defaults.yaml")
# Those of `training.trackers.TRACKERS`, repeated here so that help imports nothing; a test compares them.
TRACKERS = ("tensorboard", "wandb", "trackio", "dvclive")

TRAIN_EXAMPLES = """\
examples:
  panollava train my/dataset --output runs/first
  panollava train my/dataset --output runs/mine --encoder siglip --llm Qwen/Qwen3-1.7B --epochs 3
  panollava train my/dataset --output runs/mine --stage finetune --lora-rank 64 --validate-every 200 --keep best
  panollava train my/dataset --output runs/full --stage finetune --previous runs/mine/train_resampler --no-use-lora
  panollava train data/store --output runs/try --weights standin --steps 20 --blind
  panollava train my/dataset --output runs/cube --set model.views.strategy=cubemap --set evaluate.shuffled=50
  accelerate launch --multi_gpu --num_processes 8 .venv/bin/panollava train my/dataset --output runs/eight
"""
EVALUATE_EXAMPLES = """\
examples:
  panollava evaluate runs/first/finetune_lora runs/first/store --output runs/first
  panollava evaluate runs/first/finetune_lora my/other_dataset --output runs/other --blind runs/first/finetune_blind
"""


def train(options: argparse.Namespace) -> int:
    """Train a model on a dataset, in the three stages of the pipeline, or in one of them.

    DATASET is a record file, a folder with one, or a store that the stage preprocess wrote. Records are checked and
    written to OUTPUT/store, divided into training, validation and test panoramas.

    Stages are vision (encoder and resampler, on overlapping views), resampler (against the frozen language model) and
    finetune (language model, resampler and mask head). OUTPUT gets the folder of each stage (train_vision,
    train_resampler, finetune_lora), metrics/STAGE.json, plots/STAGE/loss.csv and settings/STAGE.yaml.

    What no option gives comes from params.yaml in the current folder, or else from the defaults of this command, which
    are those of the pipeline for hub checkpoints. All settings are printed at the start. A killed run that is started
    again in the same folder continues where it was; finished stages are kept.
    """
    from panollava.cli.train_run import train_stages

    train_stages(options)
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Evaluate a model on a dataset: answers, scores with their intervals, and a report page.

    MODEL is a trained folder, a full checkpoint or a hub id. DATASET is a store, of which the test split is asked, or
    records, of which all are asked unless they name their splits or --split divides them as training does.

    OUTPUT gets metrics/evaluate.json, metrics/latency.json, evaluate/predictions.jsonl, plots/figures and
    plots/report.html, as the stages evaluate and visualise write them. Rows for a blind twin are there with --blind
    alone.
    """
    from panollava.cli.evaluate_run import evaluate_dataset

    evaluate_dataset(options)
    return 0


def number(text: str) -> float:
    """Return a number above zero; raises ArgumentTypeError."""
    if not re.fullmatch(r"[0-9]{0,9}\.?[0-9]{0,9}(e-?[0-9]{1,2})?", text) or not any(map(str.isdigit, text)):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number above 0")
    if (value := float(text)) <= 0:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number above 0")
    return value


def warmup(text: str) -> float | int:
    """Return a share below 1 or a whole number of steps; raises ArgumentTypeError."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else number(text)


def add_commands(add: Add) -> None:
    """Add these commands and their arguments."""
    training, evaluating = add(train), add(evaluate)
    training.epilog, evaluating.epilog = TRAIN_EXAMPLES, EVALUATE_EXAMPLES
    _add_places(training)
    _add_model(training)
    _add_numbers(training)
    _add_launch(training)
    _add_evaluate_arguments(evaluating)


def _add_places(command: argparse.ArgumentParser) -> None:
    command.add_argument("dataset", metavar="DATASET", help="records (a file, or a folder with one), or a store")
    command.add_argument("--output", required=True, metavar="OUTPUT", help="the folder for everything that is written")
    text = "one of vision, resampler, finetune, or all of them in this order (default: %(default)s)"
    command.add_argument("--stage", choices=(*STAGES, "all"), default="all", help=text)
    text = "the folder of the stage before, for a run that begins later than vision (default: the one in OUTPUT)"
    command.add_argument("--previous", metavar="FOLDER", help=text)
    text = "also finetune the blind twin, which sees no images: OUTPUT/finetune_blind"
    command.add_argument("--blind", action="store_true", help=text)
    text = "accept images that are not twice as wide as high"
    command.add_argument("--allow-any-aspect", action="store_true", help=text)


def _add_model(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("the model")
    group.add_argument("--encoder", metavar="NAME", help="an image encoder: a preset, a hub id or a folder")
    group.add_argument("--llm", metavar="NAME", help="a language model: a preset, a hub id or a folder")
    text = "the encoder's hidden state that is read (default: the preset's, else -1, the last; LLaVA reads -2 of CLIP)"
    group.add_argument("--feature-layer", type=int, metavar="N", help=text)
    text = "how dialogues are written (default: the preset's, else the model's own template)"
    group.add_argument("--chat-template", metavar="NAME", help=text)
    text = "the settings to start from: hub for real checkpoints, standin for small ones (default: %(default)s)"
    group.add_argument("--weights", choices=("hub", "standin"), default="hub", help=text)
    text = "the settings to start from (default: params.yaml in this folder, else those of the package)"
    group.add_argument("--params", metavar="FILE", help=text)
    text = "any key of params.yaml, such as model.views.strategy=cubemap; may be given several times"
    group.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)


def _add_numbers(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("training, for each stage that runs")
    length = group.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=number, metavar="N", help="how often each training panorama is drawn")
    length.add_argument("--steps", type=positive, metavar="N", help="optimiser steps, instead of epochs")
    group.add_argument("--batch-size", type=positive, metavar="N", help="panoramas in a batch")
    group.add_argument("--accumulation", type=positive, metavar="N", help="batches in a step")
    text = "of the stage's main part: encoder, resampler, or adapters (the language model without); for one --stage"
    group.add_argument("--learning-rate", type=number, metavar="X", help=text)
    group.add_argument("--warmup", type=warmup, metavar="X", help="a share of the steps below 1, or a number of steps")
    text = "finetune by LoRA adapters, or the language model itself"
    group.add_argument("--use-lora", action=argparse.BooleanOptionalAction, default=None, help=text)
    text = "of the adapters; alpha changes in proportion"
    group.add_argument("--lora-rank", type=positive, metavar="N", help=text)
    text = "of the language model, the first N layers stay as they are; above 0 its embeddings too"
    group.add_argument("--freeze-layers", type=whole, metavar="N", help=text)
    group.add_argument("--records-per-panorama", type=positive, metavar="N", help="the most that a draw shows")
    text = "hold the frozen language model in 4 bits"
    group.add_argument("--load-in-4bit", action=argparse.BooleanOptionalAction, default=None, help=text)
    group.add_argument("--validate-every", type=positive, metavar="N", help="steps between two validations")
    text = "the weights of the last step, or those with the smallest validation loss"
    group.add_argument("--keep", choices=("last", "best"), help=text)
    text = "stop after N validations in a row without a smaller loss"
    group.add_argument("--patience", type=positive, metavar="N", help=text)
    group.add_argument("--seed", type=whole, metavar="N", help="decides everything that is random")


def _add_launch(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("this machine; changes no result")
    group.add_argument("--workers", type=whole, metavar="N", help="processes that read panoramas")
    group.add_argument("--save-steps", type=positive, metavar="N", help="steps between two checkpoints")
    for name, text in (
        ("--activation-checkpointing", "compute layers twice, to save memory"),
        ("--compile", "compile the language model's layers"),
    ):
        group.add_argument(name, action=argparse.BooleanOptionalAction, default=None, help=text)
    text = "trackers, each must be installed; they log in OUTPUT/runs (default: none)"
    group.add_argument("--report-to", nargs="+", choices=("none", *TRACKERS), metavar="NAME", help=text)


def _add_evaluate_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="a trained folder, a full checkpoint or a hub id")
    command.add_argument("dataset", metavar="DATASET", help="a store, or records (a file, or a folder with one)")
    command.add_argument("--output", required=True, metavar="OUTPUT", help="the folder for everything that is written")
    command.add_argument("--blind", metavar="FOLDER", help="the blind twin of MODEL")
    text = "which panoramas are asked (default: test of a store, or of records that name their splits; else all)"
    command.add_argument("--split", choices=("test", "validation", "train", "all"), help=text)
    for name, default, text in (
        ("--batch-size", 16, "panoramas answered together"),
        ("--shuffled", 160, "panoramas whose questions are asked again about another panorama, as a baseline"),
        ("--resamples", 1000, "of the bootstrap over panoramas"),
        ("--samples", 4, "panoramas that the report shows"),
        ("--image-height", 1024, "of panoramas that come as records, in pixels at most"),
    ):
        command.add_argument(name, type=positive, default=default, metavar="N", help=f"{text} (default: %(default)s)")
    text = "of the bootstrap, and of the split of records (default: %(default)s)"
    command.add_argument("--seed", type=whole, default=0, metavar="N", help=text)
    text = "accept images that are not twice as wide as high"
    command.add_argument("--allow-any-aspect", action="store_true", help=text)
