"""LLaVA conversations: whole dialogues without image markers, and all problems in one error."""

from pathlib import Path
from typing import Any

from importer_cases import refused, run, write_image, write_json


def sample(name: int | str, **changes: Any) -> dict[str, Any]:
    messages = [
        {"from": "human", "value": "<image>\nWhat is  here?"},
        {"from": "gpt", "value": "A room."},
        {"from": "human", "value": "And in <image> behind me?"},
        {"from": "gpt", "value": "A door."},
    ]
    return {"id": name, "image": "a.png", "conversations": messages, "model": ""} | changes


def test_dialogues_stay_whole_and_lose_their_image_markers(tmp_path: Path) -> None:
    write_image(tmp_path / "set/a.png")
    text_only = {key: value for key, value in sample("t").items() if key != "image"}
    records, report = run(tmp_path, "llava", write_json(tmp_path / "set/talk.json", [sample("1"), text_only]))
    turns = [(turn.human, turn.assistant, turn.task) for turn in records[0].conversations]
    assert turns == [("What is  here?", "A room.", "open"), ("And in behind me?", "A door.", "open")]
    assert dict(report.dropped) == {"samples without an image": 1}
    assert records[0].metadata["licence"] == "not stated by the file"


def test_all_problems_of_the_dialogues_are_in_one_error(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    odd = [{"from": "gpt", "value": "A room."}, {"from": "human", "value": "?"}]
    file = write_json(tmp_path / "talk.json", [sample(1), sample(2, conversations=odd)])
    message = refused(tmp_path, "llava", file)
    assert "talk.json sample 1 (id 2): the sides are ['gpt', 'human']; expected human and gpt in turn" in message
    bad = [sample(1, image=["a.png", "b.png"]), {"id": 2}, sample(3, conversations=[{"from": "system"}])]
    message = refused(tmp_path, "llava", write_json(file, bad))
    assert message.startswith(f"4 problems in {file} (lists count from 0):")
    assert "talk.json.0.image: got ['a.png', 'b.png']" in message
    assert "talk.json.1.conversations: Field required" in message
    assert "talk.json.2.conversations.0.from: got 'system'" in message
    file.write_text("[{")
    assert "Invalid JSON" in refused(tmp_path, "llava", file)
    same = write_json(file, [sample(1), sample(1)])
    assert "is identical to record 0" in refused(tmp_path, "llava", same)
