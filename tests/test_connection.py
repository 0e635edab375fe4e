"""A connection's life, driven by hand over a script: opened, then its items, then ended, once."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, cast

import pytest

from simplesockets import connection as connection_module
from simplesockets.connection import JOIN_LIMIT, LINGER, Connection
from simplesockets.errors import ConnectionClosed, FrameTooLarge, FrameTruncated, ProtocolError
from simplesockets.events import Ending, ReceivedBytes
from simplesockets.framing import DelimiterFramer, LengthPrefixFramer
from simplesockets.hotpath import Step
from simplesockets.mailbox import Bell, Mailbox
from simplesockets.protocol import FramedProtocol, Protocol, RawProtocol
from simplesockets.transport import Stream

from .support.running import raw_client, read_exactly, running_server
from .support.streams import END, LATER, FaultyStream, Part, ScriptedStream
from .support.waiting import PATIENCE, Gate, wait_until

SOON = 5.0
"""Seconds within which a thread that nothing holds up has certainly ended."""


class Life:
    """A connection over a scripted stream, and a log of what its hooks saw."""

    def __init__(
        self, *script: Part, protocol: Protocol | None = None, recv_buffer: int = 2048, blocking: bool = False
    ) -> None:
        self.stream = ScriptedStream(*script, blocking=blocking)
        self.box = Mailbox(Bell())
        self.log: list[object] = []
        self.left = 0
        self.on_open: Callable[[], object] = lambda: None
        self.on_item: Callable[[bytes], object] = lambda data: None  # True pauses
        self.on_end: Callable[[], object] = lambda: None
        self.connection = Connection(self.stream, protocol or RawProtocol(), self.box, recv_buffer)
        self.connection.bind(self._opened, self._deliver, self._ended, self._leaving)

    def _opened(self) -> None:
        self.log.append("opened")
        self.on_open()

    def _deliver(self, data: bytes) -> bool:
        self.log.append(data)
        return self.on_item(data) is True

    def _ended(self) -> object:
        self.log.append("ended")
        return self.on_end()

    def _leaving(self) -> None:
        self.left += 1

    @property
    def items(self) -> list[object]:
        """What was delivered."""
        return [entry for entry in self.log if isinstance(entry, bytes)]

    def steps(self) -> Step:
        """Step as long as there is more; gives what the last step said."""
        while (step := self.connection.step()) is Step.MORE:
            pass
        return step

    def live(self) -> None:
        """What an engine does, to the end."""
        self.connection.open()
        assert self.steps() is Step.DONE
        self.connection.finish()

    def store(self, data: bytes) -> bool:
        """A delivery hook: put the item into the mailbox."""
        return self.box.put(self.connection, ReceivedBytes(data, 0.0), len(data))


def lines(limit: int = 100, *, final: bool = False) -> FramedProtocol:
    return FramedProtocol(DelimiterFramer(limit=limit, final=final))


class Talkative(FramedProtocol):
    """Lines; each is acknowledged, and so is the end. ``bad`` breaks the rules, which is answered."""

    def __init__(self) -> None:
        super().__init__(DelimiterFramer(final=True))
        self._to_say = b""
        self._feed, self._feed_eof = self.feed, self.feed_eof
        self.feed, self.feed_eof = self._answer, self._answer_end

    def _answer(self, data: bytes) -> Iterator[bytes]:
        for line in self._feed(data):
            self._to_say += b"ack " + line + b"\n"
            if line == b"bad":
                raise ProtocolError("bad")
            yield line

    def _answer_end(self) -> Iterator[bytes]:
        self._to_say += b"bye\n"
        yield from self._feed_eof()

    def data_to_send(self) -> bytes:
        said, self._to_say = self._to_say, b""
        return said


class Mistaken(FramedProtocol):
    """A protocol with a mistake in it."""

    def __init__(self) -> None:
        super().__init__(DelimiterFramer())
        self.feed = lambda data: iter([data[1 // 0 :]])


class ThreeAtEnd(RawProtocol):
    """A protocol that completes three items when the stream ends."""

    def feed(self, data: bytes) -> tuple[bytes, ...]:
        return ()

    def feed_eof(self) -> tuple[bytes, ...]:
        return (b"a", b"b", b"c")


def started(*works: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    return threads


def end_soon(*threads: threading.Thread) -> bool:
    for thread in threads:
        thread.join(SOON)
    return not any(thread.is_alive() for thread in threads)


@contextlib.contextmanager
def other_reader(connection: Connection) -> Iterator[None]:
    """The connection's thread is another one than this, and alive."""
    gate = Gate()
    (thread,) = started(gate)
    connection.thread = thread
    try:
        yield
    finally:
        gate.open()
        assert end_soon(thread)


@pytest.fixture(params=["eagerly", "at every line"])
def effort(request: pytest.FixtureRequest) -> Iterator[int]:
    """Threads take turns as often as they can, or offer it to each other at every line of the connection's file,
    which is slow. The value says how much work fits in."""

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != connection_module.__file__:
            return None
        time.sleep(0)
        return trace

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    if request.param == "at every line":
        threading.settrace(trace)
    yield 10 if request.param == "eagerly" else 1
    threading.settrace(cast(Any, None))
    sys.setswitchinterval(usual)


# --------------------------------------------------------------------------------------------- in order, and how


def test_opened_then_items_then_ended() -> None:
    life = Life(b"a", b"b", END)
    life.live()
    assert life.log == ["opened", b"a", b"b", "ended"]
    assert life.connection.ending == Ending("peer closed")
    assert life.connection.over
    assert life.stream.closed


