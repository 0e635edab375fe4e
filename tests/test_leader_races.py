"""Parked connections and the lead, in interleavings that hardly ever happen."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from simplesockets import connection, crew, hotpath, leader, readiness
from simplesockets.connection import Connection
from simplesockets.dispatch import ServerDispatch
from simplesockets.hotpath import Step
from simplesockets.mailbox import Bell, Flag, Mailbox
from simplesockets.protocol import RawProtocol
from simplesockets.transport import Stream

from .support.running import raw_client, read_exactly, running_server
from .support.waiting import PATIENCE, Gate, wait_until
from .test_leader import lot_of, park, poll_in_background, some_lot

pytestmark = pytest.mark.skipif(not readiness.HAS_EPOLL, reason="nothing is parked without epoll and eventfd")


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
        wait_until(lambda: lot._leader is not None and not lot._leader.outsider and lot._leader.waits, "the stand-by")
        server.on_receive = receive
        stuck.sendall(b"stick")
        gate.wait_arrived()
        other.sendall(b"ping")
        other.settimeout(3)
        try:
            assert read_exactly(other, 4) == b"ping"
        finally:
            gate.open()


def test_the_stand_by_notices_that_its_own_client_left_while_it_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, gone = Gate(), threading.Event()
    with running_server(on_disconnect=lambda address: gone.set()) as server, raw_client(server) as sock:
        poller = poll_in_background(server)
        lot = lot_of(server)
        step = connection.Connection.step

        def slow_step(self: connection.Connection) -> Step:
            outcome = step(self)
            if outcome is Step.DONE and threading.current_thread() is poller:
                gate()  # the system gave the core to others
            return outcome

        monkeypatch.setattr(connection.Connection, "step", slow_step)
        park(server, sock)
        wait_until(lambda: lot._leader is not None and lot._leader.outsider and lot._leader.waits, "the poller to lead")
        sock.shutdown(socket.SHUT_WR)
        gate.wait_arrived()
        wait_until(lambda: lot._leader is not None and not lot._leader.outsider and lot._leader.waits, "the stand-by")
        server.exit_accept()  # the poller ends after this
        gate.open()
        poller.join(PATIENCE)
        noticed = gone.wait(2)
    assert noticed


def test_a_stand_by_that_dozes_is_roused_although_its_predecessor_wakes_late() -> None:
    late = Gate()
    lot = some_lot()

    def parked() -> Any:
        it: Any = leader.Parked.__new__(leader.Parked)
        it.gate, it.outcome = hotpath.Gate(), None
        it.lot, it.fd, it.evict, it.muted, it._out = lot, -1, False, False, None
        it.connection = type("Connection", (), {"waker": None})()
        return it

    old, new = parked(), parked()
    gate = old.gate

    class LateGate:
        def sleep(self) -> None:
            gate.sleep()
            late()

        def open(self) -> None:
            gate.open()

    old.gate = LateGate()
    lot._parked = {1: new}
    lot._stand_by, lot._leader = old, leader.Term()
    lot._leader.waits = True
    first = threading.Thread(target=lot._doze, args=(old, lot._leader))
    first.start()
    wait_until(lambda: lot._dozing)
    lot._let_out(old, Step.DONE)
    late.wait_arrived()  # it is awake, but the system gives it no core yet
    assert lot._stand_by is new
    new.gate.sleep(0)
    second = threading.Thread(target=lot._doze, args=(new, lot._leader))
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
    hold = threading.Event()
    victim: list[Any] = []

    def receive(client: Any, address: Any, data: bytes) -> None:
        if data == b"stick":
            stuck()
        client.send(data)

    may_go_on = leader.ParkingLot._may_go_on

    def late_to_wait(self: Any, term: Any) -> bool:
        may = may_go_on(self, term)
        if hold.is_set() and not victim:
            victim.append(term)
            held()
        return may

    with running_server(on_receive=receive) as server:
        with raw_client(server) as one, raw_client(server) as two, raw_client(server) as three:
            park(server, one, two, three)
            monkeypatch.setattr(leader.ParkingLot, "_may_go_on", late_to_wait)
            hold.set()
            two.sendall(b"ping")  # ends the waiting of the leader, which is held up at the next turn
            assert read_exactly(two, 4) == b"ping"
            held.wait_arrived()
            lot = lot_of(server)
            wait_until(
                lambda: lot._leader is not None and lot._leader not in victim and lot._leader.waits, "another leader"
            )
            one.sendall(b"stick")
            stuck.wait_arrived()
            held.open()  # it goes on, without the lead
            try:
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
    held, closed = Gate(), threading.Event()
    failures: list[BaseException] = []
    with running_server() as server, raw_client(server) as sock:
        poller = poll_in_background(server)
        park(server, sock)
        server.exit_accept()
        poller.join(PATIENCE)
        settled = Flag._is_settled

        def late_to_wait(self: Any) -> bool:
            is_settled = settled(self)
            held()
            return is_settled

        monkeypatch.setattr(Flag, "_is_settled", late_to_wait)

        def read() -> None:
            try:
                while not closed.is_set():
                    server.event.new_data  # noqa: B018
            except BaseException as failure:
                failures.append(failure)

        reader = threading.Thread(target=read)
        reader.start()
        held.wait_arrived()
        sock.close()
        server.close()
        closed.set()
        held.open()
        reader.join(PATIENCE)
    assert not failures


# ------------------------------------------------------------------------------------ a lead that a poller keeps


@pytest.fixture
def lot() -> Iterator[leader.ParkingLot]:
    lot = some_lot()
    assert lot._set_up()
    yield lot
    lot.close()
    assert not lot._open, "it counts on somebody who left"


def lead_elsewhere(lot: leader.ParkingLot) -> bool:
    led: list[bool] = []
    thread = threading.Thread(target=lambda: led.append(lot.lead(0, lambda: False)))
    thread.start()
    thread.join(PATIENCE)
    return led[0]


class Watched(set[leader.Term]):
    """Those inside; does something when one has come in."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self._meanwhile = meanwhile

    def add(self, term: leader.Term) -> None:
        super().add(term)
        self._meanwhile()


