"""Threads that do what a test tells them, so that calls come in any order and at the same time, and none may hang."""

from __future__ import annotations

import faulthandler
import queue
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence

from .waiting import PATIENCE

Action = Callable[[], object]


class Hands:
    """A few threads, each of which does one thing after the other.

    Args:
        count: how many.
        documented: exceptions that what they do may raise.
    """

    def __init__(self, count: int, documented: tuple[type[BaseException], ...]) -> None:
        self._documented = documented
        self._condition = threading.Condition()  # protects what follows
        self._told = 0
        self._doing: dict[int, str] = {}
        self.failures: list[str] = []
        self.slowest = (0.0, "")
        """Seconds that the slowest call took, and which it was."""
        self._orders: list[queue.SimpleQueue[tuple[str, Action] | None]] = [queue.SimpleQueue() for _ in range(count)]
        self._threads = [
            threading.Thread(target=self._work, args=(hand,), name=f"hand {hand}", daemon=True) for hand in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def tell(self, hand: int, what: str, action: Action) -> None:
        """Have something done, after what this hand was told before."""
        with self._condition:
            self._told += 1
        self._orders[hand].put((what, action))

    def tell_all(self, actions: Sequence[tuple[str, Action]]) -> None:
        """Have something done by each at the same moment."""
        together = threading.Barrier(len(actions), timeout=PATIENCE)
        for hand, (what, action) in enumerate(actions):
            self.tell(hand, what, lambda action=action: (together.wait(), action()))  # type: ignore[misc]

    def settle(self) -> None:
        """Wait until all is done; fail if something hangs, or raised what is not documented."""
        with self._condition:
            done = self._condition.wait_for(lambda: self._told == 0, PATIENCE)
            assert done, f"it hangs: {self._doing}\n{stacks()}"
        assert not self.failures, "\n".join(self.failures)

    def end(self) -> None:
        """End the threads."""
        for orders in self._orders:
            orders.put(None)
        for thread in self._threads:
            thread.join(PATIENCE)

    def _work(self, hand: int) -> None:
        while (order := self._orders[hand].get()) is not None:
            what, action = order
            with self._condition:
                self._doing[hand] = what
            since = time.monotonic()
            try:
                action()
            except self._documented:
                pass
            except BaseException:
                self.failures.append(f"{what}:\n{traceback.format_exc()}")
            with self._condition:
                self.slowest = max(self.slowest, (time.monotonic() - since, what))
                del self._doing[hand]
                self._told -= 1
                self._condition.notify_all()


def stacks() -> str:
    """What each thread is doing."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()