def test_frames_of_one_read_are_items_of_their_own_and_half_ones_wait() -> None:
    life = Life(b"one\ntwo\nth", b"ree\n", END, protocol=lines())
    life.live()
    assert life.log == ["opened", b"one", b"two", b"three", "ended"]


def test_a_reset_ends_it_after_the_items_before() -> None:
    failure = ConnectionResetError("gone")
    life = Life(b"a", failure)
    life.live()
    assert life.log == ["opened", b"a", "ended"]
    assert life.connection.ending == Ending("reset", failure)
    assert "drain" not in life.stream.calls  # there is nobody to say goodbye to


def test_a_connection_that_the_network_lost_is_no_pause() -> None:
    # The system says ETIMEDOUT, which Python raises as the TimeoutError that a socket with a timeout raises, too.
    failure = TimeoutError(errno.ETIMEDOUT, "Connection timed out")
    life = Life(failure)
    assert life.steps() is Step.DONE
    assert life.connection.ending == Ending("reset", failure)


@pytest.mark.parametrize("nothing", [BlockingIOError(errno.EAGAIN, "again"), TimeoutError("timed out")])
def test_a_socket_in_a_mode_that_does_not_wait_has_nothing_for_now(nothing: OSError) -> None:
    life = Life(nothing, b"a")
    assert life.connection.step() is Step.NOTHING
    assert life.connection.step() is Step.MORE
    assert life.items == [b"a"]


def test_a_protocol_error_ends_it_after_the_items_before_with_a_goodbye() -> None:
    life = Life(b"ok\n" + b"x" * 20 + b"\nnever\n", b"too late", END, protocol=lines(limit=5))
    life.live()
    assert life.log == ["opened", b"ok", "ended"]
    ending = life.connection.ending
    assert ending is not None
    assert ending.kind == "protocol error"
    assert isinstance(ending.exception, FrameTooLarge)
    assert life.stream.calls[-4:] == ["end_sending", "drain", "cut", "close"]
    assert life.stream.drained == [b"too late"]


def test_an_end_inside_a_frame_is_a_protocol_error() -> None:
    life = Life(b"ok\nhal", END, protocol=lines())
    life.live()
    assert life.log == ["opened", b"ok", "ended"]
    ending = life.connection.ending
    assert ending is not None
    assert (ending.kind, type(ending.exception)) == ("protocol error", FrameTruncated)


def test_what_the_end_of_the_stream_completes_is_delivered() -> None:
    life = Life(b"one\ntwo", END, protocol=lines(final=True))
    life.live()
    assert life.log == ["opened", b"one", b"two", "ended"]
    assert life.connection.ending == Ending("peer closed")


def test_a_mistake_in_a_protocol_ends_this_connection_and_says_so() -> None:
    life = Life(b"a", protocol=Mistaken())
    life.live()
    assert life.log == ["opened", "ended"]
    assert life.connection.ending is not None
    assert (life.connection.ending.kind, type(life.connection.ending.exception)) == ("failed", ZeroDivisionError)


def test_the_first_reason_stays() -> None:
    life = Life(END)
    life.connection.note_ending("reset")
    life.live()
    assert life.connection.ending == Ending("reset")


def test_a_pause_is_asked_for_when_any_item_of_a_read_filled_the_mailbox() -> None:
    life = Life(b"a\nfull\nb\n", b"c\n", protocol=lines())
    life.on_item = lambda data: data == b"full"
    assert life.connection.step() is Step.PAUSED
    assert life.items == [b"a", b"full", b"b"]
    assert life.connection.step() is Step.MORE
    life = Life(b"full", b"c")
    life.on_item = lambda data: data == b"full"
    assert life.connection.step() is Step.PAUSED
    assert life.connection.step() is Step.MORE


def test_a_shared_connection_never_waits_in_a_read() -> None:
    life = Life(b"a", LATER, b"b", blocking=True)
    life.connection.share(True)
    assert [life.connection.step(), life.connection.step()] == [Step.MORE, Step.NOTHING]
    life.connection.share(False)
    assert life.connection.step() is Step.MORE
    assert life.items == [b"a", b"b"]


def test_the_hooks_are_let_go_of_at_the_end() -> None:
    life = Life(END)
    connection = life.connection
    life.live()
    gone = weakref.ref(life)
    del life
    assert gone() is None
    connection.disconnect()  # which has nobody to tell any more


# ---------------------------------------------------------------------------------------------------- full reads


def test_a_full_read_is_joined_with_what_is_there() -> None:
    life = Life(b"abcd", b"efgh", b"ij", LATER, b"k", END, recv_buffer=4)
    life.live()
    assert life.items == [b"abcdefghij", b"k"]


def test_a_message_of_just_the_buffers_size_is_delivered_at_once() -> None:
    life = Life(b"abcd", recv_buffer=4)
    assert life.connection.step() is Step.MORE
    assert life.items == [b"abcd"]


def test_a_read_that_is_not_full_is_delivered_as_it_is() -> None:
    life = Life(b"abc", b"d", recv_buffer=4)
    assert life.connection.step() is Step.MORE
    assert life.items == [b"abc"]
    assert "receive_waiting" not in life.stream.calls


def test_joining_stops_at_one_mebibyte_and_loses_nothing() -> None:
    assert JOIN_LIMIT == 1024 * 1024
    sent = bytes(range(251)) * 14000
    life = Life(sent, END, recv_buffer=100_000)
    life.live()
    items = [item for item in life.items if isinstance(item, bytes)]
    assert [len(item) for item in items] == [JOIN_LIMIT, JOIN_LIMIT, JOIN_LIMIT, len(sent) - 3 * JOIN_LIMIT]
    assert b"".join(items) == sent


