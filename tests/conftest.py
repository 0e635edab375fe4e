"""Every test: no thread and no socket of ours may be left behind."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Iterator

import pytest

from .support.waiting import PATIENCE


def _our_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("simplesockets-")]


def _open_sockets() -> set[int]:
    return {id(thing) for thing in gc.get_objects() if isinstance(thing, socket.socket) and thing.fileno() >= 0}


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    sockets_before = _open_sockets()
    yield
    for thread in _our_threads():
        thread.join(PATIENCE)
    left = _our_threads()
    assert not left, f"threads left behind: {left}"
    opened = _open_sockets() - sockets_before
    if opened:
        gc.collect()
        opened = _open_sockets() - sockets_before
    assert not opened, f"{len(opened)} sockets left open"
