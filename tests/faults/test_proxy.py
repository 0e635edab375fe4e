"""The fault proxy does what its schedule says, and nothing else."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from ..support.proxy import (
    CAPACITY,
    DOWN,
    ENDINGS,
    UP,
    Deed,
    Fault,
    FaultProxy,
    Kind,
    Link,
    Way,
    random_faults,
)
from ..support.running import open_descriptors, raw_listener, read_exactly, reset
from ..support.waiting import PATIENCE, wait_until

DATA = bytes(range(256)) * 400  # more than is held for a way


class Ends:
    """Both ends of a link."""

    def __init__(self, near: socket.socket, far: socket.socket, link: Link) -> None:
        self.near = near
        self.far = far
        self.link = link

    def both(self, way: Way) -> tuple[socket.socket, socket.socket]:
        """Who sends on this way, and who receives."""
        return (self.near, self.far) if way == UP else (self.far, self.near)


@contextlib.contextmanager
def linked(*faults: Fault) -> Iterator[Ends]:
    with FaultProxy() as proxy, raw_listener() as listener:
        route = proxy.route(listener.getsockname(), lambda number: faults)
        with socket.create_connection(route.address, PATIENCE) as near:
            far, _ = listener.accept()
            with far:
                far.settimeout(PATIENCE)
                wait_until(lambda: route.links and route.links[0].local == far.getpeername())
                link = route.links[0]
                assert route.link_of(near.getsockname()) is link
                yield Ends(near, far, link)


def send(sock: socket.socket, data: bytes) -> threading.Thread:
    """Send from a thread, as far as the other end lets it."""

    def work() -> None:
        with contextlib.suppress(OSError):
            sock.sendall(data)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def send_until_it_waits(sock: socket.socket) -> int:
    """Send until the other end takes no more; how many bytes that were."""
    sock.settimeout(0.05)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while True:
            sent += sock.send(DATA)
    return sent


def kind_of_end(sock: socket.socket) -> str:
    """How the stream ends for who reads it."""
    try:
        return "data" if sock.recv(1) else "end of stream"
    except ConnectionResetError:
        return "reset"


def what(link: Link) -> list[str]:
    return [deed.what for deed in link.deeds]


def test_without_faults_everything_passes_both_ways_and_ends_pass_too() -> None:
    with linked() as ends:
        for way in (UP, DOWN):
            sender, receiver = ends.both(way)
            thread = send(sender, DATA)
            assert read_exactly(receiver, len(DATA)) == DATA
            thread.join()
            sender.shutdown(socket.SHUT_WR)
            assert kind_of_end(receiver) == "end of stream"
            assert ends.link.passed(way) == len(DATA)
        wait_until(lambda: ends.link.over)
        assert what(ends.link) == ["connected", "closed by its ends"]


@pytest.mark.parametrize("way", [UP, DOWN])
@pytest.mark.parametrize(
    ("kind", "at"),
    [(kind, at) for kind in ENDINGS for at in (0, 1, 999, CAPACITY, CAPACITY + 1) if (kind, at) != (Kind.RESET, 0)],
)
def test_an_ending_happens_after_exactly_so_many_bytes(kind: Kind, at: int, way: Way) -> None:
    with linked(Fault(kind, way, at)) as ends:
        sender, receiver = ends.both(way)
        if kind is Kind.RESET:
            # What was passed on but not read when a reset comes need not be readable any more; so it comes late.
            sender.sendall(DATA[: at - 1])
            assert read_exactly(receiver, at - 1) == DATA[: at - 1]
            sender.sendall(DATA[at - 1 : at])
            expected = "reset"
        else:
            thread = send(sender, DATA[: at + 1])
            assert read_exactly(receiver, at) == DATA[:at]
            thread.join()
            expected = "end of stream"
        with contextlib.suppress(ConnectionResetError):
            read_exactly(receiver, 1)
        if kind is not Kind.RESET:
            assert kind_of_end(receiver) == expected
        if kind is Kind.HALF_CLOSE:
            receiver.sendall(b"still there?")
            assert read_exactly(sender, 12) == b"still there?"
        else:
            assert kind_of_end(sender) == expected
        assert Deed(kind.value, way, at, ends.link.deeds[-1].step) == next(
            deed for deed in ends.link.deeds if deed.what == kind.value
        )
        assert ends.link.passed(way) == at
        assert ends.link.suffered(kind)
        assert ends.link.was_reset() == (kind is Kind.RESET)


@pytest.mark.parametrize("way", [UP, DOWN])
def test_a_fault_waits_for_its_number_of_pieces(way: Way) -> None:
    with linked(Fault(Kind.SPLIT, way, size=1, pieces=100), Fault(Kind.CUT, way, at=2, step=7)) as ends:
        sender, receiver = ends.both(way)
        sender.sendall(b"0123456789")
        assert read_exactly(receiver, 10) == b"0123456"


def test_a_split_makes_small_pieces_for_a_while() -> None:
    with linked(Fault(Kind.SPLIT, UP, at=10, size=3, pieces=4, seconds=0.01)) as ends:
        began = time.monotonic()
        ends.near.sendall(DATA[:1000])
        assert read_exactly(ends.far, 1000) == DATA[:1000]
        assert time.monotonic() - began >= 0.03
        wait_until(lambda: ends.link._pipes[UP].steps == 6)  # before, four pieces, and the rest
        assert ends.link.deeds[-1] == Deed("split", UP, 10, 1)


@pytest.mark.parametrize("kind", [Kind.DELAY, Kind.STALL])
def test_what_is_held_back_comes_later_and_the_other_way_goes_on(kind: Kind) -> None:
    with linked(Fault(kind, UP, at=5, seconds=0.2)) as ends:
        began = time.monotonic()
        ends.near.sendall(b"01234567")
        assert read_exactly(ends.far, 5) == b"01234"
        ends.far.sendall(b"meanwhile")
        assert read_exactly(ends.near, 9) == b"meanwhile"
        assert read_exactly(ends.far, 3) == b"567"
        assert time.monotonic() - began >= 0.2


def test_in_a_stall_who_sends_has_to_wait() -> None:
    with linked(Fault(Kind.STALL, UP, seconds=3600.0)) as ends:
        assert send_until_it_waits(ends.near)
        assert ends.link.passed(UP) == 0
        assert len(ends.link._pipes[UP].buffer) <= CAPACITY


def test_who_does_not_read_makes_who_sends_wait_and_the_proxy_holds_little() -> None:
    with linked() as ends:
        sent = send_until_it_waits(ends.near)
        assert len(ends.link._pipes[UP].buffer) <= CAPACITY
        assert len(read_exactly(ends.far, sent)) == sent


@pytest.mark.parametrize("way", [UP, DOWN])
def test_a_reset_by_an_end_is_passed_on(way: Way) -> None:
    with linked() as ends:
        sender, receiver = ends.both(way)
        reset(sender)
        assert kind_of_end(receiver) == "reset"
        wait_until(lambda: ends.link.over)
        assert ends.link.was_reset()


def test_a_target_that_refuses_resets_the_link() -> None:
    with raw_listener() as listener:
        address = listener.getsockname()
    with FaultProxy() as proxy:
        route = proxy.route(address)
        with contextlib.suppress(ConnectionResetError):  # which may come that soon
            with socket.create_connection(route.address, PATIENCE) as sock:
                assert kind_of_end(sock) == "reset"
        wait_until(lambda: proxy.open_links == 0)
        assert proxy.counts["reset since the target refused"] == 1


def test_a_cut_link_whose_ends_do_not_close_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.proxy.FAREWELL", 0.05)
    with linked(Fault(Kind.CUT, UP)) as ends:
        wait_until(lambda: ends.link.over)
        assert what(ends.link)[-1] == "reset after a cut"


def test_each_link_has_its_own_plan_and_a_closed_route_takes_nobody() -> None:
    plans: dict[int, Sequence[Fault]] = {1: [Fault(Kind.CUT, UP)]}
    with FaultProxy() as proxy, raw_listener() as listener:
        route = proxy.route(listener.getsockname(), lambda number: plans.get(number, ()))
        for number in range(3):
            with socket.create_connection(route.address, PATIENCE) as sock, listener.accept()[0] as far:
                sock.sendall(b"x")
                assert far.recv(1) == (b"" if number == 1 else b"x")
        assert [link.number for link in route.links] == [0, 1, 2]
        route.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(route.address, PATIENCE)
        assert proxy.counts["connected"] == 3
        assert proxy.counts["cut"] == 1


def test_more_links_than_allowed_are_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.proxy.MOST_LINKS", 1)
    with linked() as ends:
        with contextlib.suppress(ConnectionResetError):  # which may come that soon
            with socket.create_connection(ends.near.getpeername(), PATIENCE) as another:
                assert kind_of_end(another) == "reset"
        ends.near.sendall(b"x")
        assert ends.far.recv(1) == b"x"


def test_closing_resets_what_is_left_and_leaves_nothing() -> None:
    before = open_descriptors()
    with linked() as ends:
        pass
    assert what(ends.link)[-1] in ("closed by its ends", "reset by closing the proxy", "reset by an end")
    proxy = FaultProxy()
    proxy.close()
    proxy.close()
    assert not proxy.running
    assert open_descriptors() == before


def test_it_stops_by_itself() -> None:
    with FaultProxy(lifetime=0.05) as proxy:
        wait_until(lambda: not proxy.running)


def test_random_faults_are_the_same_for_the_same_seed() -> None:
    plans = [random_faults(random.Random(seed), (1000, 100), Kind.CUT) for seed in [1, 1, *range(2, 50)]]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]
    for plan in plans:
        assert [fault.kind for fault in plan if fault.kind in ENDINGS] == [Kind.CUT]
        assert all(0 <= fault.at < (1000 if fault.way == UP else 100) for fault in plan)
    assert {fault.kind for plan in plans for fault in plan} == {Kind.DELAY, Kind.STALL, Kind.SPLIT, Kind.CUT}
