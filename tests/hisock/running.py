"""Servers of the HiSock layer for tests, and hand-written clients for them that know nothing but the wire."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from simplesockets.hisock import HiSockClient, HiSockServer

from ..support.running import HOST, read_exactly, reset
from ..support.waiting import PATIENCE, wait_until

Value = TypeVar("Value")

HEADER = 16
"""Bytes of a header, unless told otherwise."""


def framed(body: bytes, header_len: int = HEADER) -> bytes:
    """The body with its header."""
    return str(len(body)).encode().ljust(header_len) + body


class RawClient:
    """A plain socket that speaks one dialect of the wire.

    Args:
        address: the server's.
        name, group: what the hello says.
        dialect: ``"2.x"`` or ``"0.x"``.
        hello: whether to say hello at once, as clients do.
    """

    def __init__(
        self,
        address: tuple[str, int],
        name: str | None = None,
        group: str | None = None,
        *,
        dialect: str = "2.x",
        header_len: int = HEADER,
        hello: bool = True,
    ) -> None:
        self._space = b" " if dialect == "0.x" else b""
        self._header_len = header_len
        self.socket = socket.create_connection(address, timeout=PATIENCE)
        self.address: tuple[str, int] = self.socket.getsockname()
        if hello:
            self.send_reserved(b"$CLTHELLO$", json.dumps({"name": name, "group": group}).encode())

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send_body(self, *bodies: bytes) -> None:
        """Send bodies, each with its header, all in one go."""
        self.socket.sendall(b"".join(framed(body, self._header_len) for body in bodies))

    def send_reserved(self, word: bytes, argument: bytes) -> None:
        """Send a reserved word with its argument, as the dialect has it."""
        self.send_body(word + self._space + argument)

    def send_command(self, command: str, content: bytes | None = b"") -> None:
        """Send a command. None as content leaves out what would precede it."""
        self.send_body(self.command(command, content))

    def command(self, command: str, content: bytes | None = b"") -> bytes:
        """The body of a command."""
        if self._space:
            return command.encode() if content is None else command.encode() + b" " + content
        return b"$CMD$" + command.encode() + (b"" if content is None else b"$MSG$" + content)

    def read_body(self) -> bytes:
        """The next body; fails at the end of the stream."""
        header = read_exactly(self.socket, self._header_len)
        assert len(header) == self._header_len, f"the stream ended with {header!r}"
        size = int(header)
        assert header == str(size).encode().ljust(self._header_len), header
        body = read_exactly(self.socket, size)
        assert len(body) == size, f"the stream ended within a body: {body!r}"
        return body

    def read_until(self, wanted: Callable[[bytes], bool]) -> bytes:
        """The first body that is wanted; those before it are dropped."""
        while not wanted(body := self.read_body()):
            pass
        return body

    def read_command(self, command: str) -> bytes:
        """The content of the next message with this command; what precedes it is dropped."""
        bare, start = self.command(command, None), self.command(command)
        return self.read_until(lambda body: body == bare or body.startswith(start))[len(start) :]

    def read_notice(self, word: bytes) -> dict[str, Any]:
        """What the next notice says; it has to be next, and in this dialect."""
        start = word + self._space
        body = self.read_body()
        assert body.startswith(start), body
        assert body[len(start) : len(start) + 1] == b"{", body
        found: dict[str, Any] = json.loads(body[len(start) :])
        return found

    def at_end(self) -> bool:
        """Whether the server has ended this connection. Waits for it; what it sent before is dropped."""
        deadline = time.monotonic() + PATIENCE
        try:
            while time.monotonic() < deadline:
                if not self.socket.recv(1 << 20):
                    return True
        except ConnectionError:
            return True
        except TimeoutError:
            pass
        return False

    def reset(self) -> None:
        """End the connection with a reset."""
        reset(self.socket)


@contextlib.contextmanager
def looping(
    end: HiSockServer | HiSockClient,
    *,
    ends_with: type[BaseException] | tuple[type[BaseException], ...] = (),
    **start: Any,
) -> Iterator[threading.Thread]:
    """The end's ``start()`` runs in a thread; the end is closed afterwards, and an exception of the loop fails.

    Args:
        end: a server or client.
        ends_with: the exceptions that the loop may end with.
        start: arguments of ``start()``.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            end.start(**start)
        except ends_with:
            pass
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name=f"loop of {end!r}")
    thread.start()
    try:
        yield thread
    finally:
        end.close()
        thread.join(PATIENCE)
    assert not thread.is_alive(), "the loop went on after close()"
    assert not raised, raised


@contextlib.contextmanager
def server(*arguments: Any, loop: bool = True, **options: Any) -> Iterator[HiSockServer]:
    """A server on a free port, closed afterwards. With ``loop`` its loop runs in a thread.

    Handlers may be registered at any time, so a test adds them while the loop runs.
    """
    made = HiSockServer((HOST, 0), *arguments, **options)
    try:
        with looping(made) if loop else contextlib.nullcontext():
            yield made
    finally:
        made.close()


@contextlib.contextmanager
def client(
    to: HiSockServer | tuple[str, int], *arguments: Any, loop: bool = True, **options: Any
) -> Iterator[HiSockClient]:
    """A client that is connected to the server, closed afterwards. With ``loop`` its loop runs in a thread."""
    address = to if isinstance(to, tuple) else to.get_addr()
    made = HiSockClient(address, *arguments, **options)
    try:
        with looping(made) if loop else contextlib.nullcontext():
            yield made
    finally:
        made.close()


def pass_until(one_pass: Callable[[], None], condition: Callable[[], Value]) -> Value:
    """Make passes of a loop (``run`` or ``update``) until the condition gives something true, and return that."""

    def pass_and_look() -> Value:
        one_pass()
        return condition()

    return wait_until(pass_and_look)


def names(of: HiSockServer) -> list[str | None]:
    """The names of the connected clients, in order."""
    return sorted(of.get_all_clients("name"), key=str)


def wait_names(of: HiSockServer, *expected: str | None) -> None:
    """Wait until exactly these are connected."""
    wait_until(lambda: names(of) == sorted(expected, key=str), f"{expected} to be connected, not {names(of)}")


class Notes:
    """What handlers got, in order."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    def __call__(self, *words: Any) -> None:
        self.all.append(words[0] if len(words) == 1 else words)

    def wait(self, count: int) -> list[Any]:
        """Wait for so many; all of them."""
        wait_until(lambda: len(self.all) >= count, f"{count} notes; so far: {self.all}")
        return list(self.all)


def wait_in_recv(thread: threading.Thread) -> None:
    """Wait until this thread stands still inside ``recv``."""
    seen: list[object] = []

    def still() -> bool:
        frame = sys._current_frames().get(thread.ident or 0)
        place = None if frame is None else (frame.f_code, frame.f_lasti)
        inside = False
        while frame is not None:
            inside = inside or frame.f_code.co_name == "recv"
            frame = frame.f_back
        seen.append(place)
        return inside and len(seen) > 5 and len(set(seen[-5:])) == 1

    wait_until(still, f"{thread} to wait in recv")
