"""Commands that show panoramas: view."""

import argparse
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from panollava.cli.arguments import Add, whole
from panollava.terminal import say, warn

if TYPE_CHECKING:
    from panollava.viewer.page import Shown

LAST_PORT = 65535


def view(options: argparse.Namespace) -> int:
    """Look at a panorama and at the answers about it, in a browser.

    PANORAMA is a picture, a folder of pictures, or the store of a run (data/store). With the predictions.jsonl of that
    run, its questions stand beside the panorama, and true and answered boxes, masks and directions are drawn on it.

    The page comes from a server on this machine, which other machines do not reach; Ctrl-C ends it. With --out, it is
    written as one HTML file instead, which needs no server and no network.
    """
    from panollava.io import check_writable
    from panollava.tasks.prediction_files import read_predictions
    from panollava.viewer.page import choose, write_page
    from panollava.viewer.panoramas import find_panoramas

    if options.out is not None:
        check_writable(Path(options.out))
    panoramas = find_panoramas(Path(options.panorama), allow_any_aspect=options.allow_any_aspect)
    predictions = [] if options.predictions is None else read_predictions(Path(options.predictions))
    shown = choose(panoramas, predictions, options.image_id)
    if options.out is not None:
        write_page(shown, Path(options.out))
        say(options.out)
        return 0
    if len(shown) == 1:
        shown[0].panorama.jpeg()  # a picture that cannot be shown is told here
    return _serve(shown, options.port, browser=not options.no_browser)


def _serve(shown: "list[Shown]", port: int, *, browser: bool) -> int:
    """Serve the page until Ctrl-C."""
    import webbrowser

    from panollava.viewer.serving import ViewServer

    with ViewServer(shown, port) as server:
        say(server.url)
        warn("Ctrl-C ends the viewer")
        if browser:
            webbrowser.open(server.url)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    return 0


def port_number(text: str) -> int:
    """Return a port from 0 to 65535; raises ArgumentTypeError."""
    number = whole(text)
    if number > LAST_PORT:
        raise argparse.ArgumentTypeError(f"{text} is no port; they end at {LAST_PORT}")
    return number


def add_commands(add: Add) -> None:
    """Add these commands and their arguments."""
    command = add(view)
    text = "a picture, a folder of pictures, or the store of a run"
    command.add_argument("panorama", metavar="PANORAMA", help=text)
    text = "predictions.jsonl of a finished run"
    command.add_argument("predictions", metavar="PREDICTIONS", nargs="?", help=text)
    text = "show this panorama alone; of a single picture: the answers about this one"
    command.add_argument("--image-id", metavar="ID", help=text)
    command.add_argument("--out", metavar="FILE", help="write the page as one HTML file")
    text = "port of the server on this machine (default: any free one)"
    command.add_argument("--port", type=port_number, default=0, metavar="N", help=text)
    command.add_argument("--no-browser", action="store_true", help="only print the address")
    text = "accept pictures that are not twice as wide as high"
    command.add_argument("--allow-any-aspect", action="store_true", help=text)
