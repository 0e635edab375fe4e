"""HiSockClient: commands, names and groups on top of TCPClient."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import ClassVar, Literal, cast, overload

from typing_extensions import Self

from ..client import CONNECT_TIMEOUT, TCPClient
from ..connection import Connection
from ..errors import ProtocolError
from ..events import ReceivedBytes
from ..framing import MAX_FRAME
from ..stats import Stats
from ..timing import Deadline, Reconnect
from ..transport import SEND_TIMEOUT, check_count
from . import protocol
from .casting import ClientInfo, read_info, to_content
from .errors import ClientDisconnected, ClientNotFound, ServerException, ServerNotRunning
from .groups import Identifier, address_in
from .handlers import Form, Handlers, Message
from .loop import ErrorHandler, HiSockLoop, Threaded, Unclaimed, Waiter, check_address, context_for
from .protocol import ClientProtocol, dialect_of
from .utils import Client, ClientException, MessageCacheMember, Sendable, iptup_to_str, make_header, validate_ipv4

__all__ = [  # with what is found here in 2.x, too
    "Client",
    "ClientException",
    "ClientInfo",
    "ClientNotFound",
    "HiSockClient",
    "MessageCacheMember",
    "Sendable",
    "ServerException",
    "ServerNotRunning",
    "ThreadedHiSockClient",
    "connect",
    "iptup_to_str",
    "make_header",
    "threaded_connect",
    "validate_ipv4",
]

_WILDCARD: Form = ("command", "content")
_RESERVED: dict[str, tuple[Form, ...]] = {
    "client_connect": (("client",),),
    "client_disconnect": (("client",),),
    "force_disconnect": ((),),
    "*": (_WILDCARD,),
}
_ORDINARY: tuple[Form, ...] = (("content",), ())


class _Default(int):
    """A default that can be told from the same number given by the program."""


_HEADER_LEN = _Default(protocol.HEADER_LEN)

_END = b""
"""Stands for the end of all connections in the queue of received bodies, none of which is of this very type."""


class _Lost(ReceivedBytes):
    """Stands there for the loss of a connection that is made again."""


class _Back(ReceivedBytes):
    """Stands there for a connection that was made again."""


_MOST_MARKS = 100
"""So many of these two may wait: a server that comes and goes must not fill the memory of a program that looks away."""


class HiSockClient(HiSockLoop[bytes]):
    """A client that sends commands with content, under a name and in a group.

    It connects when it is made, and receives from then on; handlers run in the thread that runs the loop:
    :meth:`start`, or :meth:`update` again and again. Keepalives are answered without that.

    Reserved names for :meth:`on`: ``client_connect(client)`` and ``client_disconnect(client)`` when somebody joined
    or left, ``force_disconnect()`` when the server ended the connection, ``*(command, message)`` for what nothing
    else handles. All other handlers take ``(message)`` or nothing.

    Args:
        addr: ``(host, port)`` of the server.
        name: how others name this client; None for no name.
        group: the group to be in; None for none.
        blocking: whether :meth:`update` waits until something happens.
        header_len: bytes of each message's header, the same on both sides.
        tls: for TLS: an ``ssl.SSLContext``, the path to a PEM file of those who sign the server's certificate, or a
            dict of ``cafile certfile keyfile password`` (the last three are this client's own certificate); None: no
            TLS. The certificate has to be for the host in ``addr``.
        cache_size: how many messages :meth:`get_cache` remembers; 0 is without limit, less is none.
        dialect: ``"2.x"``, or ``"0.x"`` to speak to servers of 0.x and 1.x.
        connect_timeout: seconds that connecting takes at most.
        max_message: the largest message, in bytes.
        send_timeout: seconds for which the server may take nothing of what is sent; the connection is lost then. None:
            any number.
        reconnect: whether, and how, a connection that is lost is made again: True, or a
            :class:`~simplesockets.Reconnect`. Name and group are announced again, and handlers stay; for the server
            this is another client. Who waits in :meth:`recv` or :meth:`get_client` at that moment gets a
            ServerNotRunning, since the answer may have been lost; nothing is sent again. A client that the server
            disconnects comes back, too, after ``force_disconnect()``, unless that calls :meth:`close`.
        on_reconnect: called as ``()`` by the loop, like a handler, when the connection was made again, before
            everything that came by it.

    The order of 2.x, ``(addr, name, group, header_len, cache_size)``, works as well: a number in the fourth place
    means it.

    Raises:
        ServerNotRunning: the server refuses the connection (a ConnectionError).
        socket.gaierror: the host is unknown.
        TimeoutError: connecting took too long.
        OSError: connecting failed otherwise, with TLS an ``ssl.SSLError`` or ``ssl.SSLCertVerificationError``.
        SetupError: a file of ``tls`` cannot be used.
        TypeError, ValueError: an argument is of no use.

    The errors of connecting are not raised where ``reconnect`` says ``initially=True``.

    Everything but the loop may be called from any thread. Source: 0.x; the last six arguments are new.
    """

    def __init__(
        self,
        addr: tuple[str, int],
        name: str | None = None,
        group: str | None = None,
        blocking: bool = True,
        header_len: int = _HEADER_LEN,
        tls: object = None,
        *,
        cache_size: int = -1,
        dialect: str = "2.x",
        connect_timeout: float | None = CONNECT_TIMEOUT,
        max_message: int = MAX_FRAME,
        send_timeout: float | None = SEND_TIMEOUT,
        reconnect: Reconnect | bool | None = None,
        on_reconnect: Callable[[], object] | None = None,
    ) -> None:
        if isinstance(blocking, int) and not isinstance(blocking, bool):  # the order of 2.x
            if header_len is not _HEADER_LEN:
                cache_size = header_len
            header_len, blocking = blocking, True
        self.addr = check_address(addr, zero=False)
        check_count("header_len", header_len, "bytes", 1)
        check_count("max_message", max_message, "bytes", 1)
        context = context_for(tls, server=False)
        for what, given in (("name", name), ("group", group)):
            _check_text(what, given)
        if on_reconnect is not None and not callable(on_reconnect):
            raise TypeError(f"on_reconnect is a function called as on_reconnect(), not {on_reconnect!r}")
        self.name = name
        self.group = group
        self.original_name = name
        self.original_group = group
        self.dialect = dialect_of(dialect).version
        self._dialect = dialect_of(dialect)
        self._tcp = TCPClient()
        super().__init__(Handlers(_RESERVED, _ORDINARY), self._tcp._mailbox, blocking, int(header_len), cache_size)
        self._name = f"simplesockets-hisock-client-{self.addr[0]}:{self.addr[1]}"
        self._look_up_lock = threading.RLock()  # one at a time asks, so that answers come in order; held across I/O
        self._lookups: deque[_LookUp] = deque()  # who waits for an answer, or gave up waiting
        self._ended = False  # the connection is over; all that came is in the mailbox
        self._routed_end = False  # nothing more will come
        self._left = False  # close() was called here
        self._reconnect = Reconnect.of(reconnect)
        self._on_reconnect = on_reconnect
        self._connection: Connection | None = None  # the latest that the server knows us by
        self._unsaid: OSError | None = None  # why the hello could not be said
        self._away = False  # there is no connection, but there may be one again
        self._maker: int | None = None  # the number of the thread that makes the first one
        self._marks = 0  # losses and returns that were not routed yet
        self._back_due = False  # on_reconnect stands in the calls
        self._routed_loss: Connection | None = None  # the latest
        self.connect_time = 0.0
        """When it connected, in seconds since 1970."""
        self._tcp.setup(
            *self.addr,
            recv_buffer=16384,
            on_connect=self._introduce,
            on_disconnect=self._disconnected,
            connect_timeout=connect_timeout,
            protocol=lambda: ClientProtocol(self.header_len, max_message),
            ssl_context=context,
            send_timeout=send_timeout,
            reconnect=self._reconnect,
        )
        self._tcp._gave_up = self._disconnected
        self._connect()

    def _connect(self) -> None:
        self._tcp.autorecv()
        self._away = self._reconnect is not None and self._reconnect.initially
        self._maker = threading.get_ident()
        try:
            self._tcp.open()
            if self._connection is None and self._unsaid is not None and not self._away:
                raise self._unsaid
        except OSError as failure:
            if self._away:
                return
            self._tcp.close()
            if not isinstance(failure, ConnectionRefusedError):
                raise
            text = f"no server is running at {self.addr[0]}:{self.addr[1]}; start it first, or correct the address"
            raise ServerNotRunning(text) from failure
        except BaseException:
            self._tcp.close()
            raise
        finally:
            self._maker = None

    def _introduce(self) -> None:
        # In the thread that connected, before anything is received.
        connection = self._tcp._connection
        assert connection is not None  # it was just made
        name, group = self.name, self.group
        try:
            connection.send(self._dialect.hello(name, group))
        except OSError as failure:  # whoever receives notices that, too
            self._unsaid = failure
            return
        self.connect_time = time.time()
        self._connection = connection
        if self._away:
            self._away = False
            if self._maker != threading.get_ident():
                self._mark(_Back, connection)
        with contextlib.suppress(OSError):
            if self.name != name:  # changed in this moment
                self._change(protocol.RENAME, self.name)
            if self.group != group:
                self._change(protocol.REGROUP, self.group)

    def _mark(self, kind: type[_Lost] | type[_Back], connection: Connection) -> None:
        # In the mailbox it has its place between the items of the connections.
        with self._lock:
            if self._marks >= _MOST_MARKS:
                return
            self._marks += 1
        self._mailbox.put(connection, kind(b"", time.time()), 0)

    # ------------------------------------------------------------------------------------------------------ loop

    def update(self) -> None:
        """One pass of the loop: wait until something happens (with ``blocking``), and handle all that did.

        Does nothing after :meth:`close`.

        Raises:
            ServerNotRunning: the connection was lost (with ``reconnect``: for good); everything that came before was
                handled. Only once.

        Source: 0.x.
        """
        self._one_pass()

    def close(self, emit_leave: bool = True, timeout: float = 5.0) -> None:
        """End the connection. What was sent still arrives.

        May be called from any thread, from handlers, and repeatedly.

        Args:
            emit_leave: whether to tell the server, which makes its ``leave`` handler run at once.
            timeout: seconds that all of it takes at most. Handlers' threads that are busy for longer are named in a
                logged warning and left behind.

        Source: 0.x; ``timeout`` is new.
        """
        deadline = Deadline(timeout, time.monotonic())
        with self._lock:
            first, self._left = not self._left, True
            self.closed = True
        if first and emit_leave and not self._ended and not self._away:
            self._say_goodbye()
        self._tcp.close(timeout)
        self._join_threads(deadline)

    def _say_goodbye(self) -> None:
        # Not where it would have to wait for a server that does not read.
        connection = self._link()
        stream = connection.stream
        if stream.write_lock.acquire(blocking=False):
            try:
                stream.bytes_out += stream.send_now([connection.protocol.encode(protocol.GOODBYE)])
                stream.messages_out += 1
            except OSError:
                pass
            finally:
                stream.write_lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ----------------------------------------------------------------------------------------------------- sending

    def send(self, command: str, content: object = None) -> None:
        """Send a command; waits while the server does not read.

        Args:
            command: the command.
            content: bytes, str, int, float, bool, list, dict, ClientInfo or None.

        Raises:
            ValueError: no such command is possible, or the content is too long.
            InvalidTypeCast: content of that type cannot be sent (a TypeError).
            OSError: the connection broke, or is closed. Nothing is kept to be sent later.

        Source: 0.x.
        """
        protocol.check_command(command)
        self._send(self._dialect.command(command, to_content(content)))

    def raw_send(self, content: object = None) -> None:
        """Send content without a command.

        Raises:
            ValueError: it begins with a reserved word, such as ``$CMD$``; and as :meth:`send`.

        Source: 0.x.
        """
        self._send(protocol.check_raw(to_content(content)))

    send_raw = raw_send
    """The same under its name of 1.x."""

    def _send(self, body: bytes) -> None:
        self._send_by(self._connection or self._link(), body)

    def _send_by(self, connection: Connection, body: bytes) -> None:
        if not self._away:  # else the system might take it all the same, for a moment
            try:
                connection.send(body)
                return
            except ConnectionError:
                if not self._away:
                    raise
        where = f"{self.addr[0]}:{self.addr[1]}"
        raise ServerNotRunning(f"the connection to {where} was lost and is made again; this is not sent, nor later")

    def _link(self) -> Connection:
        if self._connection is None:
            raise ServerNotRunning(f"there was no server at {self.addr[0]}:{self.addr[1]} so far")
        return self._connection

    def change_name(self, new_name: str | None = None) -> None:
        """Take another name; None goes back to the first one. It is announced after reconnecting, too. Source: 0.x."""
        _check_text("new_name", new_name)
        self.name = self.original_name if new_name is None else new_name
        self._change(protocol.RENAME, self.name)

    def change_group(self, new_group: str | None = None) -> None:
        """Go to another group; None goes back to the first one. As :meth:`change_name`. Source: 0.x."""
        _check_text("new_group", new_group)
        self.group = self.original_group if new_group is None else new_group
        self._change(protocol.REGROUP, self.group)

    def _change(self, word: bytes, value: str | None) -> None:
        if value or self._dialect.modern:
            self._send(self._dialect.word(word, (value or "").encode()))
        else:
            self._link().stream.send_all(word)  # without a header: that is how 0.x says None

    # -------------------------------------------------------------------------------------------------- looking up

    @overload
    def get_client(
        self, client: Identifier, get_as_dict: Literal[False] = False, timeout: float | None = None
    ) -> ClientInfo: ...

    @overload
    def get_client(
        self, client: Identifier, get_as_dict: Literal[True], timeout: float | None = None
    ) -> dict[str, object]: ...

    def get_client(
        self, client: Identifier, get_as_dict: bool = False, timeout: float | None = None
    ) -> ClientInfo | dict[str, object]:
        """Ask the server who a client is; waits for the answer, as :meth:`recv` does.

        Args:
            client: its name, ``"ip:port"``, ``(ip, port)`` or ClientInfo.
            get_as_dict: whether to get a plain dictionary.
            timeout: seconds; None waits until the answer comes or the connection ends.

        Raises:
            ValueError: that is none of these.
            ClientNotFound: no such client is connected (a TypeError).
            ServerException: the server could not tell.
            TimeoutError, ConnectionError: as :meth:`recv`.

        Source: 2.x; ``timeout`` is new.
        """
        address = address_in(client)
        who = str(client) if address is None else f"{address[0]}:{address[1]}"
        question = self._dialect.word(protocol.LOOK_UP, who.encode())
        waiter = _LookUp(self._link())
        with self._look_up_lock:
            with self._lock:
                if waiter.asked is self._routed_loss:
                    raise self._gone()
                self._lookups.append(waiter)
            try:
                self._send_by(waiter.asked, question)
            except (OSError, ValueError):  # it was not asked, so nobody will answer
                with self._lock, contextlib.suppress(ValueError):
                    self._lookups.remove(waiter)
                raise
        answer = self._dialect.look_up_answer(self._await(waiter, timeout) or b"") or {}
        if answer.get("traceback") == protocol.UNKNOWN_CLIENT:
            raise ClientNotFound(f"no client {who!r} is connected to the server (any more); names have to fit exactly")
        if "traceback" in answer:
            raise ServerException(f"the server could not look up {who!r}: {answer['traceback']}")
        info = ClientInfo(cast("list[object]", answer["ip"]), *(cast("str | None", answer[key]) for key in _KEYS))
        return info.as_dict() if get_as_dict else info

    def get_server_addr(self) -> tuple[str, int]:
        """The server's address, as given. Source: 2.x."""
        return self.addr

    def get_client_addr(self) -> tuple[str, int]:
        """This client's own ``(ip, port)``. Source: 2.x."""
        host, port = self._link().stream.socket.getsockname()[:2]
        return host, port

    @property
    def connected(self) -> bool:
        """Whether the connection is open. Source: 2.x."""
        return not self.closed and not self._ended and not self._away

    @property
    def reconnecting(self) -> bool:
        """Whether the connection was lost, and the client tries to make it again."""
        return not self.closed and not self._ended and self._away

    @property
    def sock(self) -> socket.socket:
        """The socket. Source: 2.x."""
        return self._tcp.socket

    def stats(self) -> Stats:
        """What this client counted since it was made, over all its connections; see
        :meth:`simplesockets.TCPClient.stats`. What waits to be handled counts as queued."""
        with self._lock:
            inbound = list(self._inbound)
        return self._with_loop(self._tcp.stats(), inbound)

    def __repr__(self) -> str:
        state = "reconnecting" if self.reconnecting else "connected"
        return f"<HiSockClient {state} to {self.addr[0]}:{self.addr[1]}>"

    # ----------------------------------------------------------------------------------------------------- routing

    def _disconnected(self) -> None:
        # Also when there will be no more tries.
        connection = self._tcp._connection
        if self._tcp.event._reconnecting._value and connection is not None:
            self._away = True
            self._mark(_Lost, connection)
        else:
            self._ended = True
            self._ends.append(_END)
            self._bell.ring()

    def _route(self, item: bytes) -> None:
        if type(item) is not ReceivedBytes:
            self._route_mark(item)
        elif not (item.startswith(b"$") and self._route_word(item)) and not self._answer(item):
            try:
                name, content = self._dialect.read_command(item) or (None, item or None)
            except ProtocolError as failure:
                self._add_call(self._failed, failure)
                return
            self._route_message(Message(command=name, content=content, body=item), None, self._dialect.modern)

    def _route_mark(self, mark: bytes) -> None:
        if not isinstance(mark, (_Lost, _Back)):
            self._route_end()
            return
        self._marks -= 1
        if isinstance(mark, _Lost):
            self._routed_loss = cast(Connection, mark.source)
            self._fail_waiters()
        elif self._on_reconnect is not None and not self._back_due:
            self._back_due = True
            self._add_call(self._call_back)

    def _fail_waiters(self) -> None:
        # What they wait for may have been lost. Who asked by a later connection gets the answer.
        late = [waiter for waiter in self._lookups if waiter.asked is not self._routed_loss]
        for waiter in [*self._waiters, *(waiter for waiter in self._lookups if waiter not in late)]:
            waiter.lost = True
        self._waiters.clear()
        self._lookups = deque(late)
        self._bell.ring()

    def _call_back(self) -> None:
        self._back_due = False
        assert self._on_reconnect is not None  # else it would not stand in the calls
        self._guarded(self._on_reconnect)

    def _route_end(self) -> None:
        self._routed_end = True
        self._add_call(self._lost)
        self._bell.ring()

    def _is_over(self) -> bool:
        return self.closed or self._routed_end

    def _lost(self) -> None:
        if self.closed:
            return
        ending = self._tcp.ending
        self.close(emit_leave=False)
        cause = None if ending is None else ending.exception
        raise ServerNotRunning(f"the server at {self.addr[0]}:{self.addr[1]} ended the connection: {ending}") from cause

    _WORDS: ClassVar = (protocol.KICKED, protocol.JOINED, protocol.LEFT, protocol.NO_TLS)

    def _route_word(self, body: bytes) -> bool:
        word = next((word for word in self._WORDS if body.startswith(word)), None)
        if word is None:
            return False
        if word is protocol.KICKED:
            self._add_call(self._kicked, cast(ReceivedBytes, body).source)
        elif word is not protocol.NO_TLS:
            name = "client_connect" if word is protocol.JOINED else "client_disconnect"
            rest = self._dialect.rest(word, body)
            self._add_call(self._guarded, lambda: self._notice(name, rest))
        return True

    def _kicked(self, connection: object) -> None:
        if self._reconnect is None:
            self.close(emit_leave=False)
        else:  # that connection is lost, if the server did not end it by now
            cast(Connection, connection).stream.cut()
        self._call_reserved("force_disconnect", Message())

    def _notice(self, name: str, described: bytes) -> None:
        self._call_reserved(name, Message(client=read_info(described)))

    def _answer(self, body: bytes) -> bool:
        if not self._lookups or self._dialect.look_up_answer(body) is None:
            return False
        if self._lookups[0].asked is not cast(ReceivedBytes, body).source:  # of an earlier connection
            return False
        self._lookups.popleft().message = Unclaimed(None, None, None, body, whole=True)
        self._bell.ring()
        return True

    def _wildcard_message(self, message: Unclaimed) -> Message:
        return Message(command=message.command, content=message.content, body=message.body)

    def _gone(self) -> Exception:
        if self._left and not self._ended:
            return ClientDisconnected("this client was closed; nothing will be received any more")
        where = f"{self.addr[0]}:{self.addr[1]}"
        if self._is_over():
            return ServerNotRunning(
                f"the server at {where} ended the connection; its log says why, if something was wrong"
            )
        return ServerNotRunning(
            f"the connection to {where} was lost, and what this waited for, maybe; it is made again"
        )


_KEYS = ("name", "group")


def _check_text(what: str, given: object) -> None:
    if given is not None and not isinstance(given, str):
        raise TypeError(f"{what} is text, or None for none, not {given!r}")


class _LookUp(Waiter):
    """Somebody who waits for the answer to a look-up.

    Args:
        asked: by which connection.
    """

    keeps = False

    def __init__(self, asked: Connection) -> None:
        super().__init__(None, raw=True)
        self.asked = asked

    def wants(self, message: Unclaimed) -> bool:
        return False


class ThreadedHiSockClient(Threaded[bytes], HiSockClient):
    """A :class:`HiSockClient` with a thread of its own for the loop: :meth:`start` returns at once.

    Handlers run in that thread. The program goes on until :meth:`close`. Arguments and errors: as HiSockClient.
    """

    def close(self, emit_leave: bool = True, timeout: float = 5.0) -> None:
        """As :meth:`HiSockClient.close`; the loop's thread has ended then, unless this is called in a handler."""
        super().close(emit_leave, timeout)
        self._join_outside(timeout)

    def start_client(
        self, callback: Callable[[], object] | None = None, error_handler: ErrorHandler | None = None
    ) -> None:
        """The same as :meth:`start`. Source: 0.x."""
        self.start(callback, error_handler)

    def stop_client(self) -> None:
        """The same as :meth:`close`. Source: 0.x."""
        self.close()


def connect(
    addr: tuple[str, int],
    name: str | None = None,
    group: str | None = None,
    blocking: bool = True,
    header_len: int = _HEADER_LEN,
    tls: object = None,
    *,
    cache_size: int = -1,
    dialect: str = "2.x",
    reconnect: Reconnect | bool | None = None,
    on_reconnect: Callable[[], object] | None = None,
) -> HiSockClient:
    """Make a :class:`HiSockClient`, which takes these arguments and more. Source: 0.x."""
    return HiSockClient(
        addr,
        name,
        group,
        blocking,
        header_len,
        tls,
        cache_size=cache_size,
        dialect=dialect,
        reconnect=reconnect,
        on_reconnect=on_reconnect,
    )


def threaded_connect(
    addr: tuple[str, int],
    name: str | None = None,
    group: str | None = None,
    blocking: bool = True,
    header_len: int = _HEADER_LEN,
    tls: object = None,
    *,
    cache_size: int = -1,
    dialect: str = "2.x",
    reconnect: Reconnect | bool | None = None,
    on_reconnect: Callable[[], object] | None = None,
) -> ThreadedHiSockClient:
    """Make a :class:`ThreadedHiSockClient`, which takes these arguments and more. Source: 0.x."""
    return ThreadedHiSockClient(
        addr,
        name,
        group,
        blocking,
        header_len,
        tls,
        cache_size=cache_size,
        dialect=dialect,
        reconnect=reconnect,
        on_reconnect=on_reconnect,
    )
