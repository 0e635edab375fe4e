"""Programs run verbatim, each in a process of its own: watched, bounded in time, ended by their handle.

A test gives the text of a program, as its author wrote it but for the port. What the process prints is collected
while it runs, so that a test can wait for a line, and a failure can show all of it.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

import simplesockets

from .waiting import PATIENCE, wait_until

OURS = pathlib.Path(simplesockets.__file__).resolve().parents[1]
"""The directory in which ``import simplesockets`` finds the package under test."""

LIFETIME = 60.0
"""Seconds after which a program is ended, whatever becomes of the test that started it."""

# The program ends itself when its time is over, with the stack of every thread, so nothing outlives a killed test run.
_RUNNER = """
import faulthandler, runpy, sys
faulthandler.dump_traceback_later(float(sys.argv[1]), exit=True)
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Program:
    """A running process and what it has printed so far."""

    def __init__(self, command: list[str], directory: str, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._collectors = [
            threading.Thread(target=_collect, args=(self._process.stdout, self.lines)),
            threading.Thread(target=_collect, args=(self._process.stderr, self.errors)),
        ]
        for collector in self._collectors:
            collector.start()

    @property
    def running(self) -> bool:
        """Whether the process goes on."""
        return self._process.poll() is None

    def wait_for_line(self, part: str) -> str:
        """Wait until it prints a line that contains ``part``; fail if it ends without."""

        def found() -> str | None:
            ended = not self.running
            if ended:
                self._join()  # everything it printed is there now
            line = next((line for line in self.lines if part in line), None)
            assert line is not None or not ended, f"it ended without printing {part!r}: {self}"
            return line

        line = wait_until(found, f"a line with {part!r} from {self}")
        assert line is not None
        return line

    def wait_listening(self, port: int) -> None:
        """Wait until something listens on that port of this machine; fail if the process ends before."""

        def listening() -> bool:
            assert self.running, f"it ended and never listened: {self}"
            return is_listening(port)

        wait_until(listening, f"somebody to listen on port {port}")

    def wait_end(self, patience: float = PATIENCE) -> int:
        """Wait until it ends by itself; returns its exit code, with all of its output collected."""
        try:
            code = self._process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {patience} s: {self}") from None
        self._join()
        return code

    def end(self) -> None:
        """End it, if it goes on, and free what it holds. May be repeated."""
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(1.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(PATIENCE)
        self._join()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()

    def _join(self) -> None:
        for collector in self._collectors:
            collector.join(PATIENCE)

    def __repr__(self) -> str:
        state = "running" if self.running else f"ended with code {self._process.returncode}"
        return f"the program, {state}; output:\n{''.join(self.lines)}\nerrors:\n{''.join(self.errors)}"


def _collect(pipe: IO[str], lines: list[str]) -> None:
    for line in pipe:
        lines.append(line)


@contextlib.contextmanager
def running_program(
    text: str, *, python: str | os.PathLike[str] = sys.executable, ours: bool = True
) -> Iterator[Program]:
    """Run the text of a program; it is ended with the block.

    Args:
        text: the program.
        python: the interpreter; a peer's own, for example.
        ours: whether ``import simplesockets`` is to find this package there.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "program.py")
        path.write_text(text, encoding="utf-8")
        command = [os.fspath(python), "-u", "-c", _RUNNER, str(LIFETIME), str(path)]
        with running_command(command, directory, ours=ours) as program:
            yield program


@contextlib.contextmanager
def running_command(command: list[str], directory: str, *, ours: bool = True) -> Iterator[Program]:
    """Run a command in a directory; it is ended with the block."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    environment.update(PYTHONIOENCODING="utf-8", PYTHONDONTWRITEBYTECODE="1")
    if ours:
        environment["PYTHONPATH"] = str(OURS)
    program = Program(command, directory, environment)
    try:
        yield program
    finally:
        program.end()


# ---------------------------------------------------------------------------------------------------------- ports


def free_port() -> int:
    """A port that nobody has on any loopback address, for a program that cannot be told to take port 0.

    It is out of the range from which systems choose ports themselves, so only another caller of this can be faster.
    There is no connection either that only fades away there: 0.4.0's server does not start beside one.
    """
    while not is_free(port := random.randrange(26000, 32000), fading=False):
        pass
    return port


def is_free(port: int, *, fading: bool = True) -> bool:
    """Whether a server could listen on that port now, on all loopback addresses and on all addresses: one that does not
    mind connections that only fade away there, or does."""
    return all(_can_bind(family, host, port, fading=fading) for family, host in _places())


def _places() -> list[tuple[socket.AddressFamily, str]]:
    places = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0")]
    return [*places, (socket.AF_INET6, "::1")] if has_ipv6() else places


def has_ipv6() -> bool:
    """Whether this machine has the IPv6 loopback address."""
    return socket.has_ipv6 and _can_bind(socket.AF_INET6, "::1", 0)


def _can_bind(family: socket.AddressFamily, host: str, port: int, *, fading: bool = True) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            if fading and os.name == "posix":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
    except OSError:
        return False
    return True


def is_listening(port: int) -> bool:
    """Whether somebody listens on that port of this machine.

    Asks the system where it can: a probing connection is one that the server has to serve.
    """
    tables = [table for table in map(pathlib.Path, ("/proc/net/tcp", "/proc/net/tcp6")) if table.exists()]
    if not tables:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0
    return any(_has_listener(table.read_text(), port) for table in tables)


def _has_listener(table: str, port: int) -> bool:
    rows = (line.split() for line in table.splitlines()[1:])
    return any(row[3] == "0A" and row[1].endswith(f":{port:04X}") for row in rows)


def with_port(text: str, port: int, new: int) -> str:
    """The program's text with its port changed, which it must name exactly once."""
    assert text.count(str(port)) == 1, f"the program names its port {port} {text.count(str(port))} times:\n{text}"
    return text.replace(str(port), str(new))
