"""Parked connections and the lead, in interleavings that hardly ever happen."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from simplesockets import connection, leader
from simplesockets.connection import Step
from simplesockets.mailbox import Bell

from .support.running import raw_client, read_exactly, running_server
from .support.waiting import PATIENCE, Gate, wait_until
from .test_leader import lot_of, park, poll_in_background

pytestmark = pytest.mark.skipif(not leader.AVAILABLE, reason="nothing is parked without epoll and eventfd")


def test_close_in_a_callback_of_a_parked_client_lets_on_disconnect_wait_for_the_callback() -> None:
    gate = Gate()
    order: list[str] = []
    me: list[Any] = []

    def receive(client: Any, address: Any, data: bytes) -> None:
        if data == b"stop":
            me.append(client.address)
            server.close()
            gate()
            order.append("received")
        else:
            client.send(data)

    def gone(address: Any) -> None:
        if me and address == me[0]:
            order.append("gone")

    with running_server(on_receive=receive, on_disconnect=gone) as server:
        with raw_client(server) as one, raw_client(server) as other:
            park(server, one, other)
            thread = server.clients[one.getsockname()].thread
            assert thread is not None
            one.sendall(b"stop")
            gate.wait_arrived()
            thread.join(0.3)
            early = list(order)
            gate.open()
            wait_until(lambda: len(order) == 2, f"both: {order}", 5)
        assert early == []
        assert order == ["received", "gone"]


def test_on_receive_assigned_while_the_stand_by_reads_delays_nobody_when_it_sticks() -> None:
    gate = Gate()

    def receive(client: Any, address: Any, data: bytes) -> None:
        if data == b"stick":
            gate()
        client.send(data)

    with running_server() as server, raw_client(server) as stuck, raw_client(server) as other:
        poller = poll_in_background(server)
        park(server, stuck, other)
        server.exit_accept()  # ends the poller
        poller.join(PATIENCE)
        lot = lot_of(server)
        wait_until(lambda: lot._leader is not None and not lot._leader.outsider and lot.waiting, "the stand-by to lead")
        server.on_receive = receive
        first, second = (stuck, other)
        stand_by = lot._stand_by
        assert stand_by is not None
        first.sendall(b"stick")
        gate.wait_arrived()
        second.sendall(b"ping")
        second.settimeout(3)
        try:
            assert read_exactly(second, 4) == b"ping"
        finally:
            gate.open()


def test_the_stand_by_notices_that_its_own_client_left_while_it_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, gone = Gate(), threading.Event()
    with running_server(on_disconnect=lambda address: gone.set()) as server, raw_client(server) as sock:
        poller = poll_in_background(server)
        park(server, sock)
        lot = lot_of(server)
        step = connection.Connection.step

        def slow_step(self: connection.Connection) -> Step:
            outcome = step(self)
            if outcome is Step.DONE and threading.current_thread() is poller:
                gate()  # the system gave the core to others
            return outcome

        monkeypatch.setattr(connection.Connection, "step", slow_step)
        wait_until(lambda: lot._leader is not None and lot._leader.outsider and lot.waiting, "the poller to lead")
        sock.shutdown(socket.SHUT_WR)
        gate.wait_arrived()
        wait_until(lambda: lot._leader is not None and not lot._leader.outsider and lot.waiting, "the stand-by to lead")
        server.exit_accept()  # the poller ends after this
        gate.open()
        poller.join(PATIENCE)
        noticed = gone.wait(2)
    assert noticed


def test_a_stand_by_that_dozes_is_roused_although_its_predecessor_wakes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Gate()
    lot = leader.ParkingLot("unused", Bell())

    def parked() -> Any:
        it: Any = leader._Parked.__new__(leader._Parked)
        it.lot, it.fd, it.outcome, it.evict, it.muted = lot, -1, None, False, False
        it.claim, it.gate = threading.RLock(), threading.Lock()
        it.gate.acquire()
        it.connection = type("Connection", (), {"waker": None})()
        return it

    old, new = parked(), parked()
    gate = old.gate

    class LateLock:
        def acquire(self, *args: Any, **kwargs: Any) -> bool:
            got: bool = gate.acquire(*args, **kwargs)
            late()
            return got

        def release(self) -> None:
            gate.release()

    old.gate = LateLock()
    lot._parked = {1: new}
    lot._stand_by, lot.waiting = old, True
    first = threading.Thread(target=lot._doze, args=(old, 0))
    first.start()
    wait_until(lambda: lot._dozing)
    lot._let_out(old, Step.DONE)
    late.wait_arrived()  # it is awake, but the system gives it no core yet
    assert lot._stand_by is new
    new.gate.acquire(blocking=False)
    second = threading.Thread(target=lot._doze, args=(new, 0))
    second.start()
    wait_until(lambda: lot._dozing)
    late.open()
    first.join(PATIENCE)
    dozing = lot._dozing
    lot._rouse_stand_by()
    second.join(PATIENCE)
    assert dozing


def test_a_former_leader_does_not_hide_that_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was held up just before it waits, and lost the lead meanwhile."""
    stuck, held = Gate(), Gate()
    hold, went_on = threading.Event(), threading.Event()
    victim: list[Any] = []

    def receive(client: Any, address: Any, data: bytes) -> None:
        if data == b"stick":
            stuck()
        client.send(data)

    turn = leader.ParkingLot._turn

    def late_turn(self: Any, term: Any) -> None:
        if hold.is_set() and not victim:
            victim.append(term)
            held()
        turn(self, term)
        if term in victim:
            went_on.set()

    with running_server(on_receive=receive) as server:
        with raw_client(server) as one, raw_client(server) as two, raw_client(server) as three:
            park(server, one, two, three)
            monkeypatch.setattr(leader.ParkingLot, "_turn", late_turn)
            hold.set()
            two.sendall(b"ping")  # ends the waiting of the leader, which is held up at the next turn
            assert read_exactly(two, 4) == b"ping"
            held.wait_arrived()
            lot = lot_of(server)
            wait_until(lambda: lot._leader not in victim and lot.waiting, "another leader")
            stand_by = lot._stand_by
            assert stand_by is not None
            one.sendall(b"stick")
            stuck.wait_arrived()
            held.open()  # it goes on, without the lead
            try:
                assert went_on.wait(PATIENCE)  # else it waits, although it does not lead
                two.sendall(b"ping")
                two.settimeout(3)
                assert read_exactly(two, 4) == b"ping"
                three.sendall(b"ping")
                three.settimeout(3)
                assert read_exactly(three, 4) == b"ping"
            finally:
                stuck.open()


def test_a_poller_that_was_held_up_before_it_waits_survives_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system interrupts a poller just before it waits, and meanwhile everything is closed."""
    held = Gate()
    failures: list[BaseException] = []
    with running_server() as server, raw_client(server) as sock:
        poller = poll_in_background(server)
        park(server, sock)
        server.exit_accept()
        poller.join(PATIENCE)
        wait = leader.ParkingLot._wait

        def late_wait(self: Any, term: Any, timeout: float, ready: Any) -> bool:
            if term.outsider:
                held()
            return wait(self, term, timeout, ready)

        monkeypatch.setattr(leader.ParkingLot, "_wait", late_wait)

        def read() -> None:
            try:
                for _ in range(40):
                    server.event.new_data  # noqa: B018
            except BaseException as failure:
                failures.append(failure)

        reader = threading.Thread(target=read)
        reader.start()
        held.wait_arrived()
        sock.close()
        server.close()
        held.open()
        reader.join(PATIENCE)
    assert not failures
