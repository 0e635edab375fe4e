"""Server: offers functions to HappyPanda X frontends."""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import overload

from typing_extensions import Self

from .. import __version__
from ..engine import is_nested
from ..errors import FrameTooLarge, FrameTruncated, SetupError
from ..events import Address, ClientAddress, ExceptionList
from ..server import EngineName, Server_Client, TCPServer, check_per_address, engine_maker
from ..stats import ClientStats, Stats
from ..timing import HEED, Deadline, check_seconds
from ..tls import check_context
from ..transport import SEND_TIMEOUT, check_count, check_port, wait_ready
from ..watching import Attendants, Watched
from .codec import LEVEL, MAX_PACKED, MAX_UNPACKED, Unreadable
from .conversation import Conversation
from .exceptions import InvalidMessage, ServerError
from .functions import Context, Function, Functions
from .protocol import Json, ServerCommand, to_json
from .redis_node import RedisNode
from .service import Reply, Service, Users, Version
from .sessions import MAX_SESSIONS, SESSION_LIFESPAN, Sessions, SessionStore

log = logging.getLogger("simplesockets.hpx")

PORT = 7007
"""The port of HappyPanda X."""
MAX_CONNECTIONS = 1000
"""Default limit of connections at a time; further ones wait to be accepted."""
HANDSHAKE_TIMEOUT = 300.0
"""Default seconds that a connection has for its first accepted message; a person may have to type a password."""
CROWDED = 5.0
"""Seconds after which a connection that sent no accepted message is ended if others wait to be accepted."""
LATE = 0.5
"""Seconds after which a connection whose time for that is over is looked at again, as it was just being served."""
STALL = 5.0
"""Seconds after which a message that seemed complete, but for what gzip says, counts as damaged."""
BROADCAST_TIME = 1.0
"""Seconds that each connection has to take a server command that is sent on to all."""
HEARD_WITHIN = 5.0
"""Seconds that a server waits to hear, by way of Redis, the command that it was given itself."""

_RECV_BUFFER = 64 * 1024
_QUICK_ACK = getattr(socket, "TCP_QUICKACK", None)  # Linux has it


def _own_version() -> Version:
    return {"core": [int(part) for part in __version__.split(".")[:3]], "db": [0, 0, 0], "torrent": [0, 0, 0]}


