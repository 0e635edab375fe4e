"""Servers of several processes: real ones, each ended by the test that started it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import Any

import pytest

from simplesockets import (
    BindError,
    LifecycleError,
    SecureServer,
    SetupError,
    TCPServer,
    WorkerError,
    transport,
    workers,
)

from .support import certificates, worker_callbacks
from .support.programs import LIFETIME, OURS, has_ipv6
from .support.running import HOST, is_refused, open_descriptors, running_server
from .support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.skipif(not transport.CAN_SHARE, reason="this system cannot share a port")

MANY = 24
"""So many connections do not all come to one of two workers, but once in some million runs."""
A_WHILE = 0.3
"""Seconds without an answer after which a test believes that there is none."""


@pytest.fixture(autouse=True, scope="module")
def _tracker() -> None:
    resource_tracker.ensure_running()  # it stays, so that descriptors and children can be counted


@pytest.fixture(autouse=True)
def _no_main_file(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each worker would import pytest's own main file, and pytest with it, which takes longer than all the rest.
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)


class Talk:
    """A client of the workers' that talks in lines."""

    def __init__(self, address: tuple[str, int], *, tls: ssl.SSLContext | None = None) -> None:
        self.sock = socket.create_connection(address, timeout=PATIENCE)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        self._kept = b""

    def say(self, text: str) -> None:
        self.sock.sendall(text.encode() + b"\n")

    def hear(self) -> str:
        while b"\n" not in self._kept:
            part = self.sock.recv(1000)
            if not part:
                raise EOFError
            self._kept += part
        line, _, self._kept = self._kept.partition(b"\n")
        return line.decode()

    def ask(self, text: str) -> str:
        self.say(text)
        return self.hear()

    def hears_nothing(self) -> bool:
        self.sock.settimeout(A_WHILE)
        try:
            return not self.hear()
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(PATIENCE)


Connect = Callable[..., Talk]


@pytest.fixture
def connect() -> Iterator[Connect]:
    with contextlib.ExitStack() as stack:

        def made(server: TCPServer, **how: Any) -> Talk:
            talk = Talk(server.address, **how)
            stack.enter_context(talk.sock)
            return talk

        yield made


def working(
    count: int = 1, max_connections: int | None = None, **setup: Any
) -> contextlib.AbstractContextManager[TCPServer]:
    setup = {"on_receive": worker_callbacks.obey, "protocol": worker_callbacks.lines, **setup}
    return running_server(max_connections, workers=count, **setup)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError):  # who ended and whose parent is gone may lie there for a moment
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def system_table() -> Iterator[tuple[int, str, int, int]]:
    """All processes, where the system tells: their number, state, parent and group."""
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended in this moment
            state, parent, group = stat.read_text().rpartition(")")[2].split()[:3]
            yield int(stat.parent.name), state, int(parent), int(group)


def children() -> set[int]:
    """The children of this process; those that ended and nobody waited for among them."""
    return {pid for pid, _, parent, _ in system_table() if parent == os.getpid()}


# ------------------------------------------------------------------------------------------------------ serving


def test_all_connections_are_served_by_more_than_one_process(connect: Connect) -> None:
    with working(2, on_connect=worker_callbacks.greet) as server:
        talks = [connect(server) for _ in range(MANY)]
        greeted = [talk.hear() for talk in talks]
        assert [talk.ask("pid") for talk in talks] == greeted
        assert len({*greeted}) == 2
        assert str(os.getpid()) not in greeted
        assert "2 workers" in repr(server)


def test_every_address_has_the_same_port_and_all_workers(connect: Connect) -> None:
    if not has_ipv6():
        pytest.skip("no IPv6 here")
    with working(2, ip=[HOST, "::1"]) as server:
        (_, port), (_, same_port) = server.addresses
        assert port == same_port
        for host in (HOST, "::1"):
            found = set()
            for _ in range(MANY):
                talk = Talk((host, port))
                found.add(talk.ask("pid"))
                talk.sock.close()
            assert len(found) == 2


def test_handle_client_needs_no_on_receive() -> None:
    with running_server(workers=1, handle_client=worker_callbacks.upper) as server:
        with socket.create_connection(server.address, timeout=PATIENCE) as sock:
            sock.sendall(b"quiet")
            assert sock.recv(100) == b"QUIET"
            assert sock.recv(100) == b""


