"""Commands that compare runs: compare, gate, grid, ablation, documents, bench."""

import argparse
from pathlib import Path

from panollava.cli.arguments import Add, positive, whole
from panollava.terminal import say

# `bench` and the sizes of `bench.sizes.SIZES`, repeated here so that help imports nothing; a test compares them.
BENCHMARKS, SIZES = ("train", "ask", "views", "all", "scaling"), ("tiny", "7b")
MODES = ("ddp", "fsdp")


def compare(options: argparse.Namespace) -> int:
    """Test whether two runs differ, question by question.

    A and B are git revisions, DVC experiments, predictions.jsonl files, or `workspace`: the run in this folder. Commas
    separate several seeds of one model (A1,A2,A3 B1,B2,B3), which are averaged per question. Predictions come from the
    DVC cache; nothing is checked out.
    Intervals and p values resample panoramas; p (Holm) is corrected for the number of rows.
    """
    from panollava.experiments.compare import compare_sources
    from panollava.io import check_writable, write_json

    if options.json:
        check_writable(Path(options.json))
    comparison = compare_sources(options.a, options.b, draws=options.draws, seed=options.seed)
    say(comparison.markdown())
    if options.json:
        write_json(Path(options.json), comparison.as_json())
    return 0


def gate(options: argparse.Namespace) -> int:
    """Compare the benchmark numbers with the accepted ones; fail if one got worse.

    The rules are the section `gate` of params.yaml. The exit code is 0 if they hold, 1 if a number got worse, 2 if one
    is missing.
    """
    from panollava.experiments.gate import command

    return command(options.base, accepting=options.accept)


def grid(options: argparse.Namespace) -> int:
    """Run every encoder with every language model, and write metrics/combinations.json and .csv.

    Each combination is a named DVC experiment; finished ones are kept.
    """
    from panollava.experiments.grid import markdown, run_grid
    from panollava.experiments.runner import command

    return command(lambda: markdown(run_grid()))


def ablation(options: argparse.Namespace) -> int:
    """Run the ablation study, three seeds an arm, and write metrics/ablation.json and .csv and plots/ablation.png.

    Each arm and seed is a named DVC experiment; finished ones are kept. Without ARM, all arms run.
    """
    from panollava.experiments.ablation import ARMS, FIGURE, NAME, markdown, run_ablation
    from panollava.experiments.runner import command
    from panollava.io import replacing
    from panollava.report.ablation_figure import ablation_figure
    from panollava.report.style import png_bytes

    def study() -> str:
        content = run_ablation(options.arms or list(ARMS))
        with replacing(FIGURE) as file:
            file.write(png_bytes(ablation_figure(content[NAME])))
        return markdown(content)

    return command(study)


def documents(options: argparse.Namespace) -> int:
    """Write the tables of README.md and docs/ from metrics/, or check the committed ones.

    With --check, nothing is written: the committed pages are compared with the committed metrics. The exit code is 0 if
    they agree, else 1.
    """
    from panollava.report.documents import check_documents, write_documents

    if options.check:
        check_documents(Path())
    else:
        for page in write_documents(Path()):
            say(page)
    return 0


def bench(options: argparse.Namespace) -> int:
    """Time this package beside its alternatives.

    WHAT is one of

      train   a LoRA step on eight questions of one panorama, beside Hugging Face's LLaVA
      ask     a fresh question, a further one on the same panorama, and sixteen at once, beside LLaVA's generate
      views   drawing pinhole views, beside py360convert and OpenCV; needs pip install 'panollava[bench]'
      all     the three of them
      scaling the training stages and the answering of questions on one process and on several, with everything else
              as in a run; --processes, --modes and --work belong to it

    Both sides have the same random weights and must first give the same results. Then one process times them
    alternately.
    """
    from panollava.bench.running import run, run_scaling
    from panollava.io import check_writable, write_json

    if options.json:
        check_writable(Path(options.json))
    if options.what == "scaling":
        result = run_scaling(options.size, Path(options.work), options.processes, options.modes)
    else:
        result = run(options.what, options.size, options.rounds)
    if options.json:
        write_json(Path(options.json), result)
    return 0


def add_commands(add: Add) -> None:
    """Add these commands and their arguments."""
    _add_compare_arguments(add(compare))
    choice = add(gate).add_mutually_exclusive_group()
    choice.add_argument("--base", metavar="REV", help="a git revision to compare with instead")
    choice.add_argument("--accept", action="store_true", help="accept the present numbers")
    add(grid)
    add(ablation).add_argument("arms", metavar="ARM", nargs="*", help="an arm of experiments/ablation.py")
    add(documents).add_argument("--check", action="store_true", help="compare what is committed; write nothing")
    _add_bench_arguments(add(bench))


def _add_compare_arguments(command: argparse.ArgumentParser) -> None:
    for name in ("a", "b"):
        text = "a revision, an experiment or a .jsonl file, or several separated by commas"
        command.add_argument(name, metavar=name.upper(), help=text)
    command.add_argument("--json", metavar="OUT", help="write all numbers to this file too")
    text = "resamples and exchanges drawn for each row (default: %(default)s)"
    command.add_argument("--draws", type=positive, default=10_000, metavar="N", help=text)
    command.add_argument("--seed", type=whole, default=0, metavar="N", help="of the draws (default: %(default)s)")


def _add_bench_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("what", metavar="WHAT", choices=BENCHMARKS, help=f"what to time: {', '.join(BENCHMARKS)}")
    text = "of the models: tiny takes two cores a minute, 7b a GPU with 80 GB eight (default: %(default)s)"
    command.add_argument("--size", choices=SIZES, default=SIZES[0], help=text)
    command.add_argument("--json", metavar="OUT", help="also write the numbers to this file")
    text = "how often each side is timed (default: %(default)s)"
    command.add_argument("--rounds", type=positive, default=7, metavar="N", help=text)
    text = "numbers of processes of `scaling` (default: 1 and 2)"
    command.add_argument("--processes", type=positive, nargs="+", default=[1, 2], metavar="N", help=text)
    text = "how `scaling` divides the work: ddp, or fsdp, which needs GPUs (default: ddp)"
    command.add_argument("--modes", nargs="+", choices=MODES, default=["ddp"], help=text)
    text = "folder of `scaling`; launches whose results it holds are not repeated (default: %(default)s)"
    command.add_argument("--work", default=".scratch/scaling", metavar="FOLDER", help=text)
