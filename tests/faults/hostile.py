"""Hostile files, each given to a command as a user would: a short refusal and no traceback, in little time and memory.

Seconds and megabytes are those of the whole process, the start of Python included. A case that takes longer than `HANG`
or more than `MOST_MB` is a failure; shorter times are printed, not judged. Little is imported here: the system counts a
process at least as large as the one that starts it.
"""

import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from counting import Tally, run
from PIL import Image

PROJECT = Path(__file__).resolve().parents[2]
HANG, MOST_MB, MOST_CHARACTERS = 20.0, 500, 6000
COMMAND = "import sys; from panollava.cli import main; sys.exit(main())"
RECORD = {"image_id": "a", "image_path": "a.png", "conversations": [{"human": "What?", "assistant": "A wall."}]}


def picture(width: int = 64, height: int = 32, kind: str = "PNG") -> bytes:
    """Return the bytes of a grey picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "grey").save(buffer, format=kind)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, rows: bytes, *extra: bytes) -> bytes:
    """Return a grey PNG file of one bit per pixel that claims a size, with compressed rows and more chunks."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def with_packet(packet: bytes, height: int = 32) -> bytes:
    """Return a JPEG file of 64 x `height` pixels with an XMP packet."""
    content = b"http://ns.adobe.com/xap/1.0/\0" + packet
    whole = picture(height=height, kind="JPEG")
    return whole[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + whole[2:]


def records(text: str, name: str = "annotations.json") -> Callable[[Path], None]:
    """Return what writes a record file beside a sound picture."""

    def write(folder: Path) -> None:
        (folder / "a.png").write_bytes(picture())
        (folder / name).write_text(text, encoding="utf-8")

    return write


def no_text(folder: Path) -> None:
    """Write a record file that is not UTF-8."""
    (folder / "annotations.json").write_bytes(b"\xff\xfe" * 500_000)


def image(content: bytes) -> Callable[[Path], None]:
    """Return what writes a sound record about a hostile picture."""
    return other(lambda path: path.write_bytes(content))


def other(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return what writes a sound record and makes its picture."""

    def write(folder: Path) -> None:
        make(folder / "a.png")
        (folder / "annotations.json").write_text(json.dumps([RECORD]))

    return write


def with_mask(counts: str) -> str:
    """Return records with an object whose mask has these run lengths."""
    thing = {"label": "door", "box_deg": [0, 0, 10, 10], "mask": {"size": [32, 64], "counts": counts}}
    return json.dumps([RECORD | {"objects": [thing]}])


def with_metadata(value: str) -> str:
    """Return records whose metadata hold a value, given as JSON."""
    return f'{json.dumps([RECORD])[:-2]}, "metadata": {{"a": {value}}}}}]'


def repeated(key: str, count: int) -> str:
    """Return an object with a key that comes many times."""
    return "{" + ",".join([f'"{key}": 1'] * count) + "}"


ENTITIES = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + b"".join(
    f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">'.encode() for i in range(9)
) + b"]><x>&j;</x>"  # fmt: skip

TEXT_BOMB = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000), 9))
BIG_HEADER = struct.pack(">HH", 32_750, 65_500)
# What `panollava validate` is given: hostile records, hostile pictures, and what is no file at all.
DATASETS: dict[str, Callable[[Path], None]] = {
    "brackets 200,000 deep": records("[" * 200_000 + "]" * 200_000),
    "objects 200,000 deep": records('{"a":' * 200_000 + "1" + "}" * 200_000),
    "metadata 20,000 deep": records(with_metadata("[" * 20_000 + "]" * 20_000)),
    "a number of a million digits": records(with_metadata("9" * 1_000_000)),
    "a text of 20 MB": records(json.dumps([RECORD | {"image_id": "a" * 20_000_000}])),
    "200,000 times a key": records(f"[{repeated('image_id', 200_000)}]"),
    "200,000 unknown keys": records(json.dumps([{f"key {n}": n for n in range(200_000)}])),
    "20,000 empty records": records("[" + ",".join(["{}"] * 20_000) + "]"),
    "100,000 lines of noise": records("x\n" * 100_000, "annotations.jsonl"),
    "escapes in keys": records(json.dumps([RECORD | {"\x1b[2J\x1b]0;title\x07": 1}])),
    "run lengths that never end": records(with_mask("o" * 400_000)),
    "400,000 run lengths": records(with_mask("00" * 200_000)),
    "no UTF-8": no_text,
    "PNG of 60,000 x 30,000": image(png(60_000, 30_000, zlib.compress(bytes(7_501) * 30_000, 9))),
    "PNG of 2 x 10^9 pixels a side": image(png(2_000_000_000, 2_000_000_000, zlib.compress(b"\0"))),
    "PNG with a text of 100 MB": image(png(64, 32, zlib.compress(bytes(9 * 32)), TEXT_BOMB)),
    "PNG with 20,000 chunks": image(png(64, 32, zlib.compress(bytes(9 * 32)), *[chunk(b"tEXt", b"a\0b")] * 20_000)),
    "PNG with 10 of 32 rows": image(png(64, 32, zlib.compress(bytes(9 * 10)))),
    "JPEG that claims 65,500 x 32,750": image(picture(kind="JPEG").replace(struct.pack(">HH", 32, 64), BIG_HEADER)),
    "JPEG cut at a third": image(picture(2048, 1024, "JPEG")[:3000] + b"\xff\xd9"),
    "XMP of nested entities": image(with_packet(ENTITIES)),
    "XMP of 60 KB of brackets": image(with_packet(b"<a>" * 20_000)),
    "PostScript": image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 32\n{} loop\n"),
    "git-lfs pointer": image(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
    "an empty picture": image(b""),
    "a page of HTML": image(b"<!DOCTYPE html><html>404</html>"),
    "a pipe": other(os.mkfifo),
    "a folder": other(lambda path: path.mkdir()),
    "a link to itself": other(lambda path: path.symlink_to(path.name)),
    "a link to a device": other(lambda path: path.symlink_to("/dev/zero")),
}
# Cases in which nothing is wrong but what need not be read.
SOUND = {
    "a text of 20 MB",
    "PNG with a text of 100 MB",
    "PNG with 20,000 chunks",
    "XMP of nested entities",
    "XMP of 60 KB of brackets",
}


def _run(folder: Path, *arguments: str) -> tuple[int, str, float, float]:
    """Return exit code, output, seconds and megabytes of a command; the code of one that hangs is -9."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src"), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
        )  # fmt: skip
        while time.monotonic() - started < HANG:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            time.sleep(0.01)
        else:
            process.kill()
            _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        output.seek(0)
        return (
            os.waitstatus_to_exitcode(status),
            output.read().decode(errors="replace"),
            seconds,
            usage.ru_maxrss / 1024,
        )


