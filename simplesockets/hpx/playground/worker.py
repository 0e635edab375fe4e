"""One thread that does what may wait, in order, so that the thread which serves the page never does."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

MOST_TASKS = 32
"""Tasks that wait at a time."""

Task = Callable[[], object]


class Worker:
    """Runs tasks one after the other.

    Args:
        name: of its thread.
    """

    def __init__(self, name: str) -> None:
        self._tasks: queue.Queue[tuple[Task, Future[None]] | None] = queue.Queue()
        self.thread = threading.Thread(target=self._work, name=name, daemon=True)
        """Its thread."""
        self._closed = threading.Event()
        self.thread.start()

    def run(self, task: Task) -> Future[None]:
        """Run a task when its turn has come. What it raises is the future's.

        Raises:
            OverflowError: too many tasks wait.
        """
        if self._tasks.qsize() >= MOST_TASKS:
            raise OverflowError("The server takes nothing: too much waits to be sent already")
        done: Future[None] = Future()
        self._tasks.put((task, done))
        return done

    def _work(self) -> None:
        while (each := self._tasks.get()) is not None:
            task, done = each
            if self._closed.is_set() or not done.set_running_or_notify_cancel():
                done.cancel()
                continue
            try:
                task()
            except BaseException as failure:  # for whoever waits for it
                done.set_exception(failure)
            else:
                done.set_result(None)

    def close(self, timeout: float | None = 5.0) -> None:
        """Run nothing more; what waits is cancelled.

        Args:
            timeout: seconds that the task at hand has to end.
        """
        self._closed.set()
        self._tasks.put(None)
        self.thread.join(timeout)
