"""What reaches a terminal or a log: text without control characters, and one line in place of a user's traceback.

File names, keys of records and answers of a model may hold anything. Escape sequences in them could rewrite what is on
the screen.
"""

import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

# Of libraries to each other; a user can do nothing about them. PEFT asks transformers by an old name.
UNHEARD = ("`is_gradient_checkpointing` is deprecated",)
# Exit codes of a shell: 128 and the number of the signal.
INTERRUPTED, CLOSED_PIPE = 130, 141
# All controls but tab and line feed; what other programs take for the end of a line; what turns the reading direction;
# halves of surrogate pairs, which Python makes of bytes that it cannot decode.
CONTROLS = re.compile(r"[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    r"""Return text with control characters spelt as in Python (`\x1b`); tabs and line feeds stay."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), str(text))


def in_one_line(text: str) -> str:
    """Return text with a space in place of each line break, and without control characters."""
    return printable(" ".join(text.splitlines()))


def say(text: object) -> None:
    """Print to standard output, at once."""
    print(printable(text), flush=True)


def warn(text: object) -> None:
    """Print to standard error."""
    print(printable(text), file=sys.stderr, flush=True)


def run(name: str, function: Callable[[], int]) -> int:
    """Run a program and return its exit code; what a user can cause ends in a message that begins with `name`.

    Ctrl-C ends with code 130, a pipe that the reader has closed with 141, everything else with 1. Python's development
    mode (`python -X dev`) shows tracebacks.
    """
    try:
        with _output(), warnings.catch_warnings():
            for beginning in UNHEARD:
                warnings.filterwarnings("ignore", message=re.escape(beginning), category=FutureWarning)
            _require_folder()
            return function()
    except BrokenPipeError:
        return CLOSED_PIPE
    except KeyboardInterrupt:
        warn(f"{name}: interrupted")
        return INTERRUPTED
    except (ValueError, OSError, SafetensorError, MemoryError) as error:
        if sys.flags.dev_mode:
            raise
        warn(f"{name}: {_message(error)}")
        return 1


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"there is too little memory {error}".strip()
    return str(error) or type(error).__name__


def _require_folder() -> None:
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise ValueError("the working directory has been removed; change to another one") from error


@contextmanager
def _output() -> Iterator[None]:
    """Let any text be printed in any encoding, and flush at the end, where an error can still be told.

    Standard input keeps bytes that it cannot decode as surrogates, for whoever reads it to refuse.
    """
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    try:
        yield
    finally:
        try:
            print(end="", flush=True)
        except OSError:
            # Python would try again when it ends, and complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise
