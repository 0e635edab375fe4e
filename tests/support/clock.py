"""A clock of the test's for connections."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from simplesockets import connection, hotpath
from simplesockets.connection import Connection


def have_connections_use(now: Callable[[], float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have connections take this for ``time.perf_counter()``."""
    monkeypatch.setattr(connection, "_now", now)
    monkeypatch.setattr(hotpath, "_now", now)
    monkeypatch.setattr(Connection, "step", Connection._step_in_full)  # the compiled one asks the system
