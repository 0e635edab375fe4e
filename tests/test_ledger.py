"""The records of what was counted, the sum of it, rates and ranks."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from simplesockets import TCPServer
from simplesockets.connection import Connection
from simplesockets.mailbox import Bell, Mailbox
from simplesockets.protocol import RawProtocol
from simplesockets.stats import Busiest, ClientStats, Counts, Ledger, Rates, Snapshot, Stats, Tally

from .support.clients import in_thread
from .support.streams import LATER, ScriptedStream
from .support.waiting import Gate, is_held


def test_nobody_leaves_while_somebody_adds_up_and_who_leaves_does_so_once() -> None:
    ledger, gate, stream = Ledger(), Gate(), ScriptedStream(b"abc", LATER)
    connection = Connection(stream, RawProtocol(), Mailbox(Bell()), 2048)
    connection.enter(ledger)
    connection.step()

    class Slow:
        def counts(self) -> Counts:
            gate.arrive()
            return Counts(bytes_in=1)

    ledger.enter(Slow())
    adder, results = in_thread(ledger.add_up)
    gate.wait_arrived()
    assert is_held(ledger._lock)
    leaver, _ = in_thread(connection.close)
    gate.open()
    adder.join()
    leaver.join()
    connection.close()
    for tally in (*results, ledger.add_up()):
        assert isinstance(tally, Tally)
        assert tally.counts == Counts(4, 0, 1, 0)


class Passing:
    def __init__(self) -> None:
        self.passed = Counts()

    def counts(self) -> Counts:
        return self.passed


def test_rates_are_of_the_last_seconds() -> None:
    now = [100.0]
    ledger, passing = Ledger(lambda: now[0]), Passing()
    assert ledger.add_up().rates == Rates()
    ledger.enter(passing)
    for second in range(1, 21):
        now[0] += 1.0
        passing.passed = Counts(*(10 * second * each for each in (1, 2, 3, 4)))
        rates = ledger.add_up().rates
        assert rates.seconds == min(second, 5.0)
        assert (rates.bytes_in, rates.bytes_out, rates.messages_in, rates.messages_out) == (10, 20, 30, 40)
    assert rates.connections == 0
    now[0] += 5.0
    quiet = ledger.add_up().rates
    assert (quiet.seconds, quiet.bytes_in) == (5.0, 0)
    now[0] += 1000.0  # nobody asked: then it is all of that time, and says so
    assert ledger.add_up().rates.seconds == 1000.0


def test_asking_without_pause_keeps_few_samples() -> None:
    now = [0.0]
    ledger = Ledger(lambda: now[0])
    for _ in range(10_000):
        now[0] += 0.001
        ledger.add_up()
    assert len(ledger._samples) <= 12


def sample(**changes: Any) -> Snapshot:
    numbers = {each.name: 1 for each in dataclasses.fields(Stats)}
    stats = Stats(**{**numbers, "rates": Rates(1, 2, 3, 4, 5, 6), "commands": {"greet": 3}, **changes})
    return Snapshot("TCPServer 127.0.0.1:1", stats, (ClientStats("127.0.0.1:2", 1, 2, 3, 4, 0.5),))


def test_a_snapshot_goes_through_json() -> None:
    snapshot = sample()
    assert Snapshot.from_dict(json.loads(json.dumps(snapshot.as_dict()))) == snapshot


def test_records_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample().stats.errors = 2  # type: ignore[misc]
    assert not hasattr(sample().stats, "__dict__")
    assert hash(sample().stats) == hash(sample().stats)


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda given: given["stats"].pop(name)


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "no title": lambda given: given.pop("title"),
    "no clients": lambda given: given.pop("clients"),
    "no client": lambda given: given.update(clients=["x"]),
    "nameless client": lambda given: given["clients"][0].pop("client"),
    "no stats": lambda given: given.update(stats=None),
    "no errors": without("errors"),
    "no rates": without("rates"),
    "no commands": without("commands"),
    "text": lambda given: given["stats"].update(errors="1"),
    "boolean": lambda given: given["stats"].update(errors=True),
    "not a number": lambda given: given["stats"].update(since=float("nan")),
    "without end": lambda given: given["stats"]["rates"].update(bytes_in=float("inf")),
    "too much": lambda given: given["stats"].update(bytes_in=10**400),
    "odd commands": lambda given: given["stats"].update(commands={"x": "y"}),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_is_no_snapshot_is_refused(wrong: Callable[[dict[str, Any]], object]) -> None:
    given = json.loads(json.dumps(sample().as_dict()))
    wrong(given)
    with pytest.raises(ValueError, match=r"no statistics|no snapshot|should be a dictionary"):
        Snapshot.from_dict(given)


def test_the_busiest_are_those_of_now() -> None:
    busiest = Busiest()

    def look(now: float, *numbers: int) -> list[tuple[str, float]]:
        clients = [ClientStats(f"c{place}", number, 0, 0, 0) for place, number in enumerate(numbers)]
        return [(each.client, each.rate) for each in busiest.look(clients, 2, now)]

    assert look(0.0, 5, 1000, 7) == [("c1", 0.0), ("c2", 0.0)]
    assert look(2.0, 105, 1000, 9) == [("c0", 50.0), ("c2", 1.0)]
    assert look(3.0, 40, 1000, 9) == [("c0", 40.0), ("c1", 0.0)]  # another client, with the same address


def test_since_tells_when_it_began() -> None:
    before = time.time()
    stats = TCPServer().stats()
    assert before <= stats.since <= stats.time <= time.time()
