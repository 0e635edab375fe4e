"""The watch that every test stands under (conftest.py) sees what it is there for."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from .support.leftovers import OURS, OpenSockets, left_threads
from .support.programs import running_program
from .support.waiting import PATIENCE, Gate

every_way_to_look = pytest.mark.parametrize("where", ["/proc/self/fd", "/nowhere"], ids=["listed", "objects"])
needs_list = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the system lists no descriptors")


def epoll() -> int:
    with select.epoll() as poller:
        return os.dup(poller.fileno())


def looking(where: str) -> OpenSockets:
    return OpenSockets(Path(where))


@every_way_to_look
def test_an_open_socket_is_seen_until_it_is_closed(where: str) -> None:
    watch = looking(where)
    with socket.socket() as sock:
        (what,) = watch.new()
        assert f"descriptor {sock.fileno()}" in what
    assert watch.new() == []


@every_way_to_look
def test_what_was_open_before_does_not_count(where: str) -> None:
    with socket.socket():
        assert looking(where).new() == []


@every_way_to_look
def test_a_socket_that_only_a_cycle_holds_does_not_count(where: str) -> None:
    watch = looking(where)
    held: list[object] = [socket.socket()]
    held.append(held)
    del held
    with pytest.warns(ResourceWarning):  # says the socket, as it is collected
        assert watch.new() == []


@needs_list
@pytest.mark.parametrize(
    "opened",
    [
        lambda: socket.socket().detach(),
        epoll,
        lambda: os.eventfd(0) if hasattr(os, "eventfd") else socket.socket().detach(),
    ],
    ids=["socket", "epoll", "eventfd"],
)
def test_a_descriptor_that_no_object_owns_is_seen(opened: Callable[[], int]) -> None:
    watch = OpenSockets()
    descriptor = opened()
    try:
        assert len(watch.new()) == 1
    finally:
        os.close(descriptor)
    assert watch.new() == []


@needs_list
def test_a_socket_in_the_place_of_another_is_seen() -> None:
    first = socket.socket()
    watch = OpenSockets()
    number = first.fileno()
    first.close()
    with socket.socket() as second:
        assert second.fileno() == number
        assert len(watch.new()) == 1


def test_a_thread_of_ours_is_seen_until_it_ended_and_others_are_not() -> None:
    gate = Gate()
    ours = threading.Thread(target=gate, name=f"{OURS}test", daemon=True)
    other = threading.Thread(target=gate, name="test", daemon=True)
    for thread in (ours, other):
        thread.start()
    assert left_threads(0.0) == [ours]
    gate.open()
    assert left_threads(PATIENCE) == []
    other.join(PATIENCE)


def test_a_thread_that_another_one_starts_at_its_end_has_its_time_too() -> None:
    gates = Gate(), Gate()
    second = threading.Thread(target=gates[1], name=f"{OURS}second", daemon=True)

    def start_second() -> None:
        gates[0]()
        second.start()

    threading.Thread(target=start_second, name=f"{OURS}first", daemon=True).start()
    openers = [threading.Timer(0.02 * number, gate.open) for number, gate in enumerate(gates, 1)]  # during the watch
    for opener in openers:
        opener.start()
    assert left_threads(PATIENCE) == []
    assert not second.is_alive()
    for opener in openers:
        opener.join(PATIENCE)


def test_a_test_that_leaves_something_behind_fails(tmp_path: Path) -> None:
    """The fixture itself, in a run of its own."""
    leaky = tmp_path / "test_leaky.py"
    leaky.write_text(_LEAKY, encoding="utf-8")
    command = f"import pytest\nraise SystemExit(pytest.main(['-q', '-p', 'no:cacheprovider', {str(leaky)!r}]))"
    with running_program(command) as program:
        assert program.wait_end() == 1, program
        output = "".join(program.lines)
    assert "3 passed, 2 errors" in output, output
    for name in ("test_socket", "test_thread"):
        assert f"ERROR at teardown of {name} " in output, output


_LEAKY = """
import socket, threading
from tests import conftest
from tests.conftest import _nothing_left_behind

conftest.PATIENCE = 0.01
kept = []

def test_socket():
    kept.append(socket.socket())

def test_nothing():
    pass

def test_thread():
    kept.append(threading.Event())
    threading.Thread(target=kept[-1].wait, name="simplesockets-left", daemon=True).start()
"""
