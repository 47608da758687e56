"""Read YAML files of settings, and say what is wrong with them: the file, the line or the dotted key, and the value."""

from pathlib import Path
from reprlib import Repr
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.error import MarkedYAMLError

# Values in messages: a few parts of a long or nested one.
SHORT = Repr()
SHORT.maxlevel, SHORT.maxstring, SHORT.maxother, SHORT.maxlong = 2, 80, 80, 80


class ParamsError(ValueError):
    """A file of settings is not what it should be; the message lists every place."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file.

    Raises:
        ParamsError: the file is missing or holds something else; with the line.
    """
    try:
        return parse_yaml(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise ParamsError(f"there is no {path} here; run this in the project's folder") from None


def parse_yaml(content: bytes, source: str) -> dict[str, Any]:
    """Return the keys and values in the content of a YAML file, which `source` names in messages.

    Raises:
        ParamsError: it holds something else; with the line.
    """
    try:
        values = YAML(typ="safe").load(content.decode())
    except MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise ParamsError(f"{source}{line}: {error.problem}") from error
    except (YAMLError, ValueError, TypeError, RecursionError) as error:
        # In this order: characters that YAML refuses; bytes that are not UTF-8 and numbers that are too long; a list
        # as a key; lists in lists in lists.
        raise ParamsError(f"{source}: not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise ParamsError(f"{source}: expected keys and values, found {SHORT.repr(values)}")
    return values


def problems_of(error: ValidationError) -> list[str]:
    """Return a line for each value that is wrong: its dotted key, the value, and what is wrong with it."""
    return [f"  {'.'.join(str(p) for p in e['loc'])} = {SHORT.repr(e['input'])}: {e['msg']}" for e in error.errors()]
