"""What watches many sockets: the system's epoll, and what is made to look like it."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from simplesockets.readiness import HAS_EPOLL, HAS_POLL, READABLE, WRITABLE, Epoll, PollSet, Readiness

from .support.clients import in_thread
from .support.waiting import PATIENCE, wait_until

KINDS = [
    pytest.param(Epoll, marks=pytest.mark.skipif(not HAS_EPOLL, reason="needs epoll and eventfd")),
    pytest.param(PollSet, marks=pytest.mark.skipif(not HAS_POLL, reason="needs poll")),
]


@pytest.fixture(params=KINDS)
def ready(request: pytest.FixtureRequest) -> Iterator[Readiness]:
    ready = request.param()
    yield ready
    ready.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


Pair = tuple[socket.socket, socket.socket]


def test_the_numbers_are_the_same_everywhere() -> None:
    if HAS_EPOLL:
        assert (READABLE, WRITABLE) == (select.EPOLLIN, select.EPOLLOUT)


def test_what_is_readable_is_reported_as_long_as_it_is(ready: Readiness, pair: Pair) -> None:
    one, other = pair
    ready.register(one.fileno(), READABLE)
    assert ready.poll(0, 10) == []
    other.send(b"x")
    for _ in range(2):
        assert ready.poll(PATIENCE, 10) == [(one.fileno(), READABLE)]
    one.recv(1)
    assert ready.poll(0.001, 10) == []


def test_it_reports_what_is_looked_for(ready: Readiness, pair: Pair) -> None:
    one, other = pair
    ready.register(one.fileno(), READABLE)
    ready.modify(one.fileno(), READABLE | WRITABLE)
    assert ready.poll(PATIENCE, 10) == [(one.fileno(), WRITABLE)]
    ready.modify(one.fileno(), 0)
    other.send(b"x")
    assert ready.poll(0, 10) == []
    ready.unregister(one.fileno())
    ready.register(one.fileno(), READABLE)
    assert ready.poll(PATIENCE, 10) == [(one.fileno(), READABLE)]


def test_a_hang_up_is_reported_though_nobody_looks_for_it(ready: Readiness, pair: Pair) -> None:
    one, other = pair
    ready.register(one.fileno(), 0)
    other.close()
    ((fd, event),) = ready.poll(PATIENCE, 10)
    assert fd == one.fileno()
    assert event & select.POLLHUP


def test_what_is_not_there_cannot_be_changed(ready: Readiness, pair: Pair) -> None:
    one, _ = pair
    with pytest.raises(FileNotFoundError):
        ready.modify(one.fileno(), READABLE)
    with pytest.raises(FileNotFoundError):
        ready.unregister(one.fileno())
    ready.register(one.fileno(), READABLE)
    with pytest.raises(FileExistsError):
        ready.register(one.fileno(), READABLE)


def test_the_signal_is_reported_until_it_is_cleared(ready: Readiness) -> None:
    for _ in range(3):
        ready.wake()
    for _ in range(2):
        assert ready.poll(PATIENCE, 10) == [(ready.signal, READABLE)]
    ready.clear()
    assert ready.poll(0, 10) == []


def waits(ready: Readiness, threads: int) -> bool:
    # epoll heeds changes whenever they come, so nobody has to know.
    return not isinstance(ready, PollSet) or len(ready._waiting) == threads


@pytest.mark.parametrize(
    "change",
    [
        lambda ready, pair: ready.register(pair[0].fileno(), WRITABLE),
        lambda ready, pair: ready.modify(pair[1].fileno(), WRITABLE),
        lambda ready, pair: ready.wake(),
    ],
    ids=["register", "modify", "wake"],
)
def test_a_change_reaches_everybody_who_waits(
    ready: Readiness, pair: Pair, change: Callable[[Readiness, Pair], object]
) -> None:
    ready.register(pair[1].fileno(), READABLE)
    waiting = [in_thread(lambda: ready.poll(PATIENCE, 10)) for _ in range(3)]
    wait_until(lambda: waits(ready, 3), "all to wait")
    change(ready, pair)
    for thread, _ in waiting:
        thread.join(PATIENCE)
    assert [len(cast("list[object]", found[0])) for _, found in waiting] == [1, 1, 1]


def test_who_is_not_watched_any_more_is_not_reported(ready: Readiness, pair: Pair) -> None:
    one, other = pair
    ready.register(one.fileno(), READABLE)
    waiting, found = in_thread(lambda: ready.poll(0.1, 10))
    wait_until(lambda: waits(ready, 1), "it to wait")
    ready.unregister(one.fileno())
    other.send(b"x")
    waiting.join(PATIENCE)
    assert found == [[]]


def test_a_descriptor_that_the_program_closed_is_forgotten(ready: Readiness, pair: Pair) -> None:
    one, other = pair
    fd = one.fileno()
    ready.register(fd, READABLE)
    one.close()
    assert ready.poll(0.001, 10) == []
    with pytest.raises(OSError, match=r"\d"):
        ready.modify(fd, READABLE)
    os.dup2(other.fileno(), fd)
    try:
        ready.register(fd, WRITABLE)
        assert [each for each, _ in ready.poll(PATIENCE, 10)] == [fd]
    finally:
        os.close(fd)


def test_changes_and_wake_ups_in_many_threads_are_never_lost(ready: Readiness) -> None:
    pairs = [socket.socketpair() for _ in range(8)]
    seen: set[int] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            for fd, _ in ready.poll(PATIENCE, 100):
                seen.add(fd)
                if fd != ready.signal:
                    ready.modify(fd, 0)

    looking, _ = in_thread(look)
    for _ in range(50):
        seen.clear()
        for one, _ in pairs:
            ready.register(one.fileno(), WRITABLE)
        wait_until(lambda: len(seen) == len(pairs), "all to be seen")
        for one, _ in pairs:
            ready.unregister(one.fileno())
    done.set()
    ready.wake()
    looking.join(PATIENCE)
    assert not looking.is_alive()
    for one, other in pairs:
        one.close()
        other.close()