def test_a_buffer_beyond_the_limit_is_one_read() -> None:
    big = b"x" * (JOIN_LIMIT + 5)
    life = Life(big, b"y", END, recv_buffer=len(big))
    life.live()
    assert life.items == [big, b"y"]


@pytest.mark.parametrize(("last", "kind"), [(END, "peer closed"), (ConnectionResetError(), "reset")])
def test_what_follows_a_full_read_is_noticed_after_it_was_delivered(last: Part, kind: str) -> None:
    life = Life(b"abcd", last, recv_buffer=4)
    life.live()
    assert life.log == ["opened", b"abcd", "ended"]
    assert life.connection.ending is not None
    assert life.connection.ending.kind == kind


def test_a_reset_right_behind_a_full_read_is_a_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as peer:
        sock, _ = listener.accept()
        life = Life()
        stream = Stream(sock)
        connection = Connection(stream, RawProtocol(), Mailbox(Bell()), recv_buffer=4)
        peer.sendall(b"abcd")
        assert stream.wait_readable(PATIENCE)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, (1).to_bytes(4, sys.byteorder) + bytes(4))
        peer.close()
        assert stream.wait_hang_up(None, PATIENCE)  # so the reset has arrived, too
        connection.bind(lambda: None, life._deliver, lambda: None, lambda: None)
        while connection.step() is not Step.DONE:
            pass
        connection.finish()
    assert life.items == [b"abcd"]
    assert connection.ending is not None
    assert connection.ending.kind == "reset"


# ------------------------------------------------------------------------------------------------- ended, once


def test_hanging_up_stops_deliveries_at_once() -> None:
    life = Life(b"one\nstop\nnever\n", b"nor this\n", END, protocol=lines())
    life.on_item = lambda data: life.connection.hang_up() if data == b"stop" else None
    life.live()
    assert life.log == ["opened", b"one", b"stop", "ended"]
    assert life.connection.ending == Ending("closed here")


def test_hanging_up_says_goodbye_and_sees_the_peer_off() -> None:
    life = Life(b"too late", END)
    life.connection.hang_up()
    assert life.left == 1
    assert life.stream.calls == ["end_sending"]
    assert life.connection.step() is Step.DONE
    life.connection.finish()
    assert life.stream.calls == ["end_sending", "drain", "cut", "close"]
    assert life.stream.drained == [b"too late"]
    assert life.log == ["ended"]


@pytest.mark.parametrize("linger", [LINGER, 0.0, 77.0])
def test_the_peer_has_so_long_to_close_too(linger: float) -> None:
    life = Life(END)
    life.connection.hang_up(linger=linger)
    life.connection.finish()
    assert life.stream.lingers is not None
    assert linger - SOON < life.stream.lingers <= linger


def test_hanging_up_twice_is_hanging_up_once() -> None:
    life = Life(END)
    life.connection.hang_up()
    life.connection.hang_up("another reason")
    life.connection.disconnect()
    assert life.left == 1
    assert life.stream.calls.count("end_sending") == 1
    assert life.connection.ending == Ending("closed here")


def test_items_that_the_end_completes_are_not_delivered_after_hanging_up() -> None:
    life = Life(END, protocol=ThreeAtEnd())
    life.on_item = lambda data: life.connection.hang_up() if data == b"b" else None
    life.live()
    assert life.log == ["opened", b"a", b"b", "ended"]


def test_finishing_twice_ends_it_once() -> None:
    life = Life(END)
    life.live()
    life.connection.finish()
    assert life.log == ["opened", "ended"]


def test_a_disconnect_does_not_wait_for_a_reader_that_sleeps() -> None:
    life = Life(blocking=True)
    (reader,) = started(life.live)
    wait_until(lambda: "receive_some" in life.stream.calls)
    life.connection.disconnect()
    assert life.log == ["opened", "ended"]
    life.stream.play(b"too late", END)
    assert end_soon(reader)
    assert life.log == ["opened", "ended"]
    assert life.stream.closed


def test_a_disconnect_during_a_callback_leaves_the_last_hook_to_the_reader() -> None:
    life = Life(b"a", b"never", blocking=True)
    gate = Gate()
    life.on_item = gate
    (reader,) = started(life.live)
    gate.wait_arrived()
    life.connection.disconnect()
    assert life.log == ["opened", b"a"]
    gate.open()
    assert end_soon(reader)
    assert life.log == ["opened", b"a", "ended"]


def test_a_disconnect_during_the_first_hook_leaves_the_last_one_to_the_reader() -> None:
    life = Life(b"never", blocking=True)
    gate = Gate()
    life.on_open = gate
    (reader,) = started(life.live)
    gate.wait_arrived()
    life.connection.disconnect()
    assert life.log == ["opened"]
    gate.open()
    assert end_soon(reader)
    assert life.log == ["opened", "ended"]


def test_a_disconnect_in_a_callback_runs_the_last_hook_after_it() -> None:
    life = Life(b"a", b"never", END)

    def leave(_: bytes) -> None:
        life.connection.disconnect()
        life.log.append("callback returns")

    life.on_item = leave
    life.live()
    assert life.log == ["opened", b"a", "callback returns", "ended"]


def test_a_disconnect_in_the_last_hook_is_nothing_new() -> None:
    life = Life(END)
    life.on_end = life.connection.disconnect
    life.live()
    assert life.log == ["opened", "ended"]


