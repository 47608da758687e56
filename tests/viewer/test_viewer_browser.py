"""The viewer's page in real Chromium, driven by Playwright: pictures, boxes, talk, errors, widths, keys."""

import base64
import io
import json
import math
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from viewer_data import BOXES, COLOURS, box_tensor, grounding, painted, write_predictions

from panollava.cli import main
from panollava.report.outlines import box_outline
from panollava.viewer.page import choose, page
from panollava.viewer.panoramas import find_panoramas
from panollava.viewer.serving import ViewServer
from panollava.vlm.geometry import box_corners, directions_to_rays, rays_in_boxes, rays_to_directions, rotation

playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install 'panollava[web-test]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, such as Debian's package chromium")

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
TOLERANCE_PX = 2.0
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def launched() -> Iterator[Callable[..., Any]]:
    """Return a function that starts Chromium, once for each list of arguments, with a profile of its own."""
    with playwright.sync_playwright() as driver, tempfile.TemporaryDirectory() as profiles:
        browsers: dict[tuple[str, ...], Any] = {}

        def launch(*arguments: str) -> Any:
            if arguments not in browsers:
                own = driver.chromium.launch_persistent_context(
                    Path(profiles) / str(len(browsers)), executable_path=CHROMIUM, headless=True,
                    args=[*ARGUMENTS, *arguments],
                )  # fmt: skip
                browsers[arguments] = own
            return browsers[arguments].browser

        yield launch
        for browser in browsers.values():
            browser.close()


@pytest.fixture
def opened(launched: Callable[..., Any]) -> Iterator[Open]:
    """Return a function that opens a URL as a new visitor.

    An error of the page's script fails the test, and so does a request to anything but the page's own server.
    """
    contexts, errors = [], []

    def open_page(url: str, *, width: int = 1000, arguments: tuple[str, ...] = (), **options: Any) -> Any:
        settings = {"viewport": {"width": width, "height": 800}, "locale": "en-US", **options}
        context = launched(*arguments).new_context(**settings)
        contexts.append(context)
        context.set_default_timeout(20_000)
        tab = context.new_page()
        tab.on("pageerror", lambda error: errors.append(str(error)))
        own = ("data:", "blob:", url.partition("#")[0])
        tab.on("request", lambda request: request.url.startswith(own) or errors.append(f"asked {request.url}"))
        tab.goto(url)
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert not errors


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a painted panorama, and a page of a run about it."""
    folder = tmp_path_factory.mktemp("viewer")
    painted().save(folder / "painted.png")
    answers = write_predictions(folder / "predictions.jsonl", grounding() + grounding(language="ko"))
    assert main(["view", str(folder / "painted.png"), str(answers), "--out", str(folder / "run.html")]) == 0
    return folder


def shown(tab: Any) -> Any:
    tab.wait_for_selector("#stage[data-shown]")
    return tab


def answered(tab: Any, name: str) -> None:
    """Choose the question about a box; the sphere turns to the box."""
    tab.get_by_role("button", name=f"Where is the {name} box?").click()
    tab.wait_for_function(f"Math.abs(document.querySelector('#sphere').dataset.pitchDeg - {BOXES[name][1]}) < 0.01")


class Camera:
    """The view that the page says it shows."""

    def __init__(self, tab: Any) -> None:
        state = tab.locator("#sphere").evaluate("e => ({...e.dataset, width: e.clientWidth, height: e.clientHeight})")
        self.width, self.height = state["width"], state["height"]
        angles = [math.radians(float(state[name])) for name in ("yawDeg", "pitchDeg")]
        self.frame = rotation(*torch.tensor([*angles, 0.0], dtype=torch.float64))
        self.focal = self.height / 2 / math.tan(math.radians(float(state["fovDeg"])) / 2)

    def pixels(self, rays: torch.Tensor) -> np.ndarray:
        x, y, z = (rays @ self.frame).unbind(-1)
        assert (z > 0).all()
        across, down = self.width / 2 + self.focal * x / z, self.height / 2 - self.focal * y / z
        return torch.stack((across, down), dim=-1).numpy()

    def inside(self, name: str) -> np.ndarray:
        """Return which pixels see a box."""
        down, across = np.mgrid[: self.height, : self.width] + 0.5
        x, y = (across - self.width / 2) / self.focal, (self.height / 2 - down) / self.focal
        rays = torch.from_numpy(np.stack((x, y, np.ones_like(x)), axis=-1)) @ self.frame.T
        return rays_in_boxes(rays, box_tensor(BOXES[name])).numpy()


def outline(tab: Any, source: str) -> np.ndarray:
    """Return the points of the outline that is drawn on the sphere, in pixels of the sphere."""
    points = tab.locator(f"#sphere path.outline.{source}").evaluate(
        """path => {
             const read = name => path.getAttribute(name).match(/-?\\d[\\d.]*(e-?\\d+)?/g).map(Number);
             const [[x, y], numbers] = [read("transform"), read("d")];
             return numbers.map((value, index) => value + (index % 2 ? y : x));
           }"""
    )
    return np.array(points).reshape(-1, 2)


def gaps(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return how far each point is from the nearest of the others."""
    return np.sqrt(((points[:, None] - others[None]) ** 2).sum(-1)).min(axis=1)


