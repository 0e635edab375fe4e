"""TCPServer: serve TCP clients, polled or with callbacks, without an event loop."""

from __future__ import annotations

import logging
import pickle
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from socket import AF_INET, SOCK_STREAM
from socket import socket as Socket
from ssl import SSLContext
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Literal, cast

from typing_extensions import Self

from . import files, tls, transport
from .connection import Connection, ThreadLike
from .dispatch import Callback, Dispatch, Journal, ServerDispatch, log
from .endpoint import Endpoint, EndpointEvents
from .engine import Acceptor, Engine, ThreadEngine, is_nested, join
from .errors import LifecycleError, SetupError, UnknownClient
from .events import (
    Address,
    ClientAddress,
    ClientTable,
    Data,
    Ending,
    Event,
    ExceptionList,
    ReceivedBytes,
    ReceivedItem,
    to_bytes,
)
from .hints import expect_clients, expect_none
from .hotpath import sending
from .locking import is_mine
from .mailbox import Bell, Flag, Mailbox
from .pool import PoolEngine
from .protocol import Protocol, ProtocolFactory, RawProtocol
from .stats import ClientStats, Stats
from .timing import Deadline, check_seconds
from .tls import HANDSHAKE_TIMEOUT, TLSStream
from .transport import SEND_TIMEOUT, Stream
from .watching import Attendants, Watched

if TYPE_CHECKING:
    from multiprocessing.connection import Connection as Pipe

    from . import workers as processes  # loaded where it is needed: multiprocessing takes its time

ContextMaker = Callable[[], SSLContext]
"""Makes a context for TLS, for processes that it could not be sent to."""

REFUSALS_TOLD = 60.0
"""Seconds after which the log tells again of connections that were refused."""
ANSWER_TIME = 1.0
"""Seconds that a polled client which sends no more (it closed, or half of it) can still be answered."""