LEAVE = pytest.mark.parametrize("leave", [Connection.disconnect, Connection.hang_up])
Leave = Callable[[Connection], object]


@LEAVE
def test_nothing_is_opened_after_somebody_left(leave: Leave) -> None:
    life = Life(b"never", END)
    leave(life.connection)
    life.live()
    assert life.log == ["ended"]


@LEAVE
@pytest.mark.parametrize("arrival", [b"late", END, ConnectionResetError()])
def test_what_arrives_just_after_somebody_left_comes_too_late(leave: Leave, arrival: Part) -> None:
    life = Life()
    life.stream.play(lambda: leave(life.connection), arrival, END)
    (reader,) = started(life.live)
    assert end_soon(reader)
    assert life.log == ["opened", "ended"]
    assert life.connection.ending == Ending("closed here")


@pytest.mark.parametrize("script", [(b"a", b"b", END), (b"a", ConnectionResetError()), (b"a", b"b")])
def test_it_ends_once_and_last_however_many_disconnect_while_it_ends(script: tuple[Part, ...], effort: int) -> None:
    for _ in range(20 * effort):
        life = Life(*script, blocking=True)
        start = threading.Barrier(4)

        def live(life: Life = life, start: threading.Barrier = start) -> None:
            start.wait(PATIENCE)
            life.live()

        def leave(life: Life = life, start: threading.Barrier = start) -> None:
            start.wait(PATIENCE)
            life.connection.disconnect()
            life.stream.cut()

        threads = started(live, leave, leave, leave)
        assert end_soon(*threads)
        expected = ["opened", *[part for part in script if isinstance(part, bytes)]]
        *before, last = life.log
        assert (before, last) == (expected[: len(before)], "ended")


def test_the_program_s_own_loop_is_one_long_hook() -> None:
    life = Life(b"data", END)
    connection = life.connection
    connection.open()
    connection.serve(lambda: life.log.append(connection.receive()))
    connection.finish()
    assert life.log == ["opened", b"data", "ended"]
    assert connection.ending == Ending("handler returned")


def test_a_disconnect_in_the_program_s_own_loop_runs_the_last_hook_after_it() -> None:
    life = Life(b"data", END)

    def work() -> None:
        life.connection.disconnect()
        life.log.append("loop returns")

    life.connection.serve(work)
    life.connection.finish()
    assert life.log == ["loop returns", "ended"]
    assert life.connection.ending == Ending("closed here")


def test_the_program_s_own_loop_does_not_begin_after_a_disconnect() -> None:
    life = Life(b"data", END)
    life.connection.disconnect()
    life.connection.serve(lambda: life.log.append("never"))
    life.connection.finish()
    assert life.log == ["ended"]


def test_the_program_s_own_loop_may_fail() -> None:
    life = Life(END)
    with pytest.raises(ZeroDivisionError):
        life.connection.serve(lambda: 1 // 0)
    life.connection.finish()
    assert life.log == ["ended"]


@pytest.mark.parametrize("stored", [False, True], ids=["before it was stored", "after it was stored"])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError, TimeoutError])
def test_an_interrupted_delivery_is_made_up_for_and_not_repeated(stored: bool, failure: type[BaseException]) -> None:
    # A thread of the program's may read for the connection while it polls, and signal handlers raise there.
    life = Life(b"item", LATER, b"next")
    interrupts = iter([True])

    def deliver(data: bytes) -> bool:
        if stored:
            life.store(data)
        if next(interrupts, False):
            raise failure
        return False if stored else life.store(data)

    life.on_item = deliver
    with pytest.raises(failure):
        life.connection.step()
    life.steps()
    life.steps()
    assert life.box.take_all() == [b"item", b"next"]


def test_a_kept_stream_stays_open_for_answers() -> None:
    life = Life(b"question", END)
    life.on_end = lambda: True
    life.live()
    assert (life.connection.kept, life.connection.over, life.stream.closed) == (True, True, False)
    life.connection.send(b"answer")
    assert life.stream.sent == [b"answer"]
    life.connection.close()
    assert life.stream.closed
    with pytest.raises(ConnectionClosed):
        life.connection.send(b"too late")


def test_a_source_that_ended_is_not_resumed() -> None:
    life = Life(b"x" * 100, END)
    life.box.client_mark = 10
    life.on_item = life.store
    life.connection.open()
    assert life.connection.step() is Step.PAUSED
    assert life.box.is_paused(life.connection)
    life.connection.disconnect()
    assert not life.box.is_paused(life.connection)
    assert len(life.box.take_all()) == 1


class Waker:
    """Counts."""

    woken = 0

    def wake(self) -> None:
        """Count."""
        self.woken += 1


def test_whoever_waits_for_room_is_woken_by_room_and_by_hanging_up() -> None:
    life = Life()
    life.connection.resume()  # nobody waits
    life.connection.waker = waker = Waker()
    life.connection.resume()
    assert waker.woken == 1
    life.connection.hang_up()
    assert waker.woken == 2


# ------------------------------------------------------------------------------------------------------- sending


def test_what_is_sent_is_encoded() -> None:
    life = Life(protocol=lines(limit=5))
    life.connection.send(b"hello")
    assert life.stream.sent == [b"hello\n"]
    with pytest.raises(FrameTooLarge):
        life.connection.send(b"too long")
    raw = Life()
    raw.connection.send(b"hello")
    assert raw.stream.sent == [b"hello"]


def test_nothing_is_sent_after_hanging_up() -> None:
    life = Life()
    life.connection.hang_up()
    with pytest.raises(ConnectionClosed):
        life.connection.send(b"data")
    assert life.stream.sent == []


