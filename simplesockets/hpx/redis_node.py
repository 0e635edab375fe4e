"""One of several servers that share sessions through Redis: what is shared, and when it begins and ends."""

from __future__ import annotations

import threading
import time

from ..redis_url import TIMEOUT, RedisPlace
from ..timing import Deadline
from .exceptions import ServerError
from .protocol import ServerCommand
from .redis_commands import RedisCommands, Told
from .redis_link import RedisLink
from .redis_sessions import RedisSessions

PREFIX = "hpx:"
"""How the names of our keys begin, unless the URL says ``?prefix=…``."""


class RedisNode:
    """A server's part in what several share.

    Args:
        url: of Redis; see :meth:`..redis_url.RedisPlace.parse`.
        lifespan, limit: see :class:`.redis_sessions.RedisSessions`.
        told: what is done with a command that is for all servers.

    Raises:
        TypeError, ValueError: an argument is of no use.
        SetupError: redis-py is missing.
    """

    def __init__(self, url: object, lifespan: float, limit: int, told: Told) -> None:
        self._told = told
        self._link = RedisLink(RedisPlace.parse("sessions", url, PREFIX), self._is_away)
        self.sessions = RedisSessions(self._link, lifespan, limit)
        self._lock = threading.RLock()  # protects what follows; never held across I/O
        self._commands: RedisCommands | None = None  # each time it is opened has its own

    def open(self) -> None:
        """Look for Redis, for a few seconds at most. Where it is away it is looked for ever after."""
        with self._lock:
            if self._commands is not None:
                return
            commands = self._commands = RedisCommands(self._link, self._told)
            self._link.open()
        try:
            commands.start(2 * TIMEOUT)
        except BaseException:  # no more threads, or Ctrl-C
            self.close(Deadline(0.0, time.monotonic()))
            raise

    def close(self, deadline: Deadline) -> None:
        """Leave the others alone. Waits until then for what goes on. May be repeated."""
        with self._lock:
            commands, self._commands = self._commands, None
            self._link.close()
        self._link.drop_spare()
        if commands is not None:
            commands.close(deadline)

    @property
    def seen(self) -> bytes | None:
        """The latest command that was heard; what :meth:`announce` wants to know."""
        commands = self._commands
        return None if commands is None else commands.seen

    def announce(self, command: ServerCommand, token: str, seen: bytes | None) -> bool:
        """Tell all servers: see :meth:`.redis_commands.RedisCommands.announce`.

        Raises:
            ServerError: Redis is away, or refuses; or this is closed.
        """
        commands = self._commands
        if commands is None or seen is None:
            raise ServerError("The other servers cannot be told: there is no connection to them")
        return commands.announce(command, token, seen, self.sessions.prefix, self.sessions.idle)

    def _is_away(self) -> None:
        commands = self._commands
        if commands is not None:
            commands.look()
