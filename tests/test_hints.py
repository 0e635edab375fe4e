"""Hints that would be wrong are not given: programs that are right are told nothing."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from simplesockets import TCPClient, TCPServer, hints

from .support.running import HOST, raw_client, running_server
from .support.waiting import wait_until

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that hints go by; a list of one, to be changed."""
    time = [100.0]

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return time[0]

    monkeypatch.setattr(hints, "time", Clock)
    return time


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# ------------------------------------------------------------------------------------------------ while it polls


class Waiting:
    """Something for which a program waits."""

    def __init__(self) -> None:
        self.lacks: str | None = "something is missing"

    def missing(self) -> str | None:
        return self.lacks


@pytest.mark.parametrize(
    ("looks", "count"),
    [
        ([0.1 * number for number in range(12)], 1),
        ([0.1 * number for number in range(100)], 1),  # once is enough
        ([0.1 * number for number in range(9)], 0),
        ([5.0 * number for number in range(12)], 0),  # it works, and looks now and then
    ],
)
def test_only_who_does_nothing_but_wait_is_told(
    clock: list[float], caplog: pytest.LogCaptureFixture, looks: list[float], count: int
) -> None:
    waiting = Waiting()
    look = hints.Forgotten(waiting.missing)
    for each in looks:
        clock[0] = 100 + each
        look()
    assert told(caplog) == ["the program waits for data, but something is missing"] * count


def test_waiting_begins_anew_when_nothing_was_missing(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    waiting = Waiting()
    look = hints.Forgotten(waiting.missing)
    for number in range(15):
        waiting.lacks = None if number == 7 else "something is missing"
        clock[0] += 0.1
        look()
    assert told(caplog) == []


def test_a_client_that_tried_to_connect_lacks_nothing() -> None:
    with running_server() as server:
        address = server.address
    client = TCPClient()
    client.setup(*address)
    assert "call connect()" in str(client._missing())
    assert not client.connect()  # and that was logged; the program may try again whenever it wants to
    assert client._missing() is None
    client.close()


# ------------------------------------------------------------------------------------------------ at its beginning


def test_a_server_may_equal_others_and_have_no_hash() -> None:
    @dataclasses.dataclass
    class Named(TCPServer):
        name: str

        def __post_init__(self) -> None:
            super().__init__()

    server = Named("mine")
    server.setup(ip=HOST, port=0)
    with server, raw_client(server):
        wait_until(lambda: server.clients)


def test_a_misspelt_callback_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    class Client(TCPClient):
        def on_recieve(self, data: bytes) -> None: ...

    client = Client()
    with running_server() as server:
        for _ in range(3):
            client.setup(*server.address)
            assert client.connect()
            client.close()
    (line,) = told(caplog)
    assert line.startswith("on_recieve of ")


def test_a_name_beside_the_callback_that_it_is_like_is_the_programs_own(caplog: pytest.LogCaptureFixture) -> None:
    class Server(TCPServer):
        def on_connected(self, address: Any) -> None: ...

    server = Server()
    server.setup(ip=HOST, port=0, on_connect=server.on_connected)
    with server:
        assert told(caplog) == []


def test_names_that_are_no_callbacks_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def compare(name: str, names: Any, *_: object) -> list[str]:
        compared.append(name)
        return []

    monkeypatch.setattr(difflib, "get_close_matches", compare)
    hints.warn_of_misspelt(["on_data", "send_data", "on_connect"], {"on_connect": None}, object(), set())
    assert compared == ["on_data"]


# ------------------------------------------------------------------------------------------------------ at its end

BEGIN = """
import os, sys
from simplesockets import TCPClient, TCPServer
server = TCPServer()
server.setup(ip="127.0.0.1", port=0, on_receive=lambda client, address, data: client.send(data))
server.start()
def talk():
    client = TCPClient()
    client.setup(*server.address)
    assert client.connect() and client.send_data("hello") and client.recv_data(timeout=20)
    client.close()
"""


@pytest.mark.parametrize(
    "end",
    [
        pytest.param("talk(); server.stop(); server.start()", id="it paused, later"),
        pytest.param("talk(); server.serve_stats()", id="nobody watches it"),
        pytest.param(
            "if not os.fork(): sys.exit()\nos.wait(); server.close()",
            id="it is another process's",
            marks=pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()"),
        ),
    ],
)
def test_the_end_is_no_mistake(end: str) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", BEGIN + end]  # Python advises against fork()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


@pytest.mark.parametrize(("after", "count"), [(0.5, 1), (60.0, 0)])
def test_a_program_that_ran_for_a_while_knows_how_to(
    clock: list[float], caplog: pytest.LogCaptureFixture, after: float, count: int
) -> None:
    with running_server():
        clock[0] += after
        hints._tell_at_the_end()
    assert len(told(caplog)) == count
    hints._tell_at_the_end()  # it was closed
    assert len(told(caplog)) == count


def test_a_server_that_nobody_has_is_not_kept(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    class Gone:
        pass

    gone = Gone()
    hints.expect_clients(gone)
    number = id(gone)
    del gone
    hints._tell_at_the_end()
    hints._waiting.pop(number)
    assert told(caplog) == []
