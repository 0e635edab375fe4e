"""A service in a process of its own, so that what is done to it hurts nobody else.

    python -m tests.faults.alone LAYER [--tls] [--spare N]

It prints its port; with ``--spare`` it may open so many more descriptors. What it logs about accepting it prints. A
line from its standard input ends it, and it prints what is left of it then.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import logging
import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

from ..support.leftovers import left_threads
from ..support.running import HOST, open_descriptors
from ..support.waiting import PATIENCE, wait_until
from .layers import LAYERS, Address

_ROOT = pathlib.Path(__file__).resolve().parents[2]


class _Accepting(logging.Handler):
    """Prints what is logged about accepting."""

    def emit(self, record: logging.LogRecord) -> None:
        if "accept" in record.getMessage():
            print("logged:", record.getMessage().splitlines()[0], flush=True)


def main() -> None:
    """Serve until a line comes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("layer", choices=LAYERS)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--spare", type=int)
    options = parser.parse_args()
    faulthandler.register(signal.SIGUSR1)  # to see what it does
    log = logging.getLogger("simplesockets")
    log.addHandler(_Accepting())
    log.propagate = False
    service = LAYERS[options.layer].serve(options.tls)
    if options.spare is not None:
        limit = open_descriptors() + options.spare
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    print(service.address[1], flush=True)
    sys.stdin.readline()
    print("known:", service.present(), flush=True)
    service.close()
    left = [thread.name for thread in left_threads(PATIENCE)]
    print("left:", left, "damaged:", service.ledger.damaged, flush=True)


class Alone:
    """A running one. Made by :func:`alone`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._lines: list[str] = []
        self.address: Address = (HOST, int(process.stdout.readline()))
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)

    def wait_for(self, part: str) -> str:
        """Wait until it prints a line that contains this."""
        return wait_until(lambda: next((line for line in self._lines if part in line), ""), f"{part!r}")

    @property
    def resident(self) -> int:
        """Its memory, in bytes."""
        pages = int(pathlib.Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")

    def end(self) -> list[str]:
        """End it; all that it printed. Fails if it did not end well."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.close()
        assert self._process.wait(3 * PATIENCE) == 0
        self._reader.join(PATIENCE)
        return self._lines

    def kill(self) -> None:
        """Make sure that it is over."""
        self._process.kill()
        self._process.wait()
        self._reader.join(PATIENCE)


@contextlib.contextmanager
def alone(layer: str, tls: bool = False, spare: int | None = None) -> Iterator[Alone]:
    """A service in a process of its own, which is over afterwards."""
    command = [sys.executable, "-m", "tests.faults.alone", layer]
    command += ["--tls"] * tls + ([] if spare is None else ["--spare", str(spare)])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as process:
        service = Alone(process)
        try:
            yield service
        finally:
            service.kill()


if __name__ == "__main__":
    main()
