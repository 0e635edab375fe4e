"""A lock that is taken without a ``with`` statement is released all the same."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from simplesockets.events import ReceivedBytes
from simplesockets.locking import is_mine, let_go
from simplesockets.mailbox import Bell, Mailbox
from simplesockets.transport import Stream


class Interrupted(KeyboardInterrupt):
    """What a signal handler raises."""


class Lock:
    """A lock at which a signal handler raises: before it is taken, or just after."""

    def __init__(self, taken: bool) -> None:
        self.inner = threading.RLock()
        self._taken = taken

    def acquire(self) -> bool:
        if self._taken:
            self.inner.acquire()
        raise Interrupted

    def release(self) -> None:
        self.inner.release()

    def _is_owned(self) -> bool:
        return is_mine(self.inner)


@pytest.mark.parametrize("taken", [False, True], ids=["before it is taken", "when it is taken"])
@pytest.mark.parametrize("use", ["put", "take", "send"])
def test_a_signal_handler_that_raises_leaves_no_lock_behind(use: str, taken: bool) -> None:
    lock = Lock(taken)
    near, far = socket.socketpair()
    with near, far:
        stream, box = Stream(near), Mailbox(Bell())
        stream.write_lock = box._lock = lock  # type: ignore[assignment]
        item: Any = ReceivedBytes(b"text", 0.0), 4
        uses: dict[str, Callable[[], object]] = {
            "put": lambda: box.put(stream, *item),  # type: ignore[arg-type]
            "take": box.take_present,
            "send": lambda: stream.send_all(b"text"),
        }
        with pytest.raises(Interrupted):
            uses[use]()
    assert not is_mine(lock.inner)


class Source:
    """Where items come from; a signal handler raises when the first of all is resumed."""

    resumed: ClassVar[list[Source]] = []
    served_by = 0

    def resume(self) -> None:
        self.resumed.append(self)
        if len(self.resumed) == 1:
            raise Interrupted


def test_a_signal_handler_that_raises_leaves_nobody_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Source, "resumed", [])
    box = Mailbox(Bell(), client_mark=1)
    sources = {Source() for _ in range(5)}
    for source in sources:
        assert box.put(source, ReceivedBytes(b"text", 0.0), 4)
    with pytest.raises(Interrupted):
        box.take_present()
    assert {*Source.resumed} == sources


def test_nor_does_one_that_raises_when_the_lock_was_just_released(monkeypatch: pytest.MonkeyPatch) -> None:
    class Released(Lock):
        def acquire(self) -> bool:
            return self.inner.acquire()

        def release(self) -> None:
            self.inner.release()
            raise Interrupted

    monkeypatch.setattr(Source, "resumed", [Source()])
    box, source = Mailbox(Bell(), client_mark=1), Source()
    assert box.put(source, ReceivedBytes(b"text", 0.0), 4)
    box._lock = Released(True)  # type: ignore[assignment]
    with pytest.raises(Interrupted):
        box.take_present()
    assert Source.resumed[1:] == [source]


def test_what_another_thread_holds_stays_its_own() -> None:
    lock = threading.RLock()
    with lock:
        other = threading.Thread(target=let_go, args=(lock,))
        other.start()
        other.join()
        assert is_mine(lock)
    assert not is_mine(lock)
