"""Statistics for other processes: lines of JSON over a server of our own. Both ends.

Who sends the line ``stats`` gets one line, a snapshot; nothing can be changed from there. Each snapshot is good for a
moment, for whoever asks, so that asking without pause costs the program little more than the sending.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .client import TCPClient
from .errors import ConnectionClosed, ProtocolError, ResolveError
from .events import Address
from .framing import DelimiterFramer
from .hints import expect_none
from .protocol import FramedProtocol
from .stats import Snapshot
from .transport import is_loopback

if TYPE_CHECKING:
    from .server import Server_Client, TCPServer

log = logging.getLogger("simplesockets")

HOST = "127.0.0.1"
"""Where statistics are served, by default: for this machine only."""
REQUEST = b"stats"
"""The one thing to ask for."""
MAX_REQUEST = 64
"""Bytes of a request at most."""
MAX_ANSWER = 1024 * 1024
"""Bytes of an answer at most."""
MAX_WATCHERS = 16
"""How many can be connected at once; others wait until one leaves."""
FRESH = 0.25
"""Seconds for which a snapshot is good."""
SILENCE = 60.0
"""Seconds without a request after which a watcher is let go."""
PATIENCE = 5.0
"""Seconds that a watcher waits for an answer."""
MARK = "simplesockets"
"""The key by which an answer can be told from somebody else's JSON."""


class Lines(FramedProtocol):
    """Lines in both directions.

    Args:
        received, sent: bytes of one at most.
    """

    def __init__(self, received: int, sent: int) -> None:
        super().__init__(DelimiterFramer(b"\n", received))
        self.encode = DelimiterFramer(b"\n", sent).encode


class StatsService:
    """Offers snapshots to whoever connects.

    Args:
        tcp: serves them; not set up yet. It is this service's from now on.
        look: takes a snapshot.
        host, port: where to listen; port 0 takes a free one.

    Raises:
        BindError, ResolveError, TypeError, ValueError: as ``TCPServer.setup()``.
    """

    def __init__(self, tcp: TCPServer, look: Callable[[], Snapshot], host: str, port: int) -> None:
        self._look = look
        self._tcp = tcp
        self._turn = threading.Lock()  # who has it takes a snapshot; nobody waits for it
        self._made = time.monotonic()
        self._line = self._packed()
        tcp.max_connections = MAX_WATCHERS
        tcp.setup(
            ip=host,
            port=port,
            on_receive=self._answer,
            protocol=lambda: Lines(MAX_REQUEST, MAX_ANSWER),
            idle_timeout=SILENCE,
            send_timeout=PATIENCE,
        )
        if not is_loopback(tcp.address[0]):
            log.warning("the statistics at %s:%d can be read from the network, by anybody", *tcp.address)
        tcp.start()
        expect_none(tcp)

    @property
    def address(self) -> Address:
        """The real ``(ip, port)``."""
        return self._tcp.address

    def close(self, timeout: float = 5.0) -> None:
        """End it; see ``TCPServer.close()``. Whoever watches is cut, which costs no time."""
        for client in list(self._tcp.clients.values()):
            client._connection.stream.cut()
        self._tcp.close(timeout)

    def _answer(self, client: Server_Client, request: bytes) -> None:
        if bytes(request).strip() == REQUEST:
            client.send(self._newest())
        else:
            client.send(json.dumps({MARK: 1, "error": f"send the line {REQUEST.decode()!r}"}).encode())

    def _newest(self) -> bytes:
        if time.monotonic() - self._made >= FRESH and self._turn.acquire(blocking=False):
            try:
                self._line = self._packed()
                self._made = time.monotonic()
            finally:
                self._turn.release()
        return self._line

    def _packed(self) -> bytes:
        return json.dumps({MARK: 1, "snapshot": self._look().as_dict()}).encode()


class StatsSource:
    """The other end: gets snapshots from another process.

    Args:
        host, port: where it serves them.

    Raises:
        ConnectionClosed: nothing listens there, or it cannot be reached.
        ResolveError: there is no such host.
        TypeError, ValueError: that is no place.
    """

    def __init__(self, host: str, port: int) -> None:
        self._place = f"{host}:{port}"
        self._client = TCPClient()
        self._client.setup(
            host,
            port,
            connect_timeout=PATIENCE,
            send_timeout=PATIENCE,
            protocol=lambda: Lines(MAX_ANSWER, MAX_REQUEST),
        )
        self._open()

    def _open(self) -> None:
        try:
            self._client.open()
        except ResolveError:
            raise
        except OSError as failure:
            raise ConnectionClosed(self._advice(failure)) from failure
        self._asked = time.monotonic()

    def _advice(self, failure: OSError) -> str:
        if isinstance(failure, ConnectionRefusedError):
            return (
                f"nothing listens at {self._place}. Is the program running, and did it call "
                "server.serve_stats(port=…)? That tells the address; it is not the one that the server itself has"
            )
        return f"{self._place} cannot be reached: {failure}"

    def look(self) -> Snapshot:
        """The newest snapshot.

        Raises:
            ConnectionClosed: the other end is gone.
            ProtocolError: what listens there is something else.
        """
        if time.monotonic() - self._asked > SILENCE / 2:  # who asks that seldom was let go, or will be
            self._client.disconnect()
            self._open()
        self._asked = time.monotonic()
        gone = not self._client.send_data(REQUEST)
        try:
            answer = b"" if gone else bytes(self._client.recv_data(timeout=PATIENCE))
        except TimeoutError as failure:
            raise self._something_else(f"it does not answer; or {MAX_WATCHERS} watch it already") from failure
        if not answer:
            ending = self._client.ending
            if ending is not None and ending.kind == "protocol error":
                raise self._something_else(str(ending.exception))
            raise ConnectionClosed(f"{self._place} has ended the connection")
        return self._read(answer)

    def _read(self, answer: bytes) -> Snapshot:
        try:
            said = json.loads(answer)
            if not isinstance(said, dict) or MARK not in said:
                raise ValueError(f"it says {answer[:60]!r}")
            return Snapshot.from_dict(said.get("snapshot"))
        except (ValueError, RecursionError) as failure:
            raise self._something_else(str(failure)) from failure

    def _something_else(self, reason: str) -> ProtocolError:
        return ProtocolError(
            f"what listens at {self._place} serves no statistics ({reason}). The address is the one that "
            "server.serve_stats() returned, not that of the server itself"
        )

    def close(self) -> None:
        """End the connection."""
        self._client.close()
