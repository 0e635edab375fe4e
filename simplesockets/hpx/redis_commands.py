"""Server commands that go to every server with the same sessions: a stream in Redis, ``PREFIXcommands``.

Whoever is told ``serverquit`` or ``serverrestart`` adds an entry, and every server, the sender's too, does what it
reads there, in the same order: nothing is sent on a second time, and a server that could not reach Redis for a while
reads what it missed. Two commands that were given before either was heard are one: the first. With the entry all
sessions end.

An entry is ``command`` (``serverquit`` or ``serverrestart``) and ``token`` (random; by it the server that was asked
knows its own). A server begins to read at what is the end when it is started. The stream expires an hour after the
latest command.
"""

from __future__ import annotations

import logging
import random
import selectors
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..redis_url import TIMEOUT
from ..timing import Backoff, Deadline
from ..transport import Waker
from .protocol import ServerCommand, parse_command
from .redis_link import RedisLink, Script

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

log = logging.getLogger("simplesockets.hpx")

HEARTBEAT = 10.0
"""Seconds after which Redis says that there was no command; where it does not, it is away."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two tries to reach Redis."""
REMEMBERED = 3600
"""Seconds for which a command can be heard by a server that could not reach Redis."""

_BEFORE_ALL = b"0-0"

_ANNOUNCE = Script(
    """
if redis.call('XREAD', 'COUNT', 1, 'STREAMS', KEYS[1], ARGV[1]) then
    return 0
end
for _, digest in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    redis.call('DEL', ARGV[2] .. digest)
end
redis.call('DEL', KEYS[2])
redis.call('XADD', KEYS[1], 'MAXLEN', '~', 100, '*', 'command', ARGV[3], 'token', ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[5])
return 1
"""
)

Told = Callable[[ServerCommand, str], threading.Thread | None]
"""Gets a command and its token, and begins to carry it out; returns the thread that does."""


class RedisCommands:
    """Hears the commands, in a thread of its own, which also looks whether Redis is there.

    Args:
        link: the way to Redis, which is told when it is away and when it is back.
        told: what is done with a command.
    """

    def __init__(self, link: RedisLink, told: Told) -> None:
        self._link = link
        self._told = told
        self._key = f"{link.place.prefix}commands"
        self._seen: bytes | None = None  # the latest entry that was heard; None before the first look
        self._closing = False
        self._waker = Waker()
        self._tried = threading.Event()
        self._thread = threading.Thread(target=self._run, name="simplesockets-hpx-redis", daemon=True)

    @property
    def seen(self) -> bytes | None:
        """The latest command that was heard; what :meth:`announce` wants to know."""
        return self._seen

    def start(self, patience: float) -> None:
        """Begin, and wait until Redis was found, or was not, for so many seconds at most."""
        try:
            self._thread.start()
        except BaseException:  # there can be no more threads
            self._waker.close()
            raise
        self._tried.wait(patience)

    def close(self, deadline: Deadline) -> None:
        """End the thread, and wait for it until then. May be repeated."""
        self._closing = True
        self._waker.wake()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(deadline.left(time.monotonic()))

    def look(self) -> None:
        """Somebody noticed that Redis is away: look when it is back."""
        self._waker.wake()

    def announce(self, command: ServerCommand, token: str, seen: bytes, sessions: str, idle: str) -> bool:
        """Tell all servers, this one, too, and end all sessions.

        Args:
            command: what they have to do.
            token: by which this one knows it again.
            seen: what :attr:`seen` was before the decision to do this.
            sessions, idle: how the names of sessions' keys begin, and the key with all of them.

        Returns:
            False: somebody was faster, and will be heard in a moment.

        Raises:
            ServerError: Redis is away, or refuses. It may have been told all the same.
        """
        arguments = (seen, sessions, command.word, token, REMEMBERED)
        return self._link.run(_ANNOUNCE, [self._key, idle], *arguments) == 1

    # --------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        import redis

        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE, jitter=0.5)
        while not self._closing:
            connection = self._link.place.connection()
            try:
                self._follow(connection, backoff)
            except redis.ResponseError as failure:
                log.error("commands to other servers cannot be heard in %s: %s", self._key, failure)
            except (redis.RedisError, OSError) as failure:
                if not self._closing:
                    self._link.is_away(failure)
            finally:
                connection.disconnect()
            self._tried.set()
            self._pause(backoff.pause(random.random()))
        self._waker.close()

    def _follow(self, connection: AbstractConnection, backoff: Backoff) -> None:
        # Until Redis is away, or this is closed.
        _ask(connection, "PING")
        if self._closing:
            return
        self._link.is_back()
        latest = list(_entries(_ask(connection, "XREVRANGE", self._key, "+", "-", "COUNT", 1)))
        if self._seen is None:
            self._seen = latest[0][0] if latest else _BEFORE_ALL
        backoff.reset()
        self._tried.set()
        with selectors.DefaultSelector() as selector:
            selector.register(self._waker.reader, selectors.EVENT_READ)
            assert connection._sock is not None  # it just answered
            selector.register(connection._sock, selectors.EVENT_READ)
            while self._listen(connection, selector):
                pass

    def _listen(self, connection: AbstractConnection, selector: selectors.BaseSelector) -> bool:
        # For a heartbeat's time at most. Returns whether to go on.
        words = ("XREAD", "COUNT", 100, "BLOCK", int(HEARTBEAT * 1000), "STREAMS", self._key, self._seen)
        connection.send_command(*words)
        deadline = Deadline(HEARTBEAT + TIMEOUT, time.monotonic())
        while not connection.can_read(timeout=0):
            if not selector.select(deadline.left(time.monotonic())):
                raise TimeoutError("it says nothing")
            self._waker.clear()
            if self._closing or self._link.away:
                return False
        for _, entries in connection.read_response() or ():
            for place, fields in _entries(entries):
                self._hear(place, fields)
        return not self._closing

    def _hear(self, place: bytes, fields: dict[bytes, bytes]) -> None:
        command = parse_command(fields.get(b"command", b"").decode("ascii", "replace"))
        obeying = None
        if command in (ServerCommand.ServerQuit, ServerCommand.ServerRestart):
            obeying = self._told(command, fields.get(b"token", b"").decode("ascii", "replace"))
        else:
            log.warning("something in %s is no command, and is passed over: %.200r", self._key, fields)
        self._seen = place  # not before it is being obeyed: see the server's _announce()
        if obeying is not None:
            obeying.join()  # what comes next is for the server as it is then

    def _pause(self, seconds: float) -> None:
        deadline = Deadline(seconds, time.monotonic())
        with selectors.DefaultSelector() as selector:
            selector.register(self._waker.reader, selectors.EVENT_READ)
            while not self._closing and (left := deadline.left(time.monotonic())):
                if selector.select(left):
                    self._waker.clear()


def _ask(connection: AbstractConnection, *words: str | int) -> object:
    connection.send_command(*words)
    answer: object = connection.read_response()
    return answer


def _entries(answer: object) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
    for place, fields in answer if isinstance(answer, list) else []:
        yield place, dict(zip(fields[::2], fields[1::2], strict=False))
