"""The viewer without a browser: its bundle, what the page is given, and the server of `panollava view`."""

import hashlib
import http.client
import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from viewer_data import BOXES, grounding, painted, prediction, write_predictions

import panollava.viewer
from panollava.cli import main
from panollava.corpus.masks import encoded
from panollava.corpus.records import Record
from panollava.corpus.store import PanoramaRow, write_store
from panollava.viewer.page import choose, page
from panollava.viewer.panoramas import find_panoramas
from panollava.viewer.questions import questions_json
from panollava.viewer.serving import ViewServer

BUNDLE = Path(panollava.viewer.__file__).parent / "page"
WEB = Path(__file__).resolve().parents[2] / "web"
FILES = (".npmrc", "index.html", "package-lock.json", "package.json", "tsconfig.json", "vite.config.ts")


def embedded(html: str) -> Any:
    (content,) = re.findall(r'<script type="application/json" id="run">(.*?)</script>', html, re.DOTALL)
    return json.loads(content)


def test_the_bundle_is_the_build_of_its_sources() -> None:
    names = sorted([*FILES, *(path.relative_to(WEB).as_posix() for path in (WEB / "src").rglob("*") if path.is_file())])
    sources = hashlib.sha256()
    for name in names:
        sources.update(f"{name}\0".encode() + (WEB / name).read_bytes() + b"\0")
    page_hash = hashlib.sha256((BUNDLE / "index.html").read_bytes()).hexdigest()
    known = json.loads((BUNDLE / "hashes.json").read_text())
    assert known == {"sources": sources.hexdigest(), "page": page_hash}, "web/ has changed: make web"


def test_the_bundle_needs_nothing_else_and_holds_its_licences() -> None:
    html = (BUNDLE / "index.html").read_text("utf-8")
    outside_scripts = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    assert not re.search(r"\b(src|href)=[\"'](?!data:)", outside_scripts)
    assert not re.search(r"<script[^>]*\bsrc=", html)
    assert "connect-src 'self' data: blob:" in html
    licences = (BUNDLE / "LICENSES.txt").read_text("utf-8")
    lock = json.loads((WEB / "package-lock.json").read_text())["packages"]
    for name in ("@photo-sphere-viewer/core", "@photo-sphere-viewer/markers-plugin", "three"):
        assert f"{name} {lock[f'node_modules/{name}']['version']}\n" in licences
    assert licences.count("Permission is hereby granted") == 3
    assert not [name for name, entry in lock.items() if "resolved" in entry], "the lock file names a registry"


def test_no_text_of_a_run_leaves_its_element() -> None:
    run = {"panoramas": [{"id": "</script><script>alert(1)</script><!--", "picture": "", "questions": []}]}
    html = page(run).decode()
    assert "<script>alert" not in html
    assert embedded(html) == run
    assert embedded(page({}).decode()) == {}


def test_questions_hold_true_and_given_boxes_and_verdicts() -> None:
    red, *_ = questions_json(grounding(), list)
    yaw, pitch, width, height = BOXES["red"]
    box = {"label": "red", "yaw_deg": yaw, "pitch_deg": pitch, "width_deg": width, "height_deg": height}
    assert red["true"] == [box]
    assert red["given"] == [box | {"yaw_deg": yaw + 10}]
    assert (red["right"], red["iou"], red["answer"]) == (False, 0.4, "[30.0, -5.0, 40.0, 24.0]")


def test_directions_lists_and_choices_are_shown_too() -> None:
    direction = prediction(
        "p", 0, task="direction", question="?", reference="1, 2", prediction="3, 4", error_deg=2.8,
        answer={"yaw_deg": 1.0, "pitch_deg": 2.0}, direction=[3.0, 4.0],
    )  # fmt: skip
    objects = [{"label": name, "box_deg": box} for name, box in BOXES.items()]
    listed = prediction(
        "p", 1, task="detection", question="?", reference="x", prediction="nothing", answer={"objects": objects},
        boxes=[], unparsed=0,
    )  # fmt: skip
    right = prediction(
        "p", 2, task="choice", question="?", reference="no", prediction="no", answer={"text": "no"}, correct=True
    )
    shown = questions_json([right, listed, direction], list)
    assert [one["turn"] for one in shown] == [0, 1, 2]
    assert shown[0]["true"] == [{"label": "+", "yaw_deg": 1.0, "pitch_deg": 2.0}]
    assert shown[0]["given"] == [{"label": "×", "yaw_deg": 3.0, "pitch_deg": 4.0}]
    assert [item["label"] for item in shown[1]["true"]] == list(BOXES)
    assert (shown[1]["given"], shown[1]["right"], shown[2]["right"]) == ([], None, True)