@pytest.mark.parametrize("how", ["files", "factory"])
def test_tls(connect: Connect, how: str) -> None:
    server = SecureServer() if how == "files" else TCPServer()
    given: dict[str, Any] = (
        {"certfile": certificates.SERVER} if how == "files" else {"ssl_context": worker_callbacks.context}
    )
    server.setup(HOST, 0, on_receive=worker_callbacks.obey, protocol=worker_callbacks.lines, workers=1, **given)
    with server:
        assert connect(server, tls=certificates.client_side()).ask("hello") == "hello"


def test_stop_and_start_and_exit_accept_and_restart_reach_every_worker(connect: Connect) -> None:
    with working(2) as server:
        served = connect(server)
        assert served.ask("before") == "before"

        def resume() -> None:
            if server.killed:
                server.restart()
            server.start()

        for pause in (server.stop, server.exit_accept):
            pause()
            assert not server.event.accepting_thread.run
            waiting = [connect(server) for _ in range(MANY)]
            for talk in waiting:
                talk.say("hello")
            assert all(talk.hears_nothing() for talk in waiting[:2])
            assert served.ask("meanwhile") == "meanwhile"
            resume()
            assert [talk.hear() for talk in waiting] == ["hello"] * MANY
            for talk in waiting:
                talk.sock.close()
        assert not server.killed


def test_nobody_is_accepted_before_start(connect: Connect) -> None:
    with working(2, start=False) as server:
        before = children()
        talk = connect(server)
        talk.say("hello")
        server.stop()
        assert children() == before  # no process before it is needed
        server.start()
        assert talk.hear() == "hello"


def test_max_connections_holds_for_all_workers_together(connect: Connect) -> None:
    with working(2, max_connections=2) as server:
        talks = [connect(server) for _ in range(MANY)]
        for talk in talks:
            talk.say("hello")
        served: set[int] = set()

        def answers() -> int:
            for number, talk in enumerate(talks):
                with contextlib.suppress(TimeoutError):
                    talk.sock.settimeout(0.01)
                    if number not in served and talk.hear():
                        served.add(number)
            return len(served)

        wait_until(lambda: answers() == 2)
        assert answers() == 2
        with pytest.raises(ValueError, match="at least 2"):
            server.max_connections = 1
        server.max_connections = None
        wait_until(lambda: answers() == MANY)


def test_every_worker_has_the_limits(connect: Connect) -> None:
    with working(max_per_address=1, idle_timeout=1.0, send_timeout=1.0) as server:
        talk = connect(server)
        talk.say("hello")
        assert talk.hear() == "hello"
        assert is_refused(server.address)
        with pytest.raises(LifecycleError, match="worker"):
            assert server.refused
        assert talk.sock.recv(1) == b""  # it was idle
        talk.sock.close()
        wait_until(lambda: not is_refused(server.address), "its place")


@pytest.mark.parametrize(("limit", "count"), [(None, 3), (3, 3), (7, 3), (8, 3), (100, 7)])
def test_a_limit_is_divided_evenly(limit: int | None, count: int) -> None:
    shares = [workers.Place(number, count).share(limit) for number in range(1, count + 1)]
    if limit is None:
        assert shares == [None] * count
    else:
        known = [share for share in shares if share is not None]
        assert sum(known) == limit
        assert max(known) - min(known) <= 1


# ------------------------------------------------------------------------------------------------------- deaths


def test_a_worker_that_dies_is_replaced_and_the_others_serve_on(connect: Connect) -> None:
    with working(2) as server:
        by_process = {(talk := connect(server)).ask("pid"): talk for _ in range(MANY)}
        (dying, victim), (living, witness) = by_process.items()
        victim.say("die")
        with pytest.raises((EOFError, ConnectionResetError)):
            victim.hear()
        assert witness.ask("pid") == living
        found = set()

        def has_another() -> bool:
            talk = connect(server)
            found.add(talk.ask("pid"))  # nobody is refused meanwhile, nor forgotten
            talk.sock.close()
            return len(found - {dying}) == 2

        wait_until(has_another)
        assert dying not in found
        assert server.event.exception.occurred
        (record,) = server.return_exceptions()
        assert isinstance(record.exception, WorkerError)
        assert record.exception.pid == int(dying)
        assert "SIGKILL" in str(record.exception)


def test_who_waits_to_be_accepted_by_a_worker_that_dies_is_accepted_by_the_next(connect: Connect) -> None:
    with working(1) as server:
        accepted = connect(server)
        pid = int(accepted.ask("pid"))
        server.stop()
        waiting = connect(server)
        waiting.say("pid")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: server.event.exception.occurred)
        assert waiting.hears_nothing()  # the next one knows of stop()
        server.start()
        assert int(waiting.hear()) != pid


