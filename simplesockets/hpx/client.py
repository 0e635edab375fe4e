"""Client: talks to a HappyPanda X server. Programs of happypandax-client 1.0.0 run with it unchanged."""

from __future__ import annotations

import builtins
import contextlib
import logging
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType

from typing_extensions import Self

from ..client import TCPClient
from ..engine import is_nested
from ..errors import FrameTruncated, ProtocolError
from ..mailbox import Bell, Flag
from ..reconnection import Episode, Reconnector
from ..stats import Stats
from ..timing import Deadline, Reconnect
from ..tls import check_context
from . import exceptions
from .codec import DELIMITER, LEVEL, MAX_PACKED, MAX_UNPACKED, Framing, Unpacker, Unreadable
from .protocol import AUTHENTICATED, Json, ServerCommand, parse_command, parse_json, to_json

log = logging.getLogger("simplesockets.hpx")

POSTFIX = DELIMITER
"""What ends a frame, under its name of release 1.0.0."""
DATA_SIZE = 4096
"""Bytes asked for in one read, by release 1.0.0."""

_CLOSING = 5.0  # seconds that close() waits for the thread that reconnects
_RECV_BUFFER = 64 * 1024
_MOST_NOTICES = 100
_NO_SESSION = frozenset({exceptions.AuthRequiredError.code, exceptions.SessionError.code})


def finalize(name: str, msg: object, session_id: str = "") -> dict[str, object]:
    """The message that carries some data.

    Args:
        name: of the sender.
        msg: the data.
        session_id: of the session; empty for a handshake.
    """
    return {"session": session_id, "name": name, "data": msg}


