"""What every message passes, in both of its forms: they have to do the same."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import inspect
import itertools
import os
import signal
import socket
import struct
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from simplesockets import TCPServer, hotpath
from simplesockets.errors import ConnectionClosed, ProtocolError
from simplesockets.framing import LengthPrefixFramer
from simplesockets.protocol import FramedProtocol, only_cuts
from simplesockets.transport import NO_WAIT

from .support.running import raw_client, read_exactly, reset, running_server
from .support.waiting import PATIENCE, Gate, wait_until

BUFFER = 16384
"""Bytes that the compiled form reads at once."""
AT_ONCE = 4096
"""Bytes that the compiled form sends at once, and reads at once where it waits for them."""
SHORT = 0.05


def loaded(*, pure: bool) -> ModuleType:
    """The module once more."""
    assert hotpath.__file__ is not None
    spec = importlib.util.spec_from_file_location("simplesockets.hotpath", hotpath.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMPLESOCKETS_PURE_PYTHON", "1" if pure else "")
        spec.loader.exec_module(module)
    return module


FORMS = {"python": loaded(pure=True), "compiled": hotpath}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Any:
    """One of the two forms."""
    module = FORMS[request.param]
    if request.param == "compiled" and not module.COMPILED:
        pytest.skip("the compiled form was not built")
    return module


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    for each in (ours, theirs):
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    theirs.settimeout(PATIENCE)
    with ours, theirs:
        yield ours, theirs


# -------------------------------------------------------------------------------------------------------- stepping


class Log:
    """What a stepper called."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.deliver: Callable[[bytes], Any] = lambda data: False

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


def stepper(form: Any, sock: socket.socket, log: Log, flags: int = NO_WAIT, size: int = 65536) -> Any:
    """A stepper of that form that notes what it calls."""

    class Noting(form.Stepper):  # type: ignore[misc]
        def _not_read(self, failure: OSError) -> str:
            log.calls.append(("not read", type(failure)))
            return "not read"

        def _dispatch(self, data: bytes | None) -> str:
            log.calls.append(("dispatch", data))
            return "dispatched"

        def _went_wrong(self, failure: BaseException, data: bytes | None) -> str:
            log.calls.append(("wrong", (type(failure), data, self.served_by)))
            if not isinstance(failure, Exception):
                raise failure
            return "wrong"

    def deliver(data: bytes) -> Any:
        log.calls.append(("deliver", data))
        return log.deliver(data)

    it = Noting()
    it._inbox, it._read, it._deliver = deque(), sock.recv, deliver
    it._read_size = it._short = size
    it._read_flags, it.bytes_in, it.messages_in, it.served_by = flags, 0, 0, 0
    it.closing, it.reading, it.read_at = False, True, 0.0
    return it


def arrived(sock: socket.socket, count: int) -> None:
    wait_until(lambda: len(sock.recv(count + 1, socket.MSG_PEEK | NO_WAIT)) == count)


@pytest.mark.parametrize("flags", [0, NO_WAIT])
@pytest.mark.parametrize(
    "size", [1, 64, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, BUFFER - 1, BUFFER, BUFFER + 1, 3 * BUFFER, 65535]
)
def test_what_is_there_is_one_item(form: Any, pair: Any, size: int, flags: int) -> None:
    ours, theirs = pair
    log = Log()
    it = stepper(form, ours, log, flags)
    content = bytes(i % 251 for i in range(size))
    theirs.sendall(content)
    arrived(ours, size)
    before = time.perf_counter()
    assert it.step().name == "MORE"
    assert log.calls == [("deliver", content)]
    assert (it.bytes_in, it.messages_in, it.served_by) == (size, 1, 0)
    assert before <= it.read_at <= time.perf_counter()


@pytest.mark.parametrize("size", [16, BUFFER])
def test_a_full_read_is_not_the_short_way(form: Any, pair: Any, size: int) -> None:
    ours, theirs = pair
    log = Log()
    it = stepper(form, ours, log, size=size)
    theirs.sendall(bytes(size))
    arrived(ours, size)
    assert it.step() == "dispatched"
    assert log.calls == [("dispatch", bytes(size))]


def test_nothing_is_there(form: Any, pair: Any) -> None:
    log = Log()
    outcome = stepper(form, pair[0], log).step()
    if log.calls:
        assert (log.calls, outcome) == ([("not read", BlockingIOError)], "not read")
    else:  # what _not_read() of a connection gives
        assert outcome is hotpath.Step.NOTHING