def test_a_worker_that_dies_again_and_again_is_given_up(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "TRIES", 2)
    monkeypatch.setattr(workers, "LIVED", 1e9)  # however slow this machine is
    monkeypatch.setattr(workers, "FIRST_PAUSE", 0.01)
    with working(1) as server:
        first = connect(server)
        first.say("die")
        wait_until(lambda: len(server.event.exception.list) == 1)
        connect(server).say("die")
        wait_until(lambda: len(server.event.exception.list) == 2)
        assert "another takes its place" in str(server.event.exception.list[0].exception)
        assert "given up; that was the last one" in str(server.event.exception.list[1].exception)
        with pytest.raises(ConnectionRefusedError):
            connect(server)


def test_new_connections_avoid_a_worker_that_was_given_up(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "TRIES", 1)
    with working(2) as server:
        connect(server).say("die")
        wait_until(lambda: server.event.exception.occurred)
        assert "given up; 1 others serve on" in str(server.event.exception.list[0].exception)
        assert len({connect(server).ask("pid") for _ in range(MANY)}) == 1


def test_a_long_life_is_no_try(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "TRIES", 2)
    monkeypatch.setattr(workers, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(workers, "LIVED", 0.0)
    with working(1) as server:
        for deaths in range(1, 4):
            connect(server).say("die")
            wait_until(lambda deaths=deaths: len(server.event.exception.list) == deaths)  # type: ignore[misc]
        assert connect(server).ask("hello") == "hello"


def test_a_callback_that_raises_is_known_here_and_ends_nothing(connect: Connect) -> None:
    with working(1) as server:
        talk = connect(server)
        talk.say("raise")
        assert talk.ask("hello") == "hello"
        wait_until(lambda: server.event.exception.occurred)
        (record,) = server.return_exceptions()
        assert isinstance(record.exception, WorkerError)
        assert record.exception.worker == 1
        assert "ValueError: as you said" in str(record.exception)
        assert "in obey" in (record.traceback or "")


def test_an_interrupt_of_a_worker_alone_is_ignored(connect: Connect) -> None:
    with working(1) as server:
        talk = connect(server)
        assert talk.ask("interrupt") == "interrupt"
        assert talk.ask("hello") == "hello"
        assert not server.event.exception.list


def test_a_worker_that_is_terminated_closes_its_server_first(connect: Connect) -> None:
    with working(1) as server:
        talk = connect(server)
        os.kill(int(talk.ask("pid")), signal.SIGTERM)
        with pytest.raises(EOFError):
            talk.hear()
        assert connect(server).ask("hello") == "hello"
        assert "exit code 0; another takes its place" in str(server.event.exception.list[0].exception)


def test_a_worker_that_is_slow_to_obey_is_not_waited_for_longer_than_some_seconds(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with working(1) as server:
        pid = int(connect(server).ask("pid"))
        monkeypatch.setattr(workers, "ORDER_TIMEOUT", 0.05)
        os.kill(pid, signal.SIGSTOP)
        server.stop()
        assert "slow to obey" in caplog.text
        os.kill(pid, signal.SIGCONT)
        monkeypatch.setattr(workers, "ORDER_TIMEOUT", PATIENCE)
        server.start()
        assert connect(server).ask("pid") == str(pid)


def test_a_worker_that_does_not_begin_is_an_error_of_start_and_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "START_TIMEOUT", 0.001)
    before = children()
    with working(2, start=False) as server:
        for _ in range(2):
            with pytest.raises(SetupError, match=r"did not begin to serve within 0.001 s"):
                server.start()
        assert not server.event.accepting_thread.run
        assert children() == before


def test_a_worker_that_the_system_does_not_give_is_an_error_of_start(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = workers._Worker.start

    def start(worker: workers._Worker, *arguments: Any) -> None:
        if worker.place.number == 2:
            raise OSError("no more processes")
        begin(worker, *arguments)

    monkeypatch.setattr(workers._Worker, "start", start)
    before = children()
    with working(2, start=False) as server:
        with pytest.raises(SetupError, match=r"worker 2 .* could not be started"):
            server.start()
        server.stop()  # is no error; there is nothing to stop
        wait_until(lambda: children() == before)


def test_a_start_that_fails_where_nobody_waits_for_it_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "START_TIMEOUT", 0.001)
    monkeypatch.setattr(workers, "is_nested", lambda: True)  # as in a callback
    with working(1, start=False) as server:
        server.start()
        wait_until(lambda: server.event.exception.occurred)
        assert isinstance(server.event.exception.list[0].exception, SetupError)
        monkeypatch.undo()


# ---------------------------------------------------------------------------------------------------------- end


def test_close_leaves_no_process_no_descriptor_and_a_server_to_set_up_anew(connect: Connect) -> None:
    before, descriptors = children(), open_descriptors()
    server = TCPServer()
    for count in (2, 1):
        server.setup(HOST, 0, on_receive=worker_callbacks.obey, protocol=worker_callbacks.lines, workers=count)
        address = server.address
        server.start()
        talk = connect(server)
        pid = int(talk.ask("pid"))
        server.close()
        with pytest.raises(EOFError):
            talk.hear()
        talk.sock.close()
        with pytest.raises(ConnectionRefusedError):
            Talk(address)
        assert not is_running(pid)
        assert children() == before
        assert open_descriptors() == descriptors
    server.setup(HOST, 0)
    with server:
        assert server.clients == {}
        connect(server).say("hello")
        wait_until(lambda: server.event.new_data)
        assert [bytes(data) for _, _, data in server.return_recved_data()] == [b"hello\n"]


def test_close_while_a_worker_is_busy_in_a_callback(connect: Connect) -> None:
    with working(1) as server:
        pid = int(connect(server).ask("pid"))
        assert connect(server).ask("busy") == "now"
        began = time.monotonic()
        server.close(timeout=2.0)
        assert time.monotonic() - began < 3.0
        assert not is_running(pid)


def test_close_kills_a_worker_that_does_not_obey(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    with working(1) as server:
        pid = int(connect(server).ask("pid"))
        os.kill(pid, signal.SIGSTOP)
        server.close(timeout=1.0)
        assert not is_running(pid)
        assert "killed" in caplog.text


def test_close_before_start_frees_the_port() -> None:
    server = TCPServer()
    server.setup(HOST, 0, on_receive=worker_callbacks.obey, workers=3)
    address = server.address
    server.close()
    with pytest.raises(ConnectionRefusedError):
        Talk(address)
    with pytest.raises(SetupError):
        server.start()


def test_close_in_a_signal_handler_that_interrupts_start(monkeypatch: pytest.MonkeyPatch) -> None:
    before = children()
    took = []
    with working(1, start=False) as server:
        crew = server._workers
        assert crew is not None
        start_thread = crew._start_thread

        def interrupted() -> None:  # with the lock that the supervisor wants
            start_thread()
            signal.raise_signal(signal.SIGUSR1)

        def close(*_: object) -> None:
            began = time.monotonic()
            server.close()
            took.append(time.monotonic() - began)

        monkeypatch.setattr(crew, "_start_thread", interrupted)
        previous = signal.signal(signal.SIGUSR1, close)
        try:
            server.start()
        finally:
            signal.signal(signal.SIGUSR1, previous)
        assert took[0] < 4.0  # it would wait for five seconds and more
        wait_until(lambda: children() == before)


# ----------------------------------------------------------------------------------------------------- refusals


def attempts() -> dict[str, Callable[[TCPServer], object]]:
    return {
        "clients": lambda server: server.clients,
        "send_data": lambda server: server.send_data(b"x", (HOST, 1)),
        "disconnect": lambda server: server.disconnect((HOST, 1)),
        "send_file": lambda server: server.send_file(__file__, (HOST, 1)),
        "receive_file": lambda server: server.receive_file("received", 1, (HOST, 1)),
        "recv_data": lambda server: server.recv_data((HOST, 1)),
        "return_recved_data": lambda server: server.return_recved_data(),
        "recved_data": lambda server: server.recved_data,
        "new_data": lambda server: server.event.new_data,
        "set new_data": lambda server: setattr(server.event, "new_data", False),
        "new_data_recved": lambda server: server.new_data_recved,
        "await_event": lambda server: server.await_event(1),
    }


@pytest.mark.parametrize("name", attempts())
def test_what_lives_in_the_workers_is_not_to_be_had_here(name: str) -> None:
    with working(1, start=False) as server:
        with pytest.raises(LifecycleError, match="live in the worker processes"):
            attempts()[name](server)


@pytest.mark.parametrize("name", ["on_connect", "on_disconnect", "on_receive"])
def test_callbacks_are_not_exchanged_under_the_workers(name: str) -> None:
    with working(1, start=False) as server:
        with pytest.raises(LifecycleError, match=name):
            setattr(server, name, worker_callbacks.greet)


def a_function_inside() -> Callable[[bytes], None]:
    def inside(data: bytes) -> None:
        pass

    return inside


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"on_receive": None}, "nothing to poll"),
        ({"on_receive": lambda data: None}, "on_receive=.*top level"),
        ({"on_receive": a_function_inside()}, "on_receive=.*top level"),
        ({"on_receive": worker_callbacks.Counter().on_receive}, "on_receive=.*top level"),
        ({"on_connect": lambda address: None}, "on_connect=.*top level"),
        ({"protocol": lambda: worker_callbacks.lines()}, "protocol=.*top level"),
        ({"ssl_context": certificates.server_side()}, "ssl_context=.*make_context"),
    ],
)
def test_what_cannot_go_to_a_worker_is_refused_by_name(given: dict[str, Any], expected: str) -> None:
    server = TCPServer()
    with pytest.raises(SetupError, match=expected):
        server.setup(HOST, 0, **{"on_receive": worker_callbacks.obey, **given}, workers=2)
    assert server.addresses == []


