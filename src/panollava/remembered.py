"""What this machine has found out before: small JSON values in the user's cache folder, between processes.

Only what can be found out again at any time goes here, under a key that changes whenever the answer could. The folder
is `~/.cache/panollava`, or what PANOLLAVA_CACHE names; removing it costs time alone.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from panollava.io import write_json


def recall(kind: str, key: str) -> Any:
    """Return the value that was remembered for a key, or None."""
    try:
        found = json.loads(_file(kind, key).read_bytes())
    except (OSError, ValueError):  # nothing there, or nothing of use: it is found out again
        return None
    return found.get("value") if isinstance(found, dict) and found.get("key") == key else None


def remember(kind: str, key: str, value: Any) -> None:
    """Remember a JSON value for a key; where the folder cannot be written, nothing is remembered."""
    try:
        write_json(_file(kind, key), {"key": key, "value": value})
    except OSError:
        return


def _file(kind: str, key: str) -> Path:
    name = os.environ.get("PANOLLAVA_CACHE")
    folder = Path(name) if name else Path.home() / ".cache" / "panollava"
    return folder / kind / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
