"""What servers of every layer have, for those who want to watch them: in a terminal, or from another process."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

from .events import Address
from .monitor import INTERVAL, Monitor
from .stats import Busiest, ClientStats, Snapshot, Stats
from .statsservice import HOST, StatsService
from .timing import Deadline

if TYPE_CHECKING:
    from .server import TCPServer

BUSIEST = 10
"""How many clients a watcher sees."""


class Attendant(Protocol):
    """What ends with a server."""

    def close(self, timeout: float) -> None:
        """End it, within so many seconds."""


class Attendants:
    """Those of one server. Any thread may call everything."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # protects the list; never held across I/O
        self._all: list[Attendant] = []

    def add(self, attendant: Attendant) -> None:
        """It ends with the server from now on."""
        with self._lock:
            self._all.append(attendant)

    def remove(self, attendant: Attendant) -> None:
        """It ended by itself."""
        with self._lock:
            if attendant in self._all:
                self._all.remove(attendant)

    def close(self, deadline: Deadline) -> None:
        """End them all."""
        with self._lock:
            everybody, self._all = self._all, []
        for attendant in everybody:
            attendant.close(deadline.left(time.monotonic()) or 0.0)


class Watched(ABC):
    """A server that can be watched."""

    @abstractmethod
    def stats(self) -> Stats:
        """What was counted so far."""

    @abstractmethod
    def client_stats(self) -> list[ClientStats]:
        """What was counted so far for each client that is connected."""

    @abstractmethod
    def _watch(self) -> tuple[str, Attendants]:
        """Its title, and where to note who watches it. SetupError if it does not run."""

    @abstractmethod
    def _new_server(self) -> TCPServer:
        """One that is not set up."""

    def monitor(self, interval: float = INTERVAL) -> None:
        """Show in the terminal what goes on, live: connections, rates, the busiest clients. Blocks.

        It ends with the key q, with Ctrl-C (which raises nothing here), and when the server is closed. Where standard
        output is no terminal, it prints one line at a time.

        Args:
            interval: seconds from one look to the next.

        Raises:
            SetupError: the server does not run; or standard output is a terminal, and the package ``rich`` is missing
                (``pip install 'simplesockets[monitor]'``).
            TypeError, ValueError: the interval is no number of seconds.
        """
        title, attendants = self._watch()
        monitor = Monitor(_Looker(self, title).look, interval)
        attendants.add(monitor)
        try:
            self._watch()  # it may have been closed a moment before, and told nobody
            monitor.run()
        finally:
            attendants.remove(monitor)

    def serve_stats(self, port: int = 0, host: str = HOST) -> Address:
        """Let other processes see the statistics: ``python -m simplesockets top HOST:PORT``. Ends with the server.

        Whoever can connect there can read them; nothing can be changed. So it listens on this machine only, unless you
        say otherwise.

        Args:
            port: where to listen; 0 takes a free one.
            host: an IP address of this machine.

        Returns:
            The real ``(ip, port)``.

        Raises:
            SetupError: the server does not run.
            BindError: the address cannot be used. (An OSError.)
            TypeError, ValueError: the port is none.
        """
        title, attendants = self._watch()
        service = StatsService(self._new_server(), _Looker(self, title).look, host, port)
        attendants.add(service)
        try:
            self._watch()  # as above
        except BaseException:
            attendants.remove(service)
            service.close()
            raise
        return service.address


class _Looker:
    # Takes snapshots of a server for one watcher.

    def __init__(self, server: Watched, title: str) -> None:
        self._server = server
        self._title = title
        self._busiest = Busiest()

    def look(self) -> Snapshot:
        stats = self._server.stats()
        clients = self._busiest.look(self._server.client_stats(), BUSIEST, time.monotonic())
        return Snapshot(self._title, stats, clients)
