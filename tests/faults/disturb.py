"""Kill the steps of a small pipeline, refuse them space and damage their files; then run them again.

What an undisturbed run leaves must be there at the end, byte for byte, and nothing half done may open in between.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import Random

PROJECT = Path(__file__).resolve().parents[2]
# Processes that the fork server starts find the modules of the tests there too.
sys.path[:0] = [str(PROJECT / folder) for folder in ("src", ".", "tests", "tests/faults")]

import scenarios  # noqa: E402
from counting import Tally, run  # noqa: E402
from pipeline import OUTPUTS, STEPS, prepared  # noqa: E402
from processes import run_whole, tree  # noqa: E402
from scenarios import DAMAGES, SHORTENED, Baseline  # noqa: E402

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


def kills(baseline: Baseline, rng: Random, full: bool) -> Iterator[Scenario]:
    """Yield kills right before changes of files, and at full length at random moments too."""
    points = range(1, len(baseline.changes) + 1)
    for at in sorted(rng.sample(points, min(len(points), 16 if full else 1))):
        yield "kill", f"{baseline.step}: {baseline.changes[at - 1]}", partial(scenarios.kill_at, baseline, at=at)
    for seconds in [rng.uniform(0.2, 1.5) for _ in range(4 if full else 0)]:
        name = f"{baseline.step}: after {seconds:.2f} s"
        yield "kill", name, partial(scenarios.kill_after, baseline, seconds=seconds)


def full_disks(baseline: Baseline, rng: Random, full: bool) -> Iterator[Scenario]:
    """Yield refused changes, and a full disk for each size of file that a step writes."""
    numbered = enumerate(baseline.changes, start=1)
    points = [at for at, change in numbered if not change.startswith(("os.remove", "os.rmdir"))]
    for at in sorted(rng.sample(points, min(len(points), 16 if full else 1))):
        name = f"{baseline.step}: {baseline.changes[at - 1]}"
        yield "no space", name, partial(scenarios.refuse_at, baseline, at=at)
    written = tree(baseline.end).keys() - tree(baseline.start).keys()
    sizes = sorted({(baseline.end / name).stat().st_size for name in written} - {0})
    for size in sizes if full else ():
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
        # The content of the store and of an imported dataset has no hashes of its own; DVC has those of the store.
        kinds = SHORTENED if baseline.step in ("preprocess", "import") else DAMAGES
        for file in sorted(path.relative_to(baseline.end) for path in output.rglob("*") if path.is_file()):
            for kind in kinds:
                call = partial(scenarios.damage_output, baseline, file=file, kind=kind)
                cases.append(("damaged output", f"{file} {kind}", call))
    yield from cases if full else rng.sample(cases, min(len(cases), 2))


def choose(work: Path, full: bool) -> list[Scenario]:
    """Run the pipeline undisturbed and return the scenarios of a run of this length."""
    rng, chosen = Random(SEED), []
    for baseline in baselines(work):
        chosen += [*kills(baseline, rng, full), *full_disks(baseline, rng, full), *damages(baseline, rng, full, work)]
    return chosen


def disturb(full: bool) -> Tally:
    """Run all scenarios, two at once."""
    tally = Tally()
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
                tally.add(kind, [] if message is None else [f"{case}: {message}"])
    return tally


if __name__ == "__main__":
    sys.exit(run(__doc__, disturb))