def test_several_threads_read_at_a_time(form: Any) -> None:
    """Some of their reads let go of the interpreter, others do not."""
    outcomes: list[object] = []

    def read(name: int) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            log = Log()
            it = stepper(form, ours, log)
            for i in range(300):
                theirs.sendall(item := bytes([name]) * (i + 1))
                it.step()
                outcomes.append(log.calls.pop() == ("deliver", item))

    threads = [threading.Thread(target=read, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert outcomes == [True] * 1200


@pytest.mark.parametrize("flags", [0, NO_WAIT])
def test_the_end(form: Any, pair: Any, flags: int) -> None:
    ours, theirs = pair
    log = Log()
    it = stepper(form, ours, log, flags)
    theirs.shutdown(socket.SHUT_WR)
    wait_until(lambda: ours.recv(1, socket.MSG_PEEK | NO_WAIT) == b"")
    assert it.step() == "dispatched"
    assert log.calls == [("dispatch", b"")]


@pytest.mark.parametrize("flags", [0, NO_WAIT])
def test_a_reset(form: Any, pair: Any, flags: int) -> None:
    log = Log()
    it = stepper(form, pair[0], log, flags)
    reset(pair[1])
    time.sleep(SHORT)
    assert it.step() == "not read"
    assert log.calls == [("not read", ConnectionResetError)]


@pytest.mark.parametrize("size", [100, BUFFER, BUFFER + 1])
def test_a_reset_after_data_is_noticed(form: Any, pair: Any, size: int) -> None:
    ours, theirs = pair
    log = Log()
    it = stepper(form, ours, log)
    theirs.sendall(bytes(size))
    arrived(ours, size)
    reset(theirs)
    time.sleep(SHORT)
    outcomes = [it.step(), it.step()]
    assert log.calls[-1] == ("not read", ConnectionResetError), outcomes


def test_a_socket_that_was_closed_is_an_error(form: Any, pair: Any) -> None:
    log = Log()
    it = stepper(form, pair[0], log)
    pair[0].close()
    assert it.step() == "not read"
    assert log.calls == [("not read", OSError)]


def test_reading_that_waits(form: Any, pair: Any) -> None:
    ours, theirs = pair
    log, outcomes = Log(), list[Any]()
    it = stepper(form, ours, log, flags=0)
    thread = threading.Thread(target=lambda: outcomes.append(it.step()))
    thread.start()
    time.sleep(SHORT)
    assert not outcomes
    theirs.sendall(b"now")
    thread.join(PATIENCE)
    assert outcomes[0].name == "MORE"
    assert log.calls == [("deliver", b"now")]


def test_who_closes_meanwhile_has_the_data_discarded(form: Any, pair: Any) -> None:
    log = Log()
    it = stepper(form, pair[0], log)

    def read(size: int, flags: int) -> bytes:
        it.closing = True
        return b"late"

    it._read = read
    assert it.step().name == "DONE"
    assert it.step().name == "DONE"
    assert log.calls == []
    assert it.served_by == 0


def test_what_is_not_the_short_way(form: Any, pair: Any) -> None:
    ours, theirs = pair
    log = Log()
    it = stepper(form, ours, log)
    it._inbox.append(b"first")
    theirs.sendall(b"second")
    arrived(ours, 6)
    assert it.step() == "dispatched"
    assert log.calls == [("dispatch", None)]  # what was read before comes first
    it._inbox.clear()
    it.reading = False
    assert it.step() == "dispatched"
    assert log.calls[1:] == [("dispatch", b"second")]


def test_what_another_kind_of_socket_gives_is_taken_as_it_is(form: Any) -> None:
    calls: list[tuple[int, int]] = []
    reads: list[Any] = [b"one", bytearray(b"two"), b"", ConnectionAbortedError(), KeyboardInterrupt()]

    def read(size: int, flags: int) -> Any:
        calls.append((size, flags))
        what = reads.pop(0)
        if isinstance(what, BaseException):
            raise what
        return what

    log = Log()
    it = stepper(form, socket.socket(), log)
    it._read.__self__.close()
    it._read = read
    outcomes = [it.step() for _ in range(4)]
    assert outcomes[0].name == "MORE"
    assert outcomes[2:] == ["dispatched", "not read"]
    assert log.calls == [
        ("deliver", b"one"),
        ("deliver", bytearray(b"two")),
        ("dispatch", b""),
        ("not read", ConnectionAbortedError),
    ]
    assert set(calls) == {(65536, NO_WAIT)}
    with pytest.raises(KeyboardInterrupt):
        it.step()


def test_a_subclass_of_socket_that_reads_otherwise_does(form: Any, pair: Any) -> None:
    class Shouting(socket.socket):
        def recv(self, size: int, flags: int = 0, /) -> bytes:
            return super().recv(size, flags).upper()

    log = Log()
    with Shouting(fileno=pair[0].detach()) as ours:
        it = stepper(form, ours, log)
        pair[1].sendall(b"quiet")
        arrived(ours, 5)
        it.step()
    assert log.calls == [("deliver", b"QUIET")]


@pytest.mark.parametrize("full", [True, 1, [0]])
def test_a_full_mailbox_pauses(form: Any, pair: Any, full: object) -> None:
    ours, theirs = pair
    log = Log()
    log.deliver = lambda data: full
    it = stepper(form, ours, log)
    theirs.sendall(b"x")
    arrived(ours, 1)
    assert it.step().name == "PAUSED"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_delivery_that_fails(form: Any, pair: Any, failure: type[BaseException]) -> None:
    ours, theirs = pair
    log = Log()
    it = stepper(form, ours, log)
    served = list[int]()

    def deliver(data: bytes) -> bool:
        served.append(it.served_by)
        raise failure

    log.deliver = deliver
    theirs.sendall(b"x")
    arrived(ours, 1)
    with contextlib.suppress(KeyboardInterrupt):
        assert it.step() == "wrong"
    me = threading.get_ident()
    assert served == [me]
    assert log.calls[1:] == [("wrong", (failure, b"x", me))]
    assert it.served_by == 0


def test_deliveries_may_be_exchanged_by_a_delivery(form: Any, pair: Any) -> None:
    ours, theirs = pair
    log = Log()
    it = stepper(form, ours, log)

    def deliver(data: bytes) -> bool:
        it._deliver = None  # the last reference to this function, but for the caller's
        gc.collect()
        return False

    it._deliver = deliver
    del deliver
    theirs.sendall(b"x")
    arrived(ours, 1)
    assert it.step().name == "MORE"


# --------------------------------------------------------------------------------------------------------- sending


def sender(form: Any, sock: socket.socket) -> Any:
    """A sender of that form."""

    class Plain(form.Sender):  # type: ignore[misc]
        def _require_usable(self, failure: OSError) -> None:
            pass

        def _send_rest(self, view: memoryview, sent: int) -> None:
            with self.write_lock:
                while sent < len(view):
                    try:
                        step = sock.send(view[sent:])
                    except BlockingIOError:
                        time.sleep(0.001)
                    else:
                        sent += step
                        self.bytes_out += step

        def _named(self, failure: Exception) -> Exception:
            return ConnectionClosed("named") if sock.fileno() < 0 else failure

    it = Plain()
    it._send, it.write_lock, it.bytes_out, it.messages_out = sock.send, form.RLock(), 0, 0
    return it


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("size", [0, 1, AT_ONCE, AT_ONCE + 1, 1 << 20])
def test_everything_is_sent(form: Any, pair: Any, size: int, blocking: bool) -> None:
    ours, theirs = pair
    ours.setblocking(blocking)
    it = sender(form, ours)
    content = os.urandom(size)
    thread = threading.Thread(target=it.send_all, args=(content,))
    thread.start()
    assert read_exactly(theirs, size) == content
    thread.join(PATIENCE)
    assert (it.bytes_out, it.messages_out) == (size, 1)
    assert not it.write_lock._is_owned()


@contextlib.contextmanager
def full_pair() -> Iterator[tuple[socket.socket, socket.socket, int]]:
    """A socket that takes no more, its other end, and how much it took. (Between TCP's ends data moves on, and makes
    room, for a while.)"""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(PATIENCE)
        ours.setblocking(False)
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                count += ours.send(bytes(65536))
        with contextlib.suppress(BlockingIOError):
            while True:
                count += ours.send(b"\0")
        ours.setblocking(True)
        yield ours, theirs, count


def test_where_there_is_no_room_it_waits(form: Any) -> None:
    with full_pair() as (ours, theirs, before):
        it = sender(form, ours)
        threads = [threading.Thread(target=it.send_all, args=(bytes([65 + i]) * 1000,)) for i in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(SHORT)
        assert it.messages_out == 0
        read_exactly(theirs, before)
        got = read_exactly(theirs, 3000)
        for thread in threads:
            thread.join(PATIENCE)
    assert sorted(key for key, _ in itertools.groupby(got)) == [65, 66, 67]
    assert (it.bytes_out, it.messages_out) == (3000, 3)


def test_pieces_of_several_threads_stay_whole(form: Any, pair: Any) -> None:
    ours, theirs = pair
    it = sender(form, ours)
    sizes = [1, 700, AT_ONCE, AT_ONCE + 1, 30000]

    def send(name: int) -> None:
        for i in range(100):
            size = sizes[i % len(sizes)]
            it.send_all(struct.pack(">BI", name, size) + bytes([name]) * size)

    threads = [threading.Thread(target=send, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    seen = [0] * 4
    for _ in range(400):
        name, size = struct.unpack(">BI", read_exactly(theirs, 5))
        assert size == sizes[seen[name] % len(sizes)]
        assert read_exactly(theirs, size) == bytes([name]) * size
        seen[name] += 1
    for thread in threads:
        thread.join(PATIENCE)
    assert it.messages_out == 400


def test_who_has_the_lock_goes_first(form: Any, pair: Any) -> None:
    ours, theirs = pair
    it = sender(form, ours)
    thread = threading.Thread(target=it.send_all, args=(b"second",))
    with it.write_lock:
        thread.start()
        time.sleep(SHORT)
        it.send_all(b"first ")
        assert read_exactly(theirs, 6) == b"first "
    assert read_exactly(theirs, 6) == b"second"
    thread.join(PATIENCE)
    assert not it.write_lock._is_owned()


def test_what_another_kind_of_socket_refuses(form: Any, pair: Any) -> None:
    it = sender(form, pair[0])
    sent: list[object] = []

    def send(data: bytes) -> int:
        assert it.write_lock._is_owned()
        sent.append(data)
        raise KeyboardInterrupt

    it._send = send
    with pytest.raises(KeyboardInterrupt):
        it.send_all(b"abc")
    assert sent == [b"abc"]
    assert not it.write_lock._is_owned()
    assert (it.bytes_out, it.messages_out) == (0, 0)


def test_bytes_like_objects_are_sent_too(form: Any, pair: Any) -> None:
    it = sender(form, pair[0])
    it.send_all(bytearray(b"ab"))
    it.send_all(memoryview(b"cd"))
    assert read_exactly(pair[1], 4) == b"abcd"
    with pytest.raises(TypeError):
        it.send_all("text")
    assert not it.write_lock._is_owned()
    assert (it.bytes_out, it.messages_out) == (4, 2)


def test_a_reset_is_told_as_it_is_and_then_as_a_broken_pipe(form: Any, pair: Any) -> None:
    ours, theirs = pair
    it = sender(form, ours)
    reset(theirs)
    time.sleep(SHORT)
    with pytest.raises(ConnectionResetError) as told:
        it.send_all(b"x")
    assert told.value.errno is not None
    with pytest.raises(BrokenPipeError):
        it.send_all(b"x")
    assert not it.write_lock._is_owned()
    assert it.bytes_out == 0


def test_a_closed_socket_is_named(form: Any, pair: Any) -> None:
    it = sender(form, pair[0])
    pair[0].close()
    with pytest.raises(ConnectionClosed, match="named") as told:
        it.send_all(b"x")
    assert isinstance(told.value.__cause__, OSError)


def test_a_rest_that_cannot_be_sent_lets_go_of_the_lock(form: Any) -> None:
    failure = TimeoutError("too long")

    def send_rest(view: memoryview, sent: int) -> None:
        raise failure

    with full_pair() as (ours, _, _):
        it = sender(form, ours)
        type(it)._send_rest = staticmethod(send_rest)
        ours.setblocking(False)
        with pytest.raises(TimeoutError) as told:
            it.send_all(b"x")
    assert told.value is failure
    assert not it.write_lock._is_owned()
    assert it.messages_out == 0


def test_a_lock_that_was_let_go_of_too_often_stays_usable(form: Any) -> None:
    """By a signal handler that was interrupted in its turn: see locking.py."""
    with full_pair() as (ours, _, _):
        it = sender(form, ours)
        ours.setblocking(False)

        def send_rest(view: memoryview, sent: int) -> None:
            it.write_lock.release()
            raise KeyboardInterrupt

        type(it)._send_rest = staticmethod(send_rest)
        with pytest.raises(KeyboardInterrupt):
            it.send_all(b"x")
    assert not it.write_lock._is_owned()
    assert elsewhere(lambda: (it.write_lock.acquire(timeout=PATIENCE), it.write_lock.release())) == (True, None)


def test_nothing_is_kept(form: Any, pair: Any) -> None:
    ours, theirs = pair
    log = Log()
    out, into = sender(form, ours), stepper(form, theirs, log)
    data, gone = os.urandom(100), (weakref.ref(out), weakref.ref(into))
    log.deliver = lambda data: log.calls.clear()
    counts = [sys.getrefcount(each) for each in (data, out, into, ours, theirs, None, False)]
    for _ in range(100):
        out.send_all(data)
        arrived(theirs, 100)
        assert into.step().name == "MORE"
    after = [sys.getrefcount(each) for each in (data, out, into, ours, theirs, None, False)]
    assert all(now - before < 50 for now, before in zip(after, counts, strict=True))
    out.itself, into._inbox = out, deque([into])
    del out, into
    gc.collect()
    assert [each() for each in gone] == [None, None]


# --------------------------------------------------------------------------------------------------------- the lock


def elsewhere(function: Callable[[], object]) -> Any:
    """What it gives, or raises, in another thread."""
    outcomes: list[object] = []

    def run() -> None:
        try:
            outcomes.append(function())
        except Exception as failure:
            outcomes.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE)
    return outcomes[0]


def test_the_lock_is_taken_by_one_thread_and_as_often_as_it_likes(form: Any) -> None:
    lock = form.RLock()
    assert not lock._is_owned()
    assert lock.acquire()
    assert lock.acquire(blocking=False)
    with lock:
        assert lock._is_owned()
    assert elsewhere(lock._is_owned) is False
    assert elsewhere(lambda: lock.acquire(False)) is False
    lock.release()
    assert elsewhere(lambda: lock.acquire(timeout=0.01)) is False
    assert isinstance(elsewhere(lock.release), RuntimeError)
    lock.release()
    with pytest.raises(RuntimeError):
        lock.release()
    assert elsewhere(lambda: (lock.acquire(), lock.release())) == (True, None)


def test_the_lock_is_handed_on(form: Any) -> None:
    lock = form.RLock()
    counter = [0]

    def count() -> None:
        for i in range(2000):
            with lock:
                value = counter[0]
                if i % 100 == 0:
                    time.sleep(0)
                counter[0] = value + 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert counter == [8000]
    assert not lock._is_owned()


def test_the_lock_gives_up_at_its_time(form: Any) -> None:
    lock = form.RLock()
    held = Gate()

    def hold() -> None:
        with lock:
            held()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait_arrived()
    began = time.monotonic()
    assert not lock.acquire(timeout=SHORT)
    assert SHORT <= time.monotonic() - began < PATIENCE
    held.open()
    assert lock.acquire(timeout=PATIENCE)
    thread.join(PATIENCE)


def test_a_condition_gives_the_lock_up_altogether(form: Any) -> None:
    lock = form.RLock()
    condition = threading.Condition(lock)
    done: list[int] = []

    def wake() -> None:
        with condition:
            done.append(1)
            condition.notify_all()

    with lock, condition:
        thread = threading.Thread(target=wake)
        thread.start()
        assert condition.wait_for(lambda: done, PATIENCE)
        assert lock._is_owned()
    thread.join(PATIENCE)
    assert not lock._is_owned()


def test_a_signal_handler_may_end_the_waiting_for_the_lock(form: Any) -> None:
    lock = form.RLock()
    held = Gate()

    def hold() -> None:
        with lock:
            held.arrive()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait_arrived()
    calls: list[int] = []

    def handle(*_: object) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    def wait() -> None:
        signal.setitimer(signal.ITIMER_REAL, SHORT, SHORT)
        lock.acquire()

    former = signal.signal(signal.SIGALRM, handle)
    try:
        with pytest.raises(KeyboardInterrupt):
            wait()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
        held.open()
        thread.join(PATIENCE)
    assert len(calls) == 2
    assert not lock._is_owned()
    assert lock.acquire(timeout=PATIENCE)


def test_waiting_for_the_lock_may_be_given_up_and_loses_nobody_elses_turn(form: Any) -> None:
    lock, inside, rounds = form.RLock(), list[int](), list[int]()
    stop = threading.Event()

    def take(timeout: float) -> None:
        while not stop.is_set():
            if lock.acquire(timeout=timeout):
                inside.append(1)
                assert len(inside) == 1
                time.sleep(0)
                rounds.append(len(inside))
                inside.clear()
                lock.release()

    threads = [threading.Thread(target=take, args=(timeout,)) for timeout in (-1, -1, 0.0, 0.00001, 0.0001, 0.0005)]
    for thread in threads:
        thread.start()
    time.sleep(10 * SHORT)
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert set(rounds) == {1}
    assert lock.acquire(blocking=False)


def test_a_lock_that_is_held_may_be_forgotten(form: Any) -> None:
    for _ in range(100):
        lock = form.RLock()
        lock.acquire()


@pytest.mark.parametrize("arguments", [(True, -2), (True, float("nan")), (True, 1e300), (False, 1), (False, 0)])
def test_the_lock_refuses_times_that_make_no_sense(form: Any, arguments: tuple[bool, float]) -> None:
    lock = form.RLock()
    with pytest.raises((ValueError, OverflowError)):
        lock.acquire(*arguments)
    assert not lock._is_owned()


# --------------------------------------------------------------------------------------------------------- the gate


def test_a_gate_lets_one_through_each_time(form: Any) -> None:
    gate = form.Gate()
    assert not gate.sleep(0)
    gate.open()
    gate.open()
    assert gate.sleep(0)
    assert not gate.sleep(0.001)
    opener = threading.Timer(SHORT, gate.open)
    opener.start()
    assert gate.sleep()
    opener.join()
    opener = threading.Timer(SHORT, gate.open)
    opener.start()
    assert gate.sleep(PATIENCE)
    opener.join()


def test_who_watches_a_pulse_notices_that_it_stands_still(form: Any) -> None:
    gate, pulse = form.Gate(), form.Pulse()
    pulse.beats += 7
    began = time.monotonic()
    assert gate.watch(pulse, SHORT) == 7
    assert SHORT <= time.monotonic() - began < PATIENCE
    gate.open()
    assert gate.watch(pulse, PATIENCE) == 7


def test_who_watches_a_pulse_may_sleep_on(form: Any) -> None:
    gate, pulse, looks = form.Gate(), form.Pulse(), list[int]()

    def watch() -> None:
        while not looks or looks[-1] < 10:  # in Python, it looks up each time
            looks.append(gate.watch(pulse, 0.2))

    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(10):
        time.sleep(0.04)
        pulse.beats += 1
    thread.join(PATIENCE)
    assert looks[-1] == 10


@pytest.mark.skipif(not hotpath.COMPILED, reason="the compiled form was not built")
def test_who_watches_does_not_ask_for_the_interpreter() -> None:
    def beat(pulse: hotpath.Pulse) -> float:
        """Gives the seconds of the longest pause."""
        began = last = time.monotonic()
        longest = 0.0
        while last - began < 10 * SHORT:
            pulse.beats += 1
            now = time.monotonic()
            longest, last = max(longest, now - last), now
        return longest

    while True:
        gate, pulse = hotpath.Gate(), hotpath.Pulse()
        thread = threading.Thread(target=gate.watch, args=(pulse, SHORT))
        thread.start()
        longest = beat(pulse)
        watches = thread.is_alive()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        if longest < SHORT / 2:  # else the system had this thread wait, and it is no wonder
            break
    assert watches


# ---------------------------------------------------------------------------------------------------------- serving


def attendant(form: Any, log: list[Any]) -> tuple[Any, Any]:
    """One that notes what it calls, and a term of this thread's, which leads."""

    class Lot(form.Attendant):  # type: ignore[misc]
        def _come_in(self) -> Any:
            log.append("comes in")
            return self.next_term

        def _come_out(self, term: Any) -> None:
            log.append(("comes out", term.waits, term.serving and term.serving.fd))
            self._terms.discard(term)

        def _give_up(self, term: Any) -> None:
            log.append("gives up")

        def _not_parked(self, term: object, fd: int) -> None:
            log.append(("not parked", fd))

        def _serve_odd(self, term: Any, parked: Any, event: int) -> None:
            log.append(("odd", parked.fd, event, term.serving is parked))

        def _took_long(self, term: Any, parked: Any, outcome: object, reading: float, calling: float) -> None:
            log.append(("long", parked.fd, outcome, reading >= 0, calling > SHORT, term.serving is parked))

        def _stepped(self, parked: Any, outcome: object) -> None:
            log.append(("stepped", parked.fd, outcome))

    class Term(form.Leading):  # type: ignore[misc]
        pass

    lot, term = Lot(), Term()
    lot._pulse, lot._parked, lot._terms, lot._waiting = form.Pulse(), {}, set(), set()
    lot._leader, lot._longest, lot._most, lot._dozing = term, SHORT, 7, False
    lot.next_term = None
    term.waits, term.serving, term.outsider = False, None, threading.get_ident()
    return lot, term


def served(form: Any, events: list[tuple[int, int]], slow: float, script: Callable[[Any], object]) -> list[Any]:
    """What serving these calls, and what it raised."""
    log: list[Any] = []
    lot, term = attendant(form, log)

    class Parked(form.Steppable):  # type: ignore[misc]
        pass

    def parked(fd: int, outcome: Callable[[], object] = lambda: form.Step.MORE, odd: bool = False) -> None:
        def step() -> object:
            log.append(("step", fd, term.serving.fd))
            it.connection.read_at = time.perf_counter()
            return outcome()

        it = lot._parked[fd] = Parked()
        it.fd, it.step, it.odd, it.connection = fd, step, odd, SimpleNamespace(read_at=0.0)

    script(SimpleNamespace(parked=parked, lot=lot, log=log))
    try:
        lot._serve(term, events, slow)
    except BaseException as failure:
        log.append(repr(failure))
    log.append((lot._pulse.beats, term.serving and term.serving.fd))
    return log


def raise_(failure: BaseException) -> Any:
    raise failure


change: Any = setattr  # whose outcomes are of use here, though they are nothing
sleep: Any = time.sleep


SCRIPTS: dict[str, Callable[[Any], object]] = {
    "none is parked": lambda it: None,
    "all are quick": lambda it: [it.parked(fd) for fd in (1, 2, 3, 300)],
    "one is odd": lambda it: [it.parked(fd, odd=fd == 2) for fd in (1, 2, 3)],
    "one ends": lambda it: [it.parked(fd, lambda: "done") for fd in (2, 3)],
    "one is slow": lambda it: [it.parked(1), it.parked(2, lambda: sleep(2 * SHORT) or "done"), it.parked(300)],
    "one is slow and fails": lambda it: it.parked(2, lambda: sleep(2 * SHORT) or raise_(KeyError("it"))),
    "the slow one is odd": lambda it: it.parked(2, lambda: sleep(2 * SHORT), odd=True),
    "the lead is lost in the middle": lambda it: [
        it.parked(1),
        it.parked(2, lambda: change(it.lot, "_leader", None)),
        it.parked(3),
    ],
    "one fails": lambda it: [it.parked(1), it.parked(2, lambda: raise_(KeyError("it"))), it.parked(3)],
    "one goes meanwhile": lambda it: [it.parked(1, lambda: it.lot._parked.pop(2) and "gone"), it.parked(2)],
    "handling an unknown one fails": lambda it: change(it.lot, "_not_parked", lambda *_: raise_(OSError("no"))),
    "nobody leads": lambda it: [it.parked(1), change(it.lot, "_leader", None)],
}


@pytest.mark.skipif(not hotpath.COMPILED, reason="the compiled form was not built")
@pytest.mark.parametrize("slow", [-1.0, SHORT, 100.0])
@pytest.mark.parametrize("name", SCRIPTS)
def test_serving_is_the_same_in_both_forms(name: str, slow: float) -> None:
    events = [(1, 1), (9, 1), (2, 1), (3, 4), (300, 1)]
    logs = [served(each, list(events), slow, SCRIPTS[name]) for each in FORMS.values()]
    assert repr(logs[0]) == repr(logs[1])
    assert any("long" in str(entry) for entry in logs[0]) == (name == "one is slow" and slow == SHORT)


def led(form: Any, script: Callable[[Any, list[Any]], object]) -> list[Any]:
    """What leading calls, what it gives or raises, and what it leaves."""
    log: list[Any] = []
    lot, term = attendant(form, log)

    def poll(timeout: float, most: int) -> list[tuple[int, int]]:
        log.append(("polls", timeout, most, term.waits, term in lot._waiting, term in lot._terms))
        return [(9, 1)]

    lot._poll = poll
    ready = script(lot, log)
    if not callable(ready):
        ready = bool
    try:
        log.append(lot.lead(100.0, ready))
    except BaseException as failure:
        log.append(repr(failure))
    log.append((term.waits, len(lot._waiting), len(lot._terms), lot._leader is term, lot._pulse.beats))
    return log


LEADING: dict[str, Callable[[Any, list[Any]], object]] = {
    "it waits": lambda lot, log: None,
    "there is no need to wait": lambda lot, log: lambda: True,
    "it is another thread's": lambda lot, log: change(lot._leader, "outsider", 1),
    "it comes in": lambda lot, log: [change(lot, "next_term", lot._leader), change(lot, "_leader", None)],
    "it is inside": lambda lot, log: lot._terms.add(lot._leader),
    "it loses the lead before it waits": lambda lot, log: lambda: change(lot, "_leader", None) or True,
    "it loses the lead while it waits": lambda lot, log: setattr(
        lot, "_poll", lambda *_: [elsewhere(lambda: change(lot, "_leader", None)), [(9, 1)]][1]
    ),
    "the stand-by dozes": lambda lot, log: change(lot, "_dozing", True),
    "nothing comes": lambda lot, log: change(lot, "_poll", lambda *_: []),
    "looking fails": lambda lot, log: lambda: raise_(KeyError("it")),
    "waiting fails": lambda lot, log: change(lot, "_poll", lambda *_: raise_(KeyError("it"))),
    "serving fails": lambda lot, log: change(lot, "_not_parked", lambda *_: raise_(KeyError("it"))),
    "all fails": lambda lot, log: [
        change(lot, "_not_parked", lambda *_: raise_(KeyError("it"))),
        change(lot, "_come_out", lambda term: raise_(ValueError("this, too"))),
    ],
}


@pytest.mark.skipif(not hotpath.COMPILED, reason="the compiled form was not built")
@pytest.mark.parametrize("name", LEADING)
def test_leading_is_the_same_in_both_forms(name: str) -> None:
    logs = [led(each, LEADING[name]) for each in FORMS.values()]
    for log in logs:  # in Python one comes out each time, compiled when there is something to see to
        if log[-3:-2] and log[-3] == ("comes out", False, None):
            del log[-3]
    assert repr(logs[0]) == repr(logs[1])


# ---------------------------------------------------------------------------------------------------------- frames

HEADERS = [b"4   ", b"4", b"0004", b"04  ", b" 4  ", b"4 4 ", b"+4  ", b"-4  ", b"4\n  ", b"4\0  ", b"", b"    "]
HEADERS += [b"5   ", b"3   ", b"0   ", b"\xd9\xa4  ", b"4_0 ", b"\xb2   ", b"0x4 ", b"9999", b"4.0 "]


def taken(framer: LengthPrefixFramer, data: bytes) -> list[bytes] | None:
    """The frames in it; None if it is not valid."""
    try:
        return list(framer.feed(data))
    except ProtocolError:
        return None


@pytest.mark.skipif(not hotpath.COMPILED, reason="the compiled form was not built")
@pytest.mark.parametrize("limit", [3, 4, sys.maxsize])
@pytest.mark.parametrize("size", [1, 4, 20])
@pytest.mark.parametrize("header", HEADERS)
def test_what_is_taken_for_a_frame_is_the_only_one(pair: Any, header: bytes, size: int, limit: int) -> None:
    ours, theirs = pair
    for rest in [b"", b"bod", b"body", b"body!", b"body4   more", b"body4   mo"]:
        data = header.ljust(size)[:size] + rest
        log, framer, other = Log(), LengthPrefixFramer(size, limit), LengthPrefixFramer(size, limit)
        it = stepper(hotpath, ours, log)
        it._short, it.protocol = 0, FramedProtocol(framer)
        it._feed = only_cuts(it.protocol)
        theirs.sendall(data)
        arrived(ours, len(data))
        it.step()
        frames = taken(other, data)
        if frames is not None and len(frames) == 1 and not other._kept:
            assert log.calls == [("deliver", frames[0])]
            assert (it.bytes_in, it.messages_in, it._delivering) == (len(data), 1, None)
        else:
            assert log.calls == [("dispatch", data)]
        assert not framer._kept


@pytest.mark.skipif(not hotpath.COMPILED, reason="the compiled form was not built")
@pytest.mark.parametrize(
    "why",
    [
        "something is kept",
        "there are bare words",
        "an error came before",
        "it is not for frames",
        "another one is fed",
        "it is full",
    ],
)
def test_a_frame_goes_the_long_way(pair: Any, why: str) -> None:
    ours, theirs = pair
    log, framer = Log(), LengthPrefixFramer(4)
    it = stepper(hotpath, ours, log, size=8 if why == "it is full" else 65536)
    it._short, it.protocol = 0, FramedProtocol(framer)
    it._feed = only_cuts(it.protocol)
    if why == "something is kept":
        assert not list(framer.feed(b"4"))
    elif why == "there are bare words":
        framer.bare = (b"!",)
    elif why == "an error came before":
        it._error = ProtocolError("it")
    elif why == "it is not for frames":
        it._feed = None
    elif why == "another one is fed":
        it.protocol.feed = LengthPrefixFramer(4).feed
    theirs.sendall(b"4   body")
    arrived(ours, 8)
    it.step()
    assert log.calls == [("dispatch", b"4   body")]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_it_is_known_what_was_being_delivered_when_that_failed(pair: Any, failure: type[BaseException]) -> None:
    if not hotpath.COMPILED:
        pytest.skip("the compiled form was not built")
    ours, theirs = pair
    log = Log()
    it = stepper(hotpath, ours, log)
    it._short, it.protocol = 0, FramedProtocol(LengthPrefixFramer(4))
    it._feed = only_cuts(it.protocol)
    log.deliver = lambda data: raise_(failure())
    theirs.sendall(b"4   body")
    arrived(ours, 8)
    with contextlib.suppress(KeyboardInterrupt):
        it.step()
    assert it._delivering == b"body"
    assert [name for name, _ in log.calls] == ["deliver", "wrong"]


# ------------------------------------------------------------------------------------------------------- sending


class Answering:
    """As a client: it has a method that only hands over."""

    def __init__(self, form: Any, connection: object) -> None:
        self._connection = connection

    def called(self, data: Any, raw: bool = False) -> int:
        """What it is for."""
        return -1


@pytest.mark.parametrize("connection", ["a stepper", "a stepper with another send", "something else"])
def test_a_sending_method_hands_over_bytes_and_leaves_the_rest_to_the_function(
    form: Any, pair: Any, connection: str
) -> None:
    sent: list[bytes] = []
    made: Any = SimpleNamespace()
    if connection != "something else":
        made = stepper(form, pair[0], Log())
    made.send = sent.append
    if connection == "a stepper":
        made.send = sender(form, pair[0]).send_all

    class Client(Answering):
        send = form.sending(Answering.called)

    client: Any = Client(form, made)
    if form.COMPILED:
        assert client.send(b"data") == 4
        assert (sent or [pair[1].recv(10)]) == [b"data"]
        del sent[:]
    assert [client.send("text"), client.send(b"x", True), client.send(data=b"x"), Client.send(client, None)] == [-1] * 4
    assert sent == []
    with pytest.raises(TypeError, match=r"called\(\) missing 1 required positional argument: 'data'"):
        client.send()
    assert inspect.signature(client.send) == inspect.signature(Answering.called.__get__(client))
    assert (client.send.__doc__, Client.send.__name__) == ("What it is for.", "called")


def test_what_a_sending_method_calls_may_fail(form: Any) -> None:
    class Client(Answering):
        send = form.sending(Answering.called)

    if not form.COMPILED:
        pytest.skip("the function does it")
    with pytest.raises(KeyError):
        Client(form, SimpleNamespace(send=lambda data: raise_(KeyError("it")))).send(b"x")
    unmade = Client.__new__(Client)
    with pytest.raises(AttributeError, match="_connection"):
        unmade.send(b"x")


# -------------------------------------------------------------------------------------------------------- posting


class Posting:
    """An outbox of that form that notes what it calls."""

    def __init__(self, form: Any, sock: socket.socket) -> None:
        log = self.log = list[Any]()

        class It(form.Poster):  # type: ignore[misc]
            def _try(self, frame: bytes) -> None:
                log.append(("tries", frame))

            def _store(self, rest: Any, first: bool) -> str:
                log.append(("stores", bytes(rest), first, self._lock._is_owned()))
                return "full"

            def _stored(self, full: str, first: bool) -> str:
                log.append(("stored", full, first, self._lock._is_owned()))
                return "posted"

        self.it = It()
        self.it.stream = self.it._sender = sender(form, sock)
        self.it._lock = self.it.stream.write_lock
        self.it._waiting, self.it._closed, self.it._sending = deque(), False, False


@pytest.mark.skipif(not hotpath.COMPILED, reason="the compiled form was not built")
def test_what_is_posted_is_sent_at_once(pair: Any) -> None:
    posting = Posting(hotpath, pair[0])
    assert posting.it.post(b"frame") is True
    assert pair[1].recv(10) == b"frame"
    assert posting.log == []
    assert (posting.it.stream.bytes_out, posting.it.stream.messages_out) == (5, 1)
    assert not posting.it._lock._is_owned()


@pytest.mark.parametrize("why", ["closed", "sending", "waiting", "full", "broken", "big", "of others"])
def test_what_is_posted_goes_the_long_way(form: Any, pair: Any, why: str) -> None:
    posting = Posting(form, pair[0])
    frame = b"frame"
    if why == "closed":
        posting.it._closed = True
    elif why == "sending":
        posting.it._sending = True
    elif why == "waiting":
        posting.it._waiting.append(b"before")
    elif why == "big":
        frame = bytes(AT_ONCE + 1)
    elif why == "of others":
        posting.it._sender = None
    elif why == "broken":
        reset(pair[1])
        time.sleep(SHORT)
    else:
        with contextlib.suppress(BlockingIOError):
            while True:
                pair[0].send(bytes(1 << 20), NO_WAIT)
    posted = posting.it.post(frame)
    if why == "closed":
        assert (posted, posting.log) == (False, [])
    elif why in ("sending", "waiting"):
        assert posted == "posted"
        assert posting.log == [("stores", frame, False, True), ("stored", "full", False, False)]
    else:
        assert (posted, posting.log) == (True, [("tries", frame)])
    assert posting.it.stream.messages_out == (why != "closed")
    assert not posting.it._lock._is_owned()


@pytest.mark.skipif(not hotpath.COMPILED, reason="the compiled form was not built")
def test_what_the_system_does_not_take_of_what_is_posted_waits(pair: Any) -> None:
    ours, theirs = pair
    posting = Posting(hotpath, ours)
    count, frame = 0, bytes(range(250)) * 16
    while not posting.log:
        posting.it.post(frame)
        count += 1
    if posting.log[0][0] == "tries":  # it took whole ones until it took nothing
        pytest.skip("this system took all or nothing")
    (_, rest, first, locked), stored = posting.log
    assert (first, locked, stored) == (True, True, ("stored", "full", True, False))
    assert frame.endswith(rest)
    assert 0 < len(rest) < len(frame)
    expected = count * len(frame) - len(rest)
    assert (posting.it.stream.bytes_out, posting.it.stream.messages_out) == (expected, count)
    assert read_exactly(theirs, expected) == (frame * count)[:expected]


# -------------------------------------------------------------------------------------------------------- delivery


def test_callbacks_may_come_and_go_and_fail() -> None:
    """From the short way to the long one and back, with a real server."""
    got: list[bytes] = []

    def note(client: Any, address: object, data: bytes) -> None:
        got.append(data)
        if data == b"!":
            raise ValueError("no exclamations")
        client.send(data)

    with running_server(on_receive=note) as server, raw_client(server) as sock:
        full = server._mailbox.client_mark
        server._mailbox.client_mark = 1

        def ask(data: bytes) -> None:
            sock.sendall(data)
            assert read_exactly(sock, len(data)) == data

        for i in range(20):
            ask(b"%d" % i)
        assert len(got) == 20
        sock.sendall(b"!")
        wait_until(lambda: server.event.exception.list)
        (record,) = server.event.exception.list
        assert isinstance(record.exception, ValueError)
        assert "note" in str(record.traceback)
        ask(b"goes on")
        server.on_receive = None
        server._mailbox.client_mark = full
        server.return_recved_data()
        sock.sendall(b"polled")
        assert poll_one(server) == b"polled"
        server.on_receive = note
        ask(b"called")
        kept = [data for _, _, data in server.return_recved_data()]
        assert kept == [b"called"]  # there is room again, for copies too


def poll_one(server: TCPServer) -> bytes:
    wait_until(lambda: server.event.new_data)
    ((_, _, data),) = server.return_recved_data()
    return bytes(data)


def test_the_compiled_form_can_be_turned_off() -> None:
    assert not FORMS["python"].COMPILED
    assert FORMS["python"].RLock is threading.RLock


def test_where_threads_are_no_threads_it_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "get_ident", lambda: 1)
    assert not loaded(pure=False).COMPILED
