"""Shared by all commands: types of arguments, and the type of the function that adds a command."""

import argparse
from collections.abc import Callable

# Adds a command to the parser: its name and its help are the name and the docstring of the function that runs it.
Add = Callable[[Callable[[argparse.Namespace], int]], argparse.ArgumentParser]


def positive(text: str) -> int:
    """Return a positive whole number; raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def whole(text: str) -> int:
    """Return a whole number from 0 on; raises ArgumentTypeError."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)
