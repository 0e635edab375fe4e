"""A browser for tests: headless Chromium, driven over WebDriver (W3C), which is JSON over HTTP."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

from .running import HOST
from .waiting import PATIENCE, wait_until

PROGRAMS = ("chromium", "chromedriver")
WANTED = "apt-get install chromium chromium-driver"

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the standard's name for it


class Keys:
    """Keys that are no characters, by the standard's code points."""

    ENTER = "\ue007"
    ESCAPE = "\ue00c"
    SHIFT = "\ue008"
    TAB = "\ue004"


class Browser:
    """A running browser with one page.

    Args:
        port: of the driver.
        profile: an empty directory.
    """

    def __init__(self, port: int, profile: str) -> None:
        options = {"binary": shutil.which(PROGRAMS[0]), "args": [*_FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self._port = port
        self._base = "/session"
        self._base += "/" + self._ask("POST", "", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        data = json.dumps({} if body is None else body) if method == "POST" else None
        with contextlib.closing(http.client.HTTPConnection(HOST, self._port, timeout=3 * PATIENCE)) as connection:
            connection.request(method, self._base + path, data, {"content-type": "application/json"})
            response = connection.getresponse()
            value = json.loads(response.read())["value"]
        assert response.status == 200, value["message"]
        return value

    def quit(self) -> None:
        self._ask("DELETE", "")

    def open(self, url: str) -> None:
        self._ask("POST", "/url", {"url": url})

    def script(self, code: str, *arguments: object) -> Any:
        """What some JavaScript returns."""
        return self._ask("POST", "/execute/sync", {"script": code, "args": list(arguments)})

    def wait(self, condition: str, *arguments: object) -> Any:
        """Wait until a JavaScript expression is true, and give it."""
        return wait_until(lambda: self.script(f"return ({condition})", *arguments), condition)

    def _find(self, selector: str) -> str:
        found = self._ask("POST", "/element", {"using": "css selector", "value": selector})
        return f"/element/{found[_ELEMENT]}"

    def click(self, selector: str) -> None:
        self._ask("POST", f"{self._find(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        """Type into a field, which is emptied first."""
        element = self._find(selector)
        self._ask("POST", f"{element}/clear")
        self._ask("POST", f"{element}/value", {"text": text})

    def choose(self, selector: str, text: str) -> None:
        """Choose the option with that text."""
        self.script(
            "const select = document.querySelector(arguments[0]);"
            "select.selectedIndex = [...select.options].findIndex((each) => each.textContent === arguments[1]);"
            "select.dispatchEvent(new Event('change'))",
            selector,
            text,
        )

    def press(self, *keys: str, held: str = "") -> None:
        """Press keys, wherever the focus is."""
        moves = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        if held:
            moves = [{"type": "keyDown", "value": held}, *moves, {"type": "keyUp", "value": held}]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": moves}]})

    def text(self, selector: str) -> str:
        """What a person reads there."""
        return str(self._ask("GET", f"{self._find(selector)}/text"))

    def emulate(self, width: int, height: int, *, dark: bool = False, scale: float = 1, mobile: bool = False) -> None:
        """Have a screen of so many CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile}
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._devtools("Emulation.setDeviceMetricsOverride", **size)
        self._devtools("Emulation.setEmulatedMedia", features=scheme)

    def _devtools(self, command: str, **parameters: object) -> None:
        self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def complaints(self) -> list[str]:
        """What the browser complained of since the last look: errors of scripts, what a policy forbade …"""
        entries = self._ask("POST", "/se/log", {"type": "browser"})
        return [each["message"] for each in entries if each["level"] in ("SEVERE", "WARNING")]

    def picture(self) -> bytes:
        """The page as it is seen, as a PNG."""
        return base64.b64decode(self._ask("GET", "/screenshot"))


def missing() -> list[str]:
    """The programs that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


@contextlib.contextmanager
def running_browser(profile: str) -> Iterator[Browser]:
    """A browser with an empty profile in that directory; ended afterwards."""
    with subprocess.Popen([PROGRAMS[1], "--port=0"], stdout=subprocess.PIPE, text=True) as driver:
        try:
            yield from _running_browser(driver, profile)
        finally:
            driver.terminate()


def _running_browser(driver: subprocess.Popen[str], profile: str) -> Iterator[Browser]:
    assert driver.stdout is not None
    told = ""
    while (found := re.search(r"successfully on port (\d+)", told)) is None:
        told = driver.stdout.readline()
        assert told, "the driver ended"
    browser = Browser(int(found[1]), profile)
    try:
        yield browser
    finally:
        browser.quit()
