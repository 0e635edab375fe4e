"""The lead, the pool and the crew, in interleavings that nobody would meet in years, forced."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from simplesockets import TCPServer, crew, leader, readiness
from simplesockets.engine import Timers
from simplesockets.hotpath import Step
from simplesockets.mailbox import Bell
from simplesockets.pool import Member

from .support.running import raw_client, read_exactly, running_server
from .support.waiting import PATIENCE, Gate, wait_until
from .test_leader import echo, is_parked, lot_of, park, some_lot, talk

pytestmark = pytest.mark.skipif(not readiness.HAS_EPOLL, reason="nothing is parked without epoll and eventfd")


@pytest.mark.usefixtures("either_engine")
def test_a_leader_that_looks_at_a_held_client_and_loses_the_lead_does_not_let_go_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One is stuck in the client's callback; the next has it at hand, to leave it alone, and loses the lead then."""
    stuck, muting = Gate(), Gate()
    inside: list[bytes] = []
    overlaps: list[list[bytes]] = []

    def receive(client: Any, address: Any, data: bytes) -> None:
        inside.append(data)
        if client.address == one.getsockname() and len([item for item in inside if item != b"ping"]) > 1:
            overlaps.append(list(inside))
        if data == b"stick":
            stuck()
        inside.remove(data)
        client.send(data)

    mute = leader.ParkingLot._mute

    first = [True]

    def late_to_mute(self: leader.ParkingLot, parked: leader.Parked) -> None:
        if first and first.pop():
            muting()
        mute(self, parked)

    with running_server(on_receive=receive) as server, raw_client(server) as one, raw_client(server) as other:
        park(server, one, other)
        monkeypatch.setattr(leader.ParkingLot, "_mute", late_to_mute)
        try:
            one.sendall(b"stick")
            stuck.wait_arrived()
            one.sendall(b"more!")
            muting.wait_arrived()  # by the second leader
            talk(other, 3)  # by the third one
            second_leaves = threading.Event()
            leave = leader.ParkingLot._leave

            def tell(self: leader.ParkingLot, term: leader.Term) -> None:
                leave(self, term)
                second_leaves.set()

            monkeypatch.setattr(leader.ParkingLot, "_leave", tell)
            muting.open()
            wait_until(second_leaves.is_set, "the second leader to leave")
            talk(other, 10)
        finally:
            muting.open()
            stuck.open()
        assert read_exactly(one, 10) == b"stickmore!"
    assert not overlaps


def test_a_former_leader_takes_no_wake_up_that_is_for_the_next_one() -> None:
    lot = some_lot()
    assert lot._set_up()
    try:
        former = leader.Term(outsider=1)
        lot._take_lead(former)
        lot.wake()
        events = lot._readiness.poll(1)
        next_one = leader.Term(outsider=1)
        lot._take_lead(next_one)
        lot.wake()  # for the next one, who is about to wait
        lot._serve(former, events)  # the former goes on
        assert lot._readiness.poll(1), "the next one would sleep on"
    finally:
        lot._leave(former)
        lot._leave(next_one)
        lot.close()


class Switching:
    """Stands for what another thread changes between two looks at it."""

    def __init__(self, *values: Any) -> None:
        self._values = list(values)

    def __get__(self, instance: Any, owner: Any) -> Any:
        return self._values.pop(0) if len(self._values) > 1 else self._values[0]

    def __set__(self, instance: Any, value: Any) -> None:
        pass


@pytest.mark.parametrize("looks", [0, 1, 2])
def test_what_stands_for_a_thread_may_end_while_it_is_asked(looks: int) -> None:
    class EndsMeanwhile(Member):
        _over = Switching(*[threading.Event()] * looks, True)

    assert EndsMeanwhile("client").is_alive() in (True, False)


def test_a_pool_that_got_no_thread_at_first_serves_the_next_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def no_worker(self: threading.Thread) -> None:
        if "worker" in self.name:
            raise RuntimeError("can't start new thread")
        start(self)

    with running_server(engine="pool", on_receive=echo) as server:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", no_worker)
            with raw_client(server) as refused:
                assert refused.recv(1) == b""
        with raw_client(server) as sock:
            talk(sock, 3)


