"""A small server of the page for the person at this machine: read-only, on 127.0.0.1, of named contents alone.

No path of a request reaches the file system: each URL is looked up in a table that was made beforehand.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from panollava.corpus.image_files import ImageError
from panollava.viewer.page import Shown, page

HOST = "127.0.0.1"
# Contents that are kept: those of a few panoramas to and fro.
KEPT = 8
CLIENT_TIMEOUT_S = 30
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Content(NamedTuple):
    """What one URL returns: a media type and how the bytes are made."""

    media: str
    make: Callable[[], bytes]


class ViewServer(ThreadingHTTPServer):
    """Serve a table of contents to this machine; `port` 0 is any free one."""

    def __init__(self, shown: Sequence[Shown], port: int) -> None:
        self.contents = contents(shown)
        self.one_at_a_time = threading.Lock()  # pictures of full size take memory
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise ValueError(f"port {port} of {HOST} is not free ({error.strerror}); choose another --port") from error
        # Other names that resolve to this machine may be those of a foreign page.
        self.names = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    @property
    def url(self) -> str:
        """Return the address of the page."""
        return f"http://{HOST}:{self.server_port}/"


def contents(shown: Sequence[Shown]) -> Mapping[str, Content]:
    """Return what each URL returns: the page, and picture and questions of each panorama by number."""
    panoramas: list[dict[str, str]] = []
    table: dict[str, Content] = {}

    @lru_cache(maxsize=KEPT)
    def picture(number: int) -> bytes:
        return shown[number].panorama.jpeg()

    @lru_cache(maxsize=KEPT)
    def questions(number: int) -> bytes:
        return json.dumps(shown[number].questions(), ensure_ascii=False, allow_nan=False).encode()

    for number, one in enumerate(shown):
        own = {"picture": f"panoramas/{number}.jpg", "questions": f"panoramas/{number}.json"}
        panoramas.append({"id": one.panorama.image_id, **own})
        table[f"/{own['picture']}"] = Content("image/jpeg", partial(picture, number))
        table[f"/{own['questions']}"] = Content("application/json", partial(questions, number))
    whole = page({"model": False, "panoramas": panoramas})
    return {"/": Content("text/html; charset=utf-8", lambda: whole), **table}


class _Handler(BaseHTTPRequestHandler):
    """Answer GET and HEAD from the table."""

    server: ViewServer
    server_version = "panollava"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = CLIENT_TIMEOUT_S

    def do_GET(self) -> None:
        """Answer with a content of the table."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Answer with the headers alone."""
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        content = self.server.contents.get(self.path.partition("?")[0])
        if self.headers.get("Host") not in self.server.names:
            return self._send(HTTPStatus.FORBIDDEN, "text/plain", b"this page is for this machine alone", body=body)
        if content is None:
            return self._send(HTTPStatus.NOT_FOUND, "text/plain", b"nothing here", body=body)
        try:
            with self.server.one_at_a_time:
                data = content.make()
        except ImageError as error:
            message = str(error).encode("utf-8", "backslashreplace")
            return self._send(HTTPStatus.UNPROCESSABLE_ENTITY, "text/plain; charset=utf-8", message, body=body)
        return self._send(HTTPStatus.OK, content.media, data, body=body)

    def _send(self, status: HTTPStatus, media: str, data: bytes, *, body: bool) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": media, "Content-Length": str(len(data)), **HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        """Keep quiet: requests are no news."""