@pytest.mark.parametrize(
    ("count", "limit", "kind", "expected"),
    [
        (0, None, ValueError, "at least 1"),
        ("2", None, TypeError, "whole number"),
        (True, None, TypeError, "whole number"),
        (3, 2, ValueError, "at least 3"),
    ],
)
def test_numbers_that_make_no_sense(count: Any, limit: int | None, kind: type[Exception], expected: str) -> None:
    with pytest.raises(kind, match=expected):
        TCPServer(limit).setup(HOST, 0, on_receive=worker_callbacks.obey, workers=count)


def test_systems_that_cannot_share_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "CAN_SHARE", False)
    with pytest.raises(SetupError, match="SO_REUSEPORT"):
        TCPServer().setup(HOST, 0, on_receive=worker_callbacks.obey, workers=2)


def test_a_socket_that_was_prepared_would_be_that_of_one_worker() -> None:
    server = TCPServer()
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
    with pytest.raises(SetupError, match=re.escape("server.socket")):
        server.setup(HOST, 0, on_receive=worker_callbacks.obey, workers=2)
    server.close()


@pytest.mark.parametrize("count", [None, 2])
def test_a_port_that_another_server_with_workers_has_is_in_use(count: int | None) -> None:
    with working(2, start=False) as server:
        with pytest.raises(BindError, match="in use"):
            TCPServer().setup(HOST, server.address[1], on_receive=worker_callbacks.obey, workers=count)


