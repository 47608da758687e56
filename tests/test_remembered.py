"""What is remembered between processes: found again under its key alone, never needed, never wrong."""

import os
from pathlib import Path

import pytest

from panollava import hashes
from panollava.remembered import recall, remember


def test_a_value_is_found_under_its_kind_and_key_alone():
    remember("kind", "key", {"a": [1, "ü"]})
    assert recall("kind", "key") == {"a": [1, "ü"]}
    assert recall("kind", "other") is None and recall("other", "key") is None


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b'{"key": "another", "value": 1}'])
def test_a_damaged_memory_is_none(content: bytes):
    remember("kind", "key", 1)
    (file,) = Path(os.environ["PANOLLAVA_CACHE"]).rglob("*.json")
    file.write_bytes(content)
    assert recall("kind", "key") is None
    remember("kind", "key", 2)
    assert recall("kind", "key") == 2


def test_a_folder_that_cannot_be_written_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PANOLLAVA_CACHE", str(tmp_path / "file"))
    remember("kind", "key", 1)
    assert recall("kind", "key") is None


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as large, and was written a while ago."""
    monkeypatch.setattr(hashes, "REMEMBERED_BYTES", 4)
    monkeypatch.setattr(hashes, "SETTLED_S", -1.0)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    return path


def test_a_large_file_is_read_once(large: Path, monkeypatch: pytest.MonkeyPatch):
    first = hashes.file_hash(large)

    def refuse(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(hashes.hashlib, "file_digest", refuse)
    assert hashes.file_hash(large) == first


def test_a_large_file_that_changed_is_read_again_even_with_its_old_size_and_time(large: Path):
    first, times = hashes.file_hash(large), large.stat()
    large.write_bytes(b"WEIGHTS")
    os.utime(large, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert hashes.file_hash(large) != first


def test_a_file_that_was_just_written_is_not_remembered(large: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hashes, "SETTLED_S", 60.0)
    hashes.file_hash(large)
    assert not list(Path(os.environ["PANOLLAVA_CACHE"]).rglob("*.json"))