class Server_Client:
    """A client as the server sees it. Works where a socket did, and as 0.4's object.

    Servers make these; made by hand it is a thin cover of a socket.

    Args:
        socket: the connected socket.
        address: the client's ``(ip, port)``.
        key, cipher: kept for programs of 0.4, unused: encryption is TLS here.
        thread: the thread that serves the client.
        recv_buffer: bytes asked for in one read.

    Everything may be called from any thread. Attributes of a socket that are not defined here (``getpeername``,
    ``setsockopt`` …) are those of the socket.
    """

    def __init__(
        self,
        socket: Socket,
        address: Address,
        key: bytes | None = None,
        cipher: object = None,
        thread: threading.Thread | None = None,
        recv_buffer: int = 1024,
        *,
        connection: Connection | None = None,
    ) -> None:
        self.socket = socket
        self.address = address
        self.key = key
        self.cipher = cipher
        self.recv_buffer = recv_buffer
        self._thread = thread
        self._dispatch: ServerDispatch | None = None  # set by servers
        self._crowd: Crowd | None = None  # where it counts
        self._announced = False  # whether on_connect ran, or runs
        self._handmade = connection is None  # then nobody else reads or ends this connection
        self._connection = connection or Connection(Stream(socket), RawProtocol(), Mailbox(Bell()), recv_buffer)

    @property
    def thread(self) -> ThreadLike | None:
        """The thread that serves this client; with the pool engine, what answers for one."""
        return self._connection.thread or self._thread

    @property
    def protocol(self) -> Protocol:
        """This connection's protocol: what the factory given to ``setup(protocol=…)`` made."""
        return self._connection.protocol

    @property
    def ending(self) -> Ending | None:
        """Why the connection ended; None while it is open."""
        return self._connection.ending

    @sending
    def send(self, data: Data, raw: bool = False) -> int:
        """Send everything; waits while the client does not read.

        Args:
            data: bytes-like, text (sent as UTF-8) or something received.
            raw: accepted for programs of 0.4; nothing is encrypted here in either case.

        Returns:
            The number of bytes, all of them.

        Raises:
            SendTimeout: the client took nothing for too long: ``setup(send_timeout=…)``. The connection is over then.
            ConnectionError: the connection is closed or broke; SendTimeout is one, too.
            TypeError: the data is of another type.
        """
        content = data if type(data) is bytes else to_bytes(data)
        send = self._connection.send
        send(content)
        return len(content)

    def sendall(self, data: Data) -> None:
        """The same as :meth:`send`, returning nothing, as a socket's does."""
        self._connection.send(to_bytes(data))

    def recv(self, size: int | None = None, raw: bool = False, *, timeout: float | None = None) -> ReceivedBytes:
        """Receive from this client.

        In a callback, or in ``handle_client``, it reads the socket. Elsewhere it takes what the client's thread has
        received for polling, and waits for more if there is nothing.

        Args:
            size: at most so many bytes, as a socket's ``recv``; not given: one received item.
            raw: accepted for programs of 0.4.
            timeout: seconds; None waits until something comes or the connection ends.

        Returns:
            The data; empty at the end of the stream.

        Raises:
            TimeoutError: nothing came in time.
            ConnectionError: the connection broke.
        """
        if isinstance(size, bool):  # 0.4's recv(raw), by position
            size = None
        return ReceivedBytes(self._connection.receive(size, timeout), time.time(), self)

    def send_file(
        self,
        path: files.Path | BinaryIO,
        progress: files.SendProgress | None = None,
        *,
        offset: int = 0,
        count: int | None = None,
    ) -> int:
        """Send a file, as it is, with nothing of anybody else's in between; waits while the client does not read.

        Exactly the bytes that it has at the beginning are sent; the client has to know how many these are, or that
        they go on until the end of the stream. If not all of them can be sent, for whatever reason, the connection is
        broken off, once the first was: the client sees a reset.

        Args:
            path: of the file; or the file, opened in binary mode, which is left standing after what was sent.
            progress: called as ``progress(done, total)`` with numbers of bytes, first of all with ``done=0``; or an
                object with ``update(more)``, as ``tqdm`` has. It runs in this thread, must be quick, and cannot send
                to this client. What it raises ends the sending, and is raised here.
            offset: where in the file to begin.
            count: how many bytes to send; not given: all up to the end of the file.

        Returns:
            The number of bytes, all of them.

        Raises:
            ConnectionError: the connection is closed or broke.
            FileIncomplete: the file became shorter meanwhile. (A ConnectionError.)
            OSError: the file cannot be opened or read: ``FileNotFoundError``, ``IsADirectoryError`` …
            TypeError, ValueError: an argument is of no use, or the file has no such bytes.
            LifecycleError: the connection has a protocol (``setup(protocol=…)``), whose messages it would break.
            BusyError: called in ``progress``, for the same client.
        """
        sent, failure = files.send(self._connection, path, progress, offset=offset, count=count)
        if failure is not None:
            raise failure
        return sent

    def receive_file(
        self,
        path: files.Path,
        size: int | None,
        progress: files.ReceiveProgress | None = None,
        *,
        head: bytes = b"",
        timeout: float | None = None,
    ) -> int:
        """Receive what comes next as a file. It has its name when it is complete, and not before.

        In a callback, or in ``handle_client``, it reads the socket. Elsewhere it takes what the client's thread has
        received for polling, and what comes then; meanwhile nobody else may fetch that, with
        ``return_recved_data()`` for example.

        If it fails after the first byte, the connection is broken off: what follows would be taken for something
        else. The other end sees a reset.

        Args:
            path: of the file; one that is there is replaced. Do not make it of a name that the other end sent without
                looking at that: it may be ``../..``.
            size: how many bytes come; None: all until the end of the stream.
            progress: as for :meth:`send_file`; ``total`` is None where ``size`` is.
            head: bytes of the file that came already, such as those behind a header in the same item.
            timeout: seconds without any further byte, after which it gives up; None waits until the connection ends.

        Returns:
            The number of bytes written.

        Raises:
            FileIncomplete: the connection ended before. Its ``done`` and ``expected`` say how much came. (A
                ConnectionError.)
            FileTimeout: nothing came in time. (A FileIncomplete, and a TimeoutError.)
            OSError: the file cannot be written.
            TypeError, ValueError: an argument is of no use.
            LifecycleError: the connection has a protocol (``setup(protocol=…)``); or this is not the callback that gets
                what comes.
        """
        dispatch = self._dispatch
        delivered = dispatch is not None and not (dispatch.polled and dispatch.assigned("handle_client") is None)
        return files.receive(self._connection, path, size, progress, head=head, timeout=timeout, delivered=delivered)

    def close(self) -> None:
        """End the connection in good order: what was sent arrives. ``on_disconnect`` runs. May be repeated."""
        self._connection.disconnect()
        if self._handmade or self._connection.kept:
            self._connection.close()

    def stats(self) -> ClientStats:
        """What passed over this connection so far."""
        return ClientStats(f"{self.address[0]}:{self.address[1]}", *self._connection.counts())

    def fileno(self) -> int:
        """The socket's descriptor, for ``select`` and its like; -1 when closed."""
        return self.socket.fileno()

    def __getitem__(self, index: int) -> object:
        return (self.thread, self)[index]

    def __len__(self) -> int:
        return 2

    def __bool__(self) -> bool:
        return True

    if TYPE_CHECKING:  # see _OfTheSocket

        def __getattr__(self, name: str) -> object: ...

    def __repr__(self) -> str:
        state = "open" if self.ending is None else str(self.ending)
        return f"<client {self.address[0]}:{self.address[1]}, {state}>"