def test_another_child_of_the_program_s_that_imports_a_main_file_without_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(SetupError, match="each process imports"):
        TCPServer().setup(HOST, 0, on_receive=worker_callbacks.obey, workers=2)


# ---------------------------------------------------------------------------------------------------- programs

PROGRAM = """
import os, sys, threading
from simplesockets import TCPServer

def on_receive(client, address, data):
    client.send(b"%d" % os.getpid())

if __name__ == "__main__":
    server = TCPServer()
    server.setup(ip="127.0.0.1", port=0, on_receive=on_receive, workers=2)
    server.start()
    print(server.address[1], flush=True)
    LAST
"""
RUNNER = """
import os, runpy, sys, threading
limit = threading.Timer(float(sys.argv[1]), os._exit, (1,))  # whatever becomes of the test
limit.daemon = True
limit.start()
runpy.run_path(sys.argv[2], run_name="__main__")
"""
WAITS = PROGRAM.replace("LAST", "threading.Event().wait()")


class Running:
    """A program in a process group of its own, as a terminal gives it one."""

    def __init__(self, text: str, directory: pathlib.Path) -> None:
        path = directory / "program.py"
        path.write_text(text)
        self._errors = directory / "errors"
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RUNNER, str(LIFETIME), str(path)],
                env={**os.environ, "PYTHONPATH": str(OURS)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, self.errors()
        return line

    def errors(self) -> str:
        return self._errors.read_text()

    def group(self) -> set[int]:
        """The processes of its group that go on."""
        return {pid for pid, state, _, group in system_table() if group == self.process.pid and state != "Z"}

    def signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self) -> None:
        self.signal_group(signal.SIGKILL)
        self.process.wait(PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Iterator[Callable[[str], Running]]:
    with contextlib.ExitStack() as stack:

        def started(text: str) -> Running:
            running = Running(text, tmp_path)
            stack.callback(running.end)
            return running

        yield started


Run = Callable[[str], Running]


def processes(port: int) -> set[int]:
    found = set()
    for _ in range(MANY):
        with socket.create_connection((HOST, port), timeout=PATIENCE) as sock:
            sock.sendall(b"?")
            found.add(int(sock.recv(100)))
    assert len(found) == 2
    return found


def all_end(pids: set[int]) -> None:
    wait_until(lambda: not any(map(is_running, pids)), f"the end of {pids}")


def test_ctrl_c_ends_all_and_only_the_program_says_so(run: Run) -> None:
    running = run(WAITS)
    pids = processes(int(running.line()))
    running.signal_group(signal.SIGINT)
    assert running.process.wait(PATIENCE) == -signal.SIGINT
    all_end(pids)
    assert running.errors().count("Traceback") == 1
    assert running.errors().rstrip().endswith("KeyboardInterrupt")


def test_ctrl_c_while_the_workers_start(run: Run) -> None:
    waiting = """if __name__ == "__mp_main__":
    import signal
    print(os.getpid(), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []), flush=True)
    threading.Event().wait()
"""
    running = run(WAITS.replace("if __name__ ==", waiting + "if __name__ ==", 1))
    pid, blocked = running.line().split()
    assert blocked == "True"
    running.signal_group(signal.SIGINT)
    assert running.process.wait(PATIENCE) == -signal.SIGINT
    all_end({int(pid)})
    assert running.errors().count("Traceback") == 1
    assert running.errors().rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_program_that_is_ended_hard_leaves_no_worker(run: Run, number: signal.Signals) -> None:
    running = run(WAITS)
    pids = processes(int(running.line()))
    os.kill(running.process.pid, number)
    assert running.process.wait(PATIENCE) == -number
    all_end(pids)
    assert running.errors() == ""


def test_a_program_that_ends_without_close_leaves_no_worker(run: Run) -> None:
    running = run(PROGRAM.replace("LAST", "pass"))
    running.line()
    assert running.process.wait(PATIENCE) == 0
    wait_until(lambda: not running.group(), "the end of all processes")
    assert running.errors() == ""


def test_a_fork_of_the_program_does_not_end_the_workers(run: Run) -> None:
    forking = """import warnings
    warnings.simplefilter("ignore")  # of threads in forks
    held, forked = threading.Event(), threading.Event()
    def hold():
        with server._workers._changed:
            held.set()
            forked.wait()
    threading.Thread(target=hold).start()
    held.wait()
    pid = os.fork() or sys.exit(0)
    forked.set()
    print(os.waitpid(pid, 0)[1], flush=True)
    threading.Event().wait()
"""
    running = run(PROGRAM.replace("LAST", forking))
    port = int(running.line())
    assert running.line() == "0"
    processes(port)
    assert "simplesockets" not in running.errors()  # multiprocessing's own exit may complain


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (WAITS.replace('if __name__ == "__main__":', "if True:"), "has to stand behind"),
        (
            WAITS.replace("def on_receive", "def other").replace(
                "    server = ", "    def on_receive(data): pass\n    server = ", 1
            ),
            "callbacks in front of that line",
        ),
        ("if __name__ != '__main__': raise OSError('not here')\n" + WAITS, "ended with exit code 1"),
    ],
    ids=["no guard", "callback behind the guard", "main file fails"],
)
def test_the_traps_of_new_interpreters_are_named(run: Run, changed: str, expected: str) -> None:
    running = run(changed)
    assert running.process.wait(PATIENCE) == 1
    assert expected in running.errors()
    assert running.errors().count("simplesockets.errors.SetupError") == 1


@pytest.mark.parametrize("arguments", [["-c", WAITS], ["-"], ["-i"]], ids=["-c", "through a pipe", "interactive"])
def test_functions_without_a_file_are_refused(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        input=WAITS.replace("\n    client", " client")
        .replace("    LAST", "")
        .replace("\nif __name__", "\n\nif __name__")
        if arguments != ["-c", WAITS]
        else "",
        env={**os.environ, "PYTHONPATH": str(OURS)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "cannot import it" in done.stderr
    assert "Put it into a file" in done.stderr


def test_no_child_of_multiprocessing_s_is_left() -> None:
    assert multiprocessing.active_children() == []