def test_a_pool_that_got_no_descriptors_at_first_parks_the_next_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    epoll = select.epoll
    failures = [OSError(errno.EMFILE, "too many open files")]

    def fail_once() -> Any:
        if failures:
            raise failures.pop()
        return epoll()

    monkeypatch.setattr(select, "epoll", fail_once)
    with running_server(engine="pool", on_receive=echo) as server:
        with raw_client(server) as one, raw_client(server) as other:
            talk(one, 1)
            talk(other, 1)
            wait_until(lambda: is_parked(server, other), "parking")


def test_what_needs_a_thread_at_once_waits_for_no_short_task() -> None:
    later: list[Any] = []
    team = crew.Crew("simplesockets-test", lambda seconds, task: later.append(task))
    gate, done = Gate(), threading.Event()
    try:
        for _ in range(crew.AT_ONCE):
            team.run(gate)
        for _ in range(20):
            team.run(gate)  # these wait
        team.run(done.set, at_once=True)
        assert done.wait(PATIENCE / 4)
    finally:
        gate.open()
        team.close()


def test_a_task_is_done_as_soon_as_the_system_gives_threads_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are there may stay where they are for ever."""
    later: list[Any] = []
    team = crew.Crew("simplesockets-test", lambda seconds, task: later.append(task))
    gate, done = Gate(), threading.Event()
    try:
        team.run(gate)
        gate.wait_arrived()

        def refuse(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            team.run(done.set, at_once=True)
        assert not done.is_set()
        later.pop()()
        assert done.wait(PATIENCE / 4)
    finally:
        gate.open()
        team.close()


def test_what_is_due_is_done_whatever_another_task_raises() -> None:
    timers = Timers("simplesockets-test")
    failing, done = Gate(), threading.Event()

    def fail() -> None:
        failing()
        raise OSError("bad file descriptor")

    timers.later(0, fail)
    failing.wait_arrived()
    failing.open()
    timers.later(0.01, done.set)
    try:
        assert done.wait(PATIENCE / 4)
    finally:
        timers.close(PATIENCE)


def test_a_client_that_was_woken_while_it_was_muted_is_looked_at() -> None:
    """What it holds (decrypted data, say) does not show at its socket."""
    lot = some_lot()
    lot._set_up()
    lot._stand_by = lot._watcher
    ours, theirs = socket.socketpair()
    stream = SimpleNamespace(socket=ours, has_timeout=lambda: False)
    connection: Any = SimpleNamespace(
        stream=stream, step=lambda: Step.MORE, share=lambda shared: None, has_more=False, waker=None
    )
    with ours, theirs:
        parked = leader.Parked(lot, connection, lambda step: None)
        assert lot.admit(parked)
        former, next_one = leader.Term(), leader.Term()
        lot._take_lead(former)
        former.serving = parked
        lot._take_lead(next_one)
        theirs.sendall(b"more")
        lot._serve(next_one, lot._readiness.poll(1))
        assert parked.muted
        ours.recv(4)
        connection.has_more = True
        parked.wake()
        former.serving = None
        lot._leave(former)
        reported = lot._readiness.poll(1)
        lot._leave(next_one)
        lot.close()
    assert reported


class Interrupt(Exception):
    """Raised by a signal handler."""


class Interrupting:
    """Raises in the thread that leads, as a signal handler would: where a function begins or ends, or called C.

    Args:
        number: at which of these places.
    """

    def __init__(self, number: int) -> None:
        self.place: tuple[str, str] | None = None
        self._left = number

    def __enter__(self) -> Interrupting:
        sys.setprofile(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _look(self, frame: FrameType | None, event: str, _: object) -> None:
        if event == "c_call" or frame is None:
            return
        name = frame.f_code.co_name
        if frame.f_globals["__name__"] not in PARTS and name not in ("lead", "_serve"):
            return
        while frame is not None and frame.f_code is not Bell.wait.__code__:  # there it calls lead()
            frame = frame.f_back
        if frame is None:
            return
        self._left -= 1
        if self._left == 0:
            self.place = name, event
            raise Interrupt


PARTS = {"simplesockets.leader", "simplesockets.pool", "simplesockets.crew"}


def poll_until(server: TCPServer, done: Callable[[list[Any]], object]) -> None:
    """What a program that polls does; ``done`` is asked with all that it got."""
    got: list[Any] = []
    deadline = time.monotonic() + PATIENCE
    while not done(got):
        assert time.monotonic() < deadline, "nothing comes any more"
        if server.event.new_data:
            got += server.return_recved_data()


@pytest.mark.parametrize("engine", ["threads", "pool"])
def test_a_signal_handler_may_raise_anywhere_in_the_thread_that_leads(engine: str) -> None:
    """A client leaves, and the thread that polls is interrupted at one place after the other while it sees to that."""
    gone: list[Any] = []
    places = set()

    def say(sock: socket.socket) -> None:
        sock.sendall(b"x")
        poll_until(server, bool)

    with running_server(engine=engine, on_disconnect=gone.append) as server, raw_client(server) as other:
        lot = lot_of(server)

        def leave(sock: socket.socket) -> None:
            wait_until(lambda: lot._bell.waiting, "the poller to lead")
            sock.shutdown(socket.SHUT_WR)

        for number in range(1, 60):
            before = len(gone)
            with raw_client(server) as sock:
                say(sock)
                while not is_parked(server, sock):
                    say(sock)
                leaver = threading.Thread(target=leave, args=(sock,))
                leaver.start()
                with contextlib.suppress(Interrupt), Interrupting(number) as interrupting:
                    poll_until(server, lambda _: len(gone) > before)  # noqa: B023
                poll_until(server, lambda _: len(gone) > before and not leaver.is_alive())  # noqa: B023
                say(other)
            places.add(interrupting.place)
    assert len(gone) == 59 + 1
    assert len(places) > 10
    assert not lot._open, "it counts on somebody who was interrupted"


@pytest.mark.usefixtures("either_engine")
def test_a_client_whose_descriptor_the_program_closed_is_seen_off_all_the_same() -> None:
    gone: list[Any] = []
    with running_server(on_receive=echo, on_disconnect=gone.append) as server:
        with raw_client(server) as sock, raw_client(server) as other:
            park(server, sock, other)
            client: Any = server.clients[sock.getsockname()][1]
            engine = server._engine
            assert engine is not None
            os.close(client.fileno())
            server.disconnect(client)
            wait_until(lambda: len(gone) == 1)
            talk(other, 2)
        wait_until(lambda: len(gone) == 2)
        server.close()
        assert not engine._live


@pytest.mark.usefixtures("either_engine")
@pytest.mark.parametrize("inside", [False, True])
def test_so_is_one_that_is_disconnected_in_its_callback(inside: bool) -> None:
    gone: list[Any] = []
    stuck = Gate()

    def receive(client: Any, address: Any, data: bytes) -> None:
        if data == b"stop":
            if inside:
                os.close(client.fileno())
                server.disconnect(client)
            stuck()
        else:
            client.send(data)

    with running_server(on_receive=receive, on_disconnect=gone.append) as server:
        with raw_client(server) as sock, raw_client(server) as other:
            park(server, sock, other)
            client: Any = server.clients[sock.getsockname()][1]
            sock.sendall(b"stop")
            stuck.wait_arrived()
            if not inside:
                os.close(client.fileno())
                server.disconnect(client)
            stuck.open()
            wait_until(lambda: len(gone) == 1)
            talk(other, 2)
        wait_until(lambda: len(gone) == 2)


@pytest.mark.usefixtures("either_engine")
def test_a_leader_that_finds_a_client_slow_and_loses_the_lead_lets_nobody_step_it_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deciding, stuck, overlap = Gate(), Gate(), threading.Event()
    inside: list[bytes] = []

    def receive(client: Any, address: Any, data: bytes) -> None:
        if data != b"ping":
            inside.append(data)
            if len(inside) > 1:
                overlap.set()
            if data == b"second":
                stuck()
            inside.remove(data)
        client.send(data)

    def decide(parked: leader.Parked, *_: object) -> bool:
        if parked is not slow:
            return False
        deciding()
        return True

    with running_server(on_receive=receive) as server, raw_client(server) as one, raw_client(server) as other:
        park(server, one, other)
        lot = lot_of(server)
        slow: Any = server.clients[one.getsockname()]._connection.waker
        monkeypatch.setattr(leader.Parked, "is_slow", decide)
        monkeypatch.setattr(leader, "SLOW", 0.0)
        lot._search = 10**9  # they are timed
        try:
            one.sendall(b"first")
            assert read_exactly(one, 5) == b"first"
            deciding.wait_arrived()
            one.sendall(b"second")
            talk(other, 5)  # by the next leader
            deciding.open()
            stuck.wait_arrived()
            one.sendall(b"third")
            overlapping = overlap.wait(0.5)
        finally:
            deciding.open()
            stuck.open()
        assert read_exactly(one, 11) == b"secondthird"
    assert not overlapping