class Client:
    """A client of a HappyPanda X server::

        with Client("my frontend") as client:
            client.handshake()
            print(client.call("get_version"))

    Several threads may use it: each waits for its turn, and gets the answer to its own message. :meth:`close` ends
    whoever waits.

    After a connection was lost, :meth:`connect` makes another one, which goes on with the same session. With
    ``reconnect`` the client does so by itself, in a thread of its own, and shakes hands again, with the credentials of
    the latest handshake that succeeded, where the server does not know the session any more. That begins when the loss
    is noticed: by the message that it hinders, which fails, and is not sent again, since it may have arrived. (But a
    connection that has ended before a message is sent is made anew first.)

    Args:
        name: what the client calls itself in messages.
        host: the server's address or name.
        port: its port.
        session_id: of a session to use; then no handshake is needed.
        ssl_context: for TLS: ``ssl.create_default_context()``, which verifies the server's certificate, and that it
            is for ``host``.
        timeout: seconds that connecting may take, and that the server may be silent while an answer is due; 0 is
            for ever.
        max_packed: bytes of a received frame at most.
        max_unpacked: bytes of JSON in it at most.
        level: effort of compression, 0 to 9.
        reconnect: whether, and how, a connection that was lost is made again: True, or a
            :class:`~simplesockets.Reconnect`.

    Raises:
        TypeError, ValueError: the ``ssl_context`` is none for a client; ``reconnect`` is of no use.

    Source: happypandax-client 1.0.0, up to ``timeout``.
    """

    def __init__(
        self,
        name: str,
        host: str = "localhost",
        port: int = 7007,
        session_id: str = "",
        ssl_context: ssl.SSLContext | None = None,
        timeout: float = 10,
        *,
        max_packed: int = MAX_PACKED,
        max_unpacked: int = MAX_UNPACKED,
        level: int = LEVEL,
        reconnect: Reconnect | bool | None = None,
    ) -> None:
        check_context(ssl_context, server=False)
        self.name = name
        self.session = session_id
        """The session's id; empty before a handshake."""
        self.notices: deque[str] = deque(maxlen=_MOST_NOTICES)
        """Server commands that the server sent on to all its clients, such as ``"serverquit"``, oldest first. They are
        noticed when an answer is waited for."""
        self._server = (host, int(port))
        self._ssl_context = ssl_context
        self._timeout = timeout or None
        self._max_packed = max_packed
        self._max_unpacked = max_unpacked
        self._level = level
        self._turn = threading.RLock()  # one message and its answer at a time; held across I/O
        self._tcp = TCPClient()
        self._unpacker = Unpacker()
        self._unread: deque[bytes | Unreadable] = deque()  # came together with an earlier answer
        self._version: Json = None
        self._guest_allowed = False
        self._alive = False
        self._ready = False
        self._accepted = False
        self._closed = False
        self._lost_session = ""  # of a connection that was lost
        self._lost_server = self._server
        self._was_lost = False
        self._last_user: str | None = ""
        self._last_password: str | None = ""
        self._renewal: tuple[str | None, str | None] | None = None  # what the latest successful handshake gave
        self._framing = Framing()
        self._asking = False  # the thread that has the turn waits for an answer
        self._opening = False  # it makes a connection; failing is its own business
        self._connected_at = 0.0
        self._policy = Reconnect.of(reconnect)
        self._reconnector = Reconnector(Flag(Bell()), self._connect_again, self._not_again)

    # ----------------------------------------------------------------------------------------------- what it is

    @property
    def host(self) -> str:
        """The server's address or name; counts from the next :meth:`connect` on."""
        return self._server[0]

    @host.setter
    def host(self, v: str) -> None:
        self._server = (v, self.port)

    @property
    def port(self) -> int:
        """The server's port; counts from the next :meth:`connect` on."""
        return self._server[1]

    @port.setter
    def port(self, v: int) -> None:
        self._server = (self.host, int(v))

    @property
    def accepted(self) -> bool:
        """Whether there is a session."""
        return self._accepted

    @property
    def version(self) -> Json:
        """What the server said of its version; None before :meth:`connect`."""
        return self._version

    @property
    def guest_allowed(self) -> bool:
        """Whether the server said that it takes guests."""
        return self._guest_allowed

    def ready(self) -> bool:
        """Whether the connection is open and the server introduced itself."""
        return self._alive and self._ready

    def alive(self) -> bool:
        """Whether the connection is open, as far as is known: a lost one is noticed when it is used."""
        return self._alive

    def stats(self) -> Stats:
        """What this client counted since it was made, over all its connections; see
        :meth:`simplesockets.TCPClient.stats`."""
        return self._tcp.stats()

    @property
    def reconnecting(self) -> bool:
        """Whether the connection was lost, and the client tries to make it again."""
        return self._reconnector.active

    def __repr__(self) -> str:
        state = "connected" if self._alive else "reconnecting" if self.reconnecting else "not connected"
        return f"<hpx Client {self.name!r} of {self.host}:{self.port}, {state}>"

    # ------------------------------------------------------------------------------------------------ lifecycle

    def connect(self, host: str | None = None, port: int | None = None) -> bool:
        """Connect, and take the server's greeting. Does nothing if the connection is open.

        While a lost connection is being made again, this tries at once; if that fails, the other tries go on.

        Args:
            host, port: of the server, in place of those given before.

        Returns:
            True.

        Raises:
            ServerDisconnectError: there is no connection to be had.
            ClientError: :meth:`close` was called.
        """
        with self._turn:
            self._require_open()
            if self._alive:
                return True
            self._server = (
                self.host if host is None else host,
                self.port if port is None else int(port),
            )
            if self._server != self._lost_server:  # a session is the business of nobody else
                self._lost_session = ""
            episode = self._reconnector.call_off()
            try:
                self._open()
            except exceptions.HPXError:
                self._try_later(episode)
                raise
        return True

    def _open(self) -> None:
        self._opening = True
        try:
            self._dial()
            try:
                self._take_greeting(self._exchange(None, None))
                self._resume_session()
            except exceptions.ServerDisconnectError:
                raise
            except exceptions.ConnectionError as failure:
                hint = "; does the server want TLS (ssl_context=…)?" if self._ssl_context is None else ""
                raise exceptions.ServerDisconnectError(self.name, failure.msg + hint) from failure
            self._was_lost = False
            if self._closed:
                self._forget()
        except exceptions.HPXError:
            if self._alive:  # to somebody who speaks something else
                self._lose()
            raise
        finally:
            self._opening = False

    def _resume_session(self) -> None:
        self.session = self.session or self._lost_session
        self._accepted = bool(self.session)
        if self._policy is None or not self.session:
            return
        answer = self._exchange(to_json(finalize(self.name, [], self.session)), None)  # calls nothing
        if _code(answer) in _NO_SESSION and self._renewal is not None:
            try:
                self._renew(*self._renewal)
            except exceptions.AuthError as failure:
                self.session = ""
                log.warning("%s:%s does not know the session any more, and gives no other: %s", *self._server, failure)

    def _dial(self) -> None:
        log.info("client %r connects to %s:%s", self.name, *self._server)
        self._unpacker = Unpacker(self._max_unpacked, self._max_packed)
        self._unread.clear()
        self._tcp.setup(
            *self._server,
            recv_buffer=_RECV_BUFFER,
            connect_timeout=self._timeout,
            protocol=self._new_framing,
            ssl_context=self._ssl_context,
        )
        if not self._tcp.connect():
            failure = self._failure()
            hint = (
                "; is the server running, with this host and port?"
                if isinstance(failure, ConnectionRefusedError)
                else ""
            )
            raise exceptions.ServerDisconnectError(self.name, f"{failure or 'no connection'}{hint}")
        self._alive = True
        self._connected_at = time.monotonic()
        if self._closed:  # close() came in this moment
            self._forget()
            self._tcp.close()
            self._require_open()

    def _new_framing(self) -> Framing:
        self._framing = Framing(self._max_packed, self._level)
        return self._framing

    def close(self) -> None:
        """End the connection, and whoever waits for an answer. May be repeated. Afterwards the client is of no use."""
        log.info("client %r closes", self.name)
        self._closed = True
        self._reconnector.stop()
        self._forget()
        self._lost_session = ""
        self._tcp.close()
        if not is_nested():
            busy = self._reconnector.join(Deadline(_CLOSING, time.monotonic()))
            if busy:
                log.warning("close() left a thread behind that looks a host name up: %s", ", ".join(busy))

    # -------------------------------------------------------------------------------------------- reconnecting

    def _come_back(self) -> None:
        # A connection was lost.
        if self._policy is not None and not self._opening and not self._closed:
            host, port = self._server
            self._reconnector.name = f"simplesockets-hpx-client-{host}:{port}-reconnect"
            lasted = time.monotonic() - self._connected_at
            self._reconnector.begin(self._reconnector.lost(self._policy, lasted))

    def _try_later(self, episode: Episode | None) -> None:
        # The program connected by hand, and it failed.
        if self._policy is None or self._closed:
            return
        if episode is None and self._policy.initially:
            episode = self._reconnector.lost(self._policy)
        if episode is not None:
            self._reconnector.resume(episode)
            self._reconnector.begin(episode)

    def _connect_again(self, episode: Episode) -> None:
        # One try, in the reconnector's thread.
        with self._turn:
            if not self._reconnector.is_current(episode):
                return
            self._open()
            self._reconnector.call_off()
        log.info("%r: again after %d failed tries", self, episode.failures)

    def _not_again(self, episode: Episode, failure: Exception, last: bool) -> None:
        outcome = "giving up" if last else "trying on; not all failures are told"
        log.warning("%r: connecting again failed (try %d, %s): %s", self, episode.failures, outcome, failure)

    def _refresh(self) -> None:
        # A connection that is known to be over before anything was sent need not make the message fail.
        if self._policy is None or not self._alive or self._opening or self._asking:
            return
        connection = self._tcp._connection
        if connection is None or connection.over or connection.stream.at_end():
            self._lose()
            self.connect()

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ----------------------------------------------------------------------------------------------- handshakes

    def handshake(self, user: str | None = None, password: str | None = None, ignore_err: bool = False) -> bool:
        """Shake hands: as a guest, or with a user's name and password.

        Args:
            user, password: the credentials; they are kept for :meth:`request_handshake`.
            ignore_err: return False instead of raising.

        Returns:
            Whether there is a session now; False, too, where there is no connection.

        Raises:
            AuthWrongCredentialsError, AuthRequiredError, AuthMissingCredentials, AuthError: the server refused.
        """
        if not self._alive:
            return False
        credentials: dict[str, object] = {}
        if user:
            self._last_user, self._last_password = user, password
            credentials = {"user": user, "password": password}
        answer = self.send_raw(finalize(self.name, credentials), raise_on_auth=False)
        error = answer.get("error")
        if error and not ignore_err:
            raise self._auth_error(error)
        if answer.get("data") != AUTHENTICATED:
            return False
        with self._turn:
            if not self._alive:  # it was closed, or lost, in this moment
                return False
            self.session = str(answer.get("session"))
            self._accepted = True
            self._renewal = (user, password) if user else (None, None)
        return True

    def request_handshake(
        self,
        user: str | bool | None = False,
        password: str | bool | None = False,
        ignore_err: bool = False,
    ) -> bool:
        """Ask for the greeting anew, and shake hands.

        Args:
            user, password: the credentials; False takes those of the latest handshake.
            ignore_err: return False instead of raising.

        Returns and raises as :meth:`handshake`.
        """
        self._take_greeting(self.send_raw(finalize(self.name, ServerCommand.RequestAuth.word), raise_on_auth=False))
        return self.handshake(
            self._last_user if isinstance(user, bool) else user,
            self._last_password if isinstance(password, bool) else password,
            ignore_err=ignore_err,
        )

    def _take_greeting(self, message: dict[str, Json]) -> None:
        data = message.get("data")
        if isinstance(data, dict) and "version" in data:
            self._version = data["version"]
            self._guest_allowed = bool(data.get("guest_allowed"))
            self._ready = True

    def _auth_error(self, error: Json) -> exceptions.HPXError:
        code, msg = _code_and_text(error)
        found = exceptions.from_code(code, self.name, msg)
        if isinstance(found, exceptions.AuthError):
            return found
        return exceptions.AuthError(self.name, f"{code}: {msg}")

    # ------------------------------------------------------------------------------------------------- messages

    def send(self, data: object, raise_on_auth: bool = True, encoding: str = "utf-8") -> dict[str, Json]:
        """Send data, with the session, and wait for the answer.

        Args:
            data: what goes into the message: a list of function calls, say.
            raise_on_auth: whether to raise where there is no session.
            encoding: accepted for programs of 1.0.0; JSON is in UTF-8.

        Returns:
            The whole answer, errors included.

        Raises:
            AuthRequiredError: there is no session.
            ConnectionError: the connection broke, or no answer came in time (which ends it, too).
            JSONParseError: the answer is no JSON.
            ClientError: there is no connection.
        """
        with self._turn:  # so that the session is that of the connection
            self._refresh()
            return self.send_raw(finalize(self.name, data, self.session), raise_on_auth, encoding)

    def send_raw(self, data: dict[str, object], raise_on_auth: bool = True, encoding: str = "utf-8") -> dict[str, Json]:
        """Send a whole message, and wait for the answer. See :meth:`send`."""
        self._require_session(raise_on_auth)
        command = parse_command(data.get("data")) if isinstance(data, dict) else None
        text = to_json(data)
        with self._turn:
            self._refresh()
            return self._exchange(text, command)

    def send_bytes(self, data: bytes, raise_on_auth: bool = True) -> str:
        """Send a message whose JSON was made by the program, and wait for the answer. See :meth:`send`.

        Returns:
            The answer's JSON; text, as release 1.0.0 gives it.
        """
        self._require_session(raise_on_auth)
        command = self._command_in(data)
        with self._turn:
            self._refresh()
            return self._exchange_bytes(data, command)

    def _exchange_bytes(self, data: bytes, command: ServerCommand | None) -> str:
        with self._undivided():
            self._write(data)
            while True:
                text = self._read()
                if not self._is_notice(self._command_in(text), command):
                    return self._text(text)

    def call(self, fname: str, /, **arguments: object) -> Json:
        """Call one function.

        A connection that was lost before is made anew; so is a session that has expired, in the way of the latest
        handshake that succeeded. (Without one, the server's error is raised.)

        Args:
            fname: the function's name.
            arguments: its arguments.

        Returns:
            What it returned.

        Raises:
            HPXError: the function, or the server, answered with an error: the class of its code, where there is one
                (:class:`APIError` for 404, and so on). ``code`` and ``msg`` are the server's.
            ConnectionError and others: as :meth:`send`.
        """
        if "fname" in arguments:
            raise TypeError("call(): 'fname' cannot be an argument; it is the function's name in a message")
        calls = [{"fname": fname, **arguments}]
        with self._turn:
            if self._was_lost and not self._closed:
                self.connect()
            answer = self.send(calls)
            if _code(answer) in _NO_SESSION and self._renewal is not None and self._renew(*self._renewal):
                answer = self.send(calls)  # nothing ran before
        return self._result(answer)

    def _renew(self, user: str | None, password: str | None) -> bool:
        self._accepted = False
        return self.handshake(user, password)

    def _result(self, answer: dict[str, Json]) -> Json:
        data = answer.get("data")
        entry = data[0] if isinstance(data, list) and data else None
        error = answer.get("error") or (entry.get("error") if isinstance(entry, dict) else None)
        if error:
            code, msg = _code_and_text(error)
            raise exceptions.from_code(code, self.name, msg)
        if not isinstance(entry, dict):
            raise exceptions.ServerError(f"the server answered a function call with {data!r}")
        return entry.get("data")

    # --------------------------------------------------------------------------------------------------- inside

    def _require_open(self) -> None:
        if self._closed:
            raise exceptions.ClientError(self.name, "this client was closed; make a new one")

    def _require_session(self, wanted: bool) -> None:
        if wanted and self._alive and not self._accepted:
            raise exceptions.AuthRequiredError(
                self.name, "the client is connected, but has no session; call handshake() first"
            )

    @contextlib.contextmanager
    def _undivided(self) -> Iterator[None]:
        # A message and its answer belong together. Whoever has the turn may be interrupted by a signal handler: one
        # that uses this client would get the wrong answer, and after one that raises the answer is still to come.
        if self._asking:
            raise exceptions.ClientError(self.name, "this thread waits for another answer already")
        self._asking = True
        try:
            yield
        except exceptions.HPXError:  # whoever raised it cared for the connection
            raise
        except BaseException:
            self._lose()
            raise
        finally:
            self._asking = False

    def _exchange(self, text: bytes | None, command: ServerCommand | None) -> dict[str, Json]:
        with self._undivided():
            if text is not None:
                self._write(text)
            return self._read_json(command)

    def _write(self, text: bytes) -> None:
        if not self._alive:
            state = "lost its server and connects again" if self.reconnecting else "is not connected to a server"
            raise exceptions.ClientError(self.name, f"the client {state}; nothing was sent. connect() tries at once")
        self._hear_out()
        if not self._tcp.send_data(text):
            why = self._why("the connection is gone")
            self._lose()
            raise exceptions.ConnectionError(self.name, why)

    def _hear_out(self) -> None:
        # What the server said of its own accord since the last answer. If it left after that, sending could fail, and
        # nobody would read its last words.
        try:
            while piece := self._tcp.recv_data(timeout=0):
                self._unread.extend(self._unpacker.take(piece))
        except builtins.TimeoutError:
            return  # it is there and says nothing
        except ProtocolError as failure:
            self._lose()
            raise exceptions.ConnectionError(self.name, str(failure)) from failure
        for message in self._unread:
            if not isinstance(message, Unreadable):
                self._is_notice(self._command_in(message), None)
        raise self._end()

    def _read_json(self, asked: ServerCommand | None) -> dict[str, Json]:
        # The next message that is an answer.
        while True:
            text = self._read()
            try:
                content = parse_json(text)
            except exceptions.HPXError as failure:
                raise exceptions.JSONParseError(text, self.name, failure.msg) from failure
            if not isinstance(content, dict):
                raise exceptions.JSONParseError(text, self.name, "the server's message is no object")
            if not self._is_notice(parse_command(content.get("data")), asked):
                return content

    def _is_notice(self, command: ServerCommand | None, asked: ServerCommand | None) -> bool:
        # Whether the server said that of its own accord.
        if command is None or command is asked:
            return False
        log.warning("%s:%s sent %r to all its clients", *self._server, command.word)
        self.notices.append(command.word)
        return True

    def _command_in(self, text: bytes) -> ServerCommand | None:
        try:
            content = parse_json(text)
        except exceptions.HPXError:
            return None
        return parse_command(content.get("data")) if isinstance(content, dict) else None

    def _text(self, text: bytes) -> str:
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError as failure:
            raise exceptions.JSONParseError(text, self.name, str(failure)) from failure

    def _read(self) -> bytes:
        try:
            while not self._unread:
                piece = self._next_piece()
                if not piece:
                    raise self._end()
                self._unread.extend(self._unpacker.take(piece))
        except builtins.TimeoutError:
            self._lose()  # else the answer would be taken for that to the next message
            raise exceptions.ConnectionError(self.name, f"no answer within {self._timeout} seconds") from None
        except ProtocolError as failure:
            self._lose()
            raise exceptions.ConnectionError(self.name, str(failure)) from failure
        message = self._unread.popleft()
        if isinstance(message, Unreadable):
            self._lose()
            raise exceptions.ConnectionError(self.name, message.reason)
        return message

    def _next_piece(self) -> bytes:
        # The timeout is for silence, as release 1.0.0 has it: what takes long to come may come.
        while True:
            received = self._framing.received
            try:
                return self._tcp.recv_data(timeout=self._timeout)
            except builtins.TimeoutError:
                if self._framing.received == received:
                    raise

    def _end(self) -> exceptions.ConnectionError:
        # The connection ended: by the server, or by what it sent.
        failure = self._failure()
        self._lose()
        if isinstance(failure, ProtocolError) and not isinstance(failure, FrameTruncated):
            return exceptions.ConnectionError(self.name, str(failure))
        return exceptions.ServerDisconnectError(self.name, str(failure or "the server ended the connection"))

    def _failure(self) -> BaseException | None:
        records = self._tcp.return_exceptions()
        return records[-1].exception if records else None

    def _why(self, otherwise: str) -> str:
        return str(self._failure() or otherwise)

    def _lose(self) -> None:
        if self.session:
            self._lost_session, self._lost_server = self.session, self._server
        self._was_lost = True
        self._forget()
        self._tcp.disconnect()
        self._come_back()

    def _forget(self) -> None:
        self._alive = self._ready = self._accepted = False
        self.session = ""


def _code(answer: dict[str, Json]) -> int | None:
    error = answer.get("error")
    return _code_and_text(error)[0] if error else None


def _code_and_text(error: Json) -> tuple[int, str]:
    if not isinstance(error, dict):
        return exceptions.HPXError.code, str(error)
    code = error.get("code")
    return code if isinstance(code, int) else exceptions.HPXError.code, str(error.get("msg", ""))


__all__ = ["Client", "finalize"]