def test_a_store_gives_pictures_and_true_masks(tmp_path: Path) -> None:
    mask = np.zeros((16, 32), bool)
    mask[4:8, 10:20] = True
    thing = {"label": "red", "box_deg": BOXES["red"], "mask": encoded(mask)}
    talk = [{"human": "where?", "assistant": "there"}]
    rows = []
    for name in ("first", "painted"):
        record = {"image_id": name, "image_path": "a.png", "conversations": talk, "objects": [thing]}
        rows.append(PanoramaRow(name, painted(32), [Record.model_validate(record)]))
    write_store(tmp_path / "store", "test", rows, jpeg_quality=None)
    answers = [one.model_copy(update={"mask": rows[0].records[0].objects[0].mask}) for one in grounding()]
    (shown,) = choose(find_panoramas(tmp_path / "store"), answers, None)
    assert shown.panorama.image_id == "painted"
    assert Image.open(io.BytesIO(shown.panorama.jpeg())).size == (64, 32)
    red, green, _ = shown.questions()
    assert red["given"][1]["polygons"] == red["true"][1]["polygons"]
    assert len(red["true"][1]["polygons"]) == 1
    assert len(green["true"]) == 1  # no object of the panorama has that box


def test_which_panorama_the_answers_are_about(tmp_path: Path) -> None:
    for name in ("a", "b", "painted"):
        painted(16).save(tmp_path / f"{name}.png")
    folder, single = find_panoramas(tmp_path), find_panoramas(tmp_path / "a.png")
    assert [one.panorama.image_id for one in choose(folder, [], None)] == ["a", "b", "painted"]
    assert [one.panorama.image_id for one in choose(folder, [], "b")] == ["b"]
    assert [one.panorama.image_id for one in choose(folder, grounding(), None)] == ["painted"]
    assert len(choose(single, grounding(), None)[0].predictions) == 3  # of another name, but the only one
    two = grounding() + grounding("other")
    assert choose(single, two, "other")[0].predictions == two[3:]
    with pytest.raises(ValueError, match=r"no answer is about 'a'; name with --image-id one of 'painted', 'other'"):
        choose(single, two, None)
    with pytest.raises(ValueError, match=r"about 'x', and none of them is here: 'a', 'b', 'painted'"):
        choose(folder, grounding("x"), None)
    with pytest.raises(ValueError, match=r"no panorama has the image_id 'z'; there are 'a', 'b', 'painted'"):
        choose(folder, [], "z")


def test_folders_without_panoramas_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds neither pictures"):
        find_panoramas(tmp_path)
    painted(16).save(tmp_path / "a.png")
    painted(16).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"two pictures are called a;"):
        find_panoramas(tmp_path)


def test_view_writes_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    painted(16).save(tmp_path / "painted.tif")
    out = tmp_path / "page.html"
    answers = write_predictions(tmp_path / "predictions.jsonl", grounding())
    assert main(["view", str(tmp_path / "painted.tif"), str(answers), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    run = embedded(out.read_text("utf-8"))
    assert run["model"] is False
    (shown,) = run["panoramas"]
    assert (shown["id"], len(shown["questions"])) == ("painted", 3)
    assert shown["picture"].startswith("data:image/jpeg;base64,")


def test_view_tells_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "square.png"
    Image.new("RGB", (32, 32)).save(wrong)
    assert main(["view", str(wrong), "--no-browser"]) == 1
    assert "square.png" in (told := capsys.readouterr().err)
    assert "not 2:1" in told
    assert main(["view", str(tmp_path / "gone.jpg"), "--no-browser"]) == 1
    assert "gone.jpg: No such file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["view", str(wrong), "--port", "70000"])
    assert "70000 is no port" in capsys.readouterr().err


@contextmanager
def served(folder: Path) -> Iterator[ViewServer]:
    with ViewServer(choose(find_panoramas(folder), [], None), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_the_server_gives_named_contents_to_this_machine_alone(tmp_path: Path) -> None:
    painted(16).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    with served(tmp_path) as server:

        def ask(method: str, path: str, **headers: str) -> tuple[int, str, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
            connection.request(method, path, headers=headers)
            reply = connection.getresponse()
            data = reply.read()
            connection.close()
            return reply.status, reply.getheader("Content-Type", ""), data

        status, media, html = ask("GET", "/?x=1")
        assert (status, media) == (200, "text/html; charset=utf-8")
        assert [one["picture"] for one in embedded(html.decode())["panoramas"]] == [
            "panoramas/0.jpg", "panoramas/1.jpg",
        ]  # fmt: skip
        status, media, data = ask("GET", "/panoramas/0.jpg")
        assert (status, media, Image.open(io.BytesIO(data)).size) == (200, "image/jpeg", (32, 16))
        assert ask("HEAD", "/panoramas/0.jpg")[::2] == (200, b"")
        assert ask("GET", "/panoramas/0.json")[2] == b"[]"
        status, _, message = ask("GET", "/panoramas/1.jpg")
        assert status == 422
        assert b"b.png" in message
        for path in ("/v1/models", "/panoramas/2.jpg", "/a.png", "/../a.png", "/panoramas/../../etc/passwd"):
            assert ask("GET", path)[0] == 404
        assert ask("GET", "/", Host="pictures.example:80")[0] == 403
        assert ask("GET", "/", Host=f"localhost:{server.server_port}")[0] == 200
        assert ask("POST", "/")[0] == 501
        with pytest.raises(ValueError, match=rf"port {server.server_port} of 127.0.0.1 is not free"):
            ViewServer([], server.server_port)
