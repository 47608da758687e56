"""What a JSON value may hold so that the store, the tokenizers and other programs can carry it.

Refused are keys that come twice, NaN and infinities, integers beyond 64 bits, text that is no Unicode or holds U+0000,
and nesting beyond `MAX_DEPTH`. A path is that of the JSON: keys and indices from 0.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator

# Records included. The JSON parser of pydantic, which reads the store, stops at about 190 levels.
MAX_DEPTH = 64
INTEGERS = range(-(2**63), 2**64)
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")

JsonPath = tuple[str | int, ...]


class RepeatedKeys(dict[str, object]):
    """A JSON object that names some keys more than once; of each, it holds the last value."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]


def json_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return the object of these pairs, one of the kind `RepeatedKeys` where it must be; for `json.JSONDecoder`."""
    content = dict(pairs)
    return content if len(content) == len(pairs) else RepeatedKeys(pairs)


def text_fault(text: str) -> str | None:
    """Return what is wrong with a text, or None if it can be stored."""
    found = _UNSTORABLE.search(text)
    if found is None:
        return None
    character = f"U+{ord(found[0]):04X} at position {found.start()}"
    if found[0] == "\0":
        return f"the text holds {character}, the end of a text in many programs; remove it"
    return f"the text holds {character}, half of a surrogate pair; write the whole character"


def value_faults(value: object, path: JsonPath = (), depth: int = 1) -> Iterator[tuple[JsonPath, str]]:
    """Yield the path and the fault of everything in a JSON value that cannot be stored."""
    fault = None
    if isinstance(value, str):
        fault = text_fault(value)
    elif isinstance(value, float):
        fault = None if math.isfinite(value) else f"{value} is not a JSON number; use null or leave the key out"
    elif isinstance(value, int):
        fault = None if value in INTEGERS else "an integer of more than 64 bits; write it as text, in quotes"
    elif isinstance(value, dict | list | tuple):
        if depth > MAX_DEPTH:
            fault = f"nested more than {MAX_DEPTH} levels deep"
        else:
            yield from _container_faults(value, path, depth)
    if fault is not None:
        yield path, fault


def _container_faults(value: dict | list | tuple, path: JsonPath, depth: int) -> Iterator[tuple[JsonPath, str]]:
    if not isinstance(value, dict):
        for number, item in enumerate(value):
            yield from value_faults(item, (*path, number), depth + 1)
        return
    if isinstance(value, RepeatedKeys):
        for key in value.repeated:
            yield (*path, key), "the key comes more than once in its object; keep one of them"
    for key, item in value.items():
        fault = text_fault(key) if isinstance(key, str) else "a key is a text"
        if fault is not None:
            yield (*path, key), f"the key: {fault}"
        yield from value_faults(item, (*path, key), depth + 1)


def holds_more(value: object, limit: int) -> bool:
    """Return whether a JSON value holds more than so many values; counts no further than the limit."""
    waiting, count = [value], 0
    while waiting:
        value = waiting.pop()
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        count += len(inner)
        if count > limit:
            return True
        waiting.extend(inner)
    return False