def test_a_failure_to_send_is_raised() -> None:
    life = Life()
    life.stream.send_failure = BrokenPipeError()
    with pytest.raises(BrokenPipeError):
        life.connection.send(b"data")


class Packed(FramedProtocol):
    """A program's own: more than frames."""

    def __init__(self) -> None:
        super().__init__(LengthPrefixFramer(4))
        cut = self.feed
        self.feed = lambda data: iter([zlib.decompress(frame) for frame in cut(data)])


class Acknowledging(FramedProtocol):
    """Another: says that it got something."""

    def __init__(self) -> None:
        super().__init__(LengthPrefixFramer(4))
        self.framer = LengthPrefixFramer(4)  # its own affair
        self.due = b""

    def data_to_send(self) -> bytes:
        due, self.due = self.due, b"ack"
        return due


class Binary(FramedProtocol):
    """Another: with a header that is no text."""

    class Framer(LengthPrefixFramer):
        def read_header(self, header: bytes) -> int:
            return header[0] - ord("0") + 1

    def __init__(self) -> None:
        super().__init__(self.Framer(4))


class Changing(FramedProtocol):
    """Another: is fed otherwise from the third item on."""

    def __init__(self) -> None:
        super().__init__(LengthPrefixFramer(4))
        self.items = 0

    def note(self) -> None:
        self.items += 1
        if self.items == 2:
            self.feed = lambda data: iter([b"other"])


@pytest.mark.parametrize(
    ("protocol", "sent", "items"),
    [
        (Packed, [zlib.compress(b"%d" % i) for i in range(4)], [b"0", b"1", b"2", b"3"]),
        (Acknowledging, [b"a", b"b", b"c"], [b"a", b"b", b"c"]),
        (Changing, [b"a", b"b", b"c", b"d"], [b"a", b"b", b"other", b"other"]),
    ],
)
def test_what_a_programs_own_protocol_does_with_frames_is_done(
    protocol: Any, sent: list[bytes], items: list[bytes]
) -> None:
    got: list[bytes] = []

    def receive(client: Any, address: object, data: bytes) -> None:
        got.append(data)
        if protocol is Changing:
            client.protocol.note()

    with running_server(protocol=protocol, on_receive=receive) as server, raw_client(server) as sock:
        for number, content in enumerate(sent):
            sock.sendall(LengthPrefixFramer(4).encode(content))
            wait_until(lambda: len(got) == number + 1)  # noqa: B023
        assert got == items
        if protocol is Acknowledging:
            assert read_exactly(sock, 6) == b"ackack"


def test_a_header_of_a_programs_own_is_read_by_it() -> None:
    got: list[bytes] = []

    def receive(client: Any, address: object, data: bytes) -> None:
        got.append(data)

    with running_server(protocol=Binary, on_receive=receive) as server, raw_client(server) as sock:
        for _ in range(3):
            sock.sendall(b"3   four")  # a frame of three bytes, elsewhere, and one more
            wait_until(lambda: got)
            assert got.pop() == b"four"


def test_what_the_protocol_says_is_sent() -> None:
    life = Life(b"a\nb\n", b"c\n", protocol=Talkative())
    life.steps()
    assert b"".join(life.stream.sent) == b"ack a\nack b\nack c\n"
    assert life.items == [b"a", b"b", b"c"]


def test_what_the_protocol_says_to_an_error_is_sent_before_the_goodbye() -> None:
    life = Life(b"a\nbad\nb\n", END, protocol=Talkative())
    life.live()
    assert life.log == ["opened", b"a", "ended"]
    assert life.stream.sent == [b"ack a\nack bad\n"]
    assert life.stream.calls.index("send_all") < life.stream.calls.index("end_sending")


def test_what_the_protocol_says_to_the_end_of_the_stream_is_sent() -> None:
    life = Life(END, protocol=Talkative())
    life.live()
    assert life.stream.sent == [b"bye\n"]


def test_what_the_protocol_says_while_reading_is_off_is_sent() -> None:
    life = Life(b"a\n", protocol=Talkative())
    life.connection.turn(False)
    assert life.connection.step() is Step.STOPPED
    assert life.stream.sent == [b"ack a\n"]


def test_what_the_protocol_says_to_what_a_program_receives_itself_is_sent() -> None:
    life = Life(b"a\n", protocol=Talkative())
    assert life.connection.receive() == b"a"
    assert life.stream.sent == [b"ack a\n"]


def test_a_failure_of_what_the_protocol_says_is_a_reset() -> None:
    life = Life(b"a\n", END, protocol=Talkative())
    life.stream.send_failure = failure = BrokenPipeError()
    life.live()
    assert life.log == ["opened", b"a", "ended"]
    assert life.connection.ending == Ending("reset", failure)


# --------------------------------------------------------------------------------------------- reading turned off


def test_what_arrives_while_reading_is_off_is_kept_for_receive() -> None:
    life = Life(b"one\ntwo\nthr", b"ee\n", protocol=lines())
    life.connection.turn(False)
    assert life.connection.step() is Step.STOPPED
    assert life.items == []
    assert [life.connection.receive() for _ in range(3)] == [b"one", b"two", b"three"]


def test_what_was_kept_is_delivered_first_when_reading_is_on_again() -> None:
    life = Life(b"one\ntwo\n", b"three\n", END, protocol=lines())
    life.connection.turn(False)
    assert life.connection.step() is Step.STOPPED
    life.connection.turn(True)
    life.live()
    assert life.log == ["opened", b"one", b"two", b"three", "ended"]


