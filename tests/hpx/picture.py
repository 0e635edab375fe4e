"""Draws the pictures of the playground in docs/images: ``python -m tests.hpx.picture``. Needs Chromium."""

from __future__ import annotations

import pathlib
import tempfile

from simplesockets.hpx.playground import Playground
from simplesockets.hpx.playing import demo_server

from ..support.browser import WANTED, Browser, missing, running_browser

IMAGES = pathlib.Path(__file__).resolve().parents[2] / "docs" / "images"
CALLS = [("numbers", {}), ("fail", {"why": "there is no such book"}), ("add", {"a": "40"})]


def main() -> None:
    """Take a picture at a desk's width, and one at a telephone's."""
    if missing():
        raise SystemExit(f"{', '.join(missing())} is not installed: {WANTED}")
    IMAGES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as directory,
        demo_server(directory) as server,
        Playground(server.address, 0, functions=server.describe_functions()) as playground,
        running_browser(f"{directory}/profile") as browser,
    ):
        browser.emulate(1280, 860)
        browser.open(playground.url)
        say_something(browser)
        save(browser, "playground.png")
        browser.emulate(375, 812, scale=2, mobile=True)
        browser.script("document.querySelector('.log').scrollIntoView()")
        save(browser, "playground-phone.png")


def say_something(browser: Browser) -> None:
    """Shake hands, and call some functions."""
    browser.wait("document.querySelectorAll('.received').length == 1")
    browser.click("#guest")
    browser.wait("document.getElementById('session').textContent.endsWith('of a guest')")
    for number, (fname, arguments) in enumerate(CALLS):
        browser.choose("#function", fname)
        for name, value in arguments.items():
            browser.type(f"[name={name}]", value)
        browser.click("#call .main")
        browser.wait("document.querySelectorAll('.received').length == arguments[0]", number + 3)
    browser.script("document.activeElement.blur(); scrollTo(0, 0)")


def save(browser: Browser, name: str) -> None:
    """Write what is seen into a file."""
    (IMAGES / name).write_bytes(browser.picture())
    print(IMAGES / name)


if __name__ == "__main__":
    main()
