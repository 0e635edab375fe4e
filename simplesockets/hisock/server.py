"""HiSockServer: commands, names and groups on top of TCPServer."""

from __future__ import annotations

import ast
import logging
import socket
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import ClassVar, Literal, cast, overload

from typing_extensions import Self

from ..connection import LINGER
from ..errors import ProtocolError
from ..events import ClientAddress as PeerAddress
from ..events import ReceivedItem
from ..framing import MAX_FRAME, LengthPrefixFramer
from ..outbox import Courier, Outbox
from ..server import EngineName, Server_Client, TCPServer
from ..stats import ClientStats, Stats
from ..timing import Deadline, check_seconds
from ..transport import SEND_TIMEOUT, check_count
from ..watching import Attendants, Watched
from . import protocol
from .backplane import EVERYBODY, Backplane, Row, Target
from .casting import ClientAddress, ClientInfo, to_content
from .cluster import Cluster, backplane_of, described, rows
from .errors import ClientDisconnected, GroupNotFound
from .groups import HEARD_BY_ALL, HEARD_BY_MODERN, HEARD_BY_NOBODY, Identifier, Member, Members, address_in
from .handlers import Change, Form, Handlers, Message
from .loop import Call, ErrorHandler, HiSockLoop, Threaded, Unclaimed, check_address, context_for
from .neighbours import Remote
from .protocol import COMMAND, MODERN, Dialect, ServerProtocol
from .utils import (
    Client,
    ClientException,
    ClientNotFound,
    Sendable,
    ServerException,
    ipstr_to_tup,
    make_header,
    receive_message,
    validate_ipv4,
)

__all__ = [  # with what is found here in 2.x, too
    "Client",
    "ClientException",
    "ClientInfo",
    "ClientNotFound",
    "GroupNotFound",
    "HiSockServer",
    "Sendable",
    "ServerException",
    "ThreadedHiSockServer",
    "ipstr_to_tup",
    "make_header",
    "receive_message",
    "start_server",
    "start_threaded_server",
    "validate_ipv4",
]

log = logging.getLogger("simplesockets.hisock")

HELLO_TIMEOUT = 10.0
"""Seconds in which a client has to introduce itself."""
KEEPALIVE_INTERVAL = 30.0
"""Seconds between keepalives, and …"""
KEEPALIVE_TIMEOUT = 30.0
"""… seconds to answer one."""
MAX_PENDING = 16 * 1024 * 1024
"""Bytes that may wait for a client that does not read."""

_CLIENT: Form = ("client",)
_CHANGE: Form = ("client", "old", "new")
_WILDCARD: Form = ("client", "command", "content")
_RESERVED: dict[str, tuple[Form, ...]] = {
    "join": (_CLIENT,),
    "leave": (_CLIENT,),
    "name_change": (_CHANGE,),
    "group_change": (_CHANGE,),
    "message": (_WILDCARD, ("client", "body")),
    "*": (_WILDCARD,),
}
_ORDINARY: tuple[Form, ...] = (("client", "content"), ("client",), ())


class _Default(int):
    """A default that can be told from the same number given by the program."""


_HEADER_LEN = _Default(protocol.HEADER_LEN)
_MAX_CONNECTIONS = _Default(0)


class _Member(Member):
    """A connected client, with what it takes to talk to it."""

    def __init__(self, client: Server_Client, hello: protocol.Hello, outbox: Outbox) -> None:
        super().__init__(client.address, hello)
        self.info._socket = client.socket
        self.client = client
        self.outbox = outbox
        self.being_announced = False
        self.dismissed = False  # it left, or was disconnected, as far as the others are concerned