def test_a_poller_keeps_the_lead_while_it_handles_what_came(lot: leader.ParkingLot) -> None:
    assert lot.lead(0, lambda: False)
    kept = lot._leader
    assert kept is not None
    assert not lot._terms
    assert not lot._bell.waiting
    assert lot.lead(0, lambda: False)
    assert lot._leader is kept


def test_a_lead_that_is_only_kept_is_free_for_others(lot: leader.ParkingLot) -> None:
    assert lot.lead(0, lambda: False)
    kept = lot._leader
    assert lead_elsewhere(lot)
    assert lot._leader is not kept
    assert lot.lead(0, lambda: False)


def test_nobody_else_leads_while_a_poller_is_inside(lot: leader.ParkingLot) -> None:
    led: list[bool] = []

    def others_try() -> bool:
        led.extend((lead_elsewhere(lot), lot.lead(0, lambda: False)))  # the latter in a signal handler, say
        return False

    assert lot.lead(0, others_try)
    assert led == [False, False]


@pytest.mark.parametrize("another", [leader.ParkingLot._come_in, lambda lot: lot._appoint(works=False)])
def test_a_poller_that_comes_in_at_this_moment_keeps_the_lead(
    lot: leader.ParkingLot, monkeypatch: pytest.MonkeyPatch, another: Callable[[leader.ParkingLot], leader.Term | None]
) -> None:
    assert lot.lead(0, lambda: False)
    kept = lot._leader
    assert kept is not None
    displace = lot._displace

    def comes_in(former: leader.Term | None, term: leader.Term) -> bool:
        kept.waits = True  # it says so first, and looks whether it leads when the other one has put itself there
        return displace(former, term)

    monkeypatch.setattr(lot, "_displace", comes_in)
    assert another(lot) is None
    assert lot._leader is kept
    assert not lot._terms
    kept.waits = False


