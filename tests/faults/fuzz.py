"""Mutated inputs for every reader of `targets`: a documented refusal or a good result, never anything else.

Sound inputs, which must be read, are changed at random, from a seed. An exception that a target does not document is a
failure, and so is a case that takes longer than `SLOW` seconds.
"""

import signal
import string
import struct
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from types import FrameType

PROJECT = Path(__file__).resolve().parents[2]
# Processes that the fork server starts find the modules of the tests there too.
sys.path[:0] = [str(PROJECT / folder) for folder in ("src", ".", "tests", "tests/faults")]

import torch  # noqa: E402
from counting import Tally, run  # noqa: E402
from processes import CONTEXT  # noqa: E402
from targets import TARGETS  # noqa: E402

SEED, SLOW, HANG = 0, 2.0, 600.0
CASES, FULL_CASES = 4_000, 1_000_000
SHOWN = 3
# What breaks readers more often than noise does.
TOKENS = [
    '"', "'", "\\", "\\ud83d", "\\u0000", "NaN", "-Infinity", "1e999", "9" * 400, "[" * 500, "{" * 500, "null", "true",
    "-0.0", "\ufeff", "\u2028", "\x00", "\x1b[2J", "<pano>", "<image>", "</s>", "°", "−", "(", "도", ",,", "::", "\t",
    "\r\n", "\n", "180", "-180.0001", "90", "360", "0", "1e-320", "https://x/y.jpg", "../../a.jpg", "C:\\a.jpg", "é",
    "e\u0301", "한",
]  # fmt: skip


class HangError(BaseException):
    """A case takes too long; not an Exception, so that no reader takes it for one of its own."""


def mutated_text(text: str, rng: Random) -> str:
    """Return a text after a few random changes: pieces are removed, doubled, moved, and tokens put in."""
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice((0, 1, 1, 4, 30)))
        elsewhere = rng.randrange(len(text) + 1)
        pieces = ("", rng.choice(TOKENS), rng.choice(string.printable), text[start:end] * 2, chr(rng.randrange(0xD800)))
        text = text[:start] + rng.choice((*pieces, "\U0001f600", text[elsewhere : elsewhere + 20])) + text[end:]
    return text


def mutated_bytes(content: bytes, rng: Random) -> bytes:
    """Return bytes after a few random changes."""
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        start = rng.randrange(len(content) + 1)
        end = min(len(content), start + rng.choice((0, 1, 1, 4, 100)))
        number = struct.pack(">I", rng.choice((0, 1, 2**31 - 1, 2**32 - 1)))
        pieces = (b"", rng.randbytes(1), rng.randbytes(8), bytes(8), number, content[start:end] * 2)
        content = content[:start] + rng.choice((*pieces, rng.choice(TOKENS).encode())) + content[end:]
    return content


@dataclass
class Found:
    """What the cases of a target came to."""

    read: int = 0
    refused: int = 0
    failed: int = 0
    slowest: float = 0.0
    failures: tuple[str, ...] = ()


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise HangError(f"longer than {SLOW} s")


def _try(name: str, folder: Path, case: bytes | str, found: Found) -> None:
    """Give a case to a target and count what it comes to."""
    started = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, SLOW)
    try:
        TARGETS[name].call(folder, case)
        found.read += 1
    except TARGETS[name].refusals:
        found.refused += 1
    except (Exception, HangError) as error:  # what this looks for
        found.failed += 1
        if found.failed <= SHOWN:  # a fault that comes a thousand times is shown a few times
            found.failures += (f"{type(error).__name__}: {error}: {case[:300]!r}",)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    found.slowest = max(found.slowest, time.monotonic() - started)


def _fuzz(pipe: Connection, name: str, cases: int) -> None:
    """Send what `cases` mutated inputs of a target come to."""
    rng, found = Random(f"{SEED} {name}"), Found()
    signal.signal(signal.SIGALRM, _too_slow)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="panollava-fuzz-") as folder:
        for seed in TARGETS[name].seeds:
            _try(name, Path(folder), seed, found)
        if found.refused:
            found.failed += 1
            found.failures += ("a sound input is refused",)
        for _ in range(cases):
            seed = rng.choice(TARGETS[name].seeds)
            case = mutated_text(seed, rng) if isinstance(seed, str) else mutated_bytes(seed, rng)
            _try(name, Path(folder), case, found)
    pipe.send(found)


def _in_process(name: str, cases: int) -> Found:
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_fuzz, args=(sender, name, cases))
    process.start()
    sender.close()
    try:
        # Native code does not see the alarm; a process that it holds for good ends here.
        if receiver.poll(HANG + 0.02 * cases):
            return receiver.recv()
    except EOFError:
        pass
    finally:
        process.kill()
        process.join()
    return Found(failed=1, failures=("the process hung or died",))


def mutate(full: bool) -> Tally:
    """Give mutated inputs to every target, two targets at once."""
    total, tally = FULL_CASES if full else CASES, Tally()
    numbers = {name: max(round(target.share * total), 1) for name, target in TARGETS.items()}
    with ThreadPoolExecutor(2) as pool:
        for name, found in zip(numbers, pool.map(_in_process, numbers, numbers.values()), strict=True):
            tally.add(f"fuzz {name}", found.failures, tried=numbers[name], failed=found.failed)
            outcome = f"{found.read} read, {found.refused} refused, slowest {found.slowest:.2f} s"
            print(f"fuzz {name}: {outcome}", flush=True)
    return tally


if __name__ == "__main__":
    sys.exit(run(__doc__, mutate))