class HiSockServer(HiSockLoop["ReceivedItem | Server_Client"], Watched):
    """A server whose messages are commands with content, for clients with names and groups.

    It accepts clients from its construction on, of both generations of HiSock at once. Handlers run in the thread
    that runs the loop: :meth:`start`, or :meth:`run` again and again.

    Reserved names for :meth:`on`: ``join(client)``, ``leave(client)``, ``name_change(client, old, new)``,
    ``group_change(client, old, new)``, ``message(client, command, message)`` or ``message(client, body)`` for
    everything that clients send, ``*(client, command, message)`` for what nothing else handles. All other handlers
    take ``(client, message)``, ``(client)`` or nothing.

    Args:
        addr: ``(ip, port)`` to listen on; port 0 takes a free one.
        blocking: whether :meth:`run` waits until something happens.
        max_connections: how many clients at once; others are refused. 0 is without limit.
        header_len: bytes of each message's header, the same on both sides.
        tls: for TLS: an ``ssl.SSLContext``, the path to a PEM file with certificate and key, or a dict of
            ``certfile keyfile password cafile`` (with the last, clients have to have a certificate); None: no TLS.
        cache_size: how many messages :meth:`get_cache` remembers; 0 is without limit, less is none.
        keepalive: whether to ask silent clients whether they are still there.
        hello_timeout: seconds in which a client has to introduce itself.
        keepalive_interval: seconds between two keepalives.
        keepalive_timeout: seconds that a client has to answer one.
        max_message: the largest message, in bytes.
        max_pending: bytes that may wait for a client which does not read; it is dropped when there are more.
        send_timeout: seconds for which a client may take nothing of what waits for it, however little that is, until it
            is dropped; one that reads slowly is not. None: any number.
        idle_timeout: seconds after which a client that sent nothing is let go. One of 2.x answers keepalives, which
            counts; so, with a time longer than those, this is for clients of 0.x, which are not asked. None: never.
        max_per_address: how many connections at once from one IP address; further ones are reset at once, and counted
            in :attr:`refused`. None is without limit.
        engine: ``"threads"``, or ``"pool"`` for many clients (see :meth:`simplesockets.TCPServer.setup`).
        backplane: where several servers meet to be one service: ``"redis://host:6379/0"``, or a
            :class:`RedisBackplane`. Looking up, sending and disconnecting are over all of them then. None: this one is
            alone.

    The order of 2.x, ``(addr, max_connections, header_len, cache_size, keepalive)``, works as well: a number in the
    second place means it.

    Raises:
        OSError: the address cannot be used (:class:`~simplesockets.BindError`, or a ``socket.gaierror``).
        SetupError: a file of ``tls`` cannot be used, or redis-py is missing for the backplane.
        TypeError, ValueError: an argument is of no use.

    Everything but the loop may be called from any thread. Source: 0.x; the keyword-only arguments after
    ``keepalive`` are new.
    """

    def __init__(
        self,
        addr: tuple[str, int],
        blocking: bool = True,
        max_connections: int = _MAX_CONNECTIONS,
        header_len: int = _HEADER_LEN,
        tls: object = None,
        *,
        cache_size: int = -1,
        keepalive: bool = True,
        hello_timeout: float = HELLO_TIMEOUT,
        keepalive_interval: float = KEEPALIVE_INTERVAL,
        keepalive_timeout: float = KEEPALIVE_TIMEOUT,
        max_message: int = MAX_FRAME,
        max_pending: int = MAX_PENDING,
        send_timeout: float | None = SEND_TIMEOUT,
        idle_timeout: float | None = None,
        max_per_address: int | None = None,
        engine: EngineName = "threads",
        backplane: str | Backplane | None = None,
    ) -> None:
        if isinstance(blocking, int) and not isinstance(blocking, bool):  # the order of 2.x
            if isinstance(tls, bool):
                keepalive, tls = tls, None
            if header_len is not _HEADER_LEN and max_connections is not _MAX_CONNECTIONS:
                cache_size = header_len
            if max_connections is not _MAX_CONNECTIONS:
                header_len = max_connections
            max_connections, blocking = blocking, True
        self.addr = check_address(addr, zero=True)
        check_count("max_connections", max_connections, "connections (0 for no limit)", 0)
        check_count("header_len", header_len, "bytes", 1)
        check_count("max_message", max_message, "bytes", 1)
        check_count("max_pending", max_pending, "bytes", 0)
        check_seconds("hello_timeout", hello_timeout, unlimited=False)
        check_seconds("keepalive_interval", keepalive_interval, unlimited=False)
        check_seconds("keepalive_timeout", keepalive_timeout, unlimited=False)
        context = context_for(tls, server=True)
        meeting = backplane_of(backplane)
        self._tcp = TCPServer()
        super().__init__(Handlers(_RESERVED, _ORDINARY), self._tcp._mailbox, blocking, int(header_len), cache_size)
        self.max_connections = int(max_connections)
        self._writer = LengthPrefixFramer(self.header_len, max_message)
        self._hello_timeout = hello_timeout
        self._keepalive_interval = keepalive_interval
        self._keepalive_timeout = keepalive_timeout
        self._max_pending = max_pending
        self._send_timeout = send_timeout
        self._members: Members[_Member] = Members()
        self._member_of: dict[Server_Client, _Member] = {}
        self._outboxes: dict[Server_Client, Outbox] = {}
        self._closer: int | None = None  # the number of the thread that closes first
        self._said_goodbye = threading.Event()
        self._tcp.setup(
            ip=self.addr[0],
            port=self.addr[1],
            listen=128,
            recv_buffer=16384,
            on_connect=self._connected,
            on_disconnect=self._disconnected,
            protocol=lambda: ServerProtocol(self.header_len, max_message),
            ssl_context=context,
            send_timeout=send_timeout,
            idle_timeout=idle_timeout,
            max_per_address=max_per_address,
            engine=engine,
        )
        self.addr = self._tcp.address
        self._name = f"simplesockets-hisock-server-{self.addr[1]}"
        self._courier = Courier(self._name, send_timeout)
        if keepalive:
            self._later(keepalive_interval, self._ask_who_is_there)
        self.cluster: Cluster | None = None
        """This server as one node of several: how the backplane fares. None without one."""
        if meeting is not None:
            self.cluster = Cluster(meeting, _Node(self), self._lock, self._name)
            self.cluster.start()
        self._tcp.start()

    # ------------------------------------------------------------------------------------------------------ loop

    def run(self) -> None:
        """One pass of the loop: wait until something happens (with ``blocking``), and handle all that did.

        Does nothing after :meth:`close`. Source: 0.x.
        """
        self._one_pass()

    def close(self, timeout: float = 5.0) -> None:
        """Disconnect all clients and end everything. What was sent to them still arrives.

        May be called from any thread, from handlers, and repeatedly.

        Args:
            timeout: seconds that all of it takes at most. Handlers' threads that are busy for longer are named in a
                logged warning and left behind.

        Source: 0.x; ``timeout`` is new.
        """
        deadline = Deadline(timeout, time.monotonic())
        self._say_goodbye(timeout / 2)
        if self.cluster is not None:
            self._leave_cluster(self.cluster, timeout / 2)
        self._courier.join((deadline.left(time.monotonic()) or 0.0) / 2)
        self._tcp.close(deadline.left(time.monotonic()) or 0.0)
        self._courier.join(deadline.left(time.monotonic()))
        self._join_threads(deadline)

    def _say_goodbye(self, patience: float) -> None:
        # The loop closes, too, when it sees that another thread does, and must not be faster than the goodbyes.
        with self._lock:
            closer, self._closer = self._closer, self._closer or threading.get_ident()
            self.closed = True
        if closer is None:
            try:
                self._tcp.stop()
                self._disconnect_everybody(force=False)
            finally:
                self._said_goodbye.set()
        elif closer != threading.get_ident():  # else in a signal handler that interrupted it
            self._said_goodbye.wait(patience)

    def _leave_cluster(self, cluster: Cluster, patience: float) -> None:
        if busy := cluster.close(Deadline(patience, time.monotonic())):
            log.warning("close() left threads behind that wait for the backplane: %s", ", ".join(busy))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -------------------------------------------------------------------------------------------------- looking up

    def get_addr(self) -> tuple[str, int]:
        """The real ``(ip, port)`` that it serves at. Source: 0.x."""
        return self.addr

    @overload
    def get_all_clients(self, key: Callable[[ClientInfo], object] | None = None) -> list[ClientInfo]: ...

    @overload
    def get_all_clients(self, key: Literal["ip"]) -> list[ClientAddress]: ...

    @overload
    def get_all_clients(self, key: Literal["name", "group"]) -> list[str | None]: ...

    def get_all_clients(self, key: str | Callable[[ClientInfo], object] | None = None) -> Sequence[object]:
        """All connected clients, in the order of connecting.

        Args:
            key: None gives their ClientInfos; ``"ip"``, ``"name"`` or ``"group"`` a list of just that; a function
                gives the ClientInfos for which it is true.

        Raises:
            ValueError: it is another text.

        Source: 0.x; the function is of 2.x.
        """
        clients = [member.info for member in self._all()]
        if key is None:
            return list(clients)
        if callable(key):
            return [client for client in clients if key(client)]
        if key not in ("ip", "name", "group"):
            raise ValueError(f"key={key!r} is of no use: give 'ip', 'name', 'group', a function, or nothing")
        return [client[key] for client in clients]

    @overload
    def get_client(self, client: Identifier, get_as_dict: Literal[False] = False) -> ClientInfo: ...

    @overload
    def get_client(self, client: Identifier, get_as_dict: Literal[True]) -> dict[str, object]: ...

    def get_client(self, client: Identifier, get_as_dict: bool = False) -> ClientInfo | dict[str, object]:
        """Who a client is.

        Args:
            client: its name, ``"ip:port"``, ``(ip, port)`` or ClientInfo. If several have that name, the first to
                have connected is meant, and a ``UserWarning`` says so.
            get_as_dict: whether to get a plain dictionary.

        Raises:
            ValueError: that is none of these.
            ClientNotFound: no such client is connected (a TypeError).

        Source: 0.x.
        """
        info = self._find(client).info
        return info.as_dict() if get_as_dict else info

    def get_group(self, group: str | None) -> list[ClientInfo]:
        """The clients of a group, in the order of connecting.

        Raises:
            GroupNotFound: nobody is in it (a TypeError).

        Source: 0.x.
        """
        name = _group_name(group)
        with self._lock:
            here = self._members.in_group(name)
            found = here if self.cluster is None else self.cluster.in_group(name, here)
        if not found:
            raise _nobody_in(name)
        return [member.info for member in found]

    @property
    def clients(self) -> dict[socket.socket, ClientInfo]:
        """The connected clients by their socket: a table of this moment. Source: 2.x."""
        with self._lock:
            return {member.client.socket: member.info for member in self._members.all()}

    @property
    def clients_rev(self) -> dict[tuple[object, ...], socket.socket]:
        """Sockets by ``(ip, name, group)``: a table of this moment. Source: 2.x."""
        return {(info.ip, info.name, info.group): sock for sock, info in self.clients.items()}

    @property
    def socket(self) -> socket.socket:
        """The listening socket. Source: 2.x."""
        return self._tcp.socket

    @property
    def refused(self) -> int:
        """How many connections were refused because of ``max_per_address``."""
        return self._tcp.refused

    def stats(self) -> Stats:
        """What this server counted since it was made; see :meth:`simplesockets.TCPServer.stats`.

        What waits to be handled counts as queued, what waits for clients that do not read as pending.
        """
        with self._lock:
            outboxes = list(self._outboxes.values())
            inbound = [item[2] for item in self._inbound.copy() if not isinstance(item, Server_Client)]
        return self._with_loop(self._tcp.stats(), inbound, sum(outbox.pending for outbox in outboxes))

    def client_stats(self) -> list[ClientStats]:
        """What was counted so far for each client that is connected."""
        return self._tcp.client_stats()

    def _watch(self) -> tuple[str, Attendants]:
        _, attendants = self._tcp._watch()
        return f"{type(self).__name__} {self.addr[0]}:{self.addr[1]}", attendants

    def _new_server(self) -> TCPServer:
        return TCPServer()

    def __len__(self) -> int:
        """How many clients are connected."""
        return len(self._members)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<HiSockServer serving at {self.addr[0]}:{self.addr[1]}>"

    # ----------------------------------------------------------------------------------------------------- sending

    def send_client(self, client: Identifier, command: str, content: object = None) -> None:
        """Send a command to one client. Never waits for it.

        Args:
            client: as for :meth:`get_client`.
            command: the command.
            content: bytes, str, int, float, bool, list, dict, ClientInfo or None.

        Raises:
            ValueError: no such form of a client or a command, or the content is too long.
            ClientNotFound: no such client is connected (a TypeError).
            InvalidTypeCast: content of that type cannot be sent (a TypeError).

        Source: 0.x.
        """
        protocol.check_command(command)
        self._post_client(self._find(client), command, content)

    def send_group(self, group: str | ClientInfo | None, command: str, content: object = None) -> None:
        """Send a command to all clients of a group. Never waits for them.

        Args:
            group: its name, or a ClientInfo: the group in which that client is.
            command, content: as for :meth:`send_client`.

        Raises:
            GroupNotFound: nobody is in it (a TypeError).
            Others: as :meth:`send_client`.

        Source: 0.x.
        """
        protocol.check_command(command)
        self._post_group(group, command, content)

    def send_all_clients(self, command: str, content: object = None) -> None:
        """Send a command to everybody. Never waits for them. Arguments, errors: as :meth:`send_client`. Source: 0.x."""
        protocol.check_command(command)
        self._post_all(command, content)

    def send_client_raw(self, client: Identifier, content: object = None) -> None:
        """Send content without a command to one client; it gets it with ``recv_raw()``.

        Raises:
            ValueError: it begins with a reserved word, such as ``$CMD$``; and as :meth:`send_client`.

        Source: 0.x.
        """
        self._post_client(self._find(client), None, content)

    def send_group_raw(self, group: str | ClientInfo | None, content: object = None) -> None:
        """Send content without a command to a group. Errors: as the other methods. Source: 0.x."""
        self._post_group(group, None, content)

    def send_all_clients_raw(self, content: object = None) -> None:
        """Send content without a command to everybody. Errors: as the other methods. Source: 1.x."""
        self._post_all(None, content)

    def _post_client(self, member: _Member | Remote, command: str | None, content: object) -> None:
        if isinstance(member, _Member):
            member.outbox.post(self._frame(member.dialect, command, to_content(content)))
        else:
            self._post([], command, content, _target(member))

    def _post_group(self, group: str | ClientInfo | None, command: str | None, content: object) -> None:
        name = _group_name(group)
        with self._lock:
            members = self._members.in_group(name)
        elsewhere = None if self.cluster is None else self.cluster.others_in(name)
        if not members and elsewhere is None:
            raise _nobody_in(name)
        self._post(members, command, content, elsewhere)

    def _post_all(self, command: str | None, content: object) -> None:
        elsewhere = None if self.cluster is None else self.cluster.others()
        self._post(self._everybody(), command, content, elsewhere)

    def _post(
        self, members: Sequence[_Member], command: str | None, content: object, elsewhere: Target | None = None
    ) -> None:
        # Each dialect's form is made once, and only if somebody needs it; elsewhere somebody may need the longer one.
        # All are made before any is sent: what does not fit the header reaches nobody.
        data = to_content(content)
        dialects = {member.dialect for member in members}
        if elsewhere is not None:
            dialects.add(MODERN)
        frames = {dialect: self._frame(dialect, command, data) for dialect in dialects}
        for member in members:
            member.outbox.post(frames[member.dialect])
        if elsewhere is not None and self.cluster is not None:
            self.cluster.send(elsewhere, command, data)

    def _frame(self, dialect: Dialect, command: str | None, content: bytes) -> bytes:
        body = protocol.check_raw(content) if command is None else dialect.command(command, content)
        return self._writer.encode(body)

    def _post_word(self, members: Iterable[_Member], word: bytes, rest: bytes = b"") -> None:
        # Clients choose names, and what they look up; so what is too long must not end more than the notice of it.
        receivers = list(members)
        try:
            frames = {
                dialect: self._writer.encode(dialect.word(word, rest))
                for dialect in {member.dialect for member in receivers}
            }
        except ValueError as failure:
            log.warning("a notice (%s) was not sent: %s", word.decode(), failure)
            return
        for member in receivers:
            member.outbox.post(frames[member.dialect])

    # ----------------------------------------------------------------------------------------------- disconnecting

    def disconnect_client(self, client: Identifier, force: bool = False, call_func: bool = False) -> None:
        """Disconnect a client. What was sent to it still arrives.

        Args:
            client: as for :meth:`get_client`.
            force: whether to do without telling it why.
            call_func: whether the ``leave`` handler runs: at once, if this is called in a handler, else in the loop.

        Raises:
            ValueError, ClientNotFound: as :meth:`get_client`.

        Source: 0.x.
        """
        member = self._find(client)
        if isinstance(member, _Member):
            self._disconnect(member, force, call_func)
        elif self.cluster is not None:
            self.cluster.kick(_target(member), bool(force), bool(call_func))

    def _disconnect(self, member: _Member, force: bool, call_func: bool) -> None:
        with self._lock:
            others = self._forget(member)
            if others is None:
                return  # somebody else was faster
            member.dismissed = True
            between = member.being_announced and not self._is_loop_thread()
        if not force:
            self._post_word([member], protocol.KICKED)
        self._end(member)
        if between:  # nobody hears that it left before hearing that it joined
            self._call_in_loop(lambda: self._tell_left(others, member))
        else:
            self._tell_left(others, member)
        if call_func and member.heard_of != HEARD_BY_NOBODY:
            self._call_in_loop(lambda: self._call_reserved("leave", Message(member.info)))

    def disconnect_all_clients(self, force: bool = False) -> None:
        """Disconnect everybody, as :meth:`disconnect_client` does. Source: 0.x."""
        self._disconnect_everybody(force)
        if self.cluster is not None and self.cluster.others() is not None:
            self.cluster.kick(EVERYBODY, bool(force), False)

    def _disconnect_everybody(self, force: bool) -> None:
        with self._lock:
            members = self._members.all()
            for member in members:
                self._members.remove(member)
                self._member_of.pop(member.client, None)
                member.dismissed = True
            if self.cluster is not None:
                self.cluster.emptied()
        for member in members:
            if not force:
                self._post_word([member], protocol.KICKED)
            self._end(member)

    # -------------------------------------------------------------------------------------- connections come and go

    def _connected(self, address: PeerAddress) -> None:
        # In the client's own thread, before anything is read.
        client = address.client
        with self._lock:
            self._outboxes[client] = Outbox(
                client._connection.stream,
                self._courier,
                self._max_pending,
                lambda: self._drop(client, f"it does not read; more than {self._max_pending} bytes wait for it"),
                lambda: self._give_up(client),
            )
        reference = weakref.ref(client)
        self._later(self._hello_timeout, lambda: self._check_greeted(reference))

    def _check_greeted(self, reference: weakref.ref[Server_Client], patient: bool = True) -> None:
        client = reference()
        if client is None or self.closed or client.ending is not None or _protocol(client).greeted:
            return
        if patient and client._connection.stream.has_input():  # its hello may be there: it is we who are late
            self._later(self._hello_timeout, lambda: self._check_greeted(reference, patient=False))
            return
        self._drop(client, f"it did not introduce itself within {self._hello_timeout} seconds")

    def _disconnected(self, address: PeerAddress) -> None:
        # In the client's own thread, mostly, after all of its messages went to the mailbox. The loop does the rest.
        client = address.client
        with self._lock:
            outbox = self._outboxes.get(client)
            self._ends.append(client)
        if outbox is not None:
            outbox.close()

    def _drop(self, client: Server_Client, reason: str) -> None:
        log.warning("client %s:%s was dropped: %s", client.address[0], client.address[1], reason)
        client._connection.note_ending(reason)
        client._connection.stream.cut()

    def _give_up(self, client: Server_Client) -> None:
        if self._send_timeout is not None:
            client._connection.stream.give_up(self._send_timeout)

    def _drop_soon(self, client: Server_Client, reason: str) -> None:
        # Called under the lock, under which nothing is logged: a program's log handler may want the lock.
        self._later(0.0, lambda: self._drop(client, reason))

    def _refuse(self, member: _Member) -> None:
        client = member.client
        log.info("client %s was refused: the server is full (max_connections=%d)", client, self.max_connections)
        self._post_word([member], protocol.KICKED)
        self._end(member)

    def _end(self, member: _Member) -> None:
        # Once all that was sent to it is out; but it has to read for that.
        member.outbox.finish(member.client.close)
        if member.outbox.pending:
            self._later(LINGER, member.client.close)

    def _later(self, seconds: float, task: Call) -> None:
        engine = self._tcp._engine
        assert engine is not None  # setup() made it
        engine.later(seconds, task)

    def _ask_who_is_there(self) -> None:
        # In the timers' thread, which never waits in here.
        if self.closed:
            return
        asked = [member for member in self._everybody() if member.dialect.modern]
        said = [(weakref.ref(member.client), member.client._connection.bytes_in) for member in asked]
        self._post_word(asked, protocol.KEEPALIVE)
        self._later(self._keepalive_timeout, lambda: self._check_who_answered(said))

    def _check_who_answered(self, said: list[tuple[weakref.ref[Server_Client], int]]) -> None:
        # Told how much each had said before it was asked.
        if self.closed:
            return
        for reference, before in said:
            client = reference()
            if client is None or client.ending is not None or client._connection.bytes_in != before:
                continue
            # Where the mailbox was full until a moment ago, the answer is there and was not read yet.
            if not client._connection.stream.has_input():
                self._drop(client, f"it did not answer a keepalive within {self._keepalive_timeout} seconds")
        self._later(self._keepalive_interval, self._ask_who_is_there)

    # ----------------------------------------------------------------------------------------------------- routing

    def _route(self, item: ReceivedItem | Server_Client) -> None:
        if isinstance(item, Server_Client):
            self._kept.forget(item)
            self._outboxes.pop(item, None)
            if (gone := self._member_of.get(item)) is not None:
                self._route_leaving(gone)
            return
        client, _, body = item
        member = self._member_of.get(client)
        if member is None:
            self._route_stranger(client, body)
        elif body.startswith(COMMAND) or not (body.startswith(b"$") and self._route_word(member, body)):
            self._route_said(member, body)

    def _route_said(self, member: _Member, body: bytes) -> None:
        dialect = member.dialect
        try:
            name, content = dialect.read_command(body) or (None, body or None)
        except ProtocolError as failure:
            self._drop_soon(member.client, str(failure))
            return
        message = Message(member.info, name, content, body)
        self._route_message(message, member.client, dialect.modern)
        if (handler := self._handlers.reserved("message")) is not None:
            self._call_soon(handler, message)

    def _route_stranger(self, client: Server_Client, body: bytes) -> None:
        outbox = self._outboxes.get(client)
        if outbox is None or _protocol(client).joined:
            return  # it is gone, or was disconnected
        if body.startswith(protocol.TLS_PROBE):
            outbox.post(self._writer.encode(protocol.NO_TLS))
            return
        member = _Member(client, protocol.read_hello(body), outbox)
        _protocol(client).joined = True
        if (old := self._members.at(client.address)) is not None:
            self._route_leaving(old)  # its port is in use again, so it is gone
        if self.closed or 0 < self.max_connections <= len(self._members):
            self._later(0.0, lambda: self._refuse(member))
            return
        others = self._members.all()
        self._members.add(member, 0 if self.cluster is None else time.time_ns())
        self._member_of[client] = member
        if self.cluster is not None:
            self.cluster.joined(member)
        self._add_call(self._welcome, member, others)

    def _welcome(self, member: _Member, others: list[_Member]) -> None:
        # Clients of 2.x hear of it before the handler runs, the new one included; those of 0.x after.
        modern = [each for each in [*others, member] if each.dialect.modern]
        if self._announce(member, modern, HEARD_BY_MODERN):
            self._call_reserved("join", Message(member.info))
            self._announce(member, [each for each in others if not each.dialect.modern], HEARD_BY_ALL)

    def _announce(self, member: _Member, others: list[_Member], which: int) -> bool:
        # Not where somebody disconnected it meanwhile: then who was not told that it joined hears nothing of it.
        with self._lock:
            if member.dismissed:
                return False
            member.heard_of, member.being_announced = which, True
            if self.cluster is not None:
                self.cluster.told(member)
        self._post_word(others, protocol.JOINED, described(member))
        member.being_announced = False
        return True

    def _route_leaving(self, member: _Member) -> None:
        others = self._forget(member)
        if others is not None:
            self._add_call(self._see_off, member, others)

    def _see_off(self, member: _Member, others: list[_Member]) -> None:
        with self._lock:
            member.dismissed = True
        self._end(member)
        self._tell_left(others, member)
        self._call_reserved("leave", Message(member.info))

    def _tell_left(self, others: list[_Member], member: _Member) -> None:
        told = [
            each for each in others if member.heard_of > (HEARD_BY_NOBODY if each.dialect.modern else HEARD_BY_MODERN)
        ]
        self._post_word(told, protocol.LEFT, described(member))

    def _forget(self, member: _Member) -> list[_Member] | None:
        # Under the lock. Gives the others; None if it was forgotten before.
        if not self._members.remove(member):
            return None
        self._member_of.pop(member.client, None)
        if self.cluster is not None:
            self.cluster.left(member)
        return self._members.all()

    _WORDS: ClassVar = (
        protocol.RENAME, protocol.REGROUP, protocol.LOOK_UP, protocol.GOODBYE, protocol.TLS_PROBE, protocol.HELLO,
        protocol.ALIVE,
    )  # fmt: skip

    def _route_word(self, member: _Member, body: bytes) -> bool:
        # Gives whether it was a reserved one.
        word = next((word for word in self._WORDS if body.startswith(word)), None)
        if word is None:
            return False
        try:
            rest = member.dialect.rest(word, body).decode()
        except UnicodeDecodeError:
            self._drop_soon(member.client, f"it sent {body[:60]!r}, which is not text")
            return True
        if word is protocol.GOODBYE:
            self._route_leaving(member)
        elif word is protocol.LOOK_UP:
            self._add_call(self._answer_look_up, member, rest)
        elif word is protocol.TLS_PROBE:
            member.outbox.post(self._writer.encode(protocol.NO_TLS))
        elif word in (protocol.RENAME, protocol.REGROUP):
            bare = body is word  # without a header, which the framer gives as it is
            self._route_change(member, word is protocol.RENAME, rest, bare)
        return True

    def _route_change(self, member: _Member, rename: bool, given: str, bare: bool) -> None:
        hello = member.hello
        new = given or (None if bare else hello.name if rename else hello.group)
        old = member.name if rename else member.group
        self._members.change(member, name=new if rename else member.name, group=member.group if rename else new)
        if self.cluster is not None:
            self.cluster.changed(member)
        message = Change(member.info, old, new)
        name = "name_change" if rename else "group_change"
        if (handler := self._handlers.reserved(name)) is not None:
            self._add_call(self._run, handler, message, 0)

    def _answer_look_up(self, member: _Member, who: str) -> None:
        found: dict[str, object]
        try:
            identifier = _identifier(who)  # not under the lock: it parses
            with self._lock:
                found = self._found(identifier)[0].described()
        except TypeError:  # nobody
            found = {"traceback": protocol.UNKNOWN_CLIENT}
        except ValueError as failure:
            found = {"traceback": f"{failure!s:.{_REASON_LIMIT}}"}
        try:
            answer = self._writer.encode(member.dialect.answer(found))
        except ValueError:  # too long for the header
            answer = self._writer.encode(member.dialect.answer({"traceback": protocol.UNKNOWN_CLIENT}))
        member.outbox.post(answer)

    def _wildcard_message(self, message: Unclaimed) -> Message:
        member = self._member_of.get(message.source)  # type: ignore[call-overload]
        return Message(member.info if member else None, message.command, message.content, message.body)

    # ------------------------------------------------------------------------------------------------------- inside

    def _find(self, client: object) -> _Member | Remote:
        if type(client) is ClientInfo and self.cluster is None:
            member = self._members.at(client.ip)  # a single look, which needs no lock
            if member is not None:
                return member
        with self._lock:
            found = self._members.find(client) if self.cluster is None else self._found(client)
        if len(found) > 1:
            first = ClientAddress(found[0].address)
            text = f"{len(found)} clients are called {client!r}; the first to have connected, {first}, is meant"
            warnings.warn(text, UserWarning, stacklevel=3)
        return found[0]  # type: ignore[return-value]  # of these two

    def _found(self, client: object) -> Sequence[Member]:
        # Under the lock.
        if self.cluster is None:
            return self._members.find(client)
        return self.cluster.find(client, self._members.matching(client, address_in(client)))

    def _all(self) -> Sequence[Member]:
        with self._lock:
            here = self._members.all()
            return here if self.cluster is None else self.cluster.all(here)

    def _everybody(self) -> list[_Member]:
        with self._lock:
            return self._members.all()

    def _call_in_loop(self, call: Call) -> None:
        if self._is_loop_thread():
            call()
            return
        with self._lock:
            self._add_call(call)
        self._bell.ring()

    def _gone(self) -> Exception:
        return ClientDisconnected("this server was closed; nothing will be received any more")


