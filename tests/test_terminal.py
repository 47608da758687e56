"""What reaches a terminal: no control characters, a message in place of a traceback, and the exit codes of a shell."""

import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panollava import terminal
from panollava.terminal import in_one_line, printable

SOURCE = str(Path(__file__).resolve().parents[1] / "src")


def python(code: str, *, tail: str = "", **options: object) -> subprocess.CompletedProcess[str]:
    """Run code with the package in a shell, its output piped to `tail`."""
    script = f'{sys.executable} -c "$CODE" {tail}; exit ${{PIPESTATUS[0]}}'
    environment = {"CODE": code, "PYTHONPATH": SOURCE, "PATH": "/usr/bin:/bin"} | options.pop("env", {})
    command = ["bash", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **options)


@given(st.text(st.characters(codec=None)))
@settings(max_examples=200, deadline=None)
def test_printable_text_has_no_controls_and_keeps_the_rest(text: str) -> None:
    shown = printable(text)
    shown.encode()  # no halves of surrogate pairs
    assert not [each for each in shown if unicodedata.category(each) == "Cc" and each not in "\n\t"]
    assert len(in_one_line(text).splitlines()) <= 1
    if text.isprintable():
        assert shown == text


def test_letters_of_all_scripts_and_joined_emoji_stay() -> None:
    text = "파노라마, ナ, می\u200cخواهم, 👩\u200d🚀\t35°\n"
    assert printable(text) == text
    assert printable("\x1b]0;title\x07 a\rb \u202egpj.exe \x9b") == r"\x1b]0;title\x07 a\rb \u202egpj.exe \x9b"


@pytest.mark.parametrize("tail", ["| head -1", "| true"])
def test_a_closed_pipe_ends_quietly(tail: str) -> None:
    code = """
from panollava.terminal import run, say
def many():
    for number in range(100_000):
        say(number)
    return 0
raise SystemExit(run("panollava", many))
"""
    done = python(code, tail=tail)
    assert (done.returncode, done.stderr) == (terminal.CLOSED_PIPE, "")


def test_help_ends_quietly_in_a_closed_pipe() -> None:
    done = python("from panollava.cli import main; raise SystemExit(main(['--help']))", tail="| true")
    assert (done.returncode, done.stderr) == (terminal.CLOSED_PIPE, "")


def test_a_full_disk_under_the_output_is_one_line() -> None:
    code = "from panollava.terminal import run; raise SystemExit(run('panollava', lambda: print('x') or 0))"
    done = python(code, tail="> /dev/full")
    assert (done.returncode, done.stderr) == (1, "panollava: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp949", "utf-8"])
def test_any_answer_prints_in_any_encoding(encoding: str) -> None:
    code = "from panollava.terminal import run, say; raise SystemExit(run('p', lambda: say('왼쪽 35° 👩') or 0))"
    done = python(code, env={"PYTHONIOENCODING": encoding}, encoding=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == "왼쪽 35° 👩".encode(encoding, "backslashreplace").decode(encoding)


def test_a_removed_working_directory_is_said_clearly(tmp_path: Path) -> None:
    code = """
import os, sys
os.mkdir("gone"); os.chdir("gone"); os.rmdir("../gone")
from panollava.cli import main
raise SystemExit(main(["validate", "set"]))
"""
    done = python(code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        1, "panollava: the working directory has been removed; change to another one\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("a: no number"), 1, "p: a: no number"),
        (ValueError("a\x1b[1m"), 1, "p: a\\x1b[1m"),
        (
            FileNotFoundError(2, "No such file or directory", "a\udcff.json"),
            1,
            "p: a\\udcff.json: No such file or directory",
        ),
        (ValueError(), 1, "p: ValueError"),
        (MemoryError(), 1, "p: there is too little memory"),
        (KeyboardInterrupt(), 130, "p: interrupted"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_what_a_user_can_cause_is_one_line(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    assert terminal.run("p", fail) == code
    assert capsys.readouterr().err.strip() == message


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        terminal.run("p", lambda: 1 // 0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_signals_end_without_a_traceback(tmp_path: Path, number: signal.Signals, code: int) -> None:
    script = "import time\nfrom panollava.terminal import run\n" \
        "raise SystemExit(run('panollava', lambda: print('there', flush=True) or time.sleep(60)))"  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", script], env={"PYTHONPATH": SOURCE}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.05)
    process.send_signal(number)
    _, told = process.communicate(timeout=20)
    assert (process.returncode, told) == (code, b"panollava: interrupted\n" if number == signal.SIGINT else b"")


def test_a_warning_of_one_library_to_another_is_not_heard_and_others_are() -> None:
    told = (
        "import sys, warnings; from panollava.terminal import UNHEARD, run; "
        "say = lambda: [warnings.warn(text, FutureWarning) for text in (*UNHEARD, 'something else')] and 0; "
        "sys.exit(run('name', say))"
    )
    done = python(told)
    assert done.returncode == 0
    assert "something else" in done.stderr
    assert "is_gradient_checkpointing" not in done.stderr.replace("UNHEARD", "")
