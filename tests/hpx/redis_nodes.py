"""Several HPX servers with their sessions in one Redis, for tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import redis

from simplesockets.hpx import Context, Server

from ..support.redis import RedisServer
from ..support.waiting import wait_until
from .support import Peer, peer, running

AWAY = 400
"""The code of an answer while Redis is away."""
UNKNOWN = 408
"""The code of an answer to a session that is over."""


def offer_keeping(server: Server) -> None:
    """Functions that keep something of the session."""

    @server.function
    def keep(key: str, value: object, context: Context) -> None:
        context.data[key] = value

    @server.function
    def append(key: str, value: object, context: Context) -> None:
        kept = context.data[key]
        assert isinstance(kept, list)
        kept.append(value)

    @server.function
    def drop(key: str, context: Context) -> None:
        del context.data[key]

    @server.function
    def kept(context: Context) -> dict[str, object]:
        return context.data


@contextlib.contextmanager
def nodes(number: int, url: str, **options: Any) -> Iterator[list[Server]]:
    """So many servers that share their sessions; all are closed at the end."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(running(sessions=url, **options)) for _ in range(number)]
        for server in servers:
            offer_keeping(server)
        yield servers


@contextlib.contextmanager
def on_each(servers: list[Server], session: str = "") -> Iterator[list[Peer]]:
    """A connection to each, all with one session: the given one, or that of a guest who shook hands with the first."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(peer(server)) for server in servers]
        if not session:
            peers[0].shake_hands()
        for each in peers:
            each.session = session or peers[0].session
        yield peers


@contextlib.contextmanager
def looking_at(server: RedisServer) -> Iterator[redis.Redis]:
    """A client of Redis' own."""
    with contextlib.closing(redis.Redis(unix_socket_path=str(server.path))) as client:
        yield client


def key_of(client: redis.Redis, prefix: str = "hpx:") -> bytes:
    """The key of the only session that there is."""
    (key,) = client.keys(f"{prefix}session:*")
    assert isinstance(key, bytes)
    return key


def wait_found(server: Server) -> None:
    """Wait until the server has found Redis again."""
    shared = server._shared
    assert shared is not None
    wait_until(lambda: not shared._link.away, "Redis to be found again")


def error_of(answer: dict[str, Any]) -> int:
    """The code of an answer's error; 0 where there is none."""
    error = answer.get("error", {"code": 0})
    assert isinstance(error["code"], int)
    return error["code"]
