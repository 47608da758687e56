"""Write files and folders whole or not at all: what is there already stays until its replacement is complete.

What is being written lies in a temporary folder on the same disk, which a lock marks as in use. The next writer there
removes the temporary folders that killed processes left.
"""

import errno
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

# Around the random part of a temporary folder's name.
PREFIX, SUFFIX = ".panollava-", ".tmp"
LOCK = f"{PREFIX}lock"
# What a new file system holds before anybody has written to it.
OF_THE_DISK = {"lost+found"}
# What PyTorch says when a file is shorter than what was written to it; it gives no reason.
OF_PYTORCH = ("inline_container", "PytorchStreamWriter", "iostream error")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_writable(path: Path) -> Path:
    """Return the file that `path` names, behind links; refuse what could not be written. Call it before long work.

    Raises:
        ValueError: what is there is not a regular file.
        OSError: the file or its folder cannot be written to, a folder on the way is a file, a name is too long.
    """
    target = Path(os.path.realpath(path))
    with suppress(FileNotFoundError):
        mode = target.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "no regular file (a device, a pipe or a socket)"
            raise ValueError(f"{path} is {kind}; choose the name of a new file, or of one to replace")
        if not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, "the file there is read-only", str(path))
    _check_place(target, path)
    return target


def check_vacant(out: Path) -> Path:
    """Return the folder that `out` names, behind links; refuse what could not become a new folder.

    Call it before long work. An empty folder that is there, perhaps a mounted disk, is filled.

    Raises:
        ValueError: `out` exists and is not an empty folder.
        OSError: nothing can be written there, a folder on the way is a file, a name is too long.
    """
    place = Path(os.path.realpath(out))
    if place.is_dir():
        remove_left_over(place)
    if place.exists() and not (place.is_dir() and {file.name for file in place.iterdir()} <= OF_THE_DISK):
        raise ValueError(f"{out} exists and is not an empty folder; choose another name or remove it first")
    _check_place(place / "file" if place.is_dir() else place, out)
    return place


def _check_place(target: Path, path: Path) -> None:
    """Refuse a file or folder that cannot be made, for an error about `path`; nothing stays behind."""
    above, missing = target.parent, [target.name]
    while not above.exists():
        above, missing = above.parent, [*missing, above.name]
    for name in missing:
        with suppress(FileNotFoundError):  # a name that is too long is another error
            (above / name).stat()
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        reason = f"{os.strerror(error.errno or errno.EIO)}; nothing can be written in {above}"
        raise OSError(error.errno, reason, str(path)) from error


def left_over(folder: Path) -> list[Path]:
    """Return the temporary folders in `folder`, those in use included."""
    return [path for path in folder.glob(f"{PREFIX}*{SUFFIX}") if path.is_dir()]


def remove_left_over(folder: Path) -> None:
    """Remove the temporary folders that killed processes left in `folder`: those whose lock nobody holds."""
    for path in left_over(folder):
        with suppress(OSError, NotImplementedError), FileLock(path / LOCK, timeout=0):
            shutil.rmtree(path)


@contextmanager
def naming(path: Path, inside: Path) -> Iterator[None]:
    """Name `path` where files that begin with the path `inside` cannot be written, instead of them or of nothing.

    Raises:
        OSError: the disk is full, or it fails.
    """
    try:
        yield
    except Exception as error:  # a full disk comes as errors of many classes
        if (number := _of_writing(error, str(inside))) is None:
            raise
        raise OSError(number, f"{os.strerror(number)}; nothing was written", str(path)) from error


def _of_writing(error: Exception, inside: str) -> int | None:
    if isinstance(error, OSError):
        ours = any(str(name).startswith(inside) for name in (error.filename, error.filename2))
        broken = error.errno == errno.EIO and error.filename is None
        return error.errno if ours or broken or error.errno in FULL else None
    if any(text in str(error) for text in OF_PYTORCH):
        return errno.ENOSPC
    # The libraries in Rust, safetensors and tokenizers, have classes of their own for it.
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found and int(found[1]) in (*FULL, errno.EIO) else None


