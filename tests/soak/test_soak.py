"""Twenty seconds of the soak; ``python -m tests.soak`` by hand takes longer, with more clients."""

from __future__ import annotations

import logging
import time

import pytest

from ..faults.records import Trail
from .__main__ import main
from .soak import KINDS, Account, Figures, Soak, Visit

SECONDS = 20.0
CLIENTS = 30


def test_nothing_is_lost_and_nothing_stays() -> None:
    account = Soak(CLIENTS, SECONDS, seed=5).run()
    assert not account.violations, str(account)
    total = account.total
    assert total.violated == 0
    assert all(account.by_kind[kind].returned > 0 for kind in KINDS), str(account)
    assert total.cut > 0
    assert total.sent == total.returned + total.unacknowledged
    assert account.stages["after"].ours == 0
    assert account.faults["connected"] >= CLIENTS


def trail(*numbers: int) -> Trail:
    made = Trail()
    for number in numbers:
        made.note(number)
    return made


@pytest.mark.parametrize(
    ("received", "returned", "complete", "expected"),
    [
        ((0, 1, 2), (0, 1, 2), True, {}),
        ((0, 1), (0,), False, {"unacknowledged": 2}),
        ((0, 2), (0, 2), False, {"lost": 2}),
        ((0, 1), (0, 1), True, {"lost": 1, "unacknowledged": 1}),
        ((0,), (0, 1), False, {"lost": 1, "unacknowledged": 1}),
        ((0, 1, 1, 2), (0, 1, 2), True, {"repeated": 1}),
        ((0, 2, 1), (0, 1, 2), True, {"reordered": 1}),
    ],
)
def test_what_is_missing_repeated_or_late_is_counted(
    received: tuple[int, ...], returned: tuple[int, ...], complete: bool, expected: dict[str, int]
) -> None:
    soak = Soak(1, 1.0)
    service = Deaf(received)
    soak.services = {"raw": service}  # type: ignore[dict-item]
    soak.settle(Visit("raw", 1, trail(*returned), 3, True, complete, None, time.monotonic()))
    figures = soak.account.by_kind["raw"]
    counted = ("lost", "repeated", "reordered", "unacknowledged")
    assert {name: getattr(figures, name) for name in counted if getattr(figures, name)} == expected
    assert bool(soak.account.violations) == bool(figures.violated)


class Deaf:
    """A service that got this, and nothing else."""

    def __init__(self, numbers: tuple[int, ...]) -> None:
        self.ledger = self
        self._trail = trail(*numbers)

    def take(self, session: int) -> Trail:
        return self._trail


def test_the_account_is_a_table() -> None:
    account = Account(10, 1)
    account.by_kind["hpx"].add(Figures(connections=3, sent=70, returned=60, unacknowledged=10))
    lines = str(account).splitlines()
    assert lines[1].split() == list(vars(Figures()))
    assert lines[2 + KINDS.index("hpx")].split() == ["hpx", "3", "0", "0", "70", "0", "60", "10", "0", "0", "0", "0"]
    assert lines[-1] == "  no violation"


def test_the_command_says_how_it_went(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["--minutes", "0.02", "--clients", "10"])
    finally:
        logging.disable(logging.NOTSET)
    told = capsys.readouterr().out
    assert "10 clients for" in told
    assert code == ("VIOLATION" in told)
