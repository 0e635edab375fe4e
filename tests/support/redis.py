"""A real Redis server for tests, of their own: on a Unix socket and on a free port, with nothing kept on disk.

Where Debian's ``redis-server`` (any Redis from 6 on) is missing, tests that ask for it are skipped.
"""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

from .programs import free_port
from .running import HOST
from .waiting import PATIENCE, wait_until

MISSING = "redis-server is not installed: apt-get install redis-server, or whatever puts it on the PATH here"
"""Why tests are skipped. ``.ci/run`` looks for its first words among the reasons of skipped tests."""


class RedisServer:
    """A Redis server that a test may stop, kill and start again at the same place; it is empty then.

    Args:
        directory: where its socket and its log are.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.path = directory / "socket"
        self.port = 0
        """Chosen when it first starts."""

    @property
    def url(self) -> str:
        """Where it is, over its Unix socket."""
        return f"unix://{self.path}"

    @property
    def tcp_url(self) -> str:
        """Where it is, over TCP: for a test that puts something between."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def running(self) -> bool:
        """Whether the process goes on."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert not self.running
        for port in [self.port] if self.port else [free_port() for _ in range(5)]:
            self.port = port
            self._launch()
            wait_until(lambda: not self.running or self.answers(), "Redis to answer")
            if self.running:
                return  # else somebody was faster to take the port
        raise AssertionError(f"Redis does not start: {self._log.read_text()}")

    def _launch(self) -> None:
        options = f"--bind {HOST} --port {self.port} --appendonly no --daemonize no --dir {self.path.parent}".split()
        command = ["redis-server", *options, "--unixsocket", str(self.path), "--save", ""]
        if shutil.which("setpriv"):  # so that it does not outlive a test run that was killed
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stop(self) -> None:
        """End it as a power cut would, with all that it knows."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)

    def restart(self) -> None:
        """Stop it and start it at the same place, empty."""
        self.stop()
        self.start()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Have it take everything and answer nothing, as a machine does that hangs."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def answers(self) -> bool:
        """Whether it serves already."""
        try:
            return self.command("PING") == b"+PONG"
        except OSError:
            return False

    def command(self, *words: str) -> bytes:
        """Run a command whose answer is one line (FLUSHALL, EXISTS, CLIENT KILL …); returns that line."""
        return self.line_of(" ".join(words), b"")

    def line_of(self, command: str, start: bytes) -> bytes:
        """Run a command; returns the first line of its answer that begins so."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(self.path))
            sock.sendall(command.encode() + b"\r\n")
            with sock.makefile("rb") as answer:
                return next((line for line in answer if line.startswith(start)), b"").removesuffix(b"\r\n")


@contextlib.contextmanager
def running_redis() -> Iterator[RedisServer]:
    """A server that runs; it is stopped with the block. Skips the test where there is none to run."""
    if shutil.which("redis-server") is None:
        pytest.skip(MISSING)
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:  # a short path: sockets' are limited
        server = RedisServer(pathlib.Path(directory))
        server.start()
        try:
            yield server
        finally:
            server.stop()
