"""Files and folders appear whole or not at all, wherever they are; what cannot be written is refused before work."""

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from filelock import FileLock
from full_disk import full_disk
from safetensors.torch import save_file

from panollava import io
from panollava.io import check_vacant, check_writable, new_folder, read_json, replacing, replacing_folder, write_json

# The longest name that file systems take, in bytes.
LONGEST = "한" * 85


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, an empty one inside another."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def umask() -> Iterator[None]:
    """Let new files be readable by the group alone."""
    before = os.umask(0o027)
    yield
    os.umask(before)


def fill(out: str | Path) -> None:
    with new_folder(Path(out), last="b.txt") as folder:
        (folder / "b.txt").write_text("last")
        (folder / "a").mkdir()
        (folder / "a/c.txt").write_text("first")


def content(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


FILLED = {"b.txt": "last", "a/c.txt": "first"}


@pytest.mark.parametrize("out", ["new", "new/", "deep/er/new", "../beside", LONGEST, "empty", "./empty/", ".", "link"])
def test_a_folder_may_be_new_or_empty_under_any_name(home: Path, out: str) -> None:
    if "empty" in out or out == "link":
        (home / "empty").mkdir()
    if out == "link":
        (home / out).symlink_to("empty", target_is_directory=True)
    before = (home / out).stat().st_ino if (home / out).exists() else None
    fill(out)
    assert content(Path(out)) == FILLED
    assert (home / "link").is_symlink() == (out == "link")
    assert before in (None, (home / out).stat().st_ino)  # a folder that was there is filled, not replaced
    assert not [path for path in home.parent.rglob("*") if path.name.endswith(".tmp")]


def test_a_link_may_lead_to_a_folder_that_is_not_there_yet(home: Path) -> None:
    (home / "link").symlink_to("later")
    fill("link")
    assert (home / "link").is_symlink()
    assert content(home / "later") == FILLED


@pytest.fixture
def mount(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that behaves as a mounted disk."""
    mounted, rename = home / "mounted", os.replace
    (mounted / "lost+found").mkdir(parents=True)

    def replace(old: str | Path, new: str | Path) -> None:
        if Path(new) == mounted:
            raise OSError(errno.EBUSY, "Device or resource busy", str(old), None, str(new))
        if Path(old).is_relative_to(mounted) != Path(new).is_relative_to(mounted):
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(old), None, str(new))
        rename(old, new)

    monkeypatch.setattr("os.replace", replace)
    monkeypatch.setattr("os.rename", replace)
    return mounted


def test_an_empty_disk_is_filled_by_itself(mount: Path) -> None:
    fill(mount)
    assert content(mount) == FILLED
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        fill(mount)


@pytest.mark.parametrize("exists", [True, False])
def test_an_error_leaves_nothing_of_a_folder(home: Path, exists: bool) -> None:
    out = home / "deep/er/out"
    if exists:
        out.mkdir(parents=True)
    with pytest.raises(ZeroDivisionError), new_folder(out, last="b") as folder:
        (folder / "a").write_text("half")
        raise ZeroDivisionError
    assert out.exists() == (home / "deep").exists() == exists
    assert content(home) == {}


def test_files_that_cannot_all_move_stay_away(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, out = os.replace, home / "out"
    out.mkdir()

    def replace(old: str | Path, new: str | Path) -> None:
        if Path(new) == out / "b.txt":
            raise OSError(errno.ENOSPC, "No space left on device", str(old), None, str(new))
        rename(old, new)

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(OSError, match=r"nothing was written: '.*/out'"):
        fill(out)
    assert not list(out.iterdir())


def read_only(*args: Any, dir: Path, **kwargs: Any) -> NoReturn:
    raise OSError(errno.EROFS, "Read-only file system", str(dir))


@pytest.mark.parametrize("check", [check_vacant, check_writable, fill])
def test_places_that_cannot_be_written_are_refused_at_once(
    home: Path, monkeypatch: pytest.MonkeyPatch, check: Callable[[Path], Any]
) -> None:
    (home / "file").write_text("x")
    (home / "loop").symlink_to("loop")
    with pytest.raises(OSError, match=r"Not a directory: '.*file/out'"):
        check(Path("file/out"))
    for out in (LONGEST + "x", f"new/{LONGEST}x", f"{LONGEST}x/new"):
        with pytest.raises(OSError, match="File name too long"):
            check(Path(out))
    with pytest.raises(OSError, match=r"symbolic links: '.*loop'"):
        check(Path("loop"))
    for name in ("TemporaryFile", "mkdtemp"):
        monkeypatch.setattr(tempfile, name, read_only)
    for out in ("out", "deep/er/out"):
        with pytest.raises(OSError, match=rf"Read-only file system; nothing can be written in .*/home: '{out}'"):
            check(Path(out))
    assert sorted(path.name for path in home.iterdir()) == ["file", "loop"]


def test_a_folder_that_holds_something_is_refused(home: Path) -> None:
    (home / "full").mkdir()
    (home / "full/file").write_text("x")
    for out in ("full", "full/file"):
        with pytest.raises(ValueError, match=f"{out} exists and is not an empty folder"):
            check_vacant(Path(out))


def test_all_files_get_the_permissions_of_new_ones(home: Path, umask: None) -> None:
    def write(folder: Path) -> None:
        save_file({"a": torch.ones(2)}, folder / "a.safetensors")  # for the owner alone
        (folder / "b.txt").write_text("b")

    with new_folder(Path("out"), last="b.txt") as folder:
        write(folder)
    with replacing_folder(Path("other")) as folder:
        write(folder)
    with replacing(Path("c.txt")) as file:
        file.write(b"c")
    files = [*home.glob("o*/*"), home / "c.txt"]
    assert len(files) == 5
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o640}
    assert stat.S_IMODE((home / "out").stat().st_mode) == 0o750


def test_a_folder_is_replaced_when_the_new_one_is_complete(home: Path) -> None:
    (home / "out").mkdir()
    (home / "out/old").write_text("old")
    with pytest.raises(ZeroDivisionError), replacing_folder(home / "out") as folder:
        (folder / "new").write_text("half")
        raise ZeroDivisionError
    assert content(home) == {"out/old": "old"}
    with replacing_folder(home / "out") as folder:
        (folder / "new").write_text("whole")
    assert content(home) == {"out/new": "whole"}


KILLED = """
import sys
from pathlib import Path
from panollava.io import new_folder, replacing
with replacing(Path("file")) as file, new_folder(Path("empty"), last="x") as folder:
    file.write(b"half")
    (folder / "half").write_text("half")
    print("now", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_goes_when_somebody_writes_there_again(home: Path) -> None:
    (home / "empty").mkdir()
    command = [sys.executable, "-c", KILLED]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        with replacing(home / "file") as file:  # what lives is left alone
            file.write(b"mine")
        with pytest.raises(ValueError, match="not an empty folder"):
            check_vacant(home / "empty")
        assert len(io.left_over(home)) == len(io.left_over(home / "empty")) == 1
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (home / "file").read_bytes() == b"mine"
    with replacing(home / "file") as file:
        file.write(b"again")
    fill("empty")
    assert content(home) == {"file": "again"} | {f"empty/{name}": text for name, text in FILLED.items()}


@pytest.mark.parametrize("removed", [True, False])
def test_a_temporary_folder_may_be_taken_for_left_over_before_it_is_locked(
    home: Path, monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    make, made, other = tempfile.mkdtemp, [], []

    def raced(*args: Any) -> str:
        made.append(make(*args))
        if len(made) == 1 and removed:
            io.remove_left_over(home)
        elif len(made) == 1:  # another process is about to remove it
            other.append(FileLock(Path(made[0], io.LOCK)))
            other[0].acquire()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", raced)
    write_json(home / "file", {"a": 1})
    assert read_json(home / "file") == {"a": 1}
    for lock in other:
        lock.release()
    io.remove_left_over(home)
    assert [path.name for path in home.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", ["device", "pipe", "socket", "folder", "link to a pipe"])
def test_only_regular_files_are_replaced(home: Path, kind: str) -> None:
    path = Path("/dev/null") if kind == "device" else home / "out"
    with socket.socket(socket.AF_UNIX) as server:
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "socket":
                server.bind("out")
            case "folder":
                path.mkdir()
            case "link to a pipe":
                os.mkfifo(home / "pipe")
                path.symlink_to("pipe")
        mode = path.lstat().st_mode
        with pytest.raises(ValueError, match="folder" if kind == "folder" else "no regular file"), replacing(path):
            pytest.fail("work began")
    assert path.lstat().st_mode == mode


@pytest.mark.parametrize("dangling", [True, False])
def test_links_are_written_through(home: Path, dangling: bool) -> None:
    (home / "there").mkdir()
    (home / "a").symlink_to("b")
    (home / "b").symlink_to("there/file")
    if not dangling:
        (home / "there/file").write_text("old")
    write_json(home / "a", {"new": 1})
    assert (home / "a").is_symlink()
    assert (home / "b").is_symlink()
    assert read_json(home / "there/file") == {"new": 1}


def test_the_permissions_of_a_replaced_file_stay(home: Path, umask: None) -> None:
    file = home / "file"
    file.write_text("old")
    for mode in (0o600, 0o664):
        file.chmod(mode)
        write_json(file, {})
        assert stat.S_IMODE(file.stat().st_mode) == mode


def test_a_file_of_the_longest_name_can_be_written(home: Path) -> None:
    write_json(home / LONGEST, {"a": 1})
    write_json(home / LONGEST, {"a": 2})
    assert read_json(home / LONGEST) == {"a": 2}


def test_a_read_only_file_is_refused_before_work(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").write_text("old")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may do anything
    with pytest.raises(PermissionError, match=r"read-only: '.*file'"), replacing(home / "file"):
        pytest.fail("work began")


def write(file: Path) -> None:
    with replacing(file) as opened:
        opened.write(bytes(10_000))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_a_disk_that_fails_is_told_of_by_the_name_of_the_file(
    home: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def failing(descriptor: int) -> NoReturn:
        raise OSError(number, os.strerror(number))

    (home / "file").write_text("old")
    monkeypatch.setattr("os.fsync", failing)
    with pytest.raises(OSError, match=rf"{os.strerror(number)}; nothing was written: '.*/home/file'") as error:
        write(home / "file")
    assert error.value.errno == number
    assert content(home) == {"file": "old"}


def test_a_full_disk_keeps_the_old_file(home: Path) -> None:
    (home / "file").write_text("old")
    with full_disk(1000), pytest.raises(OSError, match=r"nothing was written: '.*/home/file'"):
        write(home / "file")
    assert content(home) == {"file": "old"}


def test_errors_that_are_not_of_writing_stay_as_they_are(home: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"), replacing(home / "file"):
        Path("/elsewhere").read_bytes()
    assert not list(home.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[]", "expected a JSON object, found \\[\\]"),
        (b"null", "expected a JSON object, found null"),
        (b"", "not a JSON file"),
        (b'{"a": ', "not a JSON file"),
        (b"\xff\xfe{}", "not a JSON file"),
        (bytes(20), "not a JSON file"),
        (b"[" * 100_000, "not a JSON file"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not a JSON file"),
        (None, "is missing"),
    ],
)
def test_what_is_no_json_object_is_named_in_one_line(home: Path, text: bytes | None, message: str) -> None:
    if text is not None:
        (home / "file.json").write_bytes(text)
    with pytest.raises(ValueError, match=rf"^{home}/file.json:? {message}.*$") as error:
        read_json(home / "file.json")
    assert "\n" not in str(error.value)