@pytest.mark.parametrize("name", BOXES)
def test_a_box_is_drawn_where_the_geometry_has_it(opened: Open, files: Path, name: str) -> None:
    tab = shown(opened((files / "run.html").as_uri()))
    answered(tab, name)
    camera = Camera(tab)
    drawn = outline(tab, "true")
    assert gaps(camera.pixels(box_corners(box_tensor(BOXES[name]))), drawn).max() < TOLERANCE_PX
    # 129 points a side: no drawn point is farther from the nearest than half a step.
    whole = camera.pixels(box_outline(BOXES[name], points=129))
    assert gaps(drawn, whole).max() < TOLERANCE_PX + np.abs(np.diff(whole, axis=0)).max()
    assert tab.locator("#sphere .name.true").inner_text() == name


@pytest.mark.parametrize("name", BOXES)
def test_the_picture_lies_under_its_box(opened: Open, files: Path, name: str) -> None:
    tab = shown(opened((files / "run.html").as_uri()))
    answered(tab, name)
    tab.get_by_role("button", name=f"Where is the {name} box?").click()  # nothing is drawn any more
    assert tab.locator("#sphere path.outline").count() == 0
    tab.add_style_tag(content="#dial, .psv-navbar { display: none !important }")
    camera = Camera(tab)
    pixels = np.asarray(Image.open(io.BytesIO(tab.locator("#sphere").screenshot())).convert("RGB"), dtype=int)
    coloured = np.abs(pixels - COLOURS[name]).sum(-1) < 90
    inside = camera.inside(name)
    assert inside.sum() > 10_000
    assert not (ndimage.binary_erosion(inside, iterations=2, border_value=1) & ~coloured).any()
    assert not (coloured & ~ndimage.binary_dilation(inside, iterations=2)).any()


@pytest.mark.parametrize("name", BOXES)
def test_the_flat_view_has_the_same_box(opened: Open, files: Path, name: str) -> None:
    tab = shown(opened((files / "run.html").as_uri()))
    answered(tab, name)
    line = tab.locator("#flat path.line.true").nth(1).get_attribute("d")
    drawn = torch.tensor([[float(value) for value in point.split()] for point in line.strip("M").split("L")])
    yaw, pitch = drawn.to(torch.float64).deg2rad().unbind(-1)
    outline_rays = box_outline(BOXES[name], points=257).numpy()
    drawn_rays = directions_to_rays(yaw, -pitch).numpy()  # downwards in the picture
    assert np.rad2deg(gaps(drawn_rays, outline_rays)).max() < 0.15
    assert np.rad2deg(gaps(outline_rays, drawn_rays)).max() < 1.6  # a point every three degrees
    box = tab.locator("#flat svg").bounding_box()
    sides = tab.locator("#flat path.line.true").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect()).map(({left, right}) => [left, right])"
    )
    visible = [(left, right) for left, right in sides if right > box["x"] and left < box["x"] + box["width"]]
    assert len(visible) == {"red": 1, "green": 2, "blue": 2}[name]
    if name == "blue":  # over the pole: the area reaches the upper edge along its whole width
        area = tab.locator("#flat path.area.true").nth(1).get_attribute("d")
        assert " -90.000" in area


def data_transfer(tab: Any, path: Path, media: str) -> Any:
    content = base64.b64encode(path.read_bytes()).decode()
    return tab.evaluate_handle(
        """([content, name, type]) => {
             const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
             const transfer = new DataTransfer();
             transfer.items.add(new File([bytes], name, {type}));
             return transfer;
           }""",
        [content, path.name, media],
    )


def bundle() -> str:
    return (Path(main.__code__.co_filename).parents[1] / "viewer/page/index.html").as_uri()


def test_a_dropped_panorama_is_shown(opened: Open, files: Path) -> None:
    tab = opened(bundle())
    assert tab.get_by_text("Drop a panorama here, or choose one.").is_visible()
    tab.dispatch_event("body", "drop", {"dataTransfer": data_transfer(tab, files / "painted.png", "image/png")})
    shown(tab)
    assert tab.locator("#stage").get_attribute("data-shown") == "painted.png"
    assert tab.locator("#flat img").evaluate("image => [image.naturalWidth, image.naturalHeight]") == [1024, 512]
    assert not tab.locator("#talk").is_visible()
    assert not tab.locator("#questions").is_visible()


