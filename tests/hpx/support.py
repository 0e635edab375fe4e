"""An HPX server for tests, and a naive peer: it knows gzip, JSON and sockets, and splits at the delimiter."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

from simplesockets.hpx import Context, HPXError, Server

from ..support.waiting import PATIENCE

HOST = "127.0.0.1"
USERS = {"admin": "secret", "ünï": "pässwörd"}


class Clock:
    """A clock that only a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def offer_functions(server: Server) -> None:
    """The functions that the tests call."""

    @server.function
    def add(a: int, b: int = 2) -> int:
        return a + b

    @server.function
    def echo(value: object) -> object:
        return value

    @server.function("who")
    def whoever_calls(context: Context) -> list[str | None]:
        return [context.user, context.name]

    @server.function
    def count(context: Context) -> int:
        number = context.data["number"] = context.data.get("number", 0) + 1  # type: ignore[operator]
        assert isinstance(number, int)
        return number

    @server.function
    def fail(code: int) -> None:
        raise HPXError("as you wish", code)

    @server.function
    def crash() -> None:
        raise ZeroDivisionError("on purpose")

    @server.function
    def long(size: int) -> str:
        return "<EOF>" * (size // 5)


@contextlib.contextmanager
def running(**options: Any) -> Iterator[Server]:
    """A server on a free port, with functions and users; closed at the end."""
    server = Server(**{"port": 0, "users": USERS, **options})
    offer_functions(server)
    with server:
        yield server


class Peer:
    """A connection of somebody who implements the protocol as its document shows it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=PATIENCE)
        self.session = ""
        self._buffer = b""

    def send_json(self, content: object) -> None:
        self.send_packed(gzip.compress(json.dumps(content).encode()))

    def send_packed(self, packed: bytes) -> None:
        self.socket.sendall(packed + b"<EOF>")

    def read(self) -> dict[str, Any]:
        while b"<EOF>" not in self._buffer:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError(self._buffer)
            self._buffer += data
        packed, self._buffer = self._buffer.split(b"<EOF>", 1)
        content = json.loads(gzip.decompress(packed))
        assert isinstance(content, dict)
        return content

    def is_over(self) -> bool:
        """Whether the server ended the connection, and said nothing more before."""
        with contextlib.suppress(ConnectionResetError):
            return self._buffer == b"" and self.socket.recv(1) == b""
        return True

    def ask(self, data: object, session: str | None = None, **more: object) -> dict[str, Any]:
        """Send data in an envelope, give the answer's envelope."""
        used = self.session if session is None else session
        self.send_json({"session": used, "name": "peer", "data": data, **more})
        return self.read()

    def call(self, *calls: dict[str, object]) -> list[dict[str, Any]]:
        entries = self.ask(list(calls))["data"]
        assert isinstance(entries, list)
        return entries

    def shake_hands(self, user: str = "", password: str = "") -> dict[str, Any]:
        answer = self.ask({"user": user, "password": password} if user else {}, session="")
        self.session = answer["session"]
        return answer


@contextlib.contextmanager
def peer(server: Server | tuple[str, int], user: str | None = None) -> Iterator[Peer]:
    """A connected peer that took the greeting; ``user="admin"`` or ``user=""`` (a guest) shakes hands, too."""
    each = Peer(server.address if isinstance(server, Server) else server)
    try:
        each.read()
        if user is not None:
            assert each.shake_hands(user, USERS.get(user, ""))["data"] == "Authenticated"
        yield each
    finally:
        each.socket.close()


@contextlib.contextmanager
def scripted_server(*scripts: Any) -> Iterator[tuple[str, int]]:
    """A server that serves one connection after the other, each by one of the functions ``script(socket)``."""
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(PATIENCE)
        failures: list[BaseException] = []

        def serve() -> None:
            try:
                for script in scripts:
                    sock, _ = listener.accept()
                    with sock:
                        sock.settimeout(PATIENCE)
                        script(sock)
            except BaseException as failure:
                failures.append(failure)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            thread.join(PATIENCE)
        assert not failures, failures


def frame(content: object) -> bytes:
    """A frame as the document has it."""
    return gzip.compress(json.dumps(content).encode()) + b"<EOF>"


GREETING = {
    "session": "",
    "name": "scripted",
    "data": {"version": {"core": [1, 2, 3], "db": [0, 0, 0], "torrent": [0, 0, 0]}, "guest_allowed": True},
}


def read_frame(sock: socket.socket) -> dict[str, Any]:
    """The next message of a client, and not a byte more."""
    data = b""
    while not data.endswith(b"<EOF>"):
        more = sock.recv(1)
        if not more:
            raise EOFError(data)
        data += more
    content = json.loads(gzip.decompress(data[:-5]))
    assert isinstance(content, dict)
    return content
