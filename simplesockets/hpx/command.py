"""The command line's part: ``python -m simplesockets hpx``, and an exchange to show in ``demo``."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .client import Client
from .exceptions import AuthWrongCredentialsError
from .notes import Notes, offer
from .server import PORT, Server

if TYPE_CHECKING:
    from argparse import _SubParsersAction

NOTES = "hpx-notes.sqlite3"
"""The file in the current directory that notes are kept in, if no other is named."""


def add_command(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``hpx`` to a command line."""
    command = commands.add_parser("hpx", help="serve a small API (version, echo, clock, notes) to HPX frontends")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    command.add_argument("--port", type=int, default=PORT, help=f"port, 0 for a free one (default: {PORT})")
    command.add_argument("--notes", default=NOTES, metavar="FILE", help=f"where notes are kept (default: {NOTES})")
    command.add_argument(
        "--user", action="append", default=[], metavar="NAME:PASSWORD", help="let this user in; may be repeated"
    )
    command.add_argument("--no-guests", action="store_true", help="let nobody in without a password")
    command.add_argument("--dev", action="store_true", help="do not answer where an exception was not handled")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C, or until a user says ``serverquit``.

    Raises:
        ValueError: an option is of no use; the message says which.
    """
    server = Server(
        host=options.host,
        port=options.port,
        users=dict(map(_user, options.user)),
        guest_allowed=not options.no_guests,
        dev=options.dev,
    )
    try:
        offer(server, Notes(options.notes))
    except OSError as failure:
        raise ValueError(str(failure)) from failure
    with server:
        host, port = server.address
        print(f"HPX server on {host}:{port}; functions: {', '.join(server.functions)}", flush=True)
        print(f"notes are kept in {options.notes}; Ctrl-C ends it", flush=True)
        server.serve_forever()
    print("the server was ended by a client", flush=True)
    return 0


def _user(text: str) -> tuple[str, str]:
    name, colon, password = text.partition(":")
    if not (name and colon):
        raise ValueError(f"--user is NAME:PASSWORD, not {text!r}")
    return name, password


def demo(say: Callable[[str, object], None]) -> None:
    """Show an exchange of a server and a frontend on this machine.

    Args:
        say: prints ``(who, what)``.
    """
    with tempfile.TemporaryDirectory() as directory:
        server = Server(port=0, users={"admin": "secret"})
        offer(server, Notes(str(Path(directory, NOTES))))
        with server, Client("frontend", *server.address) as client:
            say("server", f"listens on {server.address} and offers {', '.join(server.functions)}")
            _try_password(client, "guess", say)
            _try_password(client, "secret", say)
            calls: list[dict[str, object]] = [
                {"fname": "set_note", "key": "greeting", "text": "Grüße <EOF>"},
                {"fname": "get_note", "key": "greeting"},
                {"fname": "get_note", "key": "nothing"},
            ]
            say("client", f"calls {len(calls)} functions in one message")
            results = client.send(calls)["data"]
            assert isinstance(results, list)
            for result in results:
                say("server", result)
            say("client", f"says serverquit; the answer: {client.send('serverquit')['data']}")


def _try_password(client: Client, password: str, say: Callable[[str, object], None]) -> None:
    try:
        client.handshake("admin", password)
        say("client", f"shook hands as {client.call('who_am_i')}")
    except AuthWrongCredentialsError as failure:
        say("client", f"is refused, with code {failure.code}: {failure.msg}")