def test_a_full_read_is_kept_joined() -> None:
    life = Life(b"abcd", b"ef", LATER, b"g", recv_buffer=4)
    life.connection.turn(False)
    assert life.connection.step() is Step.STOPPED
    assert life.connection.receive() == b"abcdef"


def test_an_end_is_noticed_while_reading_is_off() -> None:
    life = Life(b"kept", END)
    life.connection.open()
    life.connection.turn(False)
    assert [life.connection.step(), life.connection.step()] == [Step.STOPPED, Step.DONE]
    life.connection.finish()
    assert life.log == ["opened", "ended"]
    assert life.connection.receive() == b"kept"


def test_what_the_end_completes_while_reading_is_off_comes_after_what_was_kept() -> None:
    life = Life(b"one\ntwo", END, protocol=lines(final=True))
    life.connection.turn(False)
    assert [life.connection.step(), life.connection.step()] == [Step.STOPPED, Step.DONE]
    assert life.items == []
    assert [life.connection.receive(), life.connection.receive()] == [b"one", b"two"]


def test_a_protocol_error_is_noticed_while_reading_is_off() -> None:
    life = Life(b"ok\n" + b"x" * 20, END, protocol=lines(limit=5))
    life.connection.turn(False)
    assert life.connection.step() is Step.DONE
    assert life.connection.ending is not None
    assert life.connection.ending.kind == "protocol error"
    assert life.connection.receive() == b"ok"


def test_a_reader_leaves_only_while_reading_is_off() -> None:
    connection = Life().connection
    connection.thread = threading.current_thread()
    assert connection.leave() is False
    assert connection.turn(False) is False
    assert connection.turn(True) is False  # the reader is still there
    assert connection.leave() is False
    connection.turn(False)
    assert connection.leave() is True
    assert connection.thread is None


def test_a_reader_does_not_leave_what_has_to_be_finished() -> None:
    connection = Life().connection
    connection.thread = threading.current_thread()
    connection.turn(False)
    connection.hang_up()
    assert connection.leave() is False


def test_turning_reading_on_asks_for_a_reader_where_there_is_none() -> None:
    life = Life()
    assert life.connection.turn(False) is False
    assert life.connection.turn(True) is True
    life.connection.disconnect()
    assert life.connection.turn(True) is False


# ----------------------------------------------------------------------------------------------------- receiving


def test_receive_gives_item_by_item_and_nothing_at_the_end() -> None:
    life = Life(b"one\ntw", b"o\nthree", END, protocol=lines(final=True))
    assert [life.connection.receive() for _ in range(5)] == [b"one", b"two", b"three", b"", b""]
    assert life.connection.ending == Ending("peer closed")


def test_an_empty_item_is_no_end() -> None:
    life = Life(b"one\n\ntwo\n", protocol=lines())
    assert [life.connection.receive() for _ in range(2)] == [b"one", b""]
    assert life.connection.ending is None
    assert life.connection.receive() == b"two"
    life = Life(b"one\n\ntwo\n", END, protocol=lines())
    life.live()
    assert life.items == [b"one", b"", b"two"]


def test_receive_joins_a_full_read() -> None:
    life = Life(b"abcd", b"ef", LATER, b"g", recv_buffer=4)
    assert [life.connection.receive(), life.connection.receive()] == [b"abcdef", b"g"]


def test_receive_of_a_size_gives_at_most_so_much_and_leaves_the_rest() -> None:
    life = Life(b"abcdef", b"gh", END)
    assert [life.connection.receive(4) for _ in range(4)] == [b"abcd", b"ef", b"gh", b""]


def test_receive_of_a_size_cuts_items_too() -> None:
    life = Life(b"abcdef\ngh\n", END, protocol=lines())
    assert [life.connection.receive(4) for _ in range(4)] == [b"abcd", b"ef", b"gh", b""]
    life = Life(b"abcdef\ngh\n", END, protocol=lines())
    assert [life.connection.receive(4), life.connection.receive()] == [b"abcd", b"ef"]


def test_receive_of_nothing_is_no_end() -> None:
    life = Life(b"abc")
    assert life.connection.receive(0) == b""
    assert life.connection.ending is None
    assert life.connection.receive() == b"abc"


def test_receive_raises_what_broke_the_connection() -> None:
    life = Life(ConnectionResetError("gone"))
    with pytest.raises(ConnectionResetError, match="gone"):
        life.connection.receive()


def test_receive_raises_a_protocol_error_after_the_items_before_it() -> None:
    life = Life(b"ok\n" + b"x" * 20, END, protocol=lines(limit=5))
    assert life.connection.receive() == b"ok"
    with pytest.raises(FrameTooLarge):
        life.connection.receive()


def test_receive_raises_a_truncation_after_the_items_before_it() -> None:
    life = Life(b"ok\nhal", END, protocol=lines())
    assert life.connection.receive() == b"ok"
    with pytest.raises(FrameTruncated):
        life.connection.receive()


def test_receive_ends_when_the_time_is_over_and_loses_nothing() -> None:
    life = Life(b"hal", LATER, b"f\n", protocol=lines())
    with pytest.raises(TimeoutError, match=r"within 0\.1 seconds"):
        life.connection.receive(timeout=0.1)
    assert life.connection.receive(timeout=0.1) == b"half"
    with pytest.raises(TimeoutError):
        Life(LATER, b"late").connection.receive(4, timeout=0)
    assert Life(b"there").connection.receive(timeout=0) == b"there"