def _group_name(group: str | ClientInfo | None) -> str | None:
    if not isinstance(group, ClientInfo):
        return group
    if group.group is None:
        raise GroupNotFound(f"{group} is in no group, so nothing can be sent to it")
    return group.group


def _nobody_in(group: str | None) -> GroupNotFound:
    return GroupNotFound(f"no connected client is in the group {group!r}; get_all_clients() says who is in which")


def _target(member: Remote) -> Target:
    return ("client", member.node, *member.address, member.number)


def _protocol(client: Server_Client) -> ServerProtocol:
    return cast("ServerProtocol", client.protocol)


class _Node:
    """The server, as its cluster sees it."""

    def __init__(self, server: HiSockServer) -> None:
        self._server = server

    def local_rows(self) -> list[Row]:
        return rows(self._server._members.all())

    def deliver(self, target: Target, command: str | None, content: bytes) -> None:
        try:
            self._server._post(self._meant(target), command, content)
        except ValueError as failure:  # it fits the header there, and not here
            log.warning("a message of another node was not delivered: %s", failure)

    def dismiss(self, target: Target, force: bool, call_func: bool) -> None:
        if target == EVERYBODY:
            self._server._disconnect_everybody(force)
        else:
            for member in self._meant(target):
                self._server._disconnect(member, force, call_func)

    def tell(self, word: bytes, member: Member, heard: Sequence[bool]) -> None:
        receivers = [each for each in self._server._everybody() if heard[each.dialect.modern]]
        self._server._post_word(receivers, word, described(member))

    def _meant(self, target: Target) -> list[_Member]:
        members = self._server._members
        with self._server._lock:
            if target[0] == "group":
                return members.in_group(cast("str | None", target[1]))
            if target[0] == "client":
                _, _, host, port, number = cast("tuple[str, str, str, int, int]", target)
                member = members.at((host, port))
                return [member] if member is not None and member.number == number else []
            return members.all()