@contextmanager
def _temporary(folder: Path, path: Path) -> Iterator[Path]:
    """Give a temporary folder in `folder`, made where there is none, to write `path` in; it is removed at the end.

    Raises:
        OSError: the disk is full, or `folder` cannot be written to; the message names `path`.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        with naming(path, folder / PREFIX):
            folder.mkdir(parents=True, exist_ok=True)
            remove_left_over(folder)
            temporary, lock = _locked(folder)
            try:
                yield temporary
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
                lock.release()
    finally:
        for each in made:
            with suppress(OSError):  # it is not empty: all went well
                each.rmdir()


def _locked(folder: Path) -> tuple[Path, FileLock]:
    while True:
        temporary = Path(tempfile.mkdtemp(SUFFIX, PREFIX, folder))
        lock = FileLock(temporary / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            continue  # another process took it for left over, and is about to remove it
        except (OSError, NotImplementedError):
            pass  # a file system without locks, where nobody can take it for left over either
        return temporary, lock


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` only once it is complete; on any error `path` stays as it was.

    A link stays a link: what it leads to is replaced. The permissions of the old file stay. Folders are made.

    Raises:
        ValueError: what is there is not a regular file.
        OSError: the disk is full, or `path` cannot be written; the message names `path`.
    """
    target = check_writable(path)
    with _temporary(target.parent, path) as temporary:
        content = temporary / target.name
        with content.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            content.chmod(stat.S_IMODE(target.stat().st_mode))
        content.replace(target)


def write_text(path: Path, text: str) -> None:
    """Write a text file, making its folder where there is none."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, making its folder where there is none.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ValueError: the file is missing, or holds something else; in one line that names it.
    """
    try:
        content = json.loads(path.read_bytes().decode())
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, no JSON, too deep, a number of too many digits
        raise ValueError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {json.dumps(content)[:40]}")
    return content


@contextmanager
def new_folder(out: Path, *, last: str) -> Iterator[Path]:
    """Give a folder to write into that becomes `out` once it is complete; on any error nothing is left of it.

    Where `out` is an empty folder already, the files move into it one by one, `last` at the end: the file without which
    nobody takes the folder for what it is to be. All files get the permissions that new files have.

    Raises:
        ValueError: `out` exists and is not an empty folder.
        OSError: the disk is full, or `out` cannot be written; the message names `out`.
    """
    place = check_vacant(out)
    filled = place.is_dir()
    with _temporary(place if filled else place.parent, out) as temporary:
        content = temporary / place.name
        content.mkdir()
        yield content
        _make_plain(content)
        if filled:
            _move_files(content, place, last)
        else:
            content.replace(place)


@contextmanager
def replacing_folder(out: Path) -> Iterator[Path]:
    """Give a folder to write into that takes the place of `out`, if there is one, once it is complete.

    Raises:
        OSError: the disk is full, or `out` cannot be written; the message names `out`.
    """
    place = Path(os.path.realpath(out))
    with _temporary(place.parent, out) as temporary:
        content = temporary / place.name
        content.mkdir()
        yield content
        _make_plain(content)
        if place.exists():
            place.replace(temporary / f"{PREFIX}old")
        content.replace(place)


def _make_plain(folder: Path) -> None:
    """Give all files the permissions of new ones; some libraries hide what they write from other users."""
    mode = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(mode)


def _move_files(content: Path, place: Path, last: str) -> None:
    """Move all files from one folder to another, or none."""
    names: Iterable[str] = sorted((file.name for file in content.iterdir()), key=lambda name: (name == last, name))
    moved = []
    try:
        for name in names:
            (content / name).replace(place / name)
            moved.append(name)
    except OSError:
        for name in moved:
            (place / name).replace(content / name)
        raise
