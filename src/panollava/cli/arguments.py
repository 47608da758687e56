"""Shared by all commands: types of arguments, and the type of the function that adds a command."""

import argparse
import re
from collections.abc import Callable

# Adds a command to the parser: its name and its help are the name and the docstring of the function that runs it.
Add = Callable[[Callable[[argparse.Namespace], int]], argparse.ArgumentParser]


# More tokens than any context holds, and few enough digits to read at once.
LARGEST = 10**9


def positive(text: str) -> int:
    """Return a positive whole number; raises ArgumentTypeError."""
    return _whole_number(text, 1, "a positive whole number")


def whole(text: str) -> int:
    """Return a whole number from 0 on; raises ArgumentTypeError."""
    return _whole_number(text, 0, "a whole number from 0 on")


def _whole_number(text: str, least: int, wanted: str) -> int:
    # ASCII alone, and no number that takes long to read: Python reads the digits of all scripts, `1_0` and ` 10 `.
    if not re.fullmatch(r"[0-9]{1,10}", text) or not least <= int(text) <= LARGEST:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not {wanted}, at most {LARGEST}")
    return int(text)


def decoded(text: str) -> str:
    """Return a text of the user's; refuse bytes that Python could not decode, which it holds as surrogates.

    Raises:
        ValueError: with the text.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{text[:60]!r} holds bytes that are not UTF-8, first as character {error.start + 1}"
        ) from error
    return text
