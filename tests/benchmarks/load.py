"""Processes: the server under test, the load generator, a measured client. All end with the `with` that
started them."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import IO

from tests.support.peers import PEERS_DIR, PeerUnavailable, peer_python

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
START_TIMEOUT = 20.0  # seconds a server has to say its port
END_TIMEOUT = 3.0  # seconds a process has to end when asked to
SHOWN_LINES = 40
GRACE = 60.0  # seconds a measurement may take beyond its own duration

# Beginnings of names, and what the interpreter that runs them has installed.
RELEASES = {"simplesockets-0.4.0-": ("simplesockets==0.4.0", "pycryptodome"), "hisock-2.0.2": ("hisock==2.0.2",)}


class Unavailable(Exception):
    """This can never be measured here; the message says why."""


class Failed(Exception):
    """A measurement went wrong; the message says how."""


def open_files(count: int) -> None:
    """Let this process, and those it starts, have that many files and connections open."""
    try:
        resource = importlib.import_module("resource")
    except ImportError:
        return  # Windows has no such limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    except (ValueError, OSError) as error:
        raise Unavailable(f"takes {count} open files, and no more than {hard} are allowed (ulimit -Hn)") from error


# The load generator.


@functools.cache
def generator_command() -> tuple[str, ...]:
    """How to run the load generator: the compiled one, or else the one in Python."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is not None:
        try:
            return (str(_compiled(compiler)),)
        except (OSError, subprocess.SubprocessError) as error:
            reason = getattr(error, "stderr", None) or str(error)
            print(f"loadgen.c was not compiled: {reason.strip()[-500:]}", file=sys.stderr)
    print("load comes from Python, which is slower than the faster servers", file=sys.stderr)
    return (sys.executable, "-I", str(HERE / "loadgen.py"))


def generator_kind() -> str:
    return "python" if "loadgen.py" in generator_command()[-1] else "c"


def _compiled(compiler: str) -> pathlib.Path:
    source = HERE / "loadgen.c"
    program = PEERS_DIR / f"loadgen-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}"
    if not program.exists():
        PEERS_DIR.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=PEERS_DIR) as directory:
            output = pathlib.Path(directory) / "loadgen"
            command = [*compiler.split(), "-O2", "-o", str(output), str(source)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
            output.replace(program)  # whole or not at all, whoever else builds it
    return program


def generate(*arguments: object, seconds: float) -> dict[str, float]:
    """Run the load generator, for about `seconds`, and return what it measured."""
    return _measure("loadgen", [*generator_command(), *map(str, arguments)], seconds)


def generate_over(mode: str, ports: Sequence[int], *arguments: object, seconds: float) -> dict[str, float]:
    """The same with clients that are spread over several servers; by the load generator in Python, which alone can."""
    command = [sys.executable, str(HERE / "loadgen.py"), mode, ",".join(map(str, ports)), *map(str, arguments)]
    return _measure("loadgen", command, seconds)


def run_client(name: str, *arguments: object, seconds: float) -> dict[str, float]:
    """Run a program of clients.py, for about `seconds`, and return what it measured."""
    command = [*_program("clients", name), *map(str, arguments), "--seconds", str(seconds)]
    return _measure(name, command, seconds)


def _measure(who: str, command: list[str], seconds: float) -> dict[str, float]:
    limit = seconds * 2 + GRACE
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"no result within {limit:.0f} s") from error
    if done.returncode != 0:
        _show(who, done.stderr)
        raise Failed(_last_line(done.stderr) or f"exit status {done.returncode}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


# Servers.


def _program(module: str, name: str) -> list[str]:
    """The command that runs NAME of servers.py or clients.py."""
    for prefix, requirements in RELEASES.items():
        if name.startswith(prefix):
            return [str(_release_python(*requirements)), "-I", str(HERE / f"{module}.py"), name]
    return [sys.executable, "-m", f"tests.benchmarks.{module}", name]


def _release_python(*requirements: str) -> pathlib.Path:
    try:
        return peer_python(*requirements)
    except PeerUnavailable as error:
        raise Unavailable(str(error)) from error


def _last_line(text: str) -> str:
    """What a note in the table has room for; of a traceback it is the exception."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _show(who: str, text: str) -> None:
    """Let the reader see what a process wrote to its standard error, or the end of it."""
    for line in text.splitlines()[-SHOWN_LINES:]:
        print(f"    {who} | {line}", file=sys.stderr)


class Process:
    """A child that prints its port and serves until its standard input ends. Use it in a `with`."""

    def __init__(self, command: Iterable[str]) -> None:
        self._command = list(command)
        # Not a pipe, which would block a child that complains a lot.
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in _end
        self.port = 0

    def __enter__(self) -> Process:
        self._child = subprocess.Popen(
            self._command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        try:
            self.port = self._read_port()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    @property
    def pid(self) -> int:
        return self._child.pid

    def complaints(self) -> str:
        """What it wrote to its standard error."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def _read_port(self) -> int:
        lines: list[str] = []
        output = self._child.stdout
        assert output is not None
        # A thread, because a read of a pipe has no timeout; it ends with the child at the latest.
        reader = threading.Thread(target=lambda: lines.append(output.readline()), daemon=True)
        reader.start()
        reader.join(START_TIMEOUT)
        if lines and lines[0].strip().isdigit():
            return int(lines[0])
        outcome = "ended before it listened" if lines else f"said no port within {START_TIMEOUT:g} s"
        self._kill()
        raise Failed(f"{outcome}: {_last_line(self.complaints()) or 'nothing on its standard error'}")

    def _end(self) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        try:
            self._child.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._kill()
        self._child.stdout.close()
        _show(self._command[-1], self.complaints())
        self._errors.close()

    def _kill(self) -> None:
        self._child.kill()
        self._child.wait(END_TIMEOUT)


def server(name: str, *arguments: object) -> Process:
    """One of servers.py, in a process of its own."""
    return Process([*_program("servers", name), *map(str, arguments)])


def echo_server() -> Process:
    """The load generator's own echo server, to measure clients against."""
    return Process([*generator_command(), "serve"])


# Remote calls: what is not ours has interpreters of its own.

CALL_REQUIREMENTS = {"rpyc": "rpyc==6.0.2", "ours-hpx-happypandax-client-1.0.0": "happypandax-client==1.0.0"}


def _call_program(role: str, name: str) -> list[str]:
    if name not in CALL_REQUIREMENTS:
        return [sys.executable, "-m", "tests.benchmarks.calls", role, name]
    try:
        python = peer_python(CALL_REQUIREMENTS[name])
    except PeerUnavailable as error:
        raise Unavailable(str(error)) from error
    return [str(python), "-I", str(HERE / "calls.py"), role, name]


def call_server(name: str) -> Process:
    """A server of calls.py, in a process of its own."""
    return Process(_call_program("serve", name))


def run_callers(name: str, *arguments: object, seconds: float) -> dict[str, float]:
    """Run clients of calls.py, for about `seconds`, and return what they measured."""
    command = [*_call_program("call", name), *map(str, arguments), "--seconds", str(seconds)]
    return _measure(name, command, seconds)
