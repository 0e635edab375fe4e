"""The way to Redis: whatever is asked is answered within a bounded time, or fails. While Redis is known to be away, it
fails at once."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..redis_url import RedisPlace
from .exceptions import ServerError

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

log = logging.getLogger("simplesockets.hpx")

SPARE = 16
"""Connections to Redis that are kept while nobody needs them."""

Argument = bytes | str | int


class Script:
    """A program that runs in Redis, as one step that nothing comes between.

    Args:
        text: in Lua.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.name = hashlib.sha1(text.encode()).hexdigest()
        """What Redis calls it once it has seen it."""


class RedisLink:
    """Connections to one Redis, for any number of threads.

    Args:
        place: which one.
        lost: called when somebody notices that Redis is away, in that thread: whoever is told finds it again, and says
            so with :meth:`is_back`.
    """

    def __init__(self, place: RedisPlace, lost: Callable[[], None]) -> None:
        self.place = place
        self._lost = lost
        self._lock = threading.RLock()  # protects what follows; never held across I/O
        self._spare: list[AbstractConnection] = []
        self._open = False
        self._away = False

    def open(self) -> None:
        """Begin. Nothing is connected yet."""
        with self._lock:
            self._open, self._away = True, False

    def close(self) -> None:
        """From now on whatever is asked fails. Connections that are in use end when they are not any more; the others
        with :meth:`drop_spare`."""
        with self._lock:
            self._open = False

    def drop_spare(self) -> None:
        """End the connections that nobody uses at the moment."""
        with self._lock:
            dropped, self._spare = self._spare, []
        for connection in dropped:
            connection.disconnect()

    @property
    def away(self) -> bool:
        """Whether Redis could not be reached, or did not answer, and has not been found again."""
        return self._away

    def is_away(self, failure: BaseException) -> None:
        """Redis did not answer: nobody asks it any more, until :meth:`is_back`."""
        with self._lock:
            first, self._away = not self._away, True
        if first:
            log.error(
                "Redis at %s is away, and with it all sessions: messages get errors until it is back: %s",
                self.place.shown,
                failure,
            )
            self._lost()

    def is_back(self) -> None:
        """Redis answers again."""
        self.drop_spare()  # what is left of the time before
        with self._lock:
            was_away, self._away = self._away, False
        if was_away:
            log.warning("Redis at %s is back, and sessions with it", self.place.shown)

    def run(self, script: Script, keys: list[str], *arguments: Argument) -> object:
        """Run a script. It may run twice, where the answer to the first time was lost.

        Returns:
            Its answer: bytes, whole numbers, lists of them, or None.

        Raises:
            ServerError: Redis is away, or refuses.
        """
        import redis

        with self._lock:
            if not self._open:
                raise ServerError("The server is being closed")
            if self._away:
                raise ServerError(_AWAY)
        try:
            return self._run(script, len(keys), *keys, *arguments)
        except (redis.ConnectionError, redis.TimeoutError, OSError) as failure:
            self.is_away(failure)
            raise ServerError(_AWAY) from failure
        except redis.RedisError as failure:
            log.error("Redis at %s refuses to look after sessions: %s", self.place.shown, failure)
            raise ServerError("The server's sessions cannot be used: what keeps them refuses") from failure

    def _run(self, script: Script, *arguments: Argument) -> object:
        from redis.exceptions import NoScriptError

        try:
            return self._ask("EVALSHA", script.name, *arguments)
        except NoScriptError:
            return self._ask("EVAL", script.text, *arguments)

    def _ask(self, *words: Argument) -> object:
        import redis

        with self._lock:
            connection = self._spare.pop() if self._spare else None
        if connection is not None:
            with contextlib.suppress(redis.ConnectionError):  # it ended while nobody used it
                return self._exchange(connection, *words)
        return self._exchange(self.place.connection(), *words)

    def _exchange(self, connection: AbstractConnection, *words: Argument) -> object:
        import redis

        answered = False
        try:
            connection.send_command(*words)
            answer: object = connection.read_response()
            answered = True
            return answer
        except redis.ResponseError:
            answered = True
            raise
        finally:
            if not (answered and self._give_back(connection)):
                connection.disconnect()

    def _give_back(self, connection: AbstractConnection) -> bool:
        with self._lock:
            wanted = self._open and not self._away and len(self._spare) < SPARE
            if wanted:
                self._spare.append(connection)
        return wanted


_AWAY = "The server's sessions cannot be reached at the moment; try again later"
