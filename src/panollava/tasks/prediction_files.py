"""Reading and writing predictions.jsonl; a bad line is refused with its number, its field and its value."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from panollava.io import replacing
from panollava.tasks.prediction import Prediction
from panollava.tasks.table import TASKS


def parse_predictions(name: str, lines: Iterable[str]) -> Iterator[Prediction]:
    """Yield the prediction of each line; `name` names the source in messages.

    Raises:
        ValueError: a line is no prediction, holds NaN, or lacks a score of its task.
    """
    for number, line in enumerate(lines, start=1):
        try:
            prediction = Prediction.model_validate_json(line)
            if prediction.task in TASKS:
                TASKS[prediction.task].check(prediction)
        except ValidationError as error:
            raise ValueError(f"{name}, line {number}: not a scored answer: {_problems(error)}") from error
        except ValueError as error:
            raise ValueError(f"{name}, line {number}: not a scored answer: {error}") from error
        yield prediction


def read_predictions(path: Path) -> list[Prediction]:
    """Return the predictions of a file.

    Raises:
        ValueError: a line is no prediction, or there is none; the message names file and line.
    """
    # Lines of the file itself: splitlines would also cut a JSON string at the line separators of Unicode.
    with path.open(encoding="utf-8") as lines:
        predictions = list(parse_predictions(str(path), lines))
    if not predictions:
        raise ValueError(f"{path}: no predictions; evaluate must write at least one")
    return predictions


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write plain values as JSON lines, whole or not at all, making the folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        for line in lines:
            file.write((json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _problems(error: ValidationError) -> str:
    """Return each problem of a line: the field, the message, and the value if it is a number."""
    problems = []
    for problem in error.errors(include_url=False, include_context=False):
        field = ".".join(map(str, problem["loc"])) + ": " if problem["loc"] else ""
        value = f", found {problem['input']}" if isinstance(problem["input"], int | float) else ""
        problems.append(f"{field}{problem['msg']}{value}")
    return "; ".join(problems)
