"""Take the picture of docs/viewer.md: the viewer in Chromium with a finished run.

`python docs/assets/draw_viewer.py` reads data/store and data/evaluate and writes docs/assets/viewer.jpg. It needs
Chromium and `pip install 'panollava[web-test]'`.
"""

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from panollava.tasks.prediction_files import read_predictions
from panollava.viewer.page import choose, write_page
from panollava.viewer.panoramas import find_panoramas

STORE, PREDICTIONS, OUT = Path("data/store"), Path("data/evaluate/predictions.jsonl"), Path("docs/assets/viewer.jpg")
PANORAMA, KIND = "test_00135", "detection"
WIDTH, HEIGHT, QUALITY = 1280, 860, 82


def main() -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        page = Path(folder) / "page.html"
        write_page(choose(find_panoramas(STORE), read_predictions(PREDICTIONS), PANORAMA), page)
        context = driver.chromium.launch_persistent_context(
            Path(folder) / "profile", executable_path=shutil.which("chromium"), headless=True, locale="en-US",
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
            viewport={"width": WIDTH, "height": HEIGHT},
        )  # fmt: skip
        tab = context.pages[0]
        tab.goto(page.as_uri())
        tab.wait_for_selector("#stage[data-shown]")
        tab.locator("[name=kind]").select_option(KIND)
        tab.locator(".question").first.click()
        tab.wait_for_timeout(500)
        tab.screenshot(path=OUT, type="jpeg", quality=QUALITY, full_page=True)
        context.close()
    print(f"{OUT}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