@pytest.mark.parametrize(
    "loses", [lead_elsewhere, lambda lot: lot._appoint(works=False), lambda lot: lot.set_polled(False)]
)
def test_a_poller_that_lost_the_lead_it_kept_does_not_wait(
    lot: leader.ParkingLot, loses: Callable[[leader.ParkingLot], object]
) -> None:
    assert lot.lead(0, lambda: False)
    kept = lot._leader
    assert kept is not None
    former = lot._terms

    def lose() -> None:
        lot._terms = former
        lot._take_lead(None)  # before it said that it comes in
        loses(lot)

    lot._terms = Watched(lose)
    assert lot.lead(PATIENCE, lambda: pytest.fail("it goes on to wait"))
    assert kept not in lot._terms
    assert not lot._bell.waiting
    for term in [*lot._terms]:
        lot._leave(term)


def test_close_at_the_moment_in_which_a_poller_comes_in_leaves_nothing_open() -> None:
    lot = some_lot()
    assert lot._set_up()
    assert lot.lead(0, lambda: False)
    lot._terms = Watched(lot.close)
    assert lot.lead(PATIENCE, lambda: False)
    assert not lot._open
    assert not lot.lead(PATIENCE, lambda: False)


def test_a_handler_that_raises_while_the_leader_waits_leaves_nobody_inside(lot: leader.ParkingLot) -> None:
    def interrupted() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lot.lead(PATIENCE, interrupted)
    assert not lot._terms
    assert not lot._bell.waiting
    assert lead_elsewhere(lot)


def test_a_handler_that_raises_in_who_takes_the_lead_leaves_it_to_who_comes_in_at_this_moment(
    lot: leader.ParkingLot,
) -> None:
    class Interrupted(set[leader.Term]):
        def __contains__(self, term: object) -> bool:
            if lot._leader is kept:
                return False
            raise KeyboardInterrupt

    def come_in() -> None:
        with pytest.raises(KeyboardInterrupt):
            lot._come_in()
        tried.append(lot._leader)

    assert lot.lead(0, lambda: False)
    kept = lot._leader
    tried: list[leader.Term | None] = []
    lot._terms = Interrupted()
    thread = threading.Thread(target=come_in)
    thread.start()
    thread.join(PATIENCE)
    lot._terms = set()
    assert tried == [kept]


@pytest.mark.parametrize("handler", [leader.ParkingLot.close, lambda lot: lot.set_polled(False)])
@pytest.mark.parametrize("kept", [True, False])
def test_a_handler_that_ends_polling_in_who_takes_the_lead_is_heeded(
    lot: leader.ParkingLot,
    monkeypatch: pytest.MonkeyPatch,
    handler: Callable[[leader.ParkingLot], object],
    kept: bool,
) -> None:
    displace = lot._displace

    def interrupted(former: leader.Term | None, term: leader.Term) -> bool:
        handler(lot)
        return displace(former, term)

    if kept:
        assert lead_elsewhere(lot)
    monkeypatch.setattr(lot, "_displace", interrupted)
    assert not lot.lead(PATIENCE, lambda: pytest.fail("it goes on to wait"))
    assert lot._leader is None


def test_a_stand_by_may_go_while_it_is_roused() -> None:
    sleeper = leader.Watcher()
    looks = [None, sleeper]  # the last first; a signal handler closes everything after that
    going: Any = type("Going", (leader.ParkingLot,), {"_stand_by": property(lambda _: looks.pop(), lambda *_: None)})
    lot = going(Bell(), crew.Crew("unused", lambda seconds, task: None), None)
    lot._rouse_stand_by()
    assert sleeper.gate.sleep(0)


