"""What a ``redis://`` URL names, for the layers that share something through Redis. redis-py, an optional extra, is
imported where a URL is first opened."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .errors import SetupError

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

SCHEMES = ("redis", "rediss", "unix")
"""Over TCP, over TLS, over a Unix socket."""
TIMEOUT = 2.0
"""Seconds to connect, and seconds to wait for each answer, unless the URL says ``socket_connect_timeout=`` or
``socket_timeout=``."""


@dataclass(frozen=True)
class RedisPlace:
    """A Redis server, and the part of its keys that is ours.

    Attributes:
        prefix: how the names of all our keys begin.
        shown: where it is, without user, password and options: for logs and errors.
    """

    prefix: str
    shown: str
    _kind: Callable[..., AbstractConnection] = field(repr=False)
    _options: Mapping[str, object] = field(repr=False)

    @classmethod
    def parse(cls, argument: str, url: object, prefix: str) -> RedisPlace:
        """Look at a URL. Nothing is connected.

        Args:
            argument: of which argument it is the value, for errors.
            url: ``redis://[[user]:password@]host[:port][/database]``, ``rediss://…`` for TLS, or
                ``unix://[user@]/path[?db=…&password=…]``; with ``?prefix=…`` for other keys than the usual ones, and
                any further options of redis-py's connections.
            prefix: the usual one.

        Raises:
            TypeError, ValueError: it is none; the message says what would be, and has no password.
            SetupError: redis-py is missing.
        """
        if not isinstance(url, str):
            raise TypeError(f"{argument} must be a URL such as 'redis://localhost:6379/0', not {type(url).__name__}")
        scheme, _, rest = url.partition("://")
        if scheme not in SCHEMES or not rest:
            wanted = ", ".join(f"{each}://…" for each in SCHEMES)
            raise ValueError(f"{argument} must be one of {wanted}, such as 'redis://localhost:6379/0'")
        plain, given = _without_prefix(url)
        if given == "":
            raise ValueError(f"{argument}: the prefix in its URL is empty; leave '?prefix=' out for {prefix!r}")
        place = cls(given or prefix, _shown(argument, url), *_options(argument, plain))
        try:
            place.connection()  # connects nothing
        except TypeError as failure:
            raise ValueError(f"{argument}: its URL has an option that redis-py does not know: {failure}") from None
        return place

    def connection(self) -> AbstractConnection:
        """A new connection of redis-py's, which is made when it is first used. It never tries anything twice, and waits
        no longer than the timeouts."""
        return self._kind(**self._options)


def _without_prefix(url: str) -> tuple[str, str | None]:
    place, mark, query = url.partition("?")
    options = urllib.parse.parse_qsl(query, keep_blank_values=True)
    given = [value for name, value in options if name == "prefix"]
    query = urllib.parse.urlencode([each for each in options if each[0] != "prefix"])
    return place + mark + query, given[-1] if given else None


def _shown(argument: str, url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError as failure:
        raise ValueError(f"{argument}: its URL has no such host and port as it should: {failure}") from None
    database = parts.path.strip("/")
    if parts.scheme != "unix" and database and not database.isdecimal():
        raise ValueError(f"{argument}: the database in its URL must be a number, not {database!r}")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return f"{parts.scheme}://{'' if parts.scheme == 'unix' else host + port}{parts.path}"


def _options(argument: str, url: str) -> tuple[Callable[..., AbstractConnection], Mapping[str, object]]:
    try:
        import redis.backoff
        import redis.connection
        import redis.retry
    except ImportError as failure:
        raise SetupError(
            f"{argument} with a Redis URL needs the package redis, which is not installed: "
            'pip install "simplesockets[redis]"'
        ) from failure
    try:
        given = redis.connection.parse_url(url)
    except ValueError as failure:
        raise ValueError(f"{argument}: its URL has an option with a wrong value: {failure}") from None
    kind = given.pop("connection_class", redis.connection.Connection)
    fixed = {"decode_responses": False, "protocol": 2, "retry": redis.retry.Retry(redis.backoff.NoBackoff(), 0)}
    return kind, {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT, **given, **fixed}
