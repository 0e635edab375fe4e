"""Every test: no thread and no socket of ours may be left behind. And clients to test with."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
from collections.abc import Iterator

import pytest

from simplesockets import TCPClient

from .support.clients import Peer
from .support.running import HOST, raw_listener
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


@pytest.fixture
def peer() -> Iterator[Peer]:
    with raw_listener() as listener:
        peer = Peer(listener)
        yield peer
        for sock in peer.accepted:
            sock.close()


@pytest.fixture
def client(peer: Peer) -> Iterator[TCPClient]:
    """A client that is set up to connect to the peer. At the end the peer closes first, so that nobody waits."""
    client = TCPClient()
    client.setup(HOST, peer.port)
    yield client
    for sock in peer.accepted:
        sock.close()
    client.close()


@pytest.fixture
def sock(peer: Peer, client: TCPClient) -> socket.socket:
    """The peer's socket of that client, now connected."""
    assert client.connect(), client.return_exceptions()
    return peer.accept()


@pytest.fixture
def bare() -> Iterator[TCPClient]:
    """A client that is not set up."""
    with contextlib.closing(TCPClient()) as client:
        yield client