def _wrong(code: int, output: str, megabytes: float) -> str | None:
    if code != 1:
        return f"ended with {code} and not with 1: {output[-300:]!r}"
    if "Traceback" in output:
        return f"a traceback: {output[-300:]!r}"
    if len(output) > MOST_CHARACTERS:
        return f"an answer of {len(output)} characters: {output[:300]!r}"
    if "\x1b" in output:
        return f"a raw escape: {output[:300]!r}"
    return f"{megabytes:.0f} MB" if megabytes > MOST_MB else None


def open_all(full: bool) -> Tally:
    """Validate each hostile dataset; a third of them unless `full`."""
    tally, slowest, largest = Tally(), (0.0, ""), (0.0, "")
    for name in list(DATASETS)[:: 1 if full else 3]:
        with tempfile.TemporaryDirectory(prefix="panollava-hostile-") as folder:
            DATASETS[name](Path(folder))
            code, output, seconds, megabytes = _run(Path(folder), "validate", ".")
        slowest, largest = max(slowest, (seconds, name)), max(largest, (megabytes, name))
        message = _wrong(1 if name in SOUND and code == 0 else code, output, megabytes)
        tally.add("hostile file", [] if message is None else [f"{name}: {message}"])
    print(f"slowest: {slowest[1]}, {slowest[0]:.1f} s; largest: {largest[1]}, {largest[0]:.0f} MB", flush=True)
    return tally


if __name__ == "__main__":
    sys.exit(run(__doc__, open_all))
