"""Every layer behind one face: a :class:`Service` that notes records and sends each one back, and a :class:`Flow`,
one client of it at a time.

    raw     TCPServer and TCPClient, a stream, with callbacks
    polled  the same, polled at both ends
    framed  messages with a length before each
    hisock  commands, with the loops in threads of their own
    hpx     function calls; one answer is awaited before the next call
"""

from __future__ import annotations

import contextlib
import itertools
import ssl
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from simplesockets import FramedProtocol, LengthPrefixFramer, TCPClient, TCPServer
from simplesockets.errors import FrameTruncated
from simplesockets.hisock import ClientInfo, ThreadedHiSockClient, ThreadedHiSockServer
from simplesockets.hisock import protocol as hisock_protocol
from simplesockets.hpx import Client, HPXError, Server
from simplesockets.protocol import Protocol, RawProtocol

from ..support.certificates import client_side, server_side
from ..support.running import HOST
from ..support.waiting import PATIENCE
from .records import Damaged, Ledger, Records, Trail, read_record

Address = tuple[str, int]
TLS = bool | ssl.SSLContext
"""Whether to encrypt: with the usual context of that side, or with this one."""


def framed() -> Protocol:
    """Messages with a length before each."""
    return FramedProtocol(LengthPrefixFramer(16))


def _forget_kept(endpoint: TCPServer | TCPClient, *, copies: bool = False) -> None:
    if copies:
        endpoint.return_recved_data()
    endpoint.return_exceptions()
    endpoint._mailbox.events.clear()


def _context(tls: TLS, usual: Callable[[], ssl.SSLContext]) -> ssl.SSLContext | None:
    return tls if isinstance(tls, ssl.SSLContext) else usual() if tls else None


# ------------------------------------------------------------------------------------------------------ services


class Service(ABC):
    """A server that notes records and sends them back.

    Attributes:
        address: where it is.
        ledger: what came.
        came, left: how many clients its hooks told of, where it has hooks.
    """

    address: Address

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.came = 0
        self.left = 0
        self._counting = threading.Lock()  # protects these two

    @abstractmethod
    def present(self) -> int:
        """How many clients it knows."""

    @abstractmethod
    def close(self) -> None:
        """End it."""

    @abstractmethod
    def forget_kept(self) -> None:
        """Drop what it keeps, up to a limit, for programs that ask for it: copies, exceptions, events."""

    def _note_came(self, _: object) -> None:
        with self._counting:
            self.came += 1

    def _note_left(self, _: object) -> None:
        with self._counting:
            self.left += 1


class TCPService(Service):
    """With callbacks, or polled by a thread."""

    def __init__(self, tls: TLS, *, protocol: Callable[[], Protocol] = RawProtocol, polled: bool = False) -> None:
        super().__init__()
        self._streams = protocol is RawProtocol
        self._records: weakref.WeakKeyDictionary[Any, Records] = weakref.WeakKeyDictionary()
        self._server = TCPServer()
        self._server.setup(
            ip=HOST,
            port=0,
            on_connect=self._note_came,
            on_disconnect=self._note_left,
            on_receive=None if polled else self._receive,
            protocol=protocol,
            ssl_context=_context(tls, server_side),
        )
        self.address = self._server.address
        self._server.start()
        self._poller = threading.Thread(target=self._poll) if polled else None
        self._open = True
        if self._poller is not None:
            self._poller.start()

    def _receive(self, client: Any, address: object, data: bytes) -> None:
        if self._streams:
            self.ledger.read_stream(self._records.setdefault(client, Records()), data)
        else:
            self.ledger.read(data)
        with contextlib.suppress(OSError):  # it is gone
            client.send(data)

    def _poll(self) -> None:
        while self._open:
            if self._server.event.new_data:
                for client, address, data in self._server.return_recved_data():
                    self._receive(client, address, data)

    def present(self) -> int:
        return len(self._server.clients)

    def forget_kept(self) -> None:
        _forget_kept(self._server, copies=self._poller is None)

    def close(self) -> None:
        self._open = False
        self._server.close()
        if self._poller is not None:
            self._poller.join(PATIENCE)
            for client, address, data in self._server.return_recved_data():
                self._receive(client, address, data)


