"""The command line's part of the playground: ``python -m simplesockets playground``, and a server to try it with.

What needs the extra is imported when it runs, so that the rest of the command line works without.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SetupError
from .exceptions import APIError
from .functions import Context
from .notes import Notes, offer
from .protocol import Json
from .server import Server

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from .playground import Playground

PORT = 7008
"""The page's default port."""
USERS = {"admin": "secret"}
"""Who may log in at the demo server."""


def add_command(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``playground`` to a command line."""
    command = commands.add_parser("playground", help="open a page to watch and to try calls of an HPX server")
    command.add_argument(
        "--server", metavar="HOST:PORT", help="server to talk to (default: a demo server, started with it)"
    )
    command.add_argument("--port", type=int, default=PORT, help=f"port of the page, 0 for a free one (default: {PORT})")
    command.add_argument("--tls", action="store_true", help="talk to the server by TLS")
    command.add_argument("--cafile", metavar="FILE", help="by TLS, and trust the certificates in this file")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C.

    Raises:
        ValueError: an option is of no use; the message says which.
        SimpleSocketsError: the extra is missing, or the port is in use; the message says what to do.
    """
    with _playground(options) as playground:
        talks = (
            f"talks to {options.server}" if options.server else "talks to a demo server (user admin, password secret)"
        )
        print(f"playground on {playground.url} {talks}; Ctrl-C ends it", flush=True)
        _wait_for_ctrl_c()
    return 0


def _wait_for_ctrl_c() -> None:
    # A lock that is waited for notices a signal only if that comes after the waiting has begun. On a busy machine it
    # often comes a moment before, while the interpreter passes itself on to another thread, and is not noticed then.
    # What the system's handler writes into a socket is there whenever one looks.
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            while reader.recv(1):  # of other signals, too
                pass
        finally:
            signal.set_wakeup_fd(before)


@contextlib.contextmanager
def _playground(options: argparse.Namespace) -> Iterator[Playground]:
    made = _foreign(options) if options.server else _demo(options)
    with made as playground, playground:
        yield playground


@contextlib.contextmanager
def _foreign(options: argparse.Namespace) -> Iterator[Playground]:
    make = _needed()
    yield make(_address(options.server), options.port, ssl_context=_ssl_context(options))


@contextlib.contextmanager
def _demo(options: argparse.Namespace) -> Iterator[Playground]:
    if options.tls or options.cafile:
        raise ValueError("--tls and --cafile are for a --server; the demo server is on this machine")
    make = _needed()
    with tempfile.TemporaryDirectory() as directory, contextlib.closing(demo_server(directory)) as server:

        def place() -> tuple[str, int]:
            server.start()  # the first time, and after somebody told it to quit
            return server.address

        yield make(place, options.port, functions=server.describe_functions())


def _needed() -> type[Playground]:
    try:
        from .playground import Playground
    except ImportError as failure:
        raise SetupError(
            f"the playground needs {failure.name}, which is not installed: "
            'python -m pip install "simplesockets[playground]"'
        ) from failure
    return Playground


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"--server is HOST:PORT, as in localhost:7007, not {text!r}")
    return host, int(port)


def _ssl_context(options: argparse.Namespace) -> ssl.SSLContext | None:
    if not (options.tls or options.cafile):
        return None
    try:
        return ssl.create_default_context(cafile=options.cafile)
    except OSError as failure:
        raise ValueError(f"--cafile {options.cafile}: {failure}") from failure


# ------------------------------------------------------------------------------------------------------------ demo


def demo_server(directory: str) -> Server:
    """A server with some functions to try; not started.

    Args:
        directory: where its notes are kept.
    """
    server = Server("demo", port=0, users=USERS)
    offer(server, Notes(str(Path(directory, "notes.sqlite3"))))
    _offer_more(server)
    return server


def _offer_more(server: Server) -> None:
    @server.function
    def add(a: int, b: int = 2) -> int:
        """The sum of two whole numbers."""
        return a + b

    @server.function
    def visits(context: Context) -> int:
        """How often this session called it."""
        number = context.data["visits"] = int(str(context.data.get("visits", 0))) + 1
        return number

    @server.function
    def numbers(count: int = 100) -> list[int]:
        """The first whole numbers; a long answer, to see it folded."""
        if not 0 <= count <= 100_000:
            raise APIError("'count' is from 0 to 100000")
        return list(range(count))

    @server.function
    def collect(**fields: Json) -> Json:
        """Takes arguments of any name, and gives them back."""
        return fields

    @server.function
    def fail(why: str = "as you wish") -> None:
        """Always fails, with code 404."""
        raise APIError(why)

    @server.function
    def crash() -> None:
        """Raises an exception that it does not handle."""
        raise ZeroDivisionError("on purpose")
