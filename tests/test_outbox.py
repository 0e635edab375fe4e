"""Outboxes: a send that never waits, and loses nothing that the peer reads."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator

import pytest

from simplesockets.outbox import Courier, Outbox
from simplesockets.transport import Stream

from .support.running import read_exactly
from .support.streams import ScriptedStream
from .support.waiting import PATIENCE, Gate, wait_until

LIMIT = 1 << 20


class Overflow:
    """Counts how often it is called."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


class IdleCourier(Courier):
    """Sends nothing on by itself."""

    def __init__(self) -> None:
        super().__init__("unused")
        self.watched: list[Outbox] = []

    def watch(self, outbox: Outbox) -> None:
        self.watched.append(outbox)


def scripted(room: int | None, limit: int = LIMIT) -> tuple[Outbox, ScriptedStream, IdleCourier, Overflow]:
    stream, courier, overflow = ScriptedStream(), IdleCourier(), Overflow()
    stream.room = room
    return Outbox(stream, courier, limit, overflow), stream, courier, overflow


def sent(stream: ScriptedStream) -> bytes:
    return b"".join(stream.sent)


def test_what_the_peer_takes_at_once_never_waits() -> None:
    outbox, stream, courier, _ = scripted(None)
    assert outbox.post(b"one")
    assert outbox.post(b"two")
    assert stream.sent == [b"one", b"two"]
    assert outbox.pending == 0
    assert not courier.watched


@pytest.mark.parametrize("room", range(10))
def test_what_the_peer_does_not_take_goes_out_later_in_order(room: int) -> None:
    outbox, stream, courier, _ = scripted(room)
    for frame in (b"one", b"two", b"three"):
        assert outbox.post(frame)
    assert sent(stream) == b"onetwothree"[:room]
    assert outbox.pending == 11 - room
    assert courier.watched == [outbox]
    for more in (1, 2, 3):
        stream.room = more
        outbox.send_on()
    stream.room = None
    assert outbox.send_on()
    assert sent(stream) == b"onetwothree"
    assert outbox.pending == 0


def test_more_than_the_limit_is_refused_once_and_for_all() -> None:
    outbox, stream, _, overflow = scripted(0, limit=10)
    assert outbox.post(b"x" * 100), "what is being sent may be of any size"
    assert outbox.post(b"x" * 10)
    assert overflow.times == 0
    assert not outbox.post(b"y")
    assert overflow.times == 1
    assert not outbox.post(b"z")
    assert overflow.times == 1
    assert outbox.pending == 0
    stream.room = None
    assert outbox.send_on()
    assert sent(stream) == b""


def test_finishing_waits_for_what_waits() -> None:
    outbox, stream, _, _ = scripted(2)
    done: list[bytes] = []
    outbox.post(b"goodbye")
    outbox.finish(lambda: done.append(sent(stream)))
    assert not outbox.post(b"too late")
    assert done == []
    stream.room = None
    outbox.send_on()
    assert done == [b"goodbye"]
    outbox.send_on()
    assert done == [b"goodbye"]


def test_finishing_with_nothing_waiting_is_done_at_once() -> None:
    outbox, _, _, _ = scripted(None)
    done: list[bool] = []
    outbox.finish(lambda: done.append(True))
    assert done == [True]


def test_a_broken_connection_discards_what_waits_and_finishes() -> None:
    outbox, stream, _, overflow = scripted(0)
    done: list[bool] = []
    outbox.post(b"lost")
    outbox.finish(lambda: done.append(True))
    stream.send_failure = ConnectionResetError()
    assert outbox.send_on()
    assert done == [True]
    assert outbox.pending == 0
    assert overflow.times == 0


def test_a_closed_outbox_takes_nothing() -> None:
    outbox, stream, _, _ = scripted(0)
    outbox.post(b"waits")
    outbox.close()
    stream.room = None
    assert not outbox.post(b"more")
    assert outbox.send_on()
    assert sent(stream) == b""
    assert outbox.pending == 0


def test_a_post_in_the_middle_of_a_post_of_the_same_thread_comes_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # So does a signal handler. Frames must not be mixed.
    outbox, stream, _, _ = scripted(4)
    send_now = stream.send_now

    def interrupted(parts: list[bytes]) -> int:
        monkeypatch.setattr(stream, "send_now", send_now)
        outbox.post(b"<nested>")
        return send_now(parts)

    monkeypatch.setattr(stream, "send_now", interrupted)
    outbox.post(b"<outer>")
    stream.room = None
    outbox.send_on()
    assert sent(stream) == b"<outer><nested>"


# ------------------------------------------------------------------------------------------------- real sockets


@contextlib.contextmanager
def pair(limit: int = 1 << 30) -> Iterator[tuple[Outbox, socket.socket, Courier, Overflow]]:
    courier, overflow = Courier("simplesockets-test"), Overflow()
    peer, sock = socket.socketpair()
    stream = Stream(sock)
    outbox = Outbox(stream, courier, limit, overflow)
    try:
        with peer:
            yield outbox, peer, courier, overflow
    finally:
        outbox.close()
        stream.close()
        courier.join(PATIENCE)
        assert courier._thread is None


def test_a_slow_peer_gets_everything_in_order_and_nobody_waits() -> None:
    chance = random.Random(7)
    frames = [bytes([number % 256]) * chance.randrange(1, 200_000) for number in range(100)]
    with pair() as (outbox, peer, courier, _):
        for frame in frames:
            assert outbox.post(frame)  # nobody reads yet
        assert outbox.pending
        assert read_exactly(peer, sum(map(len, frames))) == b"".join(frames)
        courier.join(PATIENCE)
        assert outbox.pending == 0


def test_several_threads_never_mix_their_frames() -> None:
    frames = {number: bytes([number]) * 50_000 for number in range(4)}

    def post(number: int) -> None:
        for _ in range(40):
            outbox.post(frames[number])

    with pair() as (outbox, peer, _, _):
        threads = [threading.Thread(target=post, args=(number,)) for number in frames]
        for thread in threads:
            thread.start()
        received = [read_exactly(peer, 50_000) for _ in range(160)]
        for thread in threads:
            thread.join()
    assert all(received.count(frame) == 40 for frame in frames.values())


def test_one_courier_serves_many_and_ends_when_nothing_waits() -> None:
    with pair() as (first, first_peer, courier, _):
        peer, sock = socket.socketpair()
        second = Outbox(Stream(sock), courier, 1 << 30, Overflow())
        with peer:
            for outbox in (first, second):
                outbox.post(b"x" * 5_000_000)
            for each in (peer, first_peer):
                assert len(read_exactly(each, 5_000_000)) == 5_000_000
            wait_until(lambda: courier._thread is None, "the courier to end")
            second.stream.close()


def test_a_stream_that_is_closed_while_data_waits_is_let_go() -> None:
    with pair() as (outbox, _, courier, _):
        outbox.post(b"x" * 5_000_000)
        wait_until(lambda: not courier._new, "the courier to watch it")
        outbox.close()
        outbox.stream.close()
        courier.join(PATIENCE)
        assert courier._thread is None


def test_finish_runs_when_the_peer_has_read_it_all() -> None:
    gate = Gate()
    with pair() as (outbox, peer, _, _):
        outbox.post(b"x" * 5_000_000)
        outbox.finish(gate)
        assert not gate._arrived.is_set()
        assert len(read_exactly(peer, 5_000_000)) == 5_000_000
        gate.wait_arrived()
        gate.open()
