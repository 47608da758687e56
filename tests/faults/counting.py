"""Count what the parts of the fault suite tried and what went wrong, and run one of them as a program.

Each part takes `--full`, prints every failure and a line for each kind, and ends with 1 if there was a failure.
"""

import argparse
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass
class Tally:
    """How many cases of each kind were tried, and how many failed."""

    tried: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, failures: Sequence[str], *, tried: int = 1, failed: int | None = None) -> None:
        """Count cases of a kind, and print what went wrong; there may be more failed ones than messages."""
        self.tried[kind] += tried
        self.failed[kind] += len(failures) if failed is None else failed
        for failure in failures:
            print(f"{kind}: {failure}", flush=True)


def run(description: str | None, part: Callable[[bool], Tally]) -> int:
    """Run a part of the suite, print its counts and return the exit code."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="run all of it")
    full = parser.parse_args().full
    logging.disable(logging.WARNING)
    started = time.monotonic()
    tally = part(full)
    for kind, tried in tally.tried.items():
        print(f"{kind:24} {tried - tally.failed[kind]:8} of {tried:8} as they should be")
    print(f"{time.monotonic() - started:.0f} s", flush=True)
    return 1 if tally.failed.total() else 0
