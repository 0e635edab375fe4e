"""Every test: no thread and no socket of ours may be left behind. And clients to test with."""

from __future__ import annotations

import compileall
import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

from simplesockets import TCPClient, server

from .support.clients import Peer
from .support.leftovers import OpenSockets, left_threads
from .support.redis import RedisServer, running_redis
from .support.running import HOST, raw_listener
from .support.waiting import PATIENCE


def pytest_sessionstart() -> None:
    """Compile once: hundreds of tests start programs, which would all do it where PYTHONDONTWRITEBYTECODE is set."""
    root = pathlib.Path(__file__).parents[1]
    for package in (root / "simplesockets", root / "tests"):
        compileall.compile_dir(package, quiet=2)


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    sockets = OpenSockets()
    yield
    threads = left_threads(PATIENCE)
    assert not threads, f"threads left behind: {threads}"
    opened = sockets.new()
    assert not opened, f"left open: {'; '.join(opened)}"


@pytest.fixture(params=["threads", "pool"])
def either_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """For modules whose tests have to pass on both engines: servers that name none get this one."""
    engine: str = request.param
    if engine != "threads" and request.node.get_closest_marker("own_threads"):
        pytest.skip("about the threads that clients have")
    monkeypatch.setitem(server.ENGINES, "threads", server.ENGINES[engine])
    return engine


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


@pytest.fixture(scope="session")
def _redis_server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def redis_server(_redis_server: RedisServer) -> RedisServer:
    """A Redis server that runs and is empty. The tests of a run share one; the next test finds it running again."""
    if not _redis_server.running:
        _redis_server.start()
    _redis_server.command("FLUSHALL")
    return _redis_server


@pytest.fixture(scope="session")
def screen() -> Iterator[str]:
    """A display of an X server without a screen."""
    program = shutil.which("Xvfb")
    if program is None:
        pytest.skip("Xvfb is not installed: apt-get install xvfb")
    reading, writing = os.pipe()
    command = [program, "-displayfd", str(writing), "-screen", "0", "640x480x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL) as server:
        os.close(writing)
        with open(reading) as told:
            number = told.readline().strip()  # it ends, or says which display it has
        yield f":{number}"
        server.terminate()
