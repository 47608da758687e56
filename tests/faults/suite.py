"""The fault suite: `make faults` runs a part of it in under two minutes, `make faults FULL=1` all of it.

It kills the steps of a small pipeline, refuses them space and damages their files; then it opens hostile files and
mutated inputs. It prints every failure, and a count for each kind; the exit code is 1 if there was a failure.
"""

import argparse
import logging
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import Random

PROJECT = Path(__file__).resolve().parents[2]
# Processes that the fork server starts find the modules of the tests there too.
sys.path[:0] = [str(PROJECT / folder) for folder in ("src", ".", "tests", "tests/faults")]

import fuzz  # noqa: E402
import hostile  # noqa: E402
import scenarios  # noqa: E402
from pipeline import OUTPUTS, STEPS, prepared  # noqa: E402
from processes import run_whole, tree  # noqa: E402
from scenarios import DAMAGES, Baseline  # noqa: E402

SEED = 0
AT_ONCE = 2
# What is done, where, and the call that does it in a new folder and returns what went wrong.
Scenario = tuple[str, str, Callable[[Path], str | None]]


def baselines(folder: Path) -> list[Baseline]:
    """Run every step undisturbed."""
    changes: dict[str, list[str]] = {}

    def run_step(step: str, where: Path) -> None:
        changes[step] = run_whole(step, where).changes

    starts = prepared(folder, run_step)
    ends = dict(zip(STEPS, [folder / str(number) for number in range(1, len(STEPS) + 1)], strict=True))
    return [Baseline(step, starts[step], ends[step], changes[step]) for step in STEPS]


def spread(count: int, most: int, rng: Random) -> list[int]:
    """Return at most `most` of the numbers from 1 to `count`, the last among them."""
    return sorted({*rng.sample(range(1, count + 1), min(count, most) - 1), count})


def kills(baseline: Baseline, rng: Random, full: bool) -> Iterator[Scenario]:
    """Yield kills right before changes of files, and at full length at random moments too."""
    for at in spread(len(baseline.changes), 16 if full else 2, rng):
        yield "kill", f"{baseline.step}: {baseline.changes[at - 1]}", partial(scenarios.kill_at, baseline, at=at)
    for seconds in [rng.uniform(0.2, 1.5) for _ in range(4 if full else 0)]:
        name = f"{baseline.step}: after {seconds:.2f} s"
        yield "kill", name, partial(scenarios.kill_after, baseline, seconds=seconds)


def full_disks(baseline: Baseline, rng: Random, full: bool) -> Iterator[Scenario]:
    """Yield refused changes, and a full disk for each size of file that a step writes."""
    numbered = enumerate(baseline.changes, start=1)
    points = [at for at, change in numbered if not change.startswith(("os.remove", "os.rmdir"))]
    for at in rng.sample(points, min(len(points), 16 if full else 1)):
        name = f"{baseline.step}: {baseline.changes[at - 1]}"
        yield "no space", name, partial(scenarios.refuse_at, baseline, at=at)
    written = tree(baseline.end).keys() - tree(baseline.start).keys()
    sizes = sorted({(baseline.end / name).stat().st_size for name in written} - {0})
    for size in sizes if full else rng.sample(sizes, 1):
        name = f"{baseline.step}: no file beyond {size - 1} bytes"
        yield "full disk", name, partial(scenarios.full_at, baseline, size=size - 1)


def damages(baseline: Baseline, rng: Random, full: bool, work: Path) -> Iterator[Scenario]:
    """Yield damaged checkpoints and features, and damaged results."""
    cases: list[Scenario] = []
    if baseline.step in ("train_vision", "train_resampler", "finetune_lora"):
        for file in scenarios.scratch_files(baseline, work / f"scratch-{baseline.step}"):
            for kind in DAMAGES:
                call = partial(scenarios.damage_checkpoint, baseline, file=file, kind=kind)
                cases.append(("damaged checkpoint", f"{baseline.step}: {file} {kind}", call))
    if baseline.step in OUTPUTS:
        output = baseline.end / OUTPUTS[baseline.step]
        for file in sorted(path.relative_to(baseline.end) for path in output.rglob("*") if path.is_file()):
            for kind in DAMAGES:
                call = partial(scenarios.damage_output, baseline, file=file, kind=kind)
                cases.append(("damaged output", f"{file} {kind}", call))
    yield from cases if full else rng.sample(cases, min(len(cases), 3))


def choose(work: Path, full: bool) -> list[Scenario]:
    """Run the pipeline undisturbed and return the scenarios of a run of this length."""
    rng, chosen = Random(SEED), []
    for baseline in baselines(work):
        chosen += [*kills(baseline, rng, full), *full_disks(baseline, rng, full), *damages(baseline, rng, full, work)]
    return chosen


def disturb(full: bool) -> tuple[Counter[str], Counter[str]]:
    """Run all scenarios and print what went wrong; return their numbers by kind, and those of the failures."""
    counts: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="panollava-faults-") as name:
        work = Path(name)
        chosen = choose(work, full)

        def one(number: int) -> str | None:
            folder = work / f"scenario-{number}"
            message = chosen[number][2](folder)
            shutil.rmtree(folder)
            return message

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for (kind, case, _), message in zip(chosen, pool.map(one, range(len(chosen))), strict=True):
                counts[kind] += 1
                failures[kind] += message is not None
                if message is not None:
                    print(f"{kind}, {case}: {message}", flush=True)
    return counts, failures


def main() -> int:
    """Run the suite and print its counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="run all of it, which takes about an hour")
    full = parser.parse_args().full
    logging.disable(logging.WARNING)
    bad = 0
    for part in (disturb, hostile.open_all, fuzz.mutate):
        started = time.monotonic()
        counts, failures = part(full)
        for kind, count in counts.items():
            print(f"{kind:24} {count - failures[kind]:8} of {count:8} as they should be")
        print(f"{part.__name__}: {time.monotonic() - started:.0f} s", flush=True)
        bad += failures.total()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
