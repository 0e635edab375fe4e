"""The backplane in Redis: its log is a stream.

Redis' publishing and subscribing loses what is published while a subscriber is away, so this uses a stream (``XADD``,
``XREAD``), of which a node reads on where it stopped. It holds about the newest ``history`` entries, whoever read them.

If Redis lost its data, the stream begins anew, maybe with earlier positions: so there is a key with a name that nobody
gave before (``epoch``), and where that is another one, a node reads from the beginning. What it has already it drops.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Iterator, Sequence
from typing import Any, cast

from ..redis_url import RedisPlace
from ..timing import check_seconds
from ..transport import check_count
from .backplane import LEASE, MAX_OUTBOX, Backplane, Read
from .errors import BackplaneError

HISTORY = 10_000
"""Entries of the log that are kept, about, by default."""
_CHUNK = 512  # entries that are read in one go


class RedisBackplane(Backplane):
    """All nodes that use the same Redis and prefix are one service: ``HiSockServer(…, backplane=RedisBackplane(…))``.

    Args:
        url: ``redis://[[user]:password@]host[:port][/database]``, ``rediss://…`` for TLS, or
            ``unix://[user@]/path[?db=…&password=…]``, with any further options of redis-py's connections.
        prefix: begins the names of the two keys; ``?prefix=…`` in the URL does the same. Another service on the same
            Redis needs another one.
        lease: seconds within which the clients of a node that died are gone from all others. The same on all nodes.
        history: how many entries Redis keeps, about: so far a node may be behind, or cut off, and still catch up. Each
            node has an eighth of that on the way at most.
        max_outbox: bytes of entries that may wait at one node while Redis is away; beyond that the oldest messages are
            dropped, and counted.

    Raises:
        SetupError: redis-py is missing (``pip install simplesockets[redis]``).
        TypeError, ValueError: an argument is of no use.

    It connects when the server is made, in the background. New here.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "simplesockets:hisock:",
        lease: float = LEASE,
        history: int = HISTORY,
        max_outbox: int = MAX_OUTBOX,
    ) -> None:
        check_seconds("lease", lease, unlimited=False)
        check_count("history", history, "entries", 1)
        check_count("max_outbox", max_outbox, "bytes", 0)
        if not isinstance(prefix, str) or not prefix:
            raise ValueError(f"prefix is the beginning of the keys in Redis, such as 'chat:', not {prefix!r}")
        super().__init__(lease, max_outbox, window=max(1, history // 8))
        self._place = RedisPlace.parse("backplane", url, prefix)
        self._log, self._epoch = f"{self._place.prefix}log", f"{self._place.prefix}epoch"
        self._history = history

    def __repr__(self) -> str:
        return f"<backplane {self._place.shown}, {self._log}>"

    def writer(self) -> _Appender:
        """Connect. Raises BackplaneError."""
        return _Appender(self._place, self._log, self._history)

    def reader(self, position: str | None) -> _Follower:
        """Connect, to read from a position on; None is the end of the log as it is now. Raises BackplaneError."""
        return _Follower(self._place, self._log, self._epoch, position)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    from redis.exceptions import RedisError

    try:
        yield
    except (RedisError, OSError) as failure:
        raise BackplaneError(f"Redis: {failure}") from failure


class _Link:
    """A connection to Redis."""

    def __init__(self, place: RedisPlace) -> None:
        self._connection = cast("Any", place.connection())  # what it is declared as lacks the socket
        with _translated():
            self._connection.connect()
        self._socket: socket.socket = self._connection._sock

    def run(self, *commands: Sequence[object]) -> list[Any]:
        """Run commands, all sent at once; their answers."""
        with _translated():
            self._connection.send_packed_command(self._connection.pack_commands(commands))
            return [self._connection.read_response() for _ in commands]

    def interrupt(self) -> None:
        """Have a call that waits in another thread fail at once."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection."""
        self._connection.disconnect()


class _Appender(_Link):
    """Appends to the stream."""

    def __init__(self, place: RedisPlace, log: str, history: int) -> None:
        self._command = ("XADD", log, "MAXLEN", "~", history, "*", "e")
        super().__init__(place)

    def append(self, entries: Sequence[bytes]) -> None:
        """Append these, in this order: all, or none if Redis refuses one. Raises BackplaneError."""
        *_, answers = self.run(("MULTI",), *((*self._command, entry) for entry in entries), ("EXEC",))
        for answer in answers:
            if isinstance(answer, Exception):
                raise BackplaneError(f"Redis: {answer}") from answer


class _Follower(_Link):
    """Reads the stream. Its position is the epoch, a space, and an id of the stream."""

    def __init__(self, place: RedisPlace, log: str, epoch: str, position: str | None) -> None:
        super().__init__(place)
        self._log = log
        try:
            self.position = self._take_up(epoch, position)
        except BaseException:
            self.close()
            raise

    def _take_up(self, epoch: str, position: str | None) -> str:
        _, now, last = self.run(
            ("SET", epoch, secrets.token_hex(8), "NX"), ("GET", epoch), ("XREVRANGE", self._log, "+", "-", "COUNT", 1)
        )
        self._epoch = now.decode()
        if position is None:
            return f"{self._epoch} {last[0][0].decode() if last else '0'}"
        return position if position.split()[0] == self._epoch else f"{self._epoch} 0"

    def read(self, wait: float) -> Read:
        """What comes next; waits for something for so many seconds at most. Raises BackplaneError."""
        patience = self._connection.socket_timeout  # of redis-py, which must not take waiting for a failure
        block = max(1, int(min(wait, patience / 2 if patience else wait) * 1000))
        after = self.position.split()[1]
        (answer,) = self.run(("XREAD", "COUNT", _CHUNK, "BLOCK", block, "STREAMS", self._log, after))
        if not answer:
            return Read([], True)
        found = answer[0][1]
        last = found[-1][0].decode()
        self.position = f"{self._epoch} {last}"
        at = int(last.partition("-")[0]) / 1000  # an id begins with the time in milliseconds
        return Read([fields[1] for _, fields in found if fields], len(found) < _CHUNK, at)
