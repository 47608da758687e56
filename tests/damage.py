"""Ways in which a file comes to harm on a disk, for the tests of what reads."""

from collections.abc import Callable
from pathlib import Path


def cut(path: Path) -> None:
    """Keep the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path: Path) -> None:
    """Keep the size of a file, but none of its content, as after a power failure."""
    path.write_bytes(bytes(path.stat().st_size))


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


HARMS: tuple[Callable[[Path], None], ...] = (cut, zero, flip, Path.unlink)