class Server(Watched):
    """A server that HappyPanda X frontends can talk to::

        server = Server(users={"admin": "secret"})

        @server.function
        def add(a, b):
            return a + b

        server.serve_forever()

    Functions may block, and several may run at the same time: the messages of one connection are answered in order and
    one at a time, and none delays another connection. They run in the connection's own thread if they are slow, in one
    that connections share if not.

    Args:
        name: what the server calls itself in messages.
        host: address to listen on, or several.
        port: 0 takes a free one; :attr:`address` tells which.
        guest_allowed: whether one may come without credentials.
        users: passwords by user, or a function ``(user, password) -> bool``.
        session_lifespan: seconds that a session lives without a message; 0 is for ever.
        sessions: the URL of a Redis in which sessions are kept, and by which ``serverquit`` and ``serverrestart`` reach
            every server with the same URL: ``"redis://host:6379/0"``, ``rediss://`` or ``unix://``, with
            ``?prefix=…`` for other keys than ``hpx:…``. What functions keep in ``context.data`` has to be something
            that JSON can say then. None: in memory, for this server alone.
        version: what the greeting says: lists of three numbers for ``core``, ``db`` and ``torrent``.
        ssl_context: for TLS: ``ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)`` with the server's certificate
            (``load_cert_chain``).
        dev: whether a message stays without an answer if an unhandled exception was raised for it.
        ready: what :attr:`ready` is at first.
        max_sessions: sessions at a time; for one more, that which was idle longest goes.
        max_connections: connections at a time; further ones wait to be accepted. None is without limit. Where others
            wait, those that have sent no accepted message for some seconds are ended.
        max_packed: bytes of a received frame at most.
        max_unpacked: bytes of JSON in it at most.
        handshake_timeout: seconds that a connection has for its first accepted message; None is for ever.
        send_timeout: seconds for which a client may take nothing of an answer; its connection is cut then. None: any
            number.
        idle_timeout: seconds after which a connection on which nothing came is ended; its session lives on. Not while a
            function runs. None: never.
        max_per_address: connections at a time from one IP address; further ones are reset at once, and counted in
            :attr:`refused`. None is without limit.
        engine: ``"threads"`` gives each connection a thread; ``"pool"``, for many, only to those whose functions are
            slow, so that idle ones cost none (see :meth:`simplesockets.TCPServer.setup`).
        level: effort of compression, 0 to 9.
        clock: gives seconds; for tests.

    Raises:
        TypeError, ValueError: an argument is of no use.
        SetupError: ``sessions`` is given, and redis-py is missing.

    Everything may be called from any thread.
    """

    def __init__(
        self,
        name: str = "server",
        host: str | Sequence[str] = "127.0.0.1",
        port: int = PORT,
        *,
        guest_allowed: bool = True,
        users: Users | None = None,
        session_lifespan: float = SESSION_LIFESPAN,
        sessions: str | None = None,
        version: Version | None = None,
        ssl_context: ssl.SSLContext | None = None,
        dev: bool = False,
        ready: bool = True,
        max_sessions: int = MAX_SESSIONS,
        max_connections: int | None = MAX_CONNECTIONS,
        max_packed: int = MAX_PACKED,
        max_unpacked: int = MAX_UNPACKED,
        handshake_timeout: float | None = HANDSHAKE_TIMEOUT,
        send_timeout: float | None = SEND_TIMEOUT,
        idle_timeout: float | None = None,
        max_per_address: int | None = None,
        engine: EngineName = "threads",
        level: int = LEVEL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_seconds("handshake_timeout", handshake_timeout)
        check_seconds("send_timeout", send_timeout)
        check_seconds("idle_timeout", idle_timeout)
        check_per_address(max_per_address)
        engine_maker(engine)
        check_context(ssl_context, server=True)
        check_port(port, zero=True)
        check_count("max_packed", max_packed, "bytes", 1)
        check_count("max_unpacked", max_unpacked, "bytes", 1)
        if max_connections is not None:
            check_count("max_connections", max_connections, "connections (or None for no limit)", 1)
        if not isinstance(level, int) or not 0 <= level <= 9:
            raise ValueError(f"level is a number from 0 to 9, not {level!r}")
        if version is not None:
            to_json(dict(version))  # whether it can be said
        self.name = name
        self._functions = Functions()
        self._shared: RedisNode | None = None
        if sessions is not None:
            self._shared = RedisNode(sessions, session_lifespan, max_sessions, self._told)
            store: SessionStore[Context] = self._shared.sessions
        else:
            store = Sessions(session_lifespan, max_sessions, threading.RLock())
        self._service = Service(
            name,
            self._functions,
            version=_own_version() if version is None else dict(version),
            guest_allowed=guest_allowed,
            users={} if users is None else users,
            dev=dev,
            ready=ready,
            sessions=store,
            clock=clock,
            new_id=lambda: secrets.token_urlsafe(32),
        )
        self._place = (host, port)
        self._ssl_context = ssl_context
        self._max_connections = max_connections
        self._max_packed = max_packed
        self._max_unpacked = max_unpacked
        self._handshake_timeout = handshake_timeout
        self._send_timeout = send_timeout
        self._idle_timeout = idle_timeout
        self._max_per_address = max_per_address
        self._engine: EngineName = engine
        self._level = level
        self._lock = threading.RLock()  # protects what follows; never held across I/O or user code
        self._tcp: TCPServer | None = None
        self._latest = TCPServer()  # which counts; the next one counts on
        self._attendants = Attendants()
        self._stopping = Latch()  # ends whoever waits in a service; each start has its own
        self._over = Latch()  # ends serve_forever(); each start has its own
        self._strangers: dict[Server_Client, float] = {}  # who sent no accepted message so far, and since when
        self._makes_room = False  # it is full, and looked at again soon
        self._timed: TCPServer | None = None  # whose strangers are looked at when the time of the next one is over
        self._obeying: threading.Thread | None = None  # carries a server command out
        self._ordered: TCPServer | None = None  # what it ends
        self._asking: dict[str, tuple[bytes, Server_Client]] = {}  # who waits for a command that was announced
        self._closed = True  # by close(), so that a restart does not undo it

    # ----------------------------------------------------------------------------------------------- functions

    @overload
    def function(self, name: str) -> Callable[[Function], Function]: ...

    @overload
    def function(self, name: Function) -> Function: ...

    def function(self, name: Function | str) -> Function | Callable[[Function], Function]:
        """Offer a function to clients: ``@server.function``, or ``@server.function("name")`` under another name.

        It is called with the arguments of the call, by name, and returns something that JSON can say. A parameter
        that is annotated as :class:`Context` gets the context of the calling session. Raising an :class:`HPXError`
        tells the client its code and text; any other exception fails the whole message.

        Raises:
            TypeError: it cannot be called with arguments by name.
        """
        if not isinstance(name, str):
            return self._offer(getattr(name, "__name__", ""), name)
        offered = name
        return lambda function: self._offer(offered, function)

    def _offer(self, name: str, function: Function) -> Function:
        self._functions.add(name, function)
        return function

    @property
    def functions(self) -> list[str]:
        """The names of all functions that clients can call."""
        return self._functions.names()

    def describe_functions(self) -> list[dict[str, Json]]:
        """What each function is called, what it says of itself, and which arguments it takes.

        ``server.function(server.describe_functions)`` offers that to clients, too: the playground makes its forms
        of it.

        Returns:
            Objects that JSON can say, sorted by name: see :meth:`.functions.Functions.described`.
        """
        return self._functions.described()

    # ------------------------------------------------------------------------------------------------ lifecycle

    def start(self) -> None:
        """Listen, and serve in the background. Does nothing if it does already. With ``sessions=`` Redis is looked for
        first, for a few seconds at most; where it is away the server starts all the same.

        Raises:
            BindError, ResolveError: it cannot listen there; the message says why.
        """
        with self._lock:
            self._closed = False
            if self._tcp is None and self._over.is_set():
                self._over = Latch()
        if self._shared is None:
            self._listen()
        else:
            self._listen_with(self._shared)

    def _listen_with(self, shared: RedisNode) -> None:
        obeying = self._obeying
        if obeying is not None and not is_nested():
            obeying.join()  # else a quit could end what is begun here
        try:
            shared.open()
            self._listen()
        finally:
            if self._closed:  # by close() meanwhile, or since it cannot listen there
                shared.close(_AT_ONCE)

    def _listen(self) -> None:
        with self._lock:
            if self._tcp is not None or self._closed:
                return
            tcp = self._tcp = _forgetful(TCPServer(self._max_connections))
            tcp._count_on(self._latest)
            self._latest = tcp
            stopping = self._stopping = Latch()
        host, port = self._place
        try:
            tcp.setup(
                host,
                port,
                recv_buffer=_RECV_BUFFER,
                on_connect=self._connected,
                on_receive=partial(self._received, stopping),
                on_disconnect=self._disconnected,
                protocol=lambda: Conversation(self._max_packed, self._max_unpacked, self._level),
                ssl_context=self._ssl_context,
                send_timeout=self._send_timeout,
                idle_timeout=self._idle_timeout,
                max_per_address=self._max_per_address,
                engine=self._engine,
            )
            tcp.start()
        except BaseException:  # Ctrl-C, too
            with self._lock:
                if self._tcp is tcp:
                    self._tcp = None
                    self._closed = True
            tcp.close()
            raise
        if self._tcp is not tcp:  # close() came before there was much to close
            tcp.close()

    def serve_forever(self) -> None:
        """Serve here, until :meth:`close` or a client's ``serverquit``. Ctrl-C closes, and is raised again."""
        try:
            if self._closed:  # not if a client's serverquit was faster than we are
                self.start()
            while not self._over.wait(HEED):
                pass
        finally:
            self.close()

    def close(self, timeout: float = 5.0) -> None:
        """End everything: listening, all connections (what was sent still arrives), all sessions. May be repeated, and
        called from a function, whose own thread is not waited for. :meth:`start` begins anew.

        Args:
            timeout: seconds that all of it takes at most. Threads that functions keep busy for longer are named in a
                logged warning and left behind.
        """
        deadline = Deadline(timeout, time.monotonic())
        with self._lock:
            self._closed = True
            obeying = self._obeying
        self._attendants.close(deadline)
        self._shut(deadline.left(time.monotonic()) or 0.0)
        if self._shared is not None:
            self._shared.close(_AT_ONCE if is_nested() else deadline)
        self._over.set()
        # In a function: whoever carries a command out waits for that function.
        if obeying is not None and obeying is not threading.current_thread() and not is_nested():
            obeying.join(deadline.left(time.monotonic()))

    def _shut(self, timeout: float) -> None:
        with self._lock:
            tcp, self._tcp = self._tcp, None
            self._stopping.set()
        self._service.clear()
        if tcp is not None:
            tcp.close(timeout)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ----------------------------------------------------------------------------------------------- what it is

    @property
    def address(self) -> tuple[str, int]:
        """The real ``(ip, port)``; the first, where there are several.

        Raises:
            SetupError: the server is not running.
        """
        tcp = self._tcp
        if tcp is None:
            raise SetupError("the server is not running; start() it first")
        return tcp.address

    @property
    def refused(self) -> int:
        """How many connections were refused because of ``max_per_address``, since the server was started."""
        tcp = self._tcp
        return 0 if tcp is None else tcp.refused

    def stats(self) -> Stats:
        """What this server counted since it was made, over all its starts: see :meth:`simplesockets.TCPServer.stats`.
        What functions raise and do not handle counts as errors, too."""
        stats = self._latest.stats()
        return replace(stats, errors=stats.errors + self._service.failures)

    def client_stats(self) -> list[ClientStats]:
        """What was counted so far for each client that is connected."""
        return self._latest.client_stats()

    def _watch(self) -> tuple[str, Attendants]:
        host, port = self.address
        return f"hpx {self.name} {host}:{port}", self._attendants

    def _new_server(self) -> TCPServer:
        return TCPServer()

    @property
    def running(self) -> bool:
        """Whether it was started, and not ended by anybody."""
        return self._tcp is not None

    @property
    def ready(self) -> bool:
        """Whether messages are looked at. While it is False every one is answered by ``{"msg": "wait"}``."""
        return self._service.ready

    @ready.setter
    def ready(self, value: bool) -> None:
        self._service.ready = value

    @property
    def guest_allowed(self) -> bool:
        """Whether one may come without credentials."""
        return self._service.guest_allowed

    @property
    def version(self) -> Version:
        """What the greeting says."""
        return self._service.version

    @property
    def exceptions(self) -> ExceptionList:
        """What functions raised and did not handle; the newest thousand."""
        return self._service.exceptions

    def __repr__(self) -> str:
        tcp = self._tcp
        return f"<hpx Server {self.name!r}, {'not running' if tcp is None else repr(tcp)}>"

    # ------------------------------------------------------------------------------------------ one connection

    # All in the connection's own thread, or in one that others share as long as they are quick. It may wait.

    def _connected(self, address: ClientAddress) -> None:
        client = address.client
        self._let_in(client)
        try:
            client.send(self._service.greeting())
            _acknowledge_at_once(client)
            _conversation(client).until = Deadline(self._handshake_timeout, time.monotonic())
        except OSError as failure:
            log.debug("%s:%s is gone: %s", *client.address, failure)
            client.close()

    def _received(self, stopping: Latch, client: Server_Client, address: Address, piece: bytes) -> None:
        conversation = _conversation(client)
        conversation.busy, goes_on = True, False
        try:
            goes_on = self._converse(client, conversation, piece, stopping)
        except FrameTruncated:  # we are told of the end in a moment
            pass
        except FrameTooLarge as failure:
            log.warning("%s:%s is dropped: %s", *client.address, failure)
            with contextlib.suppress(OSError):
                client.send(self._service.refusal(InvalidMessage(f"Invalid message: {failure}")))
        except OSError as failure:  # it is gone, or was cut
            log.debug("%s:%s is gone: %s", *client.address, failure)
        finally:
            conversation.busy = False
            if not goes_on:
                client.close()

    def _disconnected(self, address: ClientAddress) -> None:
        client = address.client
        self._is_no_stranger(client)
        failure = _conversation(client).failure
        if isinstance(failure, FrameTruncated):
            log.info("%s:%s left: %s", *client.address, failure)

    def _let_in(self, client: Server_Client) -> None:
        with self._lock:
            self._strangers[client] = time.monotonic()
            tcp = self._tcp
            if tcp is None:
                return
            timed, self._timed = self._timed is tcp, tcp
            crowded = not self._makes_room and self._is_full(tcp)
            self._makes_room = self._makes_room or crowded
        if crowded:
            _later(tcp, CROWDED, self._make_room)
        if not timed and self._handshake_timeout is not None:
            _later(tcp, self._handshake_timeout, self._end_late)

    def _is_no_stranger(self, client: Server_Client) -> None:
        with self._lock:
            self._strangers.pop(client, None)

    def _is_full(self, tcp: TCPServer) -> bool:
        return self._max_connections is not None and len(tcp._connected) >= self._max_connections

    def _make_room(self, tcp: TCPServer) -> None:
        # In the timers' thread, now and then while the server is full: who says nothing must not keep others out.
        wanted = _somebody_waits(tcp)
        late = time.monotonic() - CROWDED
        with self._lock:
            self._makes_room = tcp is self._tcp and self._is_full(tcp) and bool(self._strangers)
            if not self._makes_room:
                return
            going = [client for client, since in self._strangers.items() if since <= late] if wanted else []
            for client in going:
                del self._strangers[client]
        _later(tcp, CROWDED, self._make_room)
        if going:
            log.warning("full: %d connections that sent no accepted message make room for others", len(going))
        for client in going:
            client._connection.note_ending("no accepted message")
            client._connection.stream.cut()

    def _end_late(self, tcp: TCPServer) -> None:
        # In the timers' thread, as long as there are strangers.
        timeout, now = self._handshake_timeout, time.monotonic()
        assert timeout is not None
        with self._lock:
            if tcp is not self._tcp:
                return
            if not self._strangers:
                self._timed = None
                return
            late = [client for client, since in self._strangers.items() if since + timeout <= now]
            others = (since + timeout - now for since in self._strangers.values())  # first who came first
            left = next((seconds for seconds in others if seconds > 0), LATE)
        for client in late:
            self._end_if_silent(client)
        _later(tcp, min(left, LATE) if late else left, self._end_late)

    def _end_if_silent(self, client: Server_Client) -> None:
        connection, conversation = client._connection, _conversation(client)
        if conversation.busy or connection.closing or conversation.until.left(time.monotonic()) != 0:
            return
        if not connection.stream.has_input():  # else it is we who are late
            log.info("%s:%s sent no accepted message within %s s", *client.address, self._handshake_timeout)
            connection.hang_up("no accepted message")

    def _converse(self, client: Server_Client, conversation: Conversation, piece: bytes, stopping: Latch) -> bool:
        # Returns whether it goes on.
        messages = conversation.take(piece)
        while messages is not None:
            for message in messages:
                if stopping.is_set():
                    return False
                self._answer(client, conversation, message, stopping)
            if not conversation.pending:
                _acknowledge_at_once(client)
                return True
            messages = self._receive(client, conversation)
        return False

    def _answer(
        self, client: Server_Client, conversation: Conversation, message: bytes | Unreadable, stopping: Latch
    ) -> None:
        reply = self._service.answer(message, client.address[0], stopping.wait)
        if reply.accepted and conversation.until is not _FOREVER:
            conversation.until = _FOREVER
            self._is_no_stranger(client)
        if reply.command is not None:
            self._obey(reply, client)
        elif reply.text is not None:
            client.send(reply.text)

    def _receive(self, client: Server_Client, conversation: Conversation) -> list[bytes | Unreadable] | None:
        # What the next piece completes; None at the end. It waits here, since nobody knows whether there is one.
        try:
            return conversation.take(self._next_piece(client, conversation))
        except TimeoutError:
            return conversation.give_up()

    def _next_piece(self, client: Server_Client, conversation: Conversation) -> bytes:
        # Empty at the end.
        while True:
            left = conversation.until.left(time.monotonic())
            received = conversation.received
            try:
                return client.recv(timeout=STALL if left is None else min(STALL, left))
            except TimeoutError:
                if conversation.received == received or left == 0:  # else the next piece is on its way
                    raise

    # ----------------------------------------------------------------------------------------- server commands

    def _obey(self, reply: Reply, sender: Server_Client) -> None:
        # While the sender's connection is served, so that no further message of it is.
        assert reply.command is not None
        assert reply.text is not None
        if self._shared is not None:
            self._announce(reply, sender, self._shared)
            return
        stopping = self._stopping
        if self._begin(reply.command, reply.text, sender):
            stopping.wait(None)  # no further message of the sender's is answered
        else:  # another one was faster
            sender.send(reply.text)

    def _announce(self, reply: Reply, sender: Server_Client, shared: RedisNode) -> None:
        # All servers hear of it, this one, too, and that is what makes it do it.
        assert reply.command is not None
        assert reply.text is not None
        assert reply.refused is not None
        seen = shared.seen  # before the look at what is being obeyed: if more is heard from here on, this is too late
        token = secrets.token_urlsafe(16)
        with self._lock:
            tcp, stopping = self._tcp, self._stopping
            first = tcp is not None and tcp is not self._ordered
            if first:
                self._asking[token] = (reply.text, sender)
        try:
            first = first and shared.announce(reply.command, token, seen)
            if first and not stopping.wait(HEARD_WITHIN) and token in self._asking:
                raise ServerError("The other servers were told; this one has not heard of it yet")
        except ServerError as failure:
            answer = reply.refused(failure).text
        else:
            answer = reply.text
        with self._lock:
            mine = self._asking.pop(token, None) is not None
        if mine or not first:
            if answer is not None:
                sender.send(answer)
        else:  # it was heard, and the sender is answered like everybody
            stopping.wait(None)

    def _told(self, command: ServerCommand, token: str) -> threading.Thread | None:
        # In the thread that hears the commands of all servers.
        with self._lock:
            answer, sender = self._asking.pop(token, (None, None))
        return self._begin(command, answer, sender)

    def _begin(
        self, command: ServerCommand, answer: bytes | None, sender: Server_Client | None
    ) -> threading.Thread | None:
        # None: something is being carried out already.
        with self._lock:
            tcp = self._tcp
            if tcp is None or tcp is self._ordered:
                return None
            obeying = threading.Thread(
                target=self._carry_out,
                args=(command, answer, sender, tcp, tcp.address),
                name=f"simplesockets-hpx-{command.word}",
                daemon=True,
            )
            obeying.start()
            self._obeying, self._ordered = obeying, tcp
            return obeying

    def _carry_out(
        self,
        command: ServerCommand,
        answer: bytes | None,
        sender: Server_Client | None,
        tcp: TCPServer,
        place: tuple[str, int],
    ) -> None:
        # close() may come at any moment.
        log.warning("%s by %s", command.word, "another server" if sender is None else "{}:{}".format(*sender.address))
        tcp.stop()  # who connects from now on could miss it
        notice = self._service.notice(command)
        messengers: list[threading.Thread] = []
        clients = {*list(tcp.clients.values())} if sender is None else {sender, *list(tcp.clients.values())}
        for client in clients:
            text = notice if client is not sender or answer is None else answer
            name = f"{threading.current_thread().name}-{len(messengers)}"
            messenger = threading.Thread(target=_tell, args=(client, text), name=name, daemon=True)
            with contextlib.suppress(RuntimeError):  # no more threads: it will notice the end of its connection
                messenger.start()
                messengers.append(messenger)
        _join(messengers, BROADCAST_TIME)
        with self._lock:
            ours = self._tcp is tcp
        if not ours:  # close() was faster, and perhaps start() already, which is not what was meant
            _join(messengers, BROADCAST_TIME)
            return
        over = self._over
        self._shut(timeout=5.0)
        _join(messengers, BROADCAST_TIME)  # the connections are cut now
        if command is ServerCommand.ServerRestart:
            self._listen_again(place[1], over)
        else:
            self._attendants.close(Deadline(5.0, time.monotonic()))
            over.set()
        if self._shared is not None and not self.running:
            self._shared.close(_AT_ONCE)

    def _listen_again(self, port: int, over: Latch) -> None:
        self._place = (self._place[0], port)
        try:
            self._listen()
        except Exception as failure:  # the port is somebody else's now, or there are no more threads
            log.error("the server could not be restarted: %s", failure)
            over.set()


_FOREVER = Deadline(None, 0.0)
_AT_ONCE = Deadline(0.0, 0.0)


class Latch:
    """Set once, and waited for. Unlike ``threading.Event`` a signal handler may set it, whatever it interrupted: an
    event's lock could be held below, for ever."""

    def __init__(self) -> None:
        self._gate = threading.Lock()  # held until it is set; whoever passes opens it again for the next
        self._gate.acquire()
        self._set = False

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._set

    def set(self) -> None:
        """Let everybody pass, from now on."""
        self._set = True
        self._open()

    def wait(self, timeout: float | None) -> bool:
        """Wait until it is set, ``timeout`` seconds at most. Returns whether it is."""
        if not self._set and self._gate.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)):
            self._open()
        return self._set

    def _open(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is open: somebody else did it in this moment
            self._gate.release()


def _forgetful(tcp: TCPServer) -> TCPServer:
    # Nobody polls it, so it need not keep copies of messages for that, with what is secret in them.
    tcp._mailbox.client_mark = 0
    tcp._dispatch._told_full = True
    return tcp


def _conversation(client: Server_Client) -> Conversation:
    conversation = client.protocol
    assert isinstance(conversation, Conversation)
    return conversation


def _later(tcp: TCPServer, seconds: float, look: Callable[[TCPServer], object]) -> None:
    assert tcp._engine is not None  # setup() made it
    tcp._engine.later(seconds, partial(look, tcp))


def _somebody_waits(tcp: TCPServer) -> bool:
    with contextlib.suppress(OSError, ValueError):  # it is being closed
        return any(wait_ready(listener, 0) for listener in tcp._listeners)
    return False


def _acknowledge_at_once(client: Server_Client) -> None:
    # happypandax-client 1.0.0, and whoever follows the document, sends a message and then its delimiter. With Nagle's
    # algorithm, its system keeps the delimiter until we acknowledged the message, with which ours would wait 40 ms.
    if _QUICK_ACK is not None:
        with contextlib.suppress(OSError):
            client.socket.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)


def _tell(client: Server_Client, text: bytes) -> None:
    with contextlib.suppress(OSError):
        client.send(text)


def _join(threads: Iterable[threading.Thread], seconds: float) -> None:
    deadline = Deadline(seconds, time.monotonic())
    for thread in threads:
        thread.join(deadline.left(time.monotonic()))
