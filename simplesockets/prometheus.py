"""What servers count, for Prometheus: a collector to register, and a server of our own for those who have none.

Needs ``prometheus-client``, the extra ``simplesockets[prometheus]``. Labels are what the program says, never what
clients send: the servers' names, and the commands that a HiSock server has handlers for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Protocol

from typing_extensions import Self

from .errors import BindError, SetupError
from .events import Address
from .stats import Stats
from .transport import check_port

try:
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as failure:
    raise SetupError(
        "simplesockets.prometheus needs the package prometheus-client, which is not installed: "
        'pip install "simplesockets[prometheus]"'
    ) from failure


class Counting(Protocol):
    """Whatever counts: a server or client of any layer."""

    def stats(self) -> Stats:
        """What it counted so far."""


Family = type[CounterMetricFamily] | type[GaugeMetricFamily]

_FAMILIES: tuple[tuple[Family, str, str, Callable[[Stats], float]], ...] = (
    (GaugeMetricFamily, "open_connections", "Connections now.", lambda stats: stats.connections),
    (CounterMetricFamily, "connections", "Connections that were made or accepted.", lambda s: s.connections_total),
    (CounterMetricFamily, "refused_connections", "Connections that were refused.", lambda stats: stats.refused),
    (CounterMetricFamily, "received_bytes", "Bytes that were received.", lambda stats: stats.bytes_in),
    (CounterMetricFamily, "sent_bytes", "Bytes that were sent.", lambda stats: stats.bytes_out),
    (CounterMetricFamily, "received_messages", "Messages that were received.", lambda stats: stats.messages_in),
    (CounterMetricFamily, "sent_messages", "Messages that were sent.", lambda stats: stats.messages_out),
    (CounterMetricFamily, "errors", "Exceptions that were caught.", lambda stats: stats.errors),
    (GaugeMetricFamily, "queued_messages", "Received messages that wait to be fetched.", lambda stats: stats.queued),
    (GaugeMetricFamily, "queued_bytes", "Bytes in these messages.", lambda stats: stats.queued_bytes),
    (GaugeMetricFamily, "pending_bytes", "Bytes to send that have not arrived yet.", lambda stats: stats.pending_out),
    (GaugeMetricFamily, "start_time_seconds", "When counting began, since 1970.", lambda stats: stats.since),
)


class StatsCollector(Collector):
    """Gives the counts of servers to a registry, at each scrape::

        prometheus_client.REGISTRY.register(StatsCollector(server))
        prometheus_client.REGISTRY.register(StatsCollector({"chat": chat, "files": files}))

    A registry takes one collector; give it all your servers.

    Args:
        servers: a server or client of any layer, or several of them by their name, which is the label ``server``. A
            single one has the name ``main``.

    Raises:
        TypeError: it is no such thing.
    """

    def __init__(self, servers: Counting | Mapping[str, Counting]) -> None:
        self._servers = dict(servers) if isinstance(servers, Mapping) else {"main": servers}
        for name, server in self._servers.items():
            if not isinstance(name, str) or not callable(getattr(server, "stats", None)):
                raise TypeError(
                    f"StatsCollector takes a server or client, or a dictionary of these by their names, and not "
                    f"{name!r}: {server!r}"
                )

    def collect(self) -> Iterable[Metric]:
        """What was counted so far. What a server raises, instead of counting, is raised here."""
        return _families({name: server.stats() for name, server in self._servers.items()})

    def describe(self) -> Iterable[Metric]:
        """The same without any number, so that a registry refuses a second collector."""
        return _families({})


def _families(found: Mapping[str, Stats]) -> list[Metric]:
    families: list[Metric] = []
    for make, name, text, value in _FAMILIES:
        family = make(f"simplesockets_{name}", text, labels=["server"])
        for server, stats in found.items():
            family.add_metric([server], value(stats))
        families.append(family)
    return [*families, _commands(found)]


def _commands(found: Mapping[str, Stats]) -> Metric:
    text = "Messages that a HiSock server received, by the handler that they are for."
    family = CounterMetricFamily("simplesockets_received_commands", text, labels=["server", "command"])
    for server, stats in found.items():
        for command, count in stats.commands.items():
            family.add_metric([server, command], count)
    return family


class Exporter:
    """Serves the counts over HTTP, for Prometheus to scrape; see :func:`export`. Also a context manager."""

    def __init__(self, servers: Counting | Mapping[str, Counting], port: int, host: str) -> None:
        registry = CollectorRegistry()
        registry.register(StatsCollector(servers))
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as failure:
            raise BindError(failure.errno, f"cannot serve Prometheus at {host}:{port}: {failure.strerror}") from failure
        self._lock = threading.Lock()  # protects whether it is closed; held by nobody who waits
        self._closed = False

    @property
    def address(self) -> Address:
        """The real ``(ip, port)``."""
        host, port = self._server.server_address[:2]
        return str(host), port

    def close(self) -> None:
        """End it. May be repeated."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def export(servers: Counting | Mapping[str, Counting], port: int = 0, host: str = "127.0.0.1") -> Exporter:
    """Serve the counts over HTTP, at ``http://HOST:PORT/metrics``, in the background until it is closed.

    Args:
        servers: as for :class:`StatsCollector`.
        port: where to listen; 0 takes a free one.
        host: an IP address of this machine. Whoever can connect there can read the counts.

    Raises:
        BindError: the address cannot be used. (An OSError.)
        TypeError, ValueError: an argument is of no use.
    """
    check_port(port, zero=True)
    if not isinstance(host, str):  # None would be every address
        raise TypeError(f"the host is an IP address of this machine, such as '127.0.0.1', not {host!r}")
    return Exporter(servers, port, host)