class _OfTheSocket:
    """An attribute that is the socket's, unless the program sets one of that name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, client: Server_Client | None, owner: type[Server_Client]) -> object:
        return self if client is None else getattr(client.socket, self._name)


# Not by __getattr__(): every attribute of a class that has it takes several times as long.
for _name in {*dir(Socket), *dir(tls.SealedSocket)}:
    if not _name.startswith("_") and not hasattr(Server_Client, _name):
        setattr(Server_Client, _name, _OfTheSocket(_name))


EngineName = Literal["threads", "pool"]
ENGINES: dict[str, Callable[[str, Bell], Engine]] = {"threads": ThreadEngine, "pool": PoolEngine}

Target = Server_Client | ClientAddress | Socket | Address
"""How a client is named: the object or socket that callbacks and received items carry, or its address."""


class Crowd:
    """How many connections each address has. Not for several threads at once.

    Args:
        limit: how many it may have; None: any number.
    """

    __slots__ = ("_count", "_told", "_untold", "limit", "refused")

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.refused = 0
        self._count: dict[str, int] = {}
        self._untold = 0  # refused since somebody was told
        self._told: float | None = None  # when that was

    def is_full(self, host: str) -> bool:
        """Whether that address may have no more."""
        return self.limit is not None and self._count.get(host, 0) >= self.limit

    def enter(self, host: str) -> None:
        """It has one more."""
        self._count[host] = self._count.get(host, 0) + 1

    def leave(self, host: str) -> None:
        """It has one less."""
        self._count[host] -= 1
        if not self._count[host]:
            del self._count[host]

    def refuse(self, now: float) -> int:
        """Count one that was refused. Gives how many to tell of, if it is time for that, else 0."""
        self.refused += 1
        self._untold += 1
        if self._told is not None and now - self._told < REFUSALS_TOLD:
            return 0
        self._told = now
        count, self._untold = self._untold, 0
        return count


def check_per_address(value: object) -> None:
    """Refuse what is no limit of connections for each address.

    Raises:
        TypeError, ValueError: naming the value and what to give instead.
    """
    if value is not None:
        transport.check_count("max_per_address", value, "connections (or None for no limit)", 1)


class AcceptingThread:
    """``event.accepting_thread``: whether the server accepts."""

    def __init__(self, server: TCPServer) -> None:
        self._server = server

    @property
    def run(self) -> bool:
        """True between ``start()`` and ``stop()``; setting it does the same as these."""
        return self._server._run

    @run.setter
    def run(self, value: bool) -> None:
        self._server._set_run(bool(value))


class ServerEvents(EndpointEvents):
    """``server.event``: the flags to poll. Spinning on a False flag costs nothing; see mailbox.py."""

    def __init__(self, server: TCPServer, dispatch: Dispatch) -> None:
        super().__init__(dispatch)
        self.accepting_thread = AcceptingThread(server)


class TCPServer(Endpoint[ServerDispatch], Watched):
    """A TCP server that gives each client a thread.

    Polled::

        server = TCPServer()
        server.setup(ip="127.0.0.1", port=9999)
        server.start()
        while True:
            if server.event.new_data:
                for client, address, data in server.return_recved_data():
                    server.send_data(data, client)

    or with callbacks::

        server.setup(ip="127.0.0.1", port=9999, on_receive=lambda client, address, data: client.send(data))

    Everything may be called from any thread and from any callback. Callbacks of one client run in that client's
    thread, in order and one at a time; what they raise is recorded (``event.exception``) and logged.

    Args:
        max_connections: how many clients at once; None is without limit. At the limit accepting pauses, and others
            wait in the system's queue until somebody leaves.
    """

    def __init__(self, max_connections: int | None = None) -> None:
        super().__init__(ServerDispatch(Mailbox(Bell())))
        self.event = ServerEvents(self, self._dispatch)
        self._clients: ClientTable[Server_Client] = ClientTable()
        self._lock = threading.RLock()  # protects what follows and clients; never held across I/O or user code
        self._workers: processes.Workers | None = None
        self._inherited: list[Socket] = []  # listening sockets, in a worker process
        self._connected: set[Server_Client] = set()
        self._acceptor: Acceptor | None = None
        self._listeners: list[Socket] = []
        self._unbound: Socket | None = None
        self._addresses: list[Address] = []
        self._protocol: ProtocolFactory = RawProtocol
        self._ssl_context: SSLContext | None = None
        self._handshake_timeout: float | None = HANDSHAKE_TIMEOUT
        self._send_timeout: float | None = SEND_TIMEOUT
        self._crowd = Crowd(None)
        self._attendants = Attendants()
        self._recv_buffer = 2048
        self._in_setup = False
        self._run = False
        self._killed = False
        self._closed = False
        self._max_connections: int | None = None
        self.max_connections = max_connections

    # ------------------------------------------------------------------------------------------------- lifecycle

    def setup(
        self,
        ip: str | Sequence[str] | None = None,
        port: int = 25567,
        listen: int = 5,
        recv_buffer: int = 2048,
        handle_client: Callback | None = None,
        on_connect: Callback | None = None,
        on_disconnect: Callback | None = None,
        on_receive: Callback | None = None,
        *,
        protocol: ProtocolFactory = RawProtocol,
        ssl_context: SSLContext | ContextMaker | None = None,
        handshake_timeout: float | None = HANDSHAKE_TIMEOUT,
        send_timeout: float | None = SEND_TIMEOUT,
        idle_timeout: float | None = None,
        max_per_address: int | None = None,
        engine: EngineName = "threads",
        workers: int | None = None,
    ) -> None:
        """Bind and listen. Clients can connect from now on; they are served after :meth:`start`.

        Args:
            ip: one address or several (IP addresses of this machine, or names; ``""`` is every IPv4 address). Not
                given: the host name's address and 127.0.0.1.
            port: 0 takes a free one, the same on every address; :attr:`address` tells which.
            listen: how many connections may wait to be accepted (a longer queue is used than the default says).
            recv_buffer: bytes asked for in one read. What is there beyond a full read is joined to it, up to 1 MiB.
            handle_client: replaces reading and ``on_receive``; called in the client's thread as
                ``(client_socket, address)`` or ``(client)``. The connection ends when it returns.
            on_connect: called as ``(address)``, first of all.
            on_disconnect: called as ``(address)``, exactly once, last of all; by then it is not in ``clients``.
            on_receive: called as ``(client_socket, address, data)``, ``(client, received)`` or ``(data)``, whichever
                has the most arguments that the function takes.
            protocol: makes the protocol of each connection; not given, data comes as a stream, in pieces as they
                were read.
            ssl_context: for TLS: ``ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)`` with the server's
                certificate (``load_cert_chain``), or a function that makes one. Each client's handshake happens in its
                own thread, before ``on_connect``; one that fails is recorded, and nothing else happens.
            handshake_timeout: seconds that it may take; None is without limit.
            send_timeout: seconds for which a client may take nothing of what is sent to it. One that does not read is
                cut then, in the middle of what was being sent, and whoever waits in ``send()`` gets a
                :class:`~.errors.SendTimeout`; one that reads slowly is not. None waits for ever.
            idle_timeout: seconds after which a client from which nothing came is let go, in good order. It is not idle
                while a callback of it runs, nor while its data waits to be fetched. None: it may say nothing for ever.
            max_per_address: how many connections at once from one IP address; further ones are reset at once, and
                counted in :attr:`refused`. None is without limit. Each worker process counts its own.
            engine: ``"threads"`` gives each client a thread; ``"pool"`` gives one only to those whose callbacks are
                slow, so that idle clients cost none. In both, the callbacks of one client run in order and one at a
                time, and a slow one delays no other client. See docs/performance.md.
            workers: serve with so many processes, to use as many cores; None serves in this one. For callbacks at the
                top level of a module. The main file needs ``if __name__ == "__main__":``; the guide says more.

        Raises:
            SetupError: it was called already; or workers cannot do this, and the message says why.
            BindError: an address cannot be used, because the port is in use, say. (An OSError.)
            ResolveError: a name does not resolve. (A socket.gaierror.)
            TypeError, ValueError: an argument is of no use; the message says what to give.

        Source: manual; ``ip`` of several addresses and the keyword-only arguments are new.
        """
        transport.check_port(port, zero=True)
        transport.check_count("listen", listen, "connections", 0)
        transport.check_count("recv_buffer", recv_buffer, "bytes", 1)
        context = ssl_context() if callable(ssl_context) else ssl_context
        tls.check_context(context, server=True)
        check_seconds("handshake_timeout", handshake_timeout)
        check_seconds("send_timeout", send_timeout)
        check_seconds("idle_timeout", idle_timeout)
        check_per_address(max_per_address)
        make_engine = engine_maker(engine)
        hosts = _hosts(ip)
        with self._lock:
            if self._listeners or self._in_setup:
                raise SetupError("setup() was called already; close() this server before you set it up anew")
            self._in_setup = True  # so that nobody else binds meanwhile
        try:
            self._assign(on_connect=on_connect, on_disconnect=on_disconnect, on_receive=on_receive)
            self._dispatch.assign("handle_client", handle_client)
            if workers is not None:
                payload = self._packed(
                    workers,
                    recv_buffer=recv_buffer,
                    protocol=protocol,
                    ssl_context=ssl_context,
                    handshake_timeout=handshake_timeout,
                    send_timeout=send_timeout,
                    idle_timeout=idle_timeout,
                    max_per_address=max_per_address,
                    engine=engine,
                )
            with self._lock:
                unbound, self._unbound = self._unbound, None
                inherited, self._inherited = self._inherited, []
            places = hosts or transport.default_hosts()
            if workers is None:
                listeners = inherited or transport.listen_on_free_port(places, port, listen, unbound)
            else:
                shares = transport.listen_shared(places, port, listen, workers)
                listeners = shares[0]
            with self._lock:
                self._listeners = listeners
                self._addresses = [listener.getsockname()[:2] for listener in listeners]
                self._recv_buffer = recv_buffer
                self._protocol = protocol
                self._ssl_context = context
                self._handshake_timeout = handshake_timeout
                self._send_timeout = send_timeout
                self._crowd = Crowd(max_per_address)
                self._run = self._killed = self._closed = False
                name = f"simplesockets-server-{self._addresses[0][1]}"
                if workers is None:
                    engine_of_ours = self._engine = make_engine(name, self._bell)
                    engine_of_ours.set_polled(self._dispatch.polled)
                else:
                    self._employ(name, shares, payload)
                self._bell.open()
            if hosts is None:
                self._warn_if_reachable()
            if workers is None and idle_timeout is not None:
                self._look_for_idle(engine_of_ours, idle_timeout, partial(self._served_by, engine_of_ours))
        finally:
            self._in_setup = False

    def _packed(self, workers: int, **arguments: object) -> bytes:
        # What worker processes need to know, if they can do it.
        from . import workers as processes

        processes.check_guard()
        transport.check_count("workers", workers, "processes", 1)
        processes.check_limit(self._max_connections, workers)
        if not transport.CAN_SHARE:
            raise SetupError("this system cannot share a port among processes (SO_REUSEPORT); leave workers out")
        if self._dispatch.polled and self._dispatch.assigned("handle_client") is None:
            raise SetupError(
                "with workers each process has its own clients and data, so there is nothing to poll here; give "
                "setup() an on_receive (or handle_client), or leave workers out"
            )
        if self._unbound is not None:
            raise SetupError(
                "with workers there are several listening sockets, so server.socket cannot be prepared before setup(); "
                "set options of connections in on_connect, as address.socket.setsockopt(…)"
            )
        callbacks = {name: self._dispatch.assigned(name) for name in self._dispatch.FORMS}
        return processes.packed({**callbacks, **arguments})

    def _missing(self) -> str | None:
        return "this server accepts nobody: call start() after setup(…)"

    def _employ(self, name: str, shares: Sequence[list[Socket]], payload: bytes) -> None:
        from . import workers as processes

        self._engine = None
        self._workers = processes.Workers(_work, shares, payload, self._dispatch.journal, name)
        self._mailbox = cast(Mailbox, processes.Elsewhere())
        self.event._new_data = cast(Flag, processes.Elsewhere())

    def _dismiss(self) -> processes.Workers | None:
        # From now on this server is as one that never had workers.
        with self._lock:
            workers, self._workers = self._workers, None
            self._mailbox = self._dispatch.mailbox
            self.event._new_data = self._mailbox.new_data
        return workers

    def _require_own_clients(self) -> None:
        if self._workers is not None:
            raise self._workers.elsewhere()

    def _require_assignable(self, name: str) -> None:
        if self._workers is not None:
            raise LifecycleError(f"the worker processes have their {name} already; give it to setup(…, workers=…)")

    def _warn_if_reachable(self) -> None:
        reachable = [host for host, _ in self._addresses if not transport.is_loopback(host)]
        if reachable:
            log.warning(
                "this server can be reached from the network, at %s port %d; to keep it to this machine, call "
                "setup(ip='127.0.0.1', …)",
                ", ".join(reachable),
                self._addresses[0][1],
            )

    def start(self) -> None:
        """Begin to accept clients, or go on after :meth:`stop`.

        Raises:
            SetupError: :meth:`setup` is missing.

        Source: manual.
        """
        self._require_setup("start()")
        self._warn_of_misspelt()
        if self._workers is None:  # else the clients are elsewhere
            if not self._ledger.connections:
                expect_clients(self)
            self._mailbox.new_data.hint = None
        self._set_run(True)
        if self._killed:
            log.warning("start() alone accepts nobody after exit_accept(); call restart(), too")

    def stop(self) -> None:
        """Pause accepting; connected clients are served on. :meth:`start` resumes. Source: manual.

        Who connects after it returned waits in the system's queue.
        """
        self._set_run(False)

    def exit_accept(self) -> None:
        """End the accept thread; connected clients are served on. :meth:`restart` makes a new one. Source: manual."""
        with self._lock:
            acceptor = self._end_accepting()
        self._tell_workers()
        self._see_off(acceptor)

    def _end_accepting(self) -> Acceptor | None:
        # Under the lock. Gives what is to be seen off outside it.
        self._killed = True
        self._run = False
        acceptor, self._acceptor = self._acceptor, None
        return acceptor

    def _see_off(self, acceptor: Acceptor | None) -> None:
        if acceptor is not None:
            acceptor.stop()
            if not is_nested():
                join([acceptor.thread], Deadline(1.0, time.monotonic()))

    def restart(self) -> None:
        """Make a new accept thread after :meth:`exit_accept`. It accepts when :meth:`start` was called.

        Raises:
            LifecycleError: the accept thread was not ended.
            SetupError: :meth:`setup` is missing, or the server was closed.

        Source: manual.
        """
        with self._lock:
            self._require_setup("restart()")
            if not self._killed:
                raise LifecycleError("restart() is for after exit_accept(); to resume after stop(), call start()")
            self._killed = False
        self._set_run(None)

    @property
    def killed(self) -> bool:
        """Whether the accept thread was ended, by :meth:`exit_accept` or :meth:`close`."""
        return self._killed

    def close(self, timeout: float = 5.0) -> None:
        """End everything: accepting, all connections (what was sent still arrives), all threads of this server.

        Unfetched data stays to be fetched. May be called from a callback, whose own thread is not waited for, and
        repeatedly. Afterwards :meth:`setup` may be called again.

        Args:
            timeout: seconds that all of it takes at most. Threads that the program's code keeps busy for longer are
                named in a logged warning and left behind.

        Source: 0.3; ``timeout`` is new.
        """
        deadline = Deadline(timeout, time.monotonic())
        workers = self._dismiss()
        with self._lock:  # all at once, so that whoever comes between sees an open server, or a closed one
            acceptor = self._end_accepting()
            self._closed = self._bell.closed = True
            expect_none(self)
            engine = self._engine
            listeners, self._listeners = self._listeners, []
            unbound, self._unbound = self._unbound, None
        self._bell.ring()
        self._see_off(acceptor)
        self._attendants.close(deadline)
        if workers is not None:
            workers.close(deadline)
        for listener in [*listeners, unbound] if unbound else listeners:
            listener.close()
        busy = engine.close(deadline) if engine is not None else []
        if busy:
            log.warning(
                "close() left threads behind that are busy in callbacks: %s; they should return", ", ".join(busy)
            )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------ what it is

    @property
    def clients(self) -> ClientTable[Server_Client]:
        """The connected clients by address; ``[0]`` of one is its thread, ``[1]`` its socket. Source: manual, 0.4.

        Raises:
            LifecycleError: there are worker processes, and the clients are there.
        """
        self._require_own_clients()
        return self._clients

    @property
    def address(self) -> Address:
        """The real ``(ip, port)``; the first, where there are several.

        Raises:
            SetupError: :meth:`setup` is missing.
        """
        self._require_setup("address")
        return self._addresses[0]

    @property
    def addresses(self) -> list[Address]:
        """All ``(ip, port)`` pairs that this server listens on; empty before :meth:`setup`."""
        return list(self._addresses)

    @property
    def socket(self) -> Socket:
        """The listening socket; the first, where there are several.

        Before :meth:`setup` it is an unbound IPv4 socket, on which options can be set. Source: manual.
        """
        with self._lock:
            if self._listeners:
                return self._listeners[0]
            if self._unbound is None:
                self._unbound = Socket(AF_INET, SOCK_STREAM)
            return self._unbound

    @property
    def max_connections(self) -> int | None:
        """How many clients at once; None is without limit. May be changed at any time."""
        return self._max_connections

    @max_connections.setter
    def max_connections(self, value: int | None) -> None:
        if value is not None:
            transport.check_count("max_connections", value, "connections (or None for no limit)", 1)
        workers = self._workers
        if workers is not None:
            workers.check_limit(value)
        self._max_connections = value
        self._tell_workers()
        self._wake_acceptor()

    @property
    def refused(self) -> int:
        """How many connections were refused since :meth:`setup`, because of ``max_per_address``.

        Raises:
            LifecycleError: there are worker processes, each of which counts its own.
        """
        self._require_own_clients()
        return self._crowd.refused

    def stats(self) -> Stats:
        """What this server counted since it was made: connections, bytes, messages, errors, what waits.

        The counts are exact, and none ever goes down; :class:`~.stats.Stats` says what counts. Asking costs some
        microseconds for each client. :meth:`monitor` shows this, :meth:`serve_stats` lets other processes see it.

        Raises:
            LifecycleError: there are worker processes, each of which counts its own.
        """
        self._require_own_clients()
        return self._count([client._connection for client in list(self._connected)])

    def client_stats(self) -> list[ClientStats]:
        """What was counted so far for each client that is connected.

        Raises:
            LifecycleError: there are worker processes, and the clients are there.
        """
        self._require_own_clients()
        return [client.stats() for client in list(self._connected)]

    def _watch(self) -> tuple[str, Attendants]:
        self._require_own_clients()
        self._require_setup("watching it")
        return f"{type(self).__name__} {self._addresses[0][0]}:{self._addresses[0][1]}", self._attendants

    def _new_server(self) -> TCPServer:
        return TCPServer()

    def _count_on(self, former: TCPServer) -> None:
        # For the layers above: where that one ended, before this one has anything to count.
        self._ledger = former._ledger
        self._dispatch.journal.total = former._dispatch.journal.total

    def __repr__(self) -> str:
        where = ", ".join(f"{host}:{port}" for host, port in self._addresses) or "not set up"
        what = f"{len(self._clients)} clients" if self._workers is None else f"{self._workers.count} workers"
        return f"<TCPServer {where}, {what}>"

    # ---------------------------------------------------------------------------------------------------- sending

    def send_data(
        self,
        data: Data,
        target: Target | None = None,
        *,
        client_socket: Target | None = None,
        client: Target | None = None,
    ) -> bool:
        """Send to a client; waits while it does not read.

        Args:
            data: bytes-like, text (sent as UTF-8) or something received.
            target: the client's socket or object (as in callbacks and received items), or its address.
            client_socket, client: the target under its names of the manual and of 0.4.

        Returns:
            Whether it was sent. If not, the error is recorded: see :meth:`return_exceptions`.

        Raises:
            TypeError: the data or the target is of another type.

        Source: manual, 0.4.
        """
        content = data if type(data) is bytes else to_bytes(data)
        if target is None:
            target = client if client_socket is None else client_socket
        try:
            receiver = (
                target if type(target) is Server_Client else self._find(target)
            )  # nobody else may hold it, and then it must not be collected meanwhile
            receiver._connection.send(content)
        except (OSError, UnknownClient) as failure:
            self._dispatch.journal.record(failure, f"could not send to {target!r}", level=logging.INFO)
            return False
        return True

    def send_file(
        self,
        path: files.Path | BinaryIO,
        target: Target,
        progress: files.SendProgress | None = None,
        *,
        offset: int = 0,
        count: int | None = None,
    ) -> bool:
        """Send a file to a client: see :meth:`Server_Client.send_file`.

        Args:
            path, progress, offset, count: as there.
            target: the client's socket or object (as in callbacks and received items), or its address.

        Returns:
            Whether it was sent. If not, because the connection broke or there is none, the error is recorded: see
            :meth:`return_exceptions`. What is wrong with the file, and what ``progress`` raises, is raised.
        """
        try:
            receiver = self._find(target)
            _, failure = files.send(receiver._connection, path, progress, offset=offset, count=count)
        except UnknownClient as unknown:
            return self._not_sent(unknown, target)
        return failure is None or self._not_sent(failure, target)

    def _not_sent(self, failure: OSError | UnknownClient, target: Target) -> bool:
        self._dispatch.journal.record(failure, f"could not send to {target!r}", level=logging.INFO)
        return False

    def disconnect(self, target: Target | None = None, *, address: Target | None = None) -> bool:
        """End a client's connection in good order: what was sent to it arrives. ``on_disconnect`` runs.

        Args:
            target: the client's socket or object, or its address.
            address: the target under its name of the manual.

        Returns:
            Whether there was such a client. If not, the error is recorded: see :meth:`return_exceptions`.

        Raises:
            TypeError: the target is of another type.

        Source: manual.
        """
        target = address if target is None else target
        try:
            client = self._find(target)
        except UnknownClient as failure:
            self._dispatch.journal.record(failure, f"could not disconnect {target!r}", level=logging.INFO)
            return False
        client.close()
        return True

    def _find(self, target: Target | None) -> Server_Client:
        if isinstance(target, Server_Client):
            return target
        if isinstance(target, ClientAddress):
            return target.client
        self._require_own_clients()
        if isinstance(target, Socket):
            found = next((client for client in list(self._connected) if client.socket is target), None)
        elif isinstance(target, tuple):
            found = self._clients.get(target[:2])
        else:
            raise TypeError(
                f"the target must be a client's socket or object, or its (ip, port) address, not {target!r}; "
                "server.clients has them all"
            )
        if found is None:
            raise UnknownClient(target)
        return found

    # -------------------------------------------------------------------------------------------------- receiving

    def return_recved_data(self) -> list[ReceivedItem]:
        """Fetch all received data: a list of ``(client_socket, address, data)`` tuples, oldest first, which also
        have 0.4's attributes ``response``, ``time_`` and ``from_``. Lowers ``event.new_data``.

        Never waits long: with nothing there, a thread that spins on it sleeps up to 50 ms (as in reading the flag).

        Source: manual, 0.4.
        """
        return self._mailbox.take_all()  # type: ignore[return-value]  # a cast() would take its time

    def recv_data(
        self, client: Target | None = None, *, client_socket: Target | None = None, timeout: float | None = None
    ) -> ReceivedBytes:
        """Receive from one client; see :meth:`Server_Client.recv`. Programs rarely need it.

        Args:
            client: the client's socket or object, or its address.
            client_socket: the same under its name of the manual.
            timeout: seconds; None waits until something comes or the connection ends.

        Returns:
            The data; empty at the end of the stream, and when the connection broke or is unknown, which is recorded.

        Raises:
            TimeoutError: nothing came within ``timeout`` seconds.

        Source: manual.
        """
        client = client_socket if client is None else client
        try:
            return self._find(client).recv(timeout=timeout)
        except TimeoutError:
            raise
        except (OSError, UnknownClient) as failure:
            self._dispatch.journal.record(failure, f"could not receive from {client!r}", level=logging.INFO)
            return ReceivedBytes(b"", time.time())

    def receive_file(
        self,
        path: files.Path,
        size: int | None,
        client: Target,
        progress: files.ReceiveProgress | None = None,
        *,
        head: bytes = b"",
        timeout: float | None = None,
    ) -> int:
        """Receive a file from one client: see :meth:`Server_Client.receive_file`.

        Args:
            path, size, progress, head, timeout: as there.
            client: the client's socket or object, or its address.

        Returns, raises:
            as there; also UnknownClient: no such client is connected.
        """
        return self._find(client).receive_file(path, size, progress, head=head, timeout=timeout)

    def await_event(self, timeout: float = 0) -> tuple[Event, list[ReceivedItem] | ExceptionList | None]:
        """Wait until something happens.

        Args:
            timeout: milliseconds; 0 is for ever.

        Returns:
            ``(EVENT_RECEIVED, received_data)``, ``(EVENT_EXCEPTION, exceptions)``, or ``(EVENT_TIMEOUT, None)`` when
            the time is over or the server was closed.

        Raises:
            ValueError: the timeout is negative.

        Source: 0.3.
        """
        return cast("tuple[Event, list[ReceivedItem] | ExceptionList | None]", self._take_event(timeout))

    def return_exceptions(
        self, delete: bool = True, reset_exception: bool = True, *, reset_exceptions: bool = True
    ) -> ExceptionList:
        """The caught exceptions: a list of ``(traceback_text, exception)`` records, newest last, which also answers
        0.4's dictionary calls.

        Args:
            delete: whether to forget them here.
            reset_exception: whether to lower ``event.exception.occurred``; both spellings work.

        Source: manual, 0.4.
        """
        return self._dispatch.journal.take(delete, reset_exception and reset_exceptions)

    # ----------------------------------------------------------------------------------------------------- inside

    def _require_setup(self, what: str) -> None:
        if not self._listeners:
            gone = "was closed" if self._closed else "is not set up"
            raise SetupError(f"the server {gone}: call setup(…) before {what}")

    def _set_run(self, wanted: bool | None) -> None:
        # None: as it is.
        with self._lock:
            run = self._run = self._run if wanted is None else wanted
            alone = self._workers is None
            if run and alone and self._acceptor is None and self._listeners and not self._killed:
                self._start_acceptor()
            acceptor = self._acceptor
        self._tell_workers()
        if acceptor is not None:
            acceptor.wake()
            # In a signal handler that interrupted this thread with the lock, the accept thread may be waiting for it.
            if not run and not is_mine(self._lock):
                acceptor.settle()

    def _tell_workers(self) -> None:
        workers = self._workers
        if workers is None:
            return
        try:
            workers.order(run=self._run, killed=self._killed, limit=self._max_connections)
        except SetupError:
            self._run = False
            raise

    def _start_acceptor(self) -> None:
        self._acceptor = Acceptor(
            self._listeners,
            self._may_accept,
            self._admit,
            self._dispatch.journal,
            f"simplesockets-server-{self._addresses[0][1]}-accept",
        )

    def _wake_acceptor(self) -> None:
        acceptor = self.__dict__.get("_acceptor")
        if acceptor is not None:
            acceptor.wake()

    def _may_accept(self) -> bool:
        limit = self._max_connections
        return self._run and (limit is None or len(self._connected) < limit)

    def _admit(self, sock: Socket, peer: tuple[str, int]) -> None:
        # In the accept thread: nothing here waits, and no user code runs.
        engine = self._engine
        assert engine is not None  # setup() made it before any acceptor
        address = peer[:2]
        crowd = self._crowd
        if crowd.is_full(address[0]):
            self._refuse(sock, address[0], crowd, engine)
            return
        context = self._ssl_context
        try:
            protocol = self._protocol()
            stream = self._stream(sock, context)
        except Exception as failure:
            self._dispatch.journal.record(failure, "exception in the protocol's factory")
            sock.close()
            return
        connection = Connection(stream, protocol, self._mailbox, self._recv_buffer)
        connection.enter(self._ledger)
        client = Server_Client(stream.socket, address, recv_buffer=self._recv_buffer, connection=connection)
        client._dispatch = dispatch = self._dispatch
        bind = partial(
            connection.bind,
            deliver=dispatch.delivery(client, connection),
            leaving=partial(self._leaving, client, stream),
        )
        serve = partial(bind, opened=partial(self._opened, client), ended=partial(self._ended, client))
        if isinstance(stream, TLSStream):
            bind(opened=partial(self._shake_hands, client, stream, serve), ended=partial(self._leave, client))
        else:
            serve()
        life = engine.attach(connection, f"{address[0]}:{address[1]}", dispatch.handler(client))
        try:
            with self._lock:  # the thread waits for it in _opened()
                engine.start(life)
                self._connected.add(client)
                expect_none(self)
                client._crowd = crowd
                crowd.enter(address[0])
                if context is None:
                    self._clients[address] = client
        except RuntimeError as failure:  # no more threads
            dispatch.journal.record(failure, f"cannot serve {address[0]}:{address[1]}")
            connection.close()
        if self._closed or self._engine is not engine:  # close() may have looked before this client was there
            connection.hang_up()

    def _refuse(self, sock: Socket, host: str, crowd: Crowd, engine: Engine) -> None:
        count = crowd.refuse(time.monotonic())
        self._ledger.refuse()
        transport.reset(sock)
        if count:
            what = "refused a connection from %s, which has max_per_address=%s already (%d refused since the last time)"
            engine.later(0.0, partial(log.warning, what, host, crowd.limit, count))  # nothing is logged under a lock

    def _served_by(self, engine: Engine) -> list[Connection] | None:
        # None: nobody is, any more.
        if self._closed or self._engine is not engine:
            return None
        return [client._connection for client in list(self._connected)]

    def _stream(self, sock: Socket, context: SSLContext | None) -> Stream:
        if context is None:
            return Stream(sock, self._send_timeout)
        return TLSStream(sock, context, server=True, send_timeout=self._send_timeout)

    def _shake_hands(self, client: Server_Client, stream: TLSStream, serve: Callable[[], None]) -> None:
        # The first hook of an encrypted connection. Nobody sees the client yet, but it has its place (max_connections).
        connection = client._connection
        try:
            stream.handshake(Deadline(self._handshake_timeout, time.monotonic()))
        except OSError as failure:
            if connection.ending is None:  # else we are closing
                connection.note_ending("tls", failure)
                what = f"the TLS handshake with {client.address[0]}:{client.address[1]} failed{tls.explain(failure)}"
                self._dispatch.journal.record(failure, what, level=logging.WARNING)
            connection.hang_up()
            return
        if connection.closing:
            return
        serve()
        with self._lock:
            self._clients[client.address] = client
        self._opened(client)

    def _opened(self, client: Server_Client) -> None:
        # The first hook of a connection.
        with self._lock:
            pass  # until it stands in clients
        client._announced = True
        self._dispatch.connected(client)

    def _leaving(self, client: Server_Client, stream: Stream) -> None:
        self._leave(client)
        self._cut_later(stream)

    def _leave(self, client: Server_Client) -> None:
        with self._lock:
            crowd, client._crowd = client._crowd, None
            if crowd is not None:
                crowd.leave(client.address[0])
            self._connected.discard(client)
            if self._clients.get(client.address) is client:  # else its address was used again already
                del self._clients[client.address]
        self._wake_acceptor()

    def _ended(self, client: Server_Client) -> bool:
        # The last hook of a connection. Gives True to keep the stream of a client that only finished sending.
        self._leave(client)
        ending = client.ending
        self._record_ending(ending, client)
        if client._announced:  # else somebody was so fast to disconnect it that on_connect never ran
            self._dispatch.disconnected(client)
        polled = self._dispatch.polled and self._dispatch.assigned("handle_client") is None
        if ending is None or ending.kind != "peer closed" or not polled or self._engine is None:
            return False
        # Its last data may still be unpolled, and deserves an answer: the stream stays open until the program
        # lets go of the client, but not for long. (Not by __del__(): in a cycle the socket's own one may come first.)
        weakref.finalize(client, client._connection.close).atexit = False
        self._engine.later(ANSWER_TIME, partial(_close_if_there, weakref.ref(client._connection)))
        return True


def _close_if_there(reference: weakref.ref[Connection]) -> None:
    connection = reference()
    if connection is not None:
        connection.close()


def engine_maker(name: object) -> Callable[[str, Bell], Engine]:
    """What makes an engine of that name.

    Raises:
        ValueError: there is none.
    """
    if not isinstance(name, str) or name not in ENGINES:
        raise ValueError(f"engine must be 'threads' or 'pool', not {name!r}")
    return ENGINES[name]


def _hosts(ip: object) -> list[str] | None:
    if ip is None:
        return None
    hosts = [ip] if isinstance(ip, str) else list(ip) if isinstance(ip, (list, tuple, set, frozenset)) else []
    if not hosts or not all(isinstance(host, str) for host in hosts):
        raise TypeError(f"ip must be an address such as '127.0.0.1', or a list of such, not {ip!r}")
    return list(dict.fromkeys(hosts))


# ------------------------------------------------------------------------------------------- in worker processes


def _work(
    pipe: Pipe[processes.FromWorker, processes.ToWorker],
    listeners: list[Socket],
    payload: bytes,
    place: processes.Place,
) -> None:
    from . import workers as processes

    processes.mind(pipe, place, partial(_revive, listeners, payload))


def _revive(listeners: list[Socket], payload: bytes) -> tuple[TCPServer, Journal]:
    for listener in listeners:
        listener.set_inheritable(False)  # it had to be, to come here
    server = TCPServer()
    server._inherited = listeners
    server.setup(ip="", **pickle.loads(payload))  # it has its addresses already
    return server, server._dispatch.journal