def test_what_is_no_panorama_is_refused_in_plain_words(opened: Open, files: Path, tmp_path: Path) -> None:
    Image.new("RGB", (300, 200)).save(tmp_path / "square.png")
    (tmp_path / "notes.png").write_text("not a picture")
    tab = opened(bundle())
    alert = tab.get_by_role("alert")
    tab.set_input_files("#file", tmp_path / "square.png")
    alert.get_by_text("square.png is 300 × 200. A panorama is twice as wide as high").wait_for()
    tab.dispatch_event("body", "drop", {"dataTransfer": data_transfer(tab, tmp_path / "notes.png", "image/png")})
    alert.get_by_text("notes.png cannot be shown: it is no picture that this browser reads.").wait_for()
    tab.set_input_files("#file", files / "painted.png")
    shown(tab)
    assert not alert.is_visible()


def test_without_webgl_the_flat_view_stays(opened: Open, files: Path) -> None:
    tab = shown(opened((files / "run.html").as_uri(), arguments=("--disable-3d-apis",)))
    assert "no WebGL 2" in tab.get_by_role("alert").inner_text()
    tab.get_by_role("button", name="Where is the red box?").click()
    assert tab.locator("#flat path.line.given").count() == 3


def test_a_run_is_served_panorama_by_panorama(opened: Open, files: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        painted(64).save(tmp_path / f"{name}.png")
    answers = grounding("first")[:1] + grounding("second")
    with served(ViewServer(choose(find_panoramas(tmp_path), answers, None), 0)) as server:
        tab = shown(opened(f"{server.url}#second"))
        assert tab.locator("#stage").get_attribute("data-shown") == "second"
        assert tab.locator(".question").count() == 3
        assert tab.locator(".count").inner_text() == "3 of 3 questions; 0 right, 3 wrong"
        tab.locator("#panoramas").select_option("first")
        tab.wait_for_selector("#stage[data-shown=first]")
        assert tab.locator(".question").count() == 1


@contextmanager
def served(server: ThreadingHTTPServer) -> Iterator[Any]:
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Endpoint(BaseHTTPRequestHandler):
    """A small endpoint of OpenAI's form that holds back the second half of each answer until it is told."""

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            return self.send(200, "application/json", json.dumps({"object": "list", "data": [{"id": "tiny"}]}).encode())
        return self.send(200, "text/html; charset=utf-8", page({}))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/panoramas":
            self.server.uploads.append(body)
            return self.send(200, "application/json", b'{"id": "one"}')
        asked = json.loads(body)
        self.server.asked.append((self.path, asked))
        if self.path == "/v1/detect":
            yaw, pitch, width, height = BOXES["blue"]
            box = {"label": "blue", "yaw_deg": yaw, "pitch_deg": pitch, "width_deg": width, "height_deg": height}
            corners = torch.stack(rays_to_directions(box_corners(box_tensor(BOXES["blue"]))), dim=-1).rad2deg()
            return self.send(
                200, "application/json", json.dumps({"boxes": [box | {"outline": corners.tolist()}]}).encode()
            )
        if "too many" in json.dumps(asked):
            error = {"message": "wait a little", "type": "rate_limit", "param": None, "code": None}
            return self.send(429, "application/json", json.dumps({"error": error}).encode())
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for piece in ("red cube ", "[20, -5, 40, 24]"):
            chunk = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": piece}}]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.flush()
            self.server.go_on.wait(20)
        try:
            return self.wfile.write(b"data: [DONE]\n\n")
        except BrokenPipeError:
            return None  # the reader has pressed Stop

    def send(self, status: int, media: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class EndpointServer(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Endpoint)
        self.uploads: list[bytes] = []
        self.asked: list[tuple[str, Any]] = []
        self.go_on = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/"


def test_talk_streams_and_draws_what_the_answer_names(opened: Open, files: Path) -> None:
    with served(EndpointServer()) as server:
        tab = opened(server.url)
        tab.set_input_files("#file", files / "painted.png")
        shown(tab)
        log = tab.get_by_role("log")
        tab.get_by_label("Your question").fill("Where is the red cube?")
        tab.keyboard.press("Enter")
        log.get_by_text("red cube", exact=True).wait_for()  # the first half, while the second is held back
        assert log.get_attribute("aria-busy") == "true"
        server.go_on.set()
        log.get_by_text("red cube [20, -5, 40, 24]").wait_for()
        tab.get_by_role("button", name="Show on the panorama").wait_for()
        assert log.get_attribute("aria-busy") == "false"
        corners = Camera(tab).pixels(box_corners(box_tensor(BOXES["red"])))
        assert gaps(corners, outline(tab, "given")).max() < TOLERANCE_PX
        assert server.uploads == [(files / "painted.png").read_bytes()]

        # A direction is marked by a click or by Enter, and asked about in degrees.
        tab.locator("#sphere").focus()
        tab.keyboard.press("ArrowRight")
        tab.keyboard.press("Enter")
        tab.get_by_role("button", name="What is here?").click()
        log.get_by_text("What is at yaw 25, pitch -5?").wait_for()
        tab.get_by_role("button", name="Ask", exact=True).wait_for()
        path, asked = server.asked[-1]
        assert (path, asked["model"], asked["stream"]) == ("/v1/chat/completions", "tiny", True)
        roles = [message["role"] for message in asked["messages"]]
        assert roles == ["user", "assistant", "user"]
        picture, question = asked["messages"][0]["content"]
        uri = "data:image/png;base64," + base64.b64encode((files / "painted.png").read_bytes()).decode()
        assert picture == {"type": "image_url", "image_url": {"url": uri}}
        assert question == {"type": "text", "text": "Where is the red cube?"}


def test_errors_and_a_stop_leave_the_talk_usable(opened: Open, files: Path) -> None:
    with served(EndpointServer()) as server:
        tab = opened(server.url)
        tab.set_input_files("#file", files / "painted.png")
        shown(tab)
        log, question = tab.get_by_role("log"), tab.get_by_label("Your question")
        question.fill("too many")
        tab.get_by_role("button", name="Ask", exact=True).click()
        log.get_by_text("The server refused: wait a little").wait_for()
        question.fill("again")
        tab.keyboard.press("Enter")
        log.get_by_text("red cube", exact=True).wait_for()
        tab.get_by_role("button", name="Stop").click()
        log.get_by_text("red cube (stopped)").wait_for()
        server.go_on.set()
        # The sphere's own endpoint: its outline is drawn as it comes, here over the pole.
        tab.get_by_label("What to do").select_option("detect")
        question.fill("every blue thing")
        tab.keyboard.press("Enter")
        log.get_by_text("blue [-60, 80, 50, 40]").wait_for()
        wanted = {"panorama": "one", "description": "every blue thing", "language": "en"}
        assert server.asked[-1] == ("/v1/detect", wanted)
        corners = Camera(tab).pixels(box_corners(box_tensor(BOXES["blue"])))
        assert gaps(corners, outline(tab, "given")).max() < TOLERANCE_PX


@pytest.mark.parametrize("width", [300, 1600])
@pytest.mark.parametrize("locale", ["en-US", "ko-KR"])
def test_no_width_scrolls_sideways(opened: Open, files: Path, width: int, locale: str) -> None:
    tab = shown(opened((files / "run.html").as_uri(), width=width, locale=locale))
    assert tab.locator("html").get_attribute("lang") == locale[:2]
    tab.locator(".question").first.click()
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    tab.locator("#language").click()
    assert tab.locator("html").get_attribute("lang") != locale[:2]
    assert tab.evaluate("document.documentElement.scrollWidth") == width


def test_keys_turn_the_sphere_and_everything_has_a_name(opened: Open, files: Path) -> None:
    tab = shown(opened((files / "run.html").as_uri()))
    tab.locator("#language").focus()
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "sphere"
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("Shift+ArrowUp")
    assert tab.locator("#look").inner_text() == "Front · yaw -5°, pitch 15°"
    before = Camera(tab).focal
    tab.keyboard.press("+")
    tab.wait_for_function("document.querySelector('#sphere').dataset.fovDeg < 79")
    assert Camera(tab).focal > before
    tab.keyboard.press("Home")
    tab.keyboard.press("Enter")
    assert tab.locator("#marked").inner_text() == "+ Front · yaw 0°, pitch 0°"
    tab.get_by_label("Show the view that the model’s encoder sees here").check()
    wanted = Camera(tab).pixels(box_corners(box_tensor((0.0, 0.0, 90.0, 90.0))))
    assert gaps(wanted, outline(tab, "view")).max() < TOLERANCE_PX
    nameless = tab.evaluate(
        """[...document.querySelectorAll("button, select, textarea, input, [role=application], [role=img]")]
             .filter(one => one.checkVisibility())
             .filter(one => !(one.textContent.trim() || one.ariaLabel || one.labels?.[0]?.textContent.trim()))
             .map(one => one.outerHTML)"""
    )
    assert nameless == []
