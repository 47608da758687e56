"""What a run has written down about itself: the settings under which each of its folders was made, as YAML."""

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from panollava.yaml_files import SHORT, read_yaml

# Differences in a message.
SHOWN = 3


def is_made(made: Path, record: Path, settings: dict[str, Any]) -> bool:
    """Return whether a file or folder was made under these settings; False where it is missing.

    Raises:
        ValueError: it was made under other settings, with the first that differ.
    """
    if not record.is_file() or not made.exists():
        return False
    found, now = dict(_flat(read_yaml(record))), dict(_flat(settings))
    differing = [key for key in found | now if found.get(key) != now.get(key)]
    if differing:
        told = [f"{key} was {SHORT.repr(found.get(key))}, now {SHORT.repr(now.get(key))}" for key in differing[:SHOWN]]
        raise ValueError(
            f"{made.parent} was written under other settings: {', '.join(told)}; choose another --output, or remove "
            f"{made.parent}"
        )
    return True


def as_yaml(settings: dict[str, Any]) -> str:
    """Return settings as YAML, short lists and maps in one line."""
    yaml, text = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style, yaml.width = None, 120  # None: by what is nested
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment] # the order of params.yaml
    yaml.dump(settings, text)
    return text.getvalue()


def _flat(content: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested values by their dotted keys."""
    pairs = []
    for key, value in content.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [(f"{prefix}{key}", value)]
    return pairs