class HiSockService(Service):
    """Commands ``put``, answered by ``got``."""

    def __init__(self, tls: TLS) -> None:
        super().__init__()
        server = self._server = ThreadedHiSockServer((HOST, 0), tls=_context(tls, server_side))
        self.address = server.get_addr()
        server.on("join")(lambda client: self._note_came(client))
        server.on("leave")(lambda client: self._note_left(client))

        @server.on("put")
        def put(client: ClientInfo, message: bytes) -> None:
            self.ledger.read(message)
            with contextlib.suppress(TypeError):  # it left
                server.send_client(client, "got", message)

        server.start()

    def present(self) -> int:
        return len(self._server)

    def forget_kept(self) -> None:
        _forget_kept(self._server._tcp)

    def close(self) -> None:
        self._server.close()


class HPXService(Service):
    """The function ``put``."""

    def __init__(self, tls: TLS) -> None:
        super().__init__()
        # Sessions outlive their connections; by default for so long that a quarter of an hour would not show the end.
        self._server = Server(
            port=0, max_connections=None, session_lifespan=120.0, ssl_context=_context(tls, server_side)
        )

        @self._server.function
        def put(text: str) -> str:
            self.ledger.read(text.encode())
            return text

        self._server.start()
        self.address = self._server.address

    def present(self) -> int:
        tcp = self._server._tcp
        return 0 if tcp is None else len(tcp.clients)

    def forget_kept(self) -> None:
        if self._server._tcp is not None:
            _forget_kept(self._server._tcp)

    def close(self) -> None:
        self._server.close()


# --------------------------------------------------------------------------------------------------------- flows


class Flow(ABC):
    """A client through which records go, and come back. After :meth:`close` it can :meth:`open` another connection.

    Args:
        address: of the service.
        tls: of the service.
        patience: seconds that anything may take.

    Attributes:
        echoes: what came back in the latest connection.
        local: the address of its socket; None if it was gone before one could look.
    """

    def __init__(self, address: Address, tls: TLS, *, patience: float = PATIENCE) -> None:
        self.echoes = Trail()
        self.local: Address | None = None
        self._patience = patience
        self._address = address
        self._context = _context(tls, client_side)
        self._changed = threading.Condition()  # protects echoes and _over where another thread receives
        self._over = True

    def open(self) -> None:
        """Connect.

        Raises:
            OSError, HPXError: it does not succeed.
        """
        self.echoes = Trail()
        self._over = False
        try:
            self._open()
        except BaseException:
            self._over = True
            raise

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def send(self, record: bytes) -> None:
        """Send a record.

        Raises:
            OSError, HPXError: the connection is gone.
        """

    @abstractmethod
    def close(self) -> None:
        """End the connection, and all threads."""

    @property
    def over(self) -> bool:
        """Whether the connection ended, and everything that came was noted."""
        return self._over

    def wait(self, count: int, patience: float = PATIENCE) -> bool:
        """Wait until so many records came back, or the connection ended. Returns whether one of these happened."""
        with self._changed:
            return self._changed.wait_for(lambda: self._over or self.echoes.received >= count, patience)

    def _read(self, data: bytes) -> None:
        # A whole record came back.
        with self._changed:
            try:
                self.echoes.note(read_record(data)[1])
            except Damaged:
                self.echoes.note_damage()
            self._changed.notify_all()

    def _read_stream(self, records: Records, data: bytes) -> None:
        # A piece of a stream of records came back.
        with self._changed:
            try:
                for _, number in records.feed(data):
                    self.echoes.note(number)
            except ValueError:
                self.echoes.note_damage()
            self._changed.notify_all()

    def _note_end(self, *_: object) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()


class TCPFlow(Flow):
    """With callbacks."""

    def __init__(
        self,
        address: Address,
        tls: TLS,
        *,
        protocol: Callable[[], Protocol] = RawProtocol,
        patience: float = PATIENCE,
    ) -> None:
        super().__init__(address, tls, patience=patience)
        self._streams = protocol is RawProtocol
        self._records = Records()
        self._client = TCPClient()
        self._client.setup(
            *address,
            on_receive=self._receive,
            on_disconnect=self._note_end,
            protocol=protocol,
            ssl_context=self._context,
            connect_timeout=patience,
        )

    def _open(self) -> None:
        self._records = Records()
        self._client.autorecv()
        try:
            self._client.open()
        except BaseException:
            self._client.close()
            raise
        with contextlib.suppress(OSError):
            self.local = self._client.socket.getsockname()[:2]

    def _receive(self, data: bytes) -> None:
        if self._streams:
            self._read_stream(self._records, data)
        else:
            self._read(data)

    def _forget_copies(self) -> None:
        self._client.return_recved_data()

    def send(self, record: bytes) -> None:
        if not self._client.send_data(record):
            raise ConnectionError("the connection is gone")

    def close(self) -> None:
        self._client.close()
        self._forget_copies()
        broken = (OSError, FrameTruncated)
        self.echoes.damaged += sum(not isinstance(each[1], broken) for each in self._client.return_exceptions())
        _forget_kept(self._client)


