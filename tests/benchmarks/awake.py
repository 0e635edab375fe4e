"""Cores that do not sleep while something is measured.

A virtual machine gives a core away as soon as nothing runs on it, and to get it back takes 50 to 100 µs: with a
message now and then, that is measured and nothing else. So a process of the lowest priority spins on each core;
whatever else wants to run there runs at once.

`python -m tests.benchmarks.awake CORE` is such a process. It ends with its standard input.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

from .load import END_TIMEOUT, ROOT, Unavailable

READY = "spins"


@contextlib.contextmanager
def awake_cores() -> Iterator[None]:
    """Keep awake all the cores that this process may use. Raises Unavailable where that cannot be done."""
    if sys.platform != "linux":
        raise Unavailable("keeping cores awake needs the scheduling class SCHED_IDLE, which only Linux has")
    with contextlib.ExitStack() as stack:
        for core in sorted(os.sched_getaffinity(0)):
            stack.enter_context(_spinning(core))
        yield


@contextlib.contextmanager
def _spinning(core: int) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.benchmarks.awake", str(core)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            said = child.stdout.readline().strip()
            if said != READY:
                raise Unavailable(f"core {core} is not kept awake: {said or 'its process ended'}")
            yield
        finally:
            child.stdin.close()
            try:
                child.wait(END_TIMEOUT)
            except subprocess.TimeoutExpired:
                child.kill()


def spin(core: int) -> None:
    """Use what nobody else wants of a core, until whoever started this process is gone, however it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all: the parent says when it is over
    if sys.platform == "linux":
        os.sched_setaffinity(0, {core})
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    print(READY, flush=True)
    while True:
        pass


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    try:
        spin(int(sys.argv[1]))
    except OSError as error:
        print(error, flush=True)
