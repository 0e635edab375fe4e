"""The lead, the pool and the crew, in interleavings that nobody would meet in years, forced."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from simplesockets import leader

from .support.running import raw_client, read_exactly, running_server
from .support.waiting import Gate, wait_until
from .test_leader import park, talk

pytestmark = pytest.mark.skipif(not leader.AVAILABLE, reason="nothing is parked without epoll and eventfd")


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