def test_a_client_that_was_going_out_when_a_handler_raised_gets_out_although_another_poller_comes(
    lot: leader.ParkingLot, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(leader.Parked):
        left = 0

        def leave(self) -> None:
            Interrupted.left += 1
            if self.left == 1:
                raise KeyboardInterrupt
            super().leave()

    ours, theirs = socket.socketpair()
    with ours:
        parked = Interrupted(lot, Connection(Stream(ours), RawProtocol(), Mailbox(lot._bell), 2048))
        assert lot.admit(parked)
        theirs.close()
        leave = lot._leave

        def late_leave(term: leader.Term) -> None:
            monkeypatch.undo()
            lead_elsewhere(lot)
            leave(term)

        monkeypatch.setattr(lot, "_leave", late_leave)
        with pytest.raises(KeyboardInterrupt):
            lot.lead(PATIENCE, lambda: False)
        assert parked.gate.sleep(0), "its thread sleeps on"


def test_a_signal_handler_that_waits_for_data_in_the_thread_that_leads_gets_it() -> None:
    with running_server() as server, raw_client(server) as sock:
        poller = poll_in_background(server)
        park(server, sock)
        server.exit_accept()
        poller.join(PATIENCE)
        client = server.clients[sock.getsockname()]
        came: list[bytes] = []

        def handler() -> bool:
            sock.sendall(b"for the handler")
            came.append(client.recv(timeout=5))
            return True

        wait_until(lambda: lot_of(server).lead(1, handler), "the lead")
        assert came == [b"for the handler"]


def test_on_receive_assigned_and_removed_at_once_is_one_of_the_two(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, adapted = Gate(), ServerDispatch._adapted
    got: list[bytes] = []

    def late(*arguments: Any) -> Any:
        gate()
        return adapted(*arguments)

    with running_server() as server, raw_client(server) as sock:
        monkeypatch.setattr(ServerDispatch, "_adapted", late)
        assigning = threading.Thread(target=setattr, args=(server, "on_receive", got.append))
        assigning.start()
        gate.wait_arrived()
        server.on_receive = None
        gate.open()
        assigning.join(PATIENCE)
        sock.sendall(b"x")
        wait_until(lambda: got or server.return_recved_data())
        assert bool(got) is (server.on_receive is not None)


def test_a_leader_that_rouses_the_stand_by_has_something_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_server(on_receive=lambda client, address, data: client.send(data)) as server:
        with raw_client(server) as one, raw_client(server) as other:
            lot, seen, progress = lot_of(server), [], [0]
            doze, rouse = lot._doze, lot._rouse_stand_by

            def note_and_doze(*arguments: Any) -> None:
                progress[0] = lot._pulse.beats
                doze(*arguments)

            def look_and_rouse() -> None:
                seen.append(lot._pulse.beats - progress[0])
                rouse()

            monkeypatch.setattr(lot, "_doze", note_and_doze)
            park(server, one, other)
            wait_until(lambda: progress[0] and lot._dozing)
            monkeypatch.setattr(lot, "_rouse_stand_by", look_and_rouse)
            one.sendall(b"x")
            assert read_exactly(one, 1) == b"x"
            assert seen
            assert seen[0] > 0


@pytest.mark.parametrize(("asked", "seconds"), [(False, leader.BUSY), (True, leader.AWAY)])
def test_the_stand_by_leaves_a_busy_poller_alone_unless_another_one_waits(
    lot: leader.ParkingLot, asked: bool, seconds: float
) -> None:
    looks: list[float] = []
    stand_by: Any = SimpleNamespace(outcome=None)

    def sleep(timeout: float) -> None:
        looks.append(timeout)
        stand_by.outcome = Step.DONE

    stand_by.gate = SimpleNamespace(sleep=sleep, watch=lambda pulse, seconds: sleep(seconds))
    assert lot.lead(0, lambda: False)
    if asked:
        lot._terms.add(kept := lot._leader)  # type: ignore[arg-type]
        assert not lead_elsewhere(lot)
        lot._terms.discard(kept)
    lot._stand_by = stand_by
    lot._watch(stand_by)
    lot._stand_by = None
    assert looks == [seconds]
