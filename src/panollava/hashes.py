"""SHA-256 of files: how a checkpoint is known. That of a large file is remembered while its size and times stay."""

import hashlib
import time
from pathlib import Path

from panollava.remembered import recall, remember

# Smaller files are hashed about as fast as they are looked up.
REMEMBERED_BYTES = 2**24
# A file that was written just now could be written once more within the resolution of its times.
SETTLED_S = 2.0
KIND = "sha256"


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    found = path.stat()
    if found.st_size < REMEMBERED_BYTES:
        return _read(path)
    key = f"{path.resolve()} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
    if known := recall(KIND, key):
        return str(known)
    digest = _read(path)
    if time.time() - max(found.st_mtime, found.st_ctime) > SETTLED_S:
        remember(KIND, key, digest)
    return digest


def _read(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
