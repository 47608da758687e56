"""LLaVA conversations: what LLaVA's own loader reads is read, the rest is named by its place or left out."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from importer_cases import refused, run, write_image, write_json


def said(*texts: str, first: str = "human") -> list[dict[str, str]]:
    """Return messages of human and gpt in turn."""
    sides = ["human", "gpt"] if first == "human" else ["gpt", "human"]
    return [{"from": sides[number % 2], "value": text} for number, text in enumerate(texts)]


def sample(name: int | str, **changes: Any) -> dict[str, Any]:
    messages = said("<image>\nWhat is  here?", "A room.", "And in <image> behind me?", "A door.")
    return {"id": name, "image": "a.png", "conversations": messages, "model": ""} | changes


def talk(tmp_path: Path, *samples: Any, name: str = "talk.json") -> Path:
    write_image(tmp_path / "set/a.png")
    return write_json(tmp_path / "set" / name, list(samples))


def turns_of(record: Any) -> list[tuple[str, str]]:
    return [(turn.human, turn.assistant) for turn in record.conversations]


def test_dialogues_stay_whole_and_lose_their_image_markers(tmp_path: Path) -> None:
    marked = sample("2", conversations=said("<image><image>What?\n<image>", "A <image> wall.<image>"))
    records, report = run(tmp_path, "llava", talk(tmp_path, sample("1"), marked))
    assert turns_of(records[0]) == [("What is  here?", "A room."), ("And in behind me?", "A door.")]
    assert turns_of(records[1]) == [("What?", "A wall.")]
    assert records[0].conversations[0].task == "open"
    assert records[0].metadata["licence"] == "not stated by the file"
    assert not report.dropped


@pytest.mark.parametrize(
    "changes",
    [
        {"image": ["a.png"]},
        {"image": None, "images": None, "conversations": [{"role": "user", "content": [
            {"type": "image", "image": "a.png"}, {"type": "text", "text": "Q"}]}, *said("A", first="gpt")]},
        {"conversations": said("Q", "A"), "system": "ignored"},
        {"conversations": [{"from": "system", "value": "Be kind."}, *said("Q", "A")]},
        {"conversations": said("Hello!", "Q", "A", first="gpt")},
        {"conversations": said("Q", "A", "And then?")},
        {"conversations": said("Q", "A", "And then?", "")},
        {"conversations": [{"role": "User", "content": "Q"}, {"role": "assistant", "content": "A"}]},
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", [7, 7.0, "7", None])
def test_spellings_of_one_dialogue_give_one_record(tmp_path: Path, changes: dict[str, Any], name: Any) -> None:
    plain = {"conversations": said("<image>\nQ", "A")}
    if changes.get("images", "") is None:
        del plain["conversations"]
        changes = {key: value for key, value in changes.items() if key not in ("image", "images")}
        row = {"id": name} | changes
    else:
        row = sample(name) | plain | changes
    records, report = run(tmp_path, "llava", talk(tmp_path, row))
    assert turns_of(records[0]) == [("Q", "A")]
    assert records[0].metadata.get("id") == (None if name is None else "7")
    assert (report.samples, report.findings.read, report.findings.left_out.total()) == (1, 1, 0)


def test_a_system_message_stays_in_the_metadata(tmp_path: Path) -> None:
    row = sample(1, conversations=[{"from": "system", "value": "Be kind."}, *said("Q", "A")])
    records, _ = run(tmp_path, "llava", talk(tmp_path, row))
    assert records[0].metadata["system"] == "Be kind."


def test_what_is_left_out_of_a_dialogue_is_counted(tmp_path: Path) -> None:
    rows = [
        sample(1, conversations=said("Hello!", "Q", "A", "?", first="gpt")),
        sample(2, conversations=said("Q", "A", "?")),
    ]
    _, report = run(tmp_path, "llava", talk(tmp_path, *rows))
    assert dict(report.dropped) == {"answers before the first question": 1, "last questions without an answer": 2}
    assert "read: 2 samples, imported: 2, left out: 0\nalso left out: 1 answers before" in str(report)


def test_samples_without_an_image_are_left_out(tmp_path: Path) -> None:
    text_only = {key: value for key, value in sample("t").items() if key != "image"}
    text_only["conversations"] = [{"from": "tool", "value": 3}]
    rows = [sample("1"), text_only, sample("e", image=""), sample("n", image=None), sample("l", image=[])]
    records, report = run(tmp_path, "llava", talk(tmp_path, *rows))
    assert len(records) == 1
    assert dict(report.dropped) == {"samples without an image": 4}
    assert "  talk.json entry 2 (id 'e')\n" in str(report)


def test_lines_are_read_like_a_list(tmp_path: Path) -> None:
    file = talk(tmp_path, name="talk.jsonl")
    lines = [json.dumps(sample(number)) for number in range(3)]
    file.write_text("\n".join([lines[0], "{oops", "", lines[1], "[]", lines[2]]), encoding="utf-8")
    message = refused(tmp_path, "llava", file)
    assert (
        "1 samples with invalid JSON:\n  talk.jsonl line 2 column 2: invalid JSON, Expecting property name" in message
    )
    assert "talk.jsonl line 5: got []; expected an object" in message
    records, report = run(tmp_path, "llava", file, drop_bad_records=True)
    assert [record.metadata["id"] for record in records] == ["0", "1", "2"]
    assert "read: 5 samples, imported: 3, left out: 2" in str(report)


BAD = {
    "sides that do not alternate": {"conversations": [*said("Q"), *said("Q", "A")]},
    "a message from another side": {"conversations": [{"from": "tool", "value": "x"}, *said("Q", "A")]},
    "no question that is answered": {"conversations": said("Q")},
    "no conversations": {"conversations": ...},
    "a bad conversations.human": {"conversations": said("<image>", "A")},
    "a bad conversations.assistant": {"conversations": said("Q", "", "Q", "A")},
    "a message that is no text": {"conversations": [*said("Q"), {"from": "gpt", "value": 3}]},
    "several images": {"image": ["a.png", "b.png"]},
    "a video": {"image": None, "video": "v.mp4"},
    "a bad image name": {"image": "../a.png"},
    "a bad id": {"id": {"a": 1}},
    "a value that no record can carry": {"conversations": said("Q \ud83d", "A")},
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_samples_are_named_by_their_place_or_left_out(tmp_path: Path, kind: str) -> None:
    row = {key: value for key, value in (sample("bad") | BAD[kind]).items() if value is not ...}
    file = talk(tmp_path)
    file.write_text(json.dumps([sample("good"), row]))
    message = refused(tmp_path, "llava", file)
    head, reason, line = message.split("\n")
    assert head == "1 of 2 samples cannot be imported; --drop-bad-records leaves them out:"
    assert reason == f"1 samples with {kind}:"
    assert line.startswith("  talk.json entry 1 (id ")
    assert "Pydantic" not in message
    records, report = run(tmp_path, "llava", file, drop_bad_records=True)
    assert [record.metadata["id"] for record in records] == ["good"]
    assert report.findings.bad == {f"samples with {kind}": 1}


def test_many_bad_samples_are_counted_by_kind_and_cut_short(tmp_path: Path) -> None:
    several = [sample(number, image=["a.png", "b.png"]) for number in range(9)]
    message = refused(tmp_path, "llava", talk(tmp_path, *several, sample("u", conversations=said("?"))))
    lines = message.split("\n")
    assert lines[0].startswith("10 of 10 samples cannot be imported")
    assert lines[1] == "9 samples with several images:"
    assert lines[7:9] == ["  ... and 4 more", "1 samples with no question that is answered:"]
    assert len(lines) == 10


def test_identical_samples_are_left_out_and_ids_are_made_distinct(tmp_path: Path) -> None:
    other = sample(1, conversations=said("Q", "A"))
    records, report = run(tmp_path, "llava", talk(tmp_path, sample(1), sample("1"), other, sample("1-2")))
    assert [record.metadata["id"] for record in records] == ["1", "1-2", "1-2-2"]
    assert report.findings.left_out == {"samples identical to an earlier one": 1}
    assert "talk.json entry 1 (id '1') is talk.json entry 0 (id 1)" in str(report)
    assert str(report).endswith("changed: 2 id that an earlier record has (a number was added)")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[{", "line 1 column 3"),
        ("", "is empty; expected samples"),
        ('{"data": []}', "expected a list of samples, found {'data': []}"),
        ('{"id": 1}\n{"id": 2}\n', "if each line holds one, name the file *.jsonl"),
        ('[{"image_id": "a", "image_path": "a.png"}]', "holds records already; use it as it is"),
        ("[" * 100_000, "nested"),
        ('[{"id": ' + "9" * 5000 + "}]", "an integer of thousands of digits"),
        ("[]", "nothing to write"),
    ],
)
def test_a_file_of_another_form_is_refused_in_one_line(tmp_path: Path, text: str, reason: str) -> None:
    file = talk(tmp_path)
    file.write_text(text)
    for drop in (False, True):
        message = refused(tmp_path, "llava", file, drop_bad_records=drop)
        assert reason in message
        assert "\n" not in message


def test_the_form_must_fit_the_name_and_be_utf_8(tmp_path: Path) -> None:
    file = talk(tmp_path, sample(1), name="talk.jsonl")
    assert "holds a list, not one object a line; name the file *.json" in refused(tmp_path, "llava", file)
    file.write_bytes(b'{"id": "\xff"}')
    assert "line 1: byte 0xff is not UTF-8" in refused(tmp_path, "llava", file)


def test_messages_hold_no_terminal_escapes(tmp_path: Path) -> None:
    rows = [sample("\x1b[2J", image=["a", "b"]), sample("x", conversations=[{"\x1b]0;": 1}])]
    message = refused(tmp_path, "llava", talk(tmp_path, *rows))
    assert message.replace("\n", "").isprintable()
    twice = talk(tmp_path)
    twice.write_text('[{"image": "a.png", "conversations": [], "conversations": []}]')
    assert "['conversations'] comes twice in one object" in refused(tmp_path, "llava", twice)


def test_markers_and_spaces_take_linear_time(tmp_path: Path) -> None:
    start = time.process_time()
    long = " " * 200_000 + "x" + "<image> " * 20_000
    run(tmp_path, "llava", talk(tmp_path, sample(1, conversations=said(long, long))))
    assert time.process_time() - start < 2
