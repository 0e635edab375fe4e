"""The playground as its page sees it: requests, and the live channel, without a browser."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from simplesockets.hpx import Server
from simplesockets.hpx.playground import Playground

from ..support.waiting import PATIENCE
from .support import running


class Page:
    """One open page of a running playground.

    It knows what a real one knows: the token, the newest state, the functions, and all exchanges by number.
    """

    def __init__(self, playground: Playground) -> None:
        self.playground = playground
        self.port = int(playground.url.rstrip("/").rpartition(":")[2])
        found = re.search(r'playground-token" content="([\w-]+)"', self.get("/")[2].decode())
        assert found is not None
        self.token = found[1]
        self.state: dict[str, Any] = {}
        self.functions: list[dict[str, Any]] = []
        self.exchanges: dict[int, dict[str, Any]] = {}
        self.over = False
        self._channel = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and body of an answer. Underscores in names of headers stand for hyphens."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def get(self, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        return self.request("GET", path, None, **headers)

    def do(self, what: str, **body: object) -> tuple[int, dict[str, Any]]:
        """Ask for something as the page does; gives the status, and what went wrong."""
        text = json.dumps(body).encode()
        status, _, answer = self.request(
            "POST", f"/do/{what}", text, content_type="application/json", x_playground_token=self.token
        )
        content = json.loads(answer)
        assert isinstance(content, dict)
        return status, content

    def listen(self, after: int = 0) -> None:
        """Open the live channel; with the number of the latest exchange as a browser that comes back has it."""
        headers = {"Last-Event-ID": str(after)} if after else {}
        self._channel.close()
        self._channel.request("GET", f"/events?token={self.token}", headers=headers)
        self._live = self._channel.getresponse()
        assert self._live.status == 200, self._live.read()
        self.state = {}
        self.wait(lambda: self.state)  # it comes first, but for what was said before

    def take(self) -> None:
        """Take the next event of the live channel."""
        event = {}
        while line := self._live.readline().decode().rstrip("\n"):
            name, _, value = line.partition(": ")
            event[name] = value
        assert event, "the live channel broke off"
        content = json.loads(event["data"])
        if event["event"] == "state":
            self.state = content
        elif event["event"] == "functions":
            self.functions = content
        elif event["event"] == "exchange":
            assert int(event["id"]) == content["number"]
            self.exchanges[content["number"]] = content
        else:
            assert event["event"] == "end"
            self.over = True

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Take events until the condition gives something true, and give that."""
        while not (value := condition()):
            self.take()
        return value

    def received(self, count: int = 1) -> list[dict[str, Any]]:
        """The messages that came, when there are so many; the greeting is one."""
        messages: list[dict[str, Any]] = self.wait(lambda: _at_least(count, self.of("received")))
        return messages

    def of(self, direction: str) -> list[dict[str, Any]]:
        """The exchanges of a direction, in order."""
        return [each for _, each in sorted(self.exchanges.items()) if each["direction"] == direction]

    def notes(self) -> list[str]:
        return [each["text"] for each in self.of("note")]

    def close(self) -> None:
        self._channel.close()


def _at_least(count: int, messages: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    return messages if len(messages) >= count else None


@contextlib.contextmanager
def page_of(playground: Playground) -> Iterator[Page]:
    """A page that listens to a playground, which is started here, and closed at the end."""
    with playground, contextlib.closing(Page(playground)) as page:
        page.listen()
        yield page


@contextlib.contextmanager
def connected_page(**options: Any) -> Iterator[tuple[Page, Server]]:
    """A page of a playground that is connected to a server with the tests' functions, and took its greeting."""
    with running(**options) as server:
        playground = Playground(server.address, 0, functions=server.describe_functions())
        with page_of(playground) as page:
            page.received()
            yield page, server
