"""Half-open connections delay nobody: some here, thousands by ``python -m tests.faults --crowd 2000``."""

from __future__ import annotations

import pytest

from .crowds import NEWCOMERS, bear


@pytest.mark.parametrize(("name", "tls"), [("framed", False), ("hisock", False), ("hpx", False), ("hisock", True)])
def test_a_crowd_of_half_open_connections_delays_nobody(name: str, tls: bool) -> None:
    account = bear(name, tls, count=200, samples=30)
    assert not account.violations, str(account)
    assert len(account.before) >= 30
    assert len(account.there) >= 30
    assert len(account.new_there) == NEWCOMERS
    if not tls:  # who has not shaken hands is not shown
        assert any(line.startswith("known: ") for line in account.told)
