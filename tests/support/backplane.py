"""A backplane in memory, whose failures a test brings about."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from simplesockets.hisock import HiSockServer
from simplesockets.hisock.backplane import Backplane, Read, unpack
from simplesockets.hisock.cluster import Cluster
from simplesockets.hisock.errors import BackplaneError

from .waiting import wait_until


class MemoryLog:
    """The log that the nodes of a test share."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # protects what follows
        self.entries: list[bytes] = []
        self.away = False
        self._connections = 0

    def leave(self) -> None:
        """Be away from now on; who is connected notices."""
        with self._changed:
            self.away = True
            self._connections += 1
            self._changed.notify_all()

    def come_back(self, *, keep: bool = True) -> None:
        """Be there again.

        Args:
            keep: whether nothing of the log was lost.
        """
        with self._changed:
            if not keep:
                self.entries = [b""] * len(self.entries)  # positions go on, as a stream's do
            self.away = False

    def kinds(self, node: str) -> list[str]:
        """What a node said so far."""
        with self._changed:
            told = [unpack(entry) for entry in self.entries if entry]
        return [entry.kind for entry in told if entry.node == node]

    def connect(self) -> int:
        """The number of the present connections."""
        with self._changed:
            if self.away:
                raise BackplaneError("the log is away")
            return self._connections

    def append(self, connection: int, entries: Sequence[bytes]) -> None:
        with self._changed:
            self._check(connection)
            self.entries += entries
            self._changed.notify_all()

    def read(self, connection: int, start: int, wait: float, ended: Callable[[], bool]) -> list[bytes]:
        with self._changed:
            self._changed.wait_for(
                lambda: ended() or connection != self._connections or len(self.entries) > start, wait
            )
            if ended():
                raise BackplaneError("the connection was ended")
            self._check(connection)
            return self.entries[start:]

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _check(self, connection: int) -> None:
        if connection != self._connections:
            raise BackplaneError("the log is away")


class MemoryBackplane(Backplane):
    """One node's way to the log.

    Args:
        log: it.
        lease, max_outbox: as for every backplane.
    """

    def __init__(self, log: MemoryLog, lease: float = 30.0, max_outbox: int = 1 << 20) -> None:
        super().__init__(lease, max_outbox)
        self._log = log
        self.before_append: Callable[[Sequence[bytes]], object] = lambda _: None
        """Called by the publishing thread, before it appends."""
        self.after_append: Callable[[Sequence[bytes]], object] = lambda _: None
        """Likewise, after."""
        self.before_read: Callable[[], object] = lambda: None
        """Called by the reading thread."""

    def writer(self) -> _MemoryLink:
        return _MemoryLink(self, self._log, "0")

    def reader(self, position: str | None) -> _MemoryLink:
        return _MemoryLink(self, self._log, position if position is not None else str(len(self._log.entries)))


class _MemoryLink:
    def __init__(self, backplane: MemoryBackplane, log: MemoryLog, position: str) -> None:
        self._backplane = backplane
        self._log = log
        self._connection = log.connect()
        self._ended = False
        self.position = position

    def append(self, entries: Sequence[bytes]) -> None:
        self._backplane.before_append(entries)
        self._log.append(self._connection, entries)
        self._backplane.after_append(entries)

    def read(self, wait: float) -> Read:
        self._backplane.before_read()
        found = self._log.read(self._connection, int(self.position), wait, lambda: self._ended)
        self.position = str(int(self.position) + len(found))
        return Read([entry for entry in found if entry], True)

    def interrupt(self) -> None:
        self._ended = True
        self._log.wake()

    def close(self) -> None:
        pass


def cluster_of(server: HiSockServer) -> Cluster:
    """The server as a node."""
    assert server.cluster is not None
    return server.cluster


def wait_met(*servers: HiSockServer) -> None:
    """Wait until each of these servers knows all the others."""
    clusters = [cluster_of(server) for server in servers]
    wait_until(lambda: all(len(cluster.nodes) == len(clusters) - 1 for cluster in clusters), "the nodes to meet")
