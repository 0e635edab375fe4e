"""TCPClient: talk to a TCP server, polled or with callbacks, without an event loop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from socket import AF_INET, SOCK_STREAM
from socket import socket as Socket
from ssl import SSLContext, SSLError
from types import TracebackType
from typing import BinaryIO, cast

from typing_extensions import Self

from . import events, files, tls, transport
from .connection import LINGER, Connection
from .dispatch import Callback, ClientDispatch, Dispatch, log
from .endpoint import Endpoint, EndpointEvents
from .engine import LINGER_AT_CLOSE, ThreadEngine, is_nested
from .errors import BusyError, ConnectionClosed, FileIncomplete, FileTimeout, ProtocolError, SetupError
from .events import Data, Ending, Event, ExceptionList, ReceivedBytes, to_bytes
from .hints import Forgotten
from .mailbox import Bell, Flag, Mailbox
from .protocol import ProtocolFactory, RawProtocol
from .reconnection import Episode, Reconnector
from .stats import Stats
from .timing import Deadline, Reconnect, check_seconds
from .tls import TLSStream
from .transport import SEND_TIMEOUT, Dial, Stream

CONNECT_TIMEOUT = 10.0
"""Seconds that ``connect()`` takes at most for each address of the server, by default."""


class ClientEvents(EndpointEvents):
    """``client.event``: the flags to poll. Spinning on a False flag costs nothing; see mailbox.py."""

    def __init__(self, dispatch: Dispatch) -> None:
        super().__init__(dispatch)
        bell = dispatch.mailbox.bell
        self._connected = Flag(bell)
        self._is_connected = Flag(bell)
        self._disconnected = Flag(bell)
        self._reconnecting = Flag(bell)

    @property
    def connected(self) -> bool:
        """Whether the latest attempt to connect succeeded."""
        return self._connected.read()

    @connected.setter
    def connected(self, value: bool) -> None:
        self._connected.assign(value)

    @property
    def is_connected(self) -> bool:
        """Whether the connection is open."""
        return self._is_connected.read()

    @is_connected.setter
    def is_connected(self, value: bool) -> None:
        self._is_connected.assign(value)

    @property
    def disconnected(self) -> bool:
        """Whether the connection ended."""
        return self._disconnected.read()

    @disconnected.setter
    def disconnected(self, value: bool) -> None:
        self._disconnected.assign(value)

    @property
    def reconnecting(self) -> bool:
        """Whether the connection was lost and the client tries to connect again: ``setup(reconnect=…)``."""
        return self._reconnecting.read()


class TCPClient(Endpoint[ClientDispatch]):
    """A TCP client.

    Polled::

        client = TCPClient()
        client.setup(target_ip="localhost", target_port=9999)
        client.connect()
        client.autorecv()
        client.send_data(b"Test")
        while True:
            if client.event.new_data:
                print(client.return_recved_data())

    or with callbacks: ``client.setup("localhost", 9999, on_receive=print)``.

    Everything may be called from any thread and from any callback. ``on_receive`` and ``on_disconnect`` run in the
    thread that :meth:`autorecv` starts; what callbacks raise is recorded (``event.exception``) and logged.

    With ``setup(reconnect=True)`` a connection that is lost is made again, in a thread of the client's, until the
    program ends it: see :class:`~.timing.Reconnect`. What could not be sent is never sent later, nor anything twice.
    """

    EVENT_DISCONNECT = events.DISCONNECT
    EVENT_CONNECTED = events.CONNECTED

    def __init__(self) -> None:
        super().__init__(ClientDispatch(Mailbox(Bell())))
        self.event = ClientEvents(self._dispatch)
        self._lock = threading.RLock()  # protects what follows; never held across I/O or user code
        self._connection: Connection | None = None
        self._dial: Dial | None = None
        self._connected_at = 0.0
        self._retried: Dial | None = None  # the dial of the latest try to reconnect
        self._let_go: Connection | None = None  # the one that the program ended; all others were lost
        self._closed: Connection | None = None  # the one that close() ended
        self._closer = 0  # the number of the thread that did; 0 once the client is open again
        self._closing: set[int] = set()  # threads that run on_disconnect because of that
        self._unconnected: Socket | None = None
        self._autorecv = False
        self._target: tuple[str, int] | None = None
        self._recv_buffer = 2048
        self._connect_timeout: float | None = CONNECT_TIMEOUT
        self._send_timeout: float | None = SEND_TIMEOUT
        self._idle_timeout: float | None = None
        self._protocol: ProtocolFactory = RawProtocol
        self._ssl_context: SSLContext | None = None
        self._server_hostname: str | None = None
        self._policy: Reconnect | None = None
        self._gave_up: Callable[[], object] = _nothing  # for the layers above: no more tries
        self._reconnector = Reconnector(self.event._reconnecting, self._connect_again, self._not_again)

    # ------------------------------------------------------------------------------------------------- lifecycle

    def setup(
        self,
        target_ip: str,
        target_port: int = 25567,
        recv_buffer: int = 2048,
        on_connect: Callback | None = None,
        on_disconnect: Callback | None = None,
        on_receive: Callback | None = None,
        listen: int = 5,
        handle_client: Callback | None = None,
        *,
        connect_timeout: float | None = CONNECT_TIMEOUT,
        send_timeout: float | None = SEND_TIMEOUT,
        idle_timeout: float | None = None,
        protocol: ProtocolFactory = RawProtocol,
        ssl_context: SSLContext | None = None,
        server_hostname: str | None = None,
        reconnect: Reconnect | bool | None = None,
    ) -> None:
        """Say where to connect to. May be called again; it counts from the next :meth:`connect` on.

        Args:
            target_ip: IP address or name of the server.
            target_port: its port.
            recv_buffer: bytes asked for in one read. What is there beyond a full read is joined to it, up to 1 MiB.
            on_connect: called as ``()`` right after connecting, in the thread that connects; so it is when a lost
                connection was made again.
            on_disconnect: called as ``()``, exactly once, when a connection ended, after everything else.
            on_receive: called as ``(data)`` with what was received, while :meth:`autorecv` is on.
            listen, handle_client: accepted, since the manual shows them; a client has no use for them.
            connect_timeout: seconds that connecting takes at most for each address of the server; None leaves it to
                the operating system (and to the server, with TLS).
            send_timeout: seconds for which the server may take nothing of what is sent to it; then the connection is
                cut, and ``send_data()`` is False. One that reads slowly is fine. None waits for ever.
            idle_timeout: seconds after which the connection ends, in good order, if nothing came from the server while
                somebody received: :meth:`autorecv` is on, or a thread waits in :meth:`recv_data`. None: never.
            protocol: makes the protocol of each connection; not given, data comes as a stream, in pieces as they
                were read.
            ssl_context: for TLS: ``ssl.create_default_context()``, which verifies the server's certificate; its
                ``cafile`` names those to trust. The handshake is a part of connecting, and of its time.
            server_hostname: the name that the certificate has to be for, if that is not ``target_ip``.
            reconnect: whether, and how, a connection that ends without the program's doing is made again: True, or a
                :class:`~.timing.Reconnect`. A :meth:`connect` that fails is not repeated, unless that says so.

        Raises:
            TypeError, ValueError: an argument is of no use; the message says what to give.

        Source: manual; the keyword-only arguments are new.
        """
        if not isinstance(target_ip, str):
            raise TypeError(f"target_ip must be an address or a name, such as 'localhost', not {target_ip!r}")
        transport.check_port(target_port, zero=False)
        transport.check_count("recv_buffer", recv_buffer, "bytes", 1)
        check_seconds("connect_timeout", connect_timeout)
        check_seconds("send_timeout", send_timeout)
        check_seconds("idle_timeout", idle_timeout)
        tls.check_context(ssl_context, server=False)
        if server_hostname is not None and not (isinstance(server_hostname, str) and server_hostname):
            raise TypeError(f"server_hostname must be a name, such as 'example.com', or None, not {server_hostname!r}")
        policy = Reconnect.of(reconnect)
        self._assign(on_connect=on_connect, on_disconnect=on_disconnect, on_receive=on_receive)
        with self._lock:
            self._target = (target_ip, target_port)
            self._recv_buffer = recv_buffer
            self._connect_timeout = connect_timeout
            self._send_timeout = send_timeout
            self._idle_timeout = idle_timeout
            self._protocol = protocol
            self._ssl_context = ssl_context
            self._server_hostname = server_hostname
            self._policy = policy
            self._reconnector.name = f"simplesockets-client-{target_ip}:{target_port}-reconnect"
            dial = None
            if policy is None:
                self._reconnector.call_off()
                if self._dial is self._retried:
                    dial, self._dial = self._dial, None
        if dial is not None:
            dial.abort()

    def connect(self) -> bool:
        """Connect, and run ``on_connect``. If :meth:`autorecv` is on, receiving begins.

        While a lost connection is being made again, this tries at once; if that fails, the other tries go on.

        Returns:
            True if connected (also if it was before). If not, the error is recorded, see :meth:`return_exceptions`,
            and logged.

        Raises:
            SetupError: :meth:`setup` is missing.

        Source: manual.
        """
        target = self._require_setup("connect()")
        self._warn_of_misspelt()
        try:
            self.open()
        except OSError as failure:
            what = f"could not connect to {target[0]}:{target[1]}{_hint(failure)}"
            self._dispatch.journal.record(failure, what, level=logging.WARNING)
            return False
        return True

    def open(self) -> None:
        """The same as :meth:`connect`, but it raises.

        Raises:
            SetupError: :meth:`setup` is missing.
            OSError: connecting failed: ``ConnectionRefusedError``, ``TimeoutError``, :class:`~.errors.ResolveError`,
                with TLS ``ssl.SSLError`` and ``ssl.SSLCertVerificationError`` …
        """
        connection = self._connect(self._require_setup("open()"))
        if connection is not None:
            self._welcome(connection)

    def _welcome(self, connection: Connection) -> None:
        self._dispatch.connected()
        self._start_reader(connection)

    def start(self) -> bool:
        """The same as :meth:`connect`. Source: manual's example."""
        return self.connect()

    def reconnect(self) -> bool:
        """End the connection, if there is one, and connect anew. Returns as :meth:`connect`. Source: manual."""
        self._require_setup("reconnect()")
        self.disconnect()
        return self.connect()

    def disconnect(self) -> bool:
        """End the connection in good order: what was sent arrives. ``on_disconnect`` runs.

        A connection that was lost is not made again any more.

        Returns:
            Whether there was a connection.

        Source: manual.
        """
        with self._lock:
            connection, dial = self._part()
        return self._end(connection, dial)

    def _part(self) -> tuple[Connection | None, Dial | None]:
        # Under the lock. From now on there is nothing to come back to. Gives what has to be ended, outside the lock.
        self._reconnector.call_off()
        self._let_go = self._connection
        dial, self._dial = self._dial, None
        return self._connection, dial

    def _end(self, connection: Connection | None, dial: Dial | None) -> bool:
        if dial is not None:
            dial.abort()
        if connection is None or connection.over:
            return False
        # Where there is no reader this thread sees the server off, which a mute server must not draw out.
        connection.disconnect(LINGER_AT_CLOSE if connection.thread is None else LINGER)
        if connection.is_unread():
            connection.finish()
        return True

    def shutdown(self) -> None:
        """Turn :meth:`autorecv` off and end the connection. Source: manual."""
        with self._lock:
            self._autorecv = False
        self.disconnect()

    def close(self, timeout: float = 5.0) -> None:
        """End the connection (what was sent still arrives) and all threads of this client.

        Unfetched data stays to be fetched. May be called from a callback, whose own thread is not waited for, and
        repeatedly. :meth:`connect` opens the client again, but not in a callback of the connection that another thread
        ends so, nor in the ``on_disconnect`` that this makes run.

        Args:
            timeout: seconds that all of it takes at most. A thread that the program's code keeps busy for longer is
                named in a logged warning and left behind.

        Source: 0.3; ``timeout`` is new.
        """
        deadline = Deadline(timeout, time.monotonic())
        with self._lock:
            self._autorecv = False
            unconnected, self._unconnected = self._unconnected, None
            connection, dial = self._part()
            engine, self._engine = self._engine, None
            self._closed, self._closer = connection, threading.get_ident()
            self._bell.closed = True  # who connects from now on opens the client again
        if unconnected is not None:
            unconnected.close()
        self._bell.ring()
        self._end(connection, dial)
        busy = engine.close(deadline) if engine is not None else []
        if not is_nested():
            busy += self._reconnector.join(deadline)
        if busy:
            what = "close() left a thread behind that is busy in a callback (or looks a host name up): %s"
            log.warning(what, ", ".join(busy))

    def __enter__(self) -> Self:
        self.connect()
        if not self._autorecv:
            self.autorecv()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------ what it is

    @property
    def Address(self) -> tuple[str | None, int | None]:
        """``(target_ip, target_port)`` as given to :meth:`setup`. Source: manual."""
        return self._target or (None, None)

    @property
    def ending(self) -> Ending | None:
        """Why the latest connection ended; None while it is open, or where there was none."""
        connection = self._connection
        return None if connection is None else connection.ending

    @property
    def socket(self) -> Socket:
        """The socket of the latest connection.

        Before the first it is an unconnected IPv4 socket, on which options can be set. Source: manual.
        """
        with self._lock:
            if self._connection is not None:
                return self._connection.stream.socket
            if self._unconnected is None:
                self._unconnected = Socket(AF_INET, SOCK_STREAM)
            return self._unconnected

    def stats(self) -> Stats:
        """What this client counted since it was made, over all its connections. The counts are exact, and none ever
        goes down; :class:`~.stats.Stats` says what counts."""
        connection = self._connection
        return self._count([] if connection is None or connection.over else [connection])

    def __repr__(self) -> str:
        host, port = self.Address
        state = "connected" if self.event._is_connected._value else "not connected"
        if self.event._reconnecting._value:
            state = "reconnecting"
        return f"<TCPClient of {host}:{port}, {state}>"

    # ---------------------------------------------------------------------------------------------------- sending

    def send_data(self, data: Data) -> bool:
        """Send to the server; waits while it does not read.

        Args:
            data: bytes-like, text (sent as UTF-8) or something received.

        Returns:
            Whether it was sent. If not, the error is recorded: see :meth:`return_exceptions`. A connection that breaks
            meanwhile may have carried some of it. It is not kept to be sent later, with ``reconnect`` neither.

        Raises:
            TypeError: the data is of another type.

        Source: manual.
        """
        content = to_bytes(data)
        connection = self._connection
        try:
            if connection is None or connection.over or (connection.thread is None and connection.stream.at_end()):
                raise self._why_not_connected()
            connection.send(content)
        except OSError as failure:
            self._not_sent(connection, failure)
            return False
        return True

    def _not_sent(self, connection: Connection | None, failure: OSError) -> None:
        # That the other end went away may happen to any program; to send where nobody can be is a mistake.
        mistaken = connection is self._let_go and not self._reconnector.active  # both are None before the first
        level = logging.WARNING if mistaken else logging.INFO
        self._dispatch.journal.record(failure, "could not send", level=level)
        if connection is not None and connection.is_unread() and not connection.over and not connection.save_rest():
            return  # who receives meanwhile notices
        self._lost(connection, failure)

    def send_file(
        self,
        path: files.Path | BinaryIO,
        progress: files.SendProgress | None = None,
        *,
        offset: int = 0,
        count: int | None = None,
    ) -> bool:
        """Send a file, as it is, with nothing of anybody else's in between; waits while the server does not read.

        Exactly the bytes that it has at the beginning are sent; the server has to know how many these are, or that
        they go on until the end of the stream. If not all of them can be sent, for whatever reason, the connection is
        broken off, once the first was: the server sees a reset.

        Args:
            path: of the file; or the file, opened in binary mode, which is left standing after what was sent.
            progress: called as ``progress(done, total)`` with numbers of bytes, first of all with ``done=0``; or an
                object with ``update(more)``, as ``tqdm`` has. It runs in this thread, must be quick, and cannot send
                anything. What it raises ends the sending, and is raised here.
            offset: where in the file to begin.
            count: how many bytes to send; not given: all up to the end of the file.

        Returns:
            Whether it was sent. If not, because the connection broke or there is none, the error is recorded: see
            :meth:`return_exceptions`.

        Raises:
            FileIncomplete: the file became shorter meanwhile.
            OSError: the file cannot be opened or read: ``FileNotFoundError``, ``IsADirectoryError`` …
            TypeError, ValueError: an argument is of no use, or the file has no such bytes.
            LifecycleError: the connection has a protocol (``setup(protocol=…)``), whose messages it would break.
            BusyError: called in ``progress``.
        """
        connection = self._connection
        failure: OSError | None
        if connection is None:
            failure = ConnectionClosed("this client is not connected; call connect() first")
        elif connection.over or (connection.thread is None and connection.stream.at_end()):
            failure = ConnectionClosed("the connection has ended; reconnect() opens a new one")
        else:
            _, failure = files.send(connection, path, progress, offset=offset, count=count)
        if failure is not None:
            self._not_sent(connection, failure)
        return failure is None

    def _why_not_connected(self) -> ConnectionClosed:
        if self._reconnector.active or (self._policy is not None and self._connection is not self._let_go):
            return ConnectionClosed("the client tries to connect again; this was not sent, nor will it be later")
        if self._connection is None:
            return ConnectionClosed("this client is not connected; call connect() first")
        return ConnectionClosed("the connection has ended; reconnect() opens a new one")

    def end_sending(self) -> bool:
        """Tell the server that nothing more will be sent; receiving goes on.

        Returns:
            Whether there was an open connection.
        """
        connection = self._connection
        if connection is None or connection.over:
            return False
        connection.stream.end_sending()
        return True

    # -------------------------------------------------------------------------------------------------- receiving

    def autorecv(self) -> bool:
        """Turn automatic receiving on, or, if it is on, off. It is off at first.

        While it is on, a thread of this client's receives: for ``on_receive``, and for polling. It stays on over
        :meth:`reconnect`, and may be turned on before :meth:`connect`.

        Returns:
            True.

        Source: manual.
        """
        with self._lock:
            self._autorecv = not self._autorecv
            connection = self._connection
            if connection is None:
                return True
            if self._autorecv:
                self._start_reader(connection)
            else:
                connection.turn(False)
                self._mailbox.new_data.hint = Forgotten(self._missing)
        return True

    def recv_data(self, *, timeout: float | None = None) -> ReceivedBytes:
        """Receive one item; waits for it. For programs that do not use :meth:`autorecv`; with it, this takes the
        oldest item that was received automatically, or waits for the next.

        Args:
            timeout: seconds; None waits until something comes or the connection ends.

        Returns:
            The data; empty at the end of the stream, and when the connection broke or there is none, which is
            recorded. With ``reconnect``, too, each connection ends so, after all that came in it; while there is none,
            this returns soon.

        Raises:
            TimeoutError: nothing came in time.

        Source: manual.
        """
        connection = self._connection
        try:
            if connection is None:
                raise ConnectionClosed("this client is not connected; call connect() first")
            data = connection.receive(timeout=timeout)
        except TimeoutError:
            raise
        except (ProtocolError, SSLError) as failure:  # recorded as the reason why the connection ends
            self._lost(connection, failure)
            data = b""
        except OSError as failure:
            level = logging.WARNING if connection is None else logging.INFO
            self._dispatch.journal.record(failure, "could not receive", level=level)
            self._lost(connection, failure)
            data = b""
        else:
            if not data:
                self._lost(connection, None)
        if not data and self.event._reconnecting._value:
            self.event._is_connected.read()  # a loop that does nothing else does not burn a core meanwhile
        return ReceivedBytes(data, time.time())

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

        Without :meth:`autorecv`, and in ``on_receive``, it reads the socket. With it, and without ``on_receive``, it
        takes what was received automatically, and what comes then; meanwhile nobody else may fetch that, with
        :meth:`return_recved_data` for example.

        If it fails after the first byte, the connection is broken off: what follows would be taken for something
        else. The server sees a reset.

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
            ConnectionClosed: there is no connection.
            FileIncomplete: the connection ended before. Its ``done`` and ``expected`` say how much came. (A
                ConnectionError.)
            FileTimeout: nothing came in time. (A FileIncomplete, and a TimeoutError.)
            OSError: the file cannot be written.
            TypeError, ValueError: an argument is of no use.
            LifecycleError: the connection has a protocol (``setup(protocol=…)``); or this is not ``on_receive``, which
                gets what comes.
        """
        connection = self._connection
        if connection is None:
            raise ConnectionClosed("this client is not connected; call connect() first")
        delivered = not self._dispatch.polled
        try:
            received = files.receive(connection, path, size, progress, head=head, timeout=timeout, delivered=delivered)
        except FileIncomplete as failure:
            if not isinstance(failure, FileTimeout):
                self._lost(connection, failure.__cause__ if isinstance(failure.__cause__, OSError) else None)
            raise
        if size is None:
            self._lost(connection, None)
        return received

    def return_recved_data(self, clear_event: bool = True) -> list[ReceivedBytes]:
        """Fetch all received data, oldest first: bytes that also have 0.4's attributes ``response``, ``time_`` and
        ``from_``. Lowers ``event.new_data``.

        Never waits long: with nothing there, a thread that spins on it sleeps up to 50 ms (as in reading the flag).

        Args:
            clear_event: accepted for programs of 0.4. What was fetched is never announced again in either case.

        Source: manual, 0.4.
        """
        return cast("list[ReceivedBytes]", self._mailbox.take_all())

    def await_event(
        self, timeout: float = 0, disable_on_functions: bool = False
    ) -> tuple[Event, list[ReceivedBytes] | ExceptionList | None]:
        """Wait until something happens.

        Args:
            timeout: milliseconds; 0 is for ever.
            disable_on_functions: whether to forget what is pending of connecting and disconnecting first.

        Returns:
            ``(EVENT_RECEIVED, received_data)``, ``(EVENT_EXCEPTION, exceptions)``, ``(EVENT_CONNECTED, None)``,
            ``(EVENT_DISCONNECT, None)``, or ``(EVENT_TIMEOUT, None)`` when the time is over or the client was closed.

        Raises:
            ValueError: the timeout is negative.

        Source: 0.3.
        """
        pending = self._mailbox.events
        if disable_on_functions:
            pending.clear_name(self.EVENT_CONNECTED)
            pending.clear_name(self.EVENT_DISCONNECT)
        return cast("tuple[Event, list[ReceivedBytes] | ExceptionList | None]", self._take_event(timeout))

    def return_exceptions(
        self, delete: bool = True, reset_exceptions: bool = True, *, reset_exception: bool = True
    ) -> ExceptionList:
        """The caught exceptions: a list of ``(traceback_text, exception)`` records, newest last, which also answers
        0.4's dictionary calls.

        Args:
            delete: whether to forget them here.
            reset_exceptions: whether to lower ``event.exception.occurred``; both spellings work.

        Source: manual, 0.4.
        """
        return self._dispatch.journal.take(delete, reset_exceptions and reset_exception)

    # ----------------------------------------------------------------------------------------------------- inside

    def _missing(self) -> str | None:
        if self._dial is not None or self._reconnector.active:
            return None
        if self._connection is None:
            if self._engine is not None:  # it tried, and was told why it could not
                return None
            return "this client is not connected: call connect(), which gives True if it could"
        if not self._autorecv and self._connection.thread is None and not self._connection.over:
            return "nothing receives it: call autorecv(), once (a second call turns it off), or use recv_data()"
        return None

    def _require_setup(self, what: str) -> tuple[str, int]:
        if self._target is None:
            raise SetupError(f"the client is not set up: call setup(target_ip, target_port) before {what}")
        return self._target

    def _connect(self, target: tuple[str, int], episode: Episode | None = None) -> Connection | None:
        # The new connection; None if there is one already, or if nobody wants the episode's tries any more.
        with self._lock:
            if self._connection is not None and not (self._connection.over or self._connection.closing):
                return None
            if self._is_being_closed():
                raise ConnectionClosed("the client is being closed; connect again after close()")
            rival, lost = self._dial, None
            if episode is None:
                if rival is not None and rival is not self._retried:
                    raise BusyError("another thread is connecting this client")
                lost = self._reconnector.call_off()
                self.event._disconnected.clear()
            elif rival is not None or not self._reconnector.is_current(episode):
                return None
            given, self._unconnected = self._unconnected, None
            dial = self._dial = Dial(target[0], target[1], self._connect_timeout, given)
            if episode is not None:
                self._retried = dial
            if self._engine is None:
                self._engine = ThreadEngine(f"simplesockets-client-{target[0]}:{target[1]}", self._bell, shares=False)
            self._engine.set_polled(self._dispatch.polled)
            self._bell.open()
            self.event._connected.clear()
        if rival is not None:
            rival.abort()
        try:
            return self._adopt(self._secured(dial.connect(), dial), dial)
        except OSError:
            if episode is None:
                self._try_later(dial, lost)
            raise
        finally:
            with self._lock:
                if self._dial is dial:
                    self._dial = None

    def _is_being_closed(self) -> bool:
        # For the calling thread: what it does in a callback must not undo what another one wants.
        closed, thread = self._closed, threading.get_ident()
        if closed is not None and self._closer not in (0, thread) and closed.is_served_here():
            return True
        return thread in self._closing

    def _secured(self, sock: Socket, dial: Dial) -> Stream:
        context = self._ssl_context
        if context is None:
            return Stream(sock, self._send_timeout)
        try:
            name = self._server_hostname or dial.host or None
            stream = TLSStream(sock, context, server=False, name=name, send_timeout=self._send_timeout)
        except BaseException:
            sock.close()
            raise
        try:
            with dial.guarding(stream.socket):
                stream.handshake(dial.deadline)
        except BaseException:
            stream.close()
            raise
        return stream

    def _adopt(self, stream: Stream, dial: Dial) -> Connection:
        try:
            protocol = self._protocol()
        except BaseException:
            stream.close()
            raise
        connection = Connection(stream, protocol, self._mailbox, self._recv_buffer)
        connection.reading = False  # until _start_reader()
        connection.bind(
            opened=_nothing,
            deliver=partial(self._dispatch.deliver, connection),
            ended=partial(self._ended, connection),
            leaving=partial(self._cut_later, connection.stream),
        )
        with self._lock:
            wanted = self._dial is dial and not dial.aborted
            if wanted:
                self._connection = connection
                self._closer = 0
                connection.enter(self._ledger)
                self._connected_at = time.monotonic()
                self._dial = None
                self._reconnector.call_off()
                self.event._disconnected.clear()
                self.event._is_connected.rise()
                self.event._connected.rise()
                engine = self._engine
        if not wanted:
            connection.close()
            raise ConnectionClosed("connecting was ended by close()")
        if self._idle_timeout is not None and engine is not None:
            self._look_for_idle(engine, self._idle_timeout, partial(_if_going_on, connection))
        self._mailbox.events.happened(self.EVENT_CONNECTED.copy())  # rings for the flags, too
        return connection

    def _start_reader(self, connection: Connection) -> None:
        with self._lock:
            if self._autorecv and self._engine is not None and connection.turn(True):
                self._engine.start(self._engine.attach(connection, "receiver"))
                self._mailbox.new_data.hint = None  # nothing is missing, so polling need not ask

    def _lost(self, connection: Connection | None, failure: OSError | ProtocolError | None) -> None:
        # A connection that nobody reads automatically turned out to be over. (A reader would notice by itself.)
        if connection is not None and connection.thread is None:
            if isinstance(failure, ProtocolError):
                connection.note_ending("protocol error", failure)
                connection.hang_up("protocol error", LINGER_AT_CLOSE)
            kind = "peer closed" if failure is None else "tls" if isinstance(failure, SSLError) else "reset"
            connection.note_ending(kind, failure)
            connection.finish()

    def _ended(self, connection: Connection) -> bool:
        self._record_ending(connection.ending, self)
        episode = None
        with self._lock:
            if self._connection is connection:  # else it is connected anew already
                self.event._is_connected.clear()
                self.event._disconnected.rise()
                if self._policy is not None and connection is not self._let_go:
                    episode = self._reconnector.lost(self._policy, time.monotonic() - self._connected_at)
        self._mailbox.events.happened(self.EVENT_DISCONNECT.copy())  # rings for the flags, too
        try:
            self._say_disconnected(connection)
        finally:
            if episode is not None:
                log.info("the connection of %r has ended: %s", self, connection.ending)
                self._reconnector.begin(episode)
        return False

    def _say_disconnected(self, connection: Connection) -> None:
        if connection is not self._closed:
            self._dispatch.disconnected()
            return
        thread = threading.get_ident()
        self._closing.add(thread)
        try:
            self._dispatch.disconnected()
        finally:
            self._closing.discard(thread)

    # ----------------------------------------------------------------------------------------------- reconnecting

    def _try_later(self, dial: Dial, lost: Episode | None) -> None:
        # The program connected by hand, and it failed.
        with self._lock:
            if self._dial is not dial or self._policy is None:  # it was called off
                return
            if lost is None and self._policy.initially:
                lost = self._reconnector.lost(self._policy)
            if lost is None:
                return
            self._reconnector.resume(lost)
        self._bell.ring()
        self._reconnector.begin(lost)

    def _connect_again(self, episode: Episode) -> None:
        # One try, in the reconnector's thread.
        connection = self._connect(self._require_setup("reconnecting"), episode)
        if connection is not None:
            seconds = time.monotonic() - episode.since
            log.info("%r: again after %d failed tries and %.1f seconds", self, episode.failures, seconds)
            self._welcome(connection)

    def _not_again(self, episode: Episode, failure: Exception, last: bool) -> None:
        host, port = self.Address
        outcome = "giving up" if last else "trying on; not all failures are told"
        what = f"could not connect to {host}:{port} again (try {episode.failures}, {outcome}){_hint(failure)}"
        self._dispatch.journal.record(failure, what, level=logging.WARNING)
        if last:
            with self._lock:
                if not self._reconnector.active:
                    self._let_go = self._connection
            self._gave_up()


def _nothing() -> None:
    pass


def _if_going_on(connection: Connection) -> list[Connection] | None:
    return None if connection.closing or connection.over else [connection]


def _hint(failure: Exception) -> str:
    if isinstance(failure, ConnectionRefusedError):
        return "; is the server running, with this port?"
    return tls.explain(failure)
