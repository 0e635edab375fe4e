"""Connections that are cut in the middle of transfers: a few here, many by ``python -m tests.faults``."""

from __future__ import annotations

import itertools
import logging
from functools import partial

import pytest

from .__main__ import main
from .cuts import Run
from .layers import LAYERS, Layer, TCPService, framed
from .records import HEAD, MOST, Damaged, Ledger, Records, Trail, read_record, record

CUTS = 25


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("name", LAYERS)
def test_what_was_acknowledged_is_there_and_nobody_else_suffers(name: str, tls: bool) -> None:
    with Run(LAYERS[name], tls, seed=7) as run:
        run.cut(CUTS, samples=20)
    account = run.account
    assert not account.violations, str(account)
    assert CUTS <= account.cuts < CUTS + 5
    assert 0 < account.returned <= account.received <= account.sent
    assert set(account.kinds) == {"cut", "half-close", "reset"}


class Forgetful(TCPService):
    """Does to some records what it was told to."""

    def __init__(self, tls: bool, what: str) -> None:
        super().__init__(tls, protocol=framed)
        self._what = what
        self._numbers = itertools.count(1)

    def _receive(self, client: object, address: object, data: bytes) -> None:
        if next(self._numbers) % 50 == 0:
            if self._what == "lose":
                self.ledger.note = lambda session, number: None  # type: ignore[method-assign]
            elif self._what == "repeat":
                super()._receive(client, address, data)
            elif self._what == "damage":
                data = data[:HEAD] + data[HEAD:].upper() + b"!"
        super()._receive(client, address, data)
        self.ledger.__dict__.pop("note", None)


class Negligent(TCPService):
    """Keeps a client."""

    def present(self) -> int:
        return super().present() + 1


@pytest.mark.parametrize(
    ("serve", "found"),
    [
        (partial(Forgetful, what="lose"), "lost"),
        (partial(Forgetful, what="repeat"), "repeated"),
        (partial(Forgetful, what="damage"), "record"),
        (partial(Negligent, protocol=framed), "clients that the server keeps"),
    ],
)
def test_a_server_that_does_wrong_is_found_out(
    serve: partial[TCPService], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.faults.cuts.LONGEST", 0.5)
    monkeypatch.setattr("tests.faults.cuts.ENOUGH", 1)
    right = LAYERS["framed"]
    with Run(Layer("wrong", serve, right.flow, right.wire_size), False, seed=1) as run:
        run.cut(100, samples=5)
    assert any(found in violation for violation in run.account.violations), run.account


def test_the_command_tells_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert main(["--layer", "raw", "--cuts", "5", "--seed", "3"]) == 0
    finally:
        logging.disable(logging.NOTSET)
    told = capsys.readouterr().out
    assert "raw, seed 3: 5 connections cut" in told
    assert "nothing lost, repeated, reordered, left" in told


# ------------------------------------------------------------------------------------------------------ records


@pytest.mark.parametrize("size", [0, 1, 5000, MOST])
def test_records_say_who_they_are_in_any_split(size: int) -> None:
    whole = record(7, 3, size)
    assert len(whole) == HEAD + size
    assert whole.isascii()
    assert read_record(whole) == (7, 3)
    stream = whole + record(7, 4, 10)
    step = max(1, len(stream) // 50)
    reader = Records()
    pieces = [stream[place : place + step] for place in range(0, len(stream), step)]
    assert [found for piece in pieces for found in reader.feed(piece)] == [(7, 3), (7, 4)]


@pytest.mark.parametrize(
    "spoil", [lambda r: r[:-1], lambda r: r + b"x", lambda r: r[:40] + b"#" + r[41:], lambda r: b"z" + r]
)
def test_a_damaged_record_is_noticed(spoil: object) -> None:
    ledger = Ledger()
    spoiled = spoil(record(1, 2, 100))  # type: ignore[operator]
    with pytest.raises(Damaged):
        read_record(spoiled)
    ledger.read(spoiled)
    assert len(ledger.damaged) == 1
    assert ledger.received(1) == 0


@pytest.mark.parametrize(
    ("numbers", "faults"),
    [
        ([0, 1, 2], []),
        ([0, 2, 3], ["1 lost"]),
        ([1, 2], ["1 lost"]),
        ([0, 1, 1], ["1 repeated"]),
        ([0, 2, 1], ["1 out of order"]),
        ([0, 3, 1, 1], ["1 lost", "1 repeated", "1 out of order"]),
    ],
)
def test_a_trail_tells_lost_repeated_and_late(numbers: list[int], faults: list[str]) -> None:
    trail = Trail()
    for number in numbers:
        trail.note(number)
    assert trail.faults() == faults
    assert trail.received == len(numbers)
    assert trail.next == max(numbers) + 1