def test_the_timeout_is_for_the_whole_of_an_item() -> None:
    life = Life(b"h", b"a", b"l", b"f\n", protocol=lines())
    assert life.connection.receive(timeout=PATIENCE) == b"half"
    waits = [wait for wait in life.stream.waits if wait is not None]
    assert len(waits) == 4
    assert PATIENCE >= waits[0] > waits[1] > waits[2] > waits[3] > 0


def test_receive_in_the_program_s_own_loop_reads_the_stream() -> None:
    life = Life(b"data")  # handle_client runs in the connection's thread
    life.connection.thread = threading.current_thread()
    assert life.connection.receive(timeout=1) == b"data"


def test_receive_waits_in_the_stream_where_there_is_no_reader() -> None:
    life = Life(blocking=True)
    got: list[bytes] = []
    (thread,) = started(lambda: got.append(life.connection.receive()))
    wait_until(lambda: "receive_some" in life.stream.calls)
    life.stream.play(b"data")
    assert end_soon(thread)
    assert got == [b"data"]


def test_beside_a_reader_receive_takes_what_the_reader_stores() -> None:
    life = Life(b"one", b"two")
    life.on_item = life.store
    with other_reader(life.connection):
        life.steps()
        assert [life.connection.receive(timeout=1), life.connection.receive(timeout=1)] == [b"one", b"two"]
        with pytest.raises(TimeoutError, match=r"within 0\.01 seconds"):
            life.connection.receive(timeout=0.01)
    assert life.box.take_all() == []


def test_beside_a_reader_receive_waits_for_what_it_stores() -> None:
    life = Life(b"data")
    life.on_item = life.store
    got: list[bytes] = []
    with other_reader(life.connection):
        (thread,) = started(lambda: got.append(life.connection.receive()))
        wait_until(lambda: life.box.bell.waiting)
        life.steps()
        assert end_soon(thread)
    assert got == [b"data"]


def test_beside_a_reader_receive_waits_for_what_it_keeps_while_reading_is_off() -> None:
    life = Life(b"data")
    life.connection.turn(False)
    got: list[bytes] = []
    with other_reader(life.connection):
        (thread,) = started(lambda: got.append(life.connection.receive()))
        wait_until(lambda: life.box.bell.waiting)
        assert life.connection.step() is Step.STOPPED
        assert life.connection.leave()
        assert end_soon(thread)
    assert got == [b"data"]


def test_beside_a_reader_what_it_stored_comes_before_what_it_keeps_while_reading_is_off() -> None:
    life = Life(b"one", b"two")
    life.on_item = life.store
    with other_reader(life.connection):
        life.connection.step()
        life.connection.turn(False)
        assert life.connection.step() is Step.STOPPED
        assert life.connection.leave()
        assert [life.connection.receive(timeout=1), life.connection.receive(timeout=1)] == [b"one", b"two"]


def test_beside_a_reader_receive_takes_nothing_of_others() -> None:
    life, other = Life(b"mine"), Life(b"theirs")
    other.box = life.box
    life.on_item, other.on_item = life.store, other.store
    other.steps()
    life.steps()
    with other_reader(life.connection):
        assert life.connection.receive(timeout=1) == b"mine"
    assert life.box.take_all() == [b"theirs"]


def test_beside_a_reader_that_leaves_receive_reads_the_stream_itself() -> None:
    life = Life(b"data")
    life.connection.turn(False)
    got: list[bytes] = []
    with other_reader(life.connection):
        (thread,) = started(lambda: got.append(life.connection.receive()))
        wait_until(lambda: life.box.bell.waiting)
        assert life.connection.leave()
        assert end_soon(thread)
    assert got == [b"data"]


def test_several_threads_may_receive_where_there_is_no_reader(effort: int) -> None:
    sent = [b"%04d" % number for number in range(40 * effort)]
    life = Life(*(b"%b\n%b" % (line[:2], line[2:]) for line in sent), END, protocol=lines(final=True))
    got: list[bytes] = []

    def receive() -> None:
        while data := life.connection.receive():
            got.append(data)

    threads = started(receive, receive, receive)
    assert end_soon(*threads)
    stream = b"".join(b"%b\n%b" % (line[:2], line[2:]) for line in sent)
    assert sorted(got) == sorted(stream.split(b"\n"))


def test_a_receive_that_waits_for_another_one_ends_when_the_time_is_over() -> None:
    life = Life(blocking=True)
    (thread,) = started(life.connection.receive)
    wait_until(lambda: "receive_some" in life.stream.calls)
    with pytest.raises(TimeoutError, match=r"within 0\.01 seconds"):
        life.connection.receive(timeout=0.01)
    life.stream.play(END)
    assert end_soon(thread)


@pytest.mark.parametrize(
    "end", [Connection.disconnect, Connection.end, lambda connection: connection.mailbox.bell.close()]
)
def test_beside_a_reader_receive_gives_nothing_at_the_end(end: Callable[[Connection], object]) -> None:
    life = Life()
    got: list[bytes] = []
    with other_reader(life.connection):
        (thread,) = started(lambda: got.append(life.connection.receive()))
        wait_until(lambda: life.box.bell.waiting)
        end(life.connection)
        assert end_soon(thread)
    assert got == [b""]


def test_beside_a_reader_receive_gives_what_was_stored_before_the_end() -> None:
    life = Life(b"last", END)
    life.on_item = life.store
    with other_reader(life.connection):
        life.live()
        assert [life.connection.receive(), life.connection.receive()] == [b"last", b""]