_ADDRESS_LIMIT = 200
"""Characters of an address written as a tuple. Python's parser is not made for hostile text; see casting.py."""
_REASON_LIMIT = 300
"""Characters of a reason why a look-up failed; it may repeat what was asked for."""


def _identifier(text: str) -> object:
    # In a look-up an address may also come as Python writes the tuple.
    if text.startswith("(") and len(text) <= _ADDRESS_LIMIT:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pass
    return text


class ThreadedHiSockServer(Threaded["ReceivedItem | Server_Client"], HiSockServer):
    """A :class:`HiSockServer` with a thread of its own for the loop: :meth:`start` returns at once.

    Handlers run in that thread. The program goes on until :meth:`close`. Arguments and errors: as HiSockServer.
    """

    def close(self, timeout: float = 5.0) -> None:
        """As :meth:`HiSockServer.close`; the loop's thread has ended then, unless this is called in a handler."""
        super().close(timeout)
        self._join_outside(timeout)

    def start_server(
        self, callback: Callable[[], object] | None = None, error_handler: ErrorHandler | None = None
    ) -> None:
        """The same as :meth:`start`. Source: 0.x."""
        self.start(callback, error_handler)

    def stop_server(self) -> None:
        """The same as :meth:`close`. Source: 0.x."""
        self.close()


def start_server(
    addr: tuple[str, int],
    blocking: bool = True,
    max_connections: int = _MAX_CONNECTIONS,
    header_len: int = _HEADER_LEN,
    tls: object = None,
    *,
    cache_size: int = -1,
    keepalive: bool = True,
) -> HiSockServer:
    """Make a :class:`HiSockServer`, which takes these arguments and more. Source: 0.x."""
    return HiSockServer(addr, blocking, max_connections, header_len, tls, cache_size=cache_size, keepalive=keepalive)


def start_threaded_server(
    addr: tuple[str, int],
    blocking: bool = True,
    max_connections: int = _MAX_CONNECTIONS,
    header_len: int = _HEADER_LEN,
    tls: object = None,
    *,
    cache_size: int = -1,
    keepalive: bool = True,
) -> ThreadedHiSockServer:
    """Make a :class:`ThreadedHiSockServer`, which takes these arguments and more. Source: 0.x."""
    return ThreadedHiSockServer(
        addr, blocking, max_connections, header_len, tls, cache_size=cache_size, keepalive=keepalive
    )