class PolledFlow(TCPFlow):
    """Polled by whoever waits."""

    def __init__(self, address: Address, tls: TLS, *, patience: float = PATIENCE) -> None:
        super().__init__(address, tls, patience=patience)
        self._client.on_receive = None
        self._client.on_disconnect = None

    def _fetch(self) -> None:
        connected = self._client.event.is_connected  # looked at first: then all that came before is there
        if self._client.event.new_data:
            for data in self._client.return_recved_data():
                self._receive(data)
        self._over = not connected

    def _forget_copies(self) -> None:
        self._fetch()  # what is not fetched stays, and would come before the next connection's data

    @property
    def over(self) -> bool:
        if not self._over and not self._client.event.is_connected:
            self._fetch()
        return self._over

    def wait(self, count: int, patience: float = PATIENCE) -> bool:
        until = time.monotonic() + patience
        while not self._over and self.echoes.received < count:
            if time.monotonic() > until:
                return False
            self._fetch()  # a flag that is spun on waits by itself
        return True


class HiSockFlow(Flow):
    """A new client for each connection."""

    _numbers = itertools.count()

    def __init__(self, address: Address, tls: TLS, *, patience: float = PATIENCE) -> None:
        super().__init__(address, tls, patience=patience)
        self.name = f"flow {next(self._numbers):6}"
        self._client: ThreadedHiSockClient | None = None

    def _open(self) -> None:
        client = self._client = ThreadedHiSockClient(
            self._address, self.name, tls=self._context, connect_timeout=self._patience
        )
        with contextlib.suppress(OSError):
            self.local = client.get_client_addr()
        client.on("got")(self._receive)
        client.on("force_disconnect")(lambda: None)
        client.start(error_handler=self._failed)

    def _receive(self, message: bytes) -> None:
        self._read(message)

    def _failed(self, failure: Exception) -> None:
        # Of a handler, or ServerNotRunning: the connection ended.
        if not isinstance(failure, ConnectionError):
            self.echoes.note_damage()
        self._note_end()

    def send(self, record: bytes) -> None:
        assert self._client is not None
        self._client.send("put", record)

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
        self._note_end()


class HPXFlow(Flow):
    """One client object; its session goes on in the next connection."""

    def __init__(self, address: Address, tls: TLS, *, patience: float = PATIENCE) -> None:
        super().__init__(address, tls, patience=patience)
        self._client = Client("flow", *address, ssl_context=self._context, timeout=patience)
        self._session = ""

    def _open(self) -> None:
        self._client.connect()
        with contextlib.suppress(OSError):
            self.local = self._client._tcp.socket.getsockname()[:2]
        assert self._client.session == self._session, "the session was not kept"
        if not self._session:
            assert self._client.handshake()
            self._session = self._client.session

    def send(self, record: bytes) -> None:
        try:
            answer: Any = self._client.send([{"fname": "put", "text": record.decode()}])
        except (OSError, HPXError):
            self._over = True
            raise
        self._read(answer["data"][0]["data"].encode())

    def close(self) -> None:
        self._over = True
        self._client._lose()
        _forget_kept(self._client._tcp)

    def quit(self) -> None:
        """Close the client for good."""
        self._client.close()


# -------------------------------------------------------------------------------------------------------- layers


def _hisock_size(record: bytes) -> int:
    return hisock_protocol.HEADER_LEN + len(hisock_protocol.MODERN.command("put", record))


class Layer(NamedTuple):
    """How to make both ends, and what a record takes on the wire (None: nothing can be said about that)."""

    name: str
    serve: Callable[[TLS], Service]
    flow: Callable[..., Flow]
    wire_size: Callable[[bytes], int] | None
    preface: int = 0
    """Bytes that a client sends before its first record."""


_HELLO = hisock_protocol.HEADER_LEN + len(hisock_protocol.MODERN.hello(f"flow {0:6}", None))

LAYERS = {
    layer.name: layer
    for layer in [
        Layer("raw", TCPService, TCPFlow, len),
        Layer("polled", partial(TCPService, polled=True), PolledFlow, len),
        Layer(
            "framed",
            partial(TCPService, protocol=framed),
            partial(TCPFlow, protocol=framed),
            lambda record: len(record) + 16,
        ),
        Layer("hisock", HiSockService, HiSockFlow, _hisock_size, _HELLO),
        Layer("hpx", HPXService, HPXFlow, None),
    ]
}
"""By name."""
