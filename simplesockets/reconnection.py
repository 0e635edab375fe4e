"""Connecting again after a connection was lost: the tries, and the thread that makes them.

A loss begins an :class:`Episode`. It ends when somebody calls it off (the program closes, disconnects or connects by
itself), when a try succeeds, or when there were enough tries. There is at most one at a time. Whoever makes a try asks
under the lock of the client whether the episode is still the current one, and whoever calls it off takes from the try,
under the same lock, what it dials with; so nothing that was called off can bring about a connection.

One thread makes the tries, and runs what comes with success (``on_connect``). It exists only while there is something
to do. A connection that is lost while that still runs has the same thread go on; so callbacks of several connections
never overlap there.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from .engine import join
from .mailbox import Flag, mark_own_thread
from .timing import Backoff, Deadline, Reconnect


class Episode:
    """One loss, and the tries to make up for it."""

    __slots__ = ("backoff", "due", "failures", "policy", "since")

    def __init__(self, policy: Reconnect, backoff: Backoff) -> None:
        self.policy = policy
        self.backoff = backoff
        self.failures = 0
        self.since = time.monotonic()
        self.due = False

    def is_worth_telling(self) -> bool:
        """Whether to tell of the latest failure: the first, the second, the fourth, the eighth …"""
        return self.failures & (self.failures - 1) == 0


class Reconnector:
    """Makes the tries.

    Args:
        flag: up as long as there is an episode. It does not ring here.
        attempt: makes one try. Returns when it succeeded or nothing is to be done any more, and has called off the
            episode then; raises what hindered it.
        failed: told of a failure: the episode, the exception, and whether that was the last try. Not of all of them,
            see :meth:`Episode.is_worth_telling`.
    """

    def __init__(
        self,
        flag: Flag,
        attempt: Callable[[Episode], object],
        failed: Callable[[Episode, Exception, bool], object],
    ) -> None:
        self.name = "simplesockets-reconnect"
        """Of the thread."""
        self._flag = flag
        self._attempt = attempt
        self._failed = failed
        self._condition = threading.Condition()  # protects what follows; not held during a try
        self._episode: Episode | None = None
        self._backoff: Backoff | None = None
        self._policy: Reconnect | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False

    def lost(self, policy: Reconnect, lasted: float = 0.0) -> Episode:
        """A connection was lost: begin an episode, whose tries :meth:`begin` lets come.

        Args:
            policy: how to come back.
            lasted: for how many seconds there was a connection.
        """
        with self._condition:
            if self._backoff is None or policy != self._policy or lasted >= policy.most:
                self._backoff, self._policy = policy.backoff(), policy
            episode = Episode(policy, self._backoff)
            self._set(episode)
        return episode

    def begin(self, episode: Episode) -> None:
        """Let the tries of the episode come, the first one after a pause; nothing if it was called off."""
        failure: RuntimeError | None = None
        with self._condition:
            if self._episode is episode:
                episode.due = True
                failure = self._start()
        if failure is not None:
            self._failed(episode, failure, True)

    def resume(self, episode: Episode) -> None:
        """Take up an episode that was called off, unless there is another one by now; then :meth:`begin` it."""
        with self._condition:
            if self._episode is None:
                self._set(episode)

    def call_off(self) -> Episode | None:
        """End the episode, if there is one. A try that is being made finds out by itself."""
        with self._condition:
            episode = self._episode
            self._set(None)
            self._condition.notify_all()
        return episode

    def stop(self) -> None:
        """Call it off, and let no other one come."""
        with self._condition:
            self._stopped = True
            self.call_off()

    @property
    def active(self) -> bool:
        """Whether there is an episode."""
        return self._episode is not None

    def is_current(self, episode: Episode) -> bool:
        """Whether the episode goes on."""
        return self._episode is episode

    def join(self, deadline: Deadline) -> list[str]:
        """Wait for the thread to end. Returns its name if it goes on, since something keeps it busy."""
        thread = self._thread
        return [] if thread is None else join([thread], deadline)

    # ---------------------------------------------------------------------------------------------------- inside

    def _set(self, episode: Episode | None) -> None:
        # Under the lock.
        self._episode = None if self._stopped else episode
        if self._episode is None:
            self._flag.clear()
        else:
            self._flag.rise()

    def _start(self) -> RuntimeError | None:
        # Under the lock. Gives what hinders it.
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            try:
                thread.start()
            except RuntimeError as failure:  # the system gives no more threads
                self._set(None)
                return failure
            self._thread = thread
        return None

    def _run(self) -> None:
        mark_own_thread()
        while (episode := self._next()) is not None:
            if self._wait(episode):
                self._try(episode)

    def _next(self) -> Episode | None:
        with self._condition:
            if self._episode is not None and self._episode.due:
                return self._episode
            self._thread = None
            return None

    def _wait(self, episode: Episode) -> bool:
        # Whether the episode still goes on after its pause.
        pause = episode.backoff.pause(random.random())
        with self._condition:
            return not self._condition.wait_for(lambda: self._episode is not episode, pause)

    def _try(self, episode: Episode) -> None:
        try:
            self._attempt(episode)
            return
        except Exception as caught:
            failure = caught
        with self._condition:
            if self._episode is not episode:  # it was called off, and that is what the failure says
                return
            episode.failures += 1
            last = episode.failures == episode.policy.tries
            if last:
                self._set(None)
        if last or episode.is_worth_telling():
            self._failed(episode, failure, last)