def test_a_receive_that_waits_ends_even_if_the_last_hook_fails() -> None:
    # on_disconnect may call exit(), which passes where the program's own thread disconnects
    life = Life()
    life.on_end = sys.exit
    with other_reader(life.connection):
        (thread,) = started(life.connection.receive)
        wait_until(lambda: life.box.bell.waiting)
        with pytest.raises(SystemExit):
            life.connection.disconnect()
        assert end_soon(thread)


def test_beside_a_reader_the_rest_of_an_item_comes_before_all_that_arrives_later() -> None:
    got: list[bytes] = []
    life = Life(b"abcd", b"ef", lambda: got.append(life.connection.receive(2, timeout=1)), b"gh")
    life.on_item = life.store
    with other_reader(life.connection):
        life.connection.step()
        life.connection.step()
        life.connection.step()  # while this one sleeps in its read, the call in the script leaves a rest of b"abcd"
        while sum(map(len, got)) < 8:
            got.append(life.connection.receive(2, timeout=1))
    assert got == [b"ab", b"cd", b"ef", b"gh"]


def test_beside_a_reader_receive_loses_and_reorders_nothing(effort: int) -> None:
    sent = [b"<%d>" % number for number in range(50 * effort)]
    life = Life(blocking=True)
    life.on_item = life.store
    (reader,) = started(life.live)
    life.connection.thread = reader
    got = b""
    for part in sent:
        life.stream.play(part)
        got += life.connection.receive(2, timeout=SOON)
    while len(got) < len(b"".join(sent)):
        got += life.connection.receive(2, timeout=SOON)
    assert got == b"".join(sent)
    life.connection.disconnect()
    life.stream.cut()
    assert end_soon(reader)


def test_a_receive_in_a_callback_gives_the_next_item() -> None:
    life = Life(b"one\ntwo\nthr", b"ee\nfour\n", END, protocol=lines())
    got: list[bytes] = []
    life.on_item = lambda data: got.append(life.connection.receive()) if data == b"one" else None
    life.connection.thread = threading.current_thread()
    life.live()
    assert got == [b"two"]
    assert life.items == [b"one", b"three", b"four"]


def test_a_receive_in_a_callback_reads_the_stream() -> None:
    life = Life(b"header", b"body", b"next", END)
    got: list[bytes] = []
    life.on_item = lambda data: got.append(life.connection.receive()) if data == b"header" else None
    life.connection.thread = threading.current_thread()
    life.live()
    assert (got, life.items) == ([b"body"], [b"header", b"next"])


def test_a_receive_in_a_callback_reads_the_stream_in_whichever_thread_it_runs() -> None:
    # A leader steps connections whose own threads sleep; see leader.py.
    life = Life(b"header", b"body", b"next", END)
    got: list[bytes] = []

    def on_item(data: bytes) -> None:
        life.store(data)  # the copy for polling
        if data == b"header":
            got.append(life.connection.receive(timeout=0.1))

    life.on_item = on_item
    with other_reader(life.connection):
        life.connection.step()
    assert got == [b"body"]


def test_the_rest_of_what_a_callback_received_is_the_next_item() -> None:
    life = Life(b"header", b"body+rest", b"next", END)
    got: list[bytes] = []
    life.on_item = lambda data: got.append(life.connection.receive(4)) if data == b"header" else None
    life.connection.thread = threading.current_thread()
    life.live()
    assert got == [b"body"]
    assert life.items == [b"header", b"+rest", b"next"]


# ------------------------------------------------------------------------------------------------- faulty streams


@contextlib.contextmanager
def connected_pair() -> Iterator[tuple[socket.socket, Stream]]:
    """A plain socket, and the stream of its other end."""
    peer, sock = socket.socketpair()
    with peer, sock:
        yield peer, Stream(sock)


def test_short_reads_change_nothing() -> None:
    life = Life()
    with connected_pair() as (peer, stream):
        connection = Connection(FaultyStream(stream, at_most=1), lines(), life.box, 2048)
        connection.bind(life._opened, life._deliver, life._ended, life._leaving)
        peer.sendall(b"one\ntwo\n")
        peer.shutdown(socket.SHUT_WR)
        connection.open()
        while connection.step() is Step.MORE:
            pass
        connection.finish()
        assert stream.closed
    assert life.log == ["opened", b"one", b"two", "ended"]


def test_a_read_that_fails_ends_it_after_what_came_before() -> None:
    life = Life()
    fault = ConnectionResetError("injected")
    with connected_pair() as (peer, stream):
        faulty = FaultyStream(stream, at_most=2, faults={("receive_some", 3): fault})
        connection = Connection(faulty, RawProtocol(), life.box, 2048)
        connection.bind(life._opened, life._deliver, life._ended, life._leaving)
        peer.sendall(b"abcdef")
        while connection.step() is Step.MORE:
            pass
        connection.finish()
    assert life.log == [b"ab", b"cd", "ended"]
    assert connection.ending == Ending("reset", fault)


@pytest.mark.parametrize("double", [ScriptedStream, FaultyStream])
def test_the_doubles_have_all_that_a_stream_has(double: type[Stream]) -> None:
    with connected_pair() as (_, stream):
        public = {name for name in dir(stream) if not name.startswith("_")}
        public -= {"socket", "write_lock", "bytes_out", "messages_out"}  # which each sets itself
        public -= {
            "break_off",
            "send_from",
            "send_part",
            "sends_files",
            "undisturbed",
        }  # for files
        public -= {"gave_up", "give_up", "on_its_way"}  # for who takes nothing
    assert public <= set(vars(double))
