"""What a server answers. No connection is needed for it: a message goes in, the answer comes out."""

from __future__ import annotations

import functools
import hashlib
import hmac
import logging
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..events import ExceptionList, ExceptionRecord
from .codec import Unreadable
from .exceptions import HPXError, ParsingError, ServerError, SessionError
from .functions import Context, Functions
from .protocol import (
    AUTHENTICATED,
    WAIT,
    Call,
    Handshake,
    Json,
    Message,
    ServerCommand,
    identity,
    make_greeting,
    make_message,
    make_result,
    parse_calls,
    parse_command,
    parse_handshake,
    parse_json,
    parse_message,
    to_json,
)
from .sessions import LoginFailures, SessionStore

log = logging.getLogger("simplesockets.hpx")

AUTH_REQUIRED = 407
WRONG_CREDENTIALS = 411
MISSING_CREDENTIALS = 412

Users = Mapping[str, str] | Callable[[str, str], bool]
"""Passwords by user, or a function ``(user, password) -> bool``."""
Version = Mapping[str, list[int]]

Wait = Callable[[float], bool]
"""Waits so many seconds; True, at once, if the server is being closed."""


@dataclass
class Reply:
    """What becomes of a message.

    Attributes:
        text: the answer; None if there is none.
        accepted: whether the message was answered with something else than an error.
        command: what the server has to do now.
        refused: gives the answer if it cannot, for that reason.
    """

    text: bytes | None
    accepted: bool
    command: ServerCommand | None = None
    refused: Callable[[HPXError], Reply] | None = None


@dataclass
class _Exchange:
    """What is known of the message at hand."""

    address: str
    wait: Wait
    session: str = ""
    extra: dict[str, Json] = field(default_factory=dict)  # what the answer repeats
    command: ServerCommand | None = None


class _Unhandled(Exception):
    """An exception that a function did not handle; the text is for the client."""


class Service:
    """Answers messages, from any number of threads.

    Args:
        name: of the server.
        functions: what can be called.
        version, guest_allowed, users, dev, ready: as of the server.
        sessions: where they are kept.
        clock: gives seconds.
        new_id: makes a session id that nobody can guess.
    """

    def __init__(
        self,
        name: str,
        functions: Functions,
        *,
        version: Version,
        guest_allowed: bool,
        users: Users,
        dev: bool,
        ready: bool,
        sessions: SessionStore[Context],
        clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self.name = name
        self.version = version
        self.guest_allowed = guest_allowed
        self.users = users
        self.dev = dev
        self.ready = ready
        self.exceptions = ExceptionList()
        self.failures = 0
        """How many exceptions there were, also those that were forgotten since."""
        self._functions = functions
        self._clock = clock
        self._new_id = new_id
        self._sessions = sessions
        self._lock = threading.RLock()  # protects what follows and exceptions; never held across I/O or user code
        self._failures = LoginFailures()

    # ---------------------------------------------------------------------------------------------- messages

    def greeting(self) -> bytes:
        """The first message of a connection."""
        return to_json(make_message("", self.name, make_greeting(self.version, self.guest_allowed)))

    def notice(self, command: ServerCommand) -> bytes:
        """A server command, as it is sent on to everybody."""
        return to_json(make_message("", self.name, command.word))

    def refusal(self, error: HPXError) -> bytes:
        """An error that answers no message in particular."""
        return to_json(make_message("", self.name, None, error))

    def answer(self, text: bytes | Unreadable, address: str, wait: Wait) -> Reply:
        """Answer a message.

        Args:
            text: its JSON, or what stands in its place.
            address: where it comes from; logins from there may have to wait.
            wait: how the connection waits.
        """
        exchange = _Exchange(address, wait)
        try:
            data = self._react(text, exchange)
            refused = None if exchange.command is None else functools.partial(self._refuse, exchange=exchange)
            return Reply(self._pack(exchange, data), True, exchange.command, refused)
        except HPXError as failure:
            return self._refuse(failure, exchange)
        except BaseException as failure:  # who judges credentials may call exit(), too
            return self._unhandled(failure, exchange)

    def clear(self) -> None:
        """End the sessions that nobody else knows."""
        self._sessions.clear()

    # ------------------------------------------------------------------------------------------------ inside

    def _message(self, exchange: _Exchange, data: object, error: HPXError | None = None) -> dict[str, object]:
        return {**make_message(exchange.session, self.name, data, error), **exchange.extra}

    def _refuse(self, error: HPXError, exchange: _Exchange) -> Reply:
        try:
            return Reply(to_json(self._message(exchange, None, error)), False)
        except Exception as failure:  # an id that cannot be repeated, such as 1e999, or a strange error
            log.warning("an answer cannot be given as it should be: %s", _described(failure))
            text = "The message was refused, and why, or its '__id__', cannot be said in JSON"
            return Reply(to_json(make_message(exchange.session, self.name, None, HPXError(text))), False)

    def _pack(self, exchange: _Exchange, data: object) -> bytes:
        try:
            return to_json(self._message(exchange, data))
        except (TypeError, ValueError):
            for result in data if isinstance(data, list) else []:
                _require_json(result)
            raise

    def _react(self, text: bytes | Unreadable, exchange: _Exchange) -> object:
        if isinstance(text, Unreadable):
            raise ParsingError(text.reason)
        content = parse_json(text)
        exchange.extra = identity(content)
        message = parse_message(content)
        if not self.ready:
            exchange.session = message.session
            return WAIT
        command = parse_command(message.data)
        if command is ServerCommand.RequestAuth:
            exchange.session = message.session if message.session and self._find(message, exchange) else ""
            return make_greeting(self.version, self.guest_allowed)
        if not message.session:
            return self._shake_hands(message, exchange)
        context = self._find(message, exchange)
        if context is None:
            raise SessionError("The session is unknown or has expired; shake hands again")
        exchange.session = message.session
        if command is not None:
            return self._obey(command, context, exchange)
        return self._run_all(parse_calls(message.data), context)

    def _find(self, message: Message, exchange: _Exchange) -> Context | None:
        try:
            return self._sessions.use(message.session, self._clock())
        except HPXError:  # nobody knows whether it lives: it is not the client that has to forget it
            exchange.session = message.session
            raise

    def _obey(self, command: ServerCommand, context: Context, exchange: _Exchange) -> str:
        if context.is_guest:
            raise HPXError(f"'{command.word}' is for users, not for guests", AUTH_REQUIRED)
        exchange.command = command
        return command.word

    # ----------------------------------------------------------------------------------------------- sessions

    def _shake_hands(self, message: Message, exchange: _Exchange) -> str:
        kind = parse_handshake(message.data)
        user = None
        if kind is Handshake.USER:
            user = self._log_in(message.data, exchange)
        elif isinstance(message.data, dict) and not self.guest_allowed:
            raise HPXError("Guests are not allowed: 'user' and 'password' are needed", MISSING_CREDENTIALS)
        elif kind is not Handshake.GUEST:
            raise HPXError("The message has no session: shake hands first", AUTH_REQUIRED)
        context = Context(self._new_id(), message.name, user)
        self._sessions.add(context.session, context, self._clock())
        exchange.session = context.session
        return AUTHENTICATED

    def _log_in(self, data: Json, exchange: _Exchange) -> str:
        assert isinstance(data, dict)
        user, password = data["user"], data["password"]
        with self._lock:
            delay = self._failures.delay(exchange.address, self._clock())
        if delay and exchange.wait(delay):
            raise ServerError("The server is being closed")
        right = False
        try:
            right = isinstance(user, str) and isinstance(password, str) and self._is_right(user, password)
        finally:  # who judges may refuse by raising
            if not right:
                with self._lock:
                    self._failures.failed(exchange.address, self._clock())
        if not right:
            log.warning("wrong credentials from %s", exchange.address)
            raise HPXError("Wrong user or password", WRONG_CREDENTIALS)
        with self._lock:
            self._failures.succeeded(exchange.address)
        return str(user)

    def _is_right(self, user: str, password: str) -> bool:
        users = self.users
        if callable(users):
            return bool(users(user, password))
        # An unknown user takes as long as a wrong password, and digests are of one length.
        right = hmac.compare_digest(_digest(users.get(user, "")), _digest(password))
        return right and user in users

    # ---------------------------------------------------------------------------------------------- functions

    def _run_all(self, calls: list[Call], context: Context) -> list[dict[str, object]]:
        try:
            results = [self._run(call, context) for call in calls]
        except _Unhandled:
            try:
                self._sessions.keep(context)
            except Exception as failure:  # what was not handled is the answer
                log.error("what functions keep of a session is lost: %s", _described(failure))
            raise
        try:
            self._sessions.keep(context)
        except ServerError as failure:
            raise ServerError(f"The functions ran, but what they keep of the session is lost. {failure.msg}") from None
        return results

    def _run(self, call: Call, context: Context) -> dict[str, object]:
        try:
            return make_result(call.fname, self._functions.find(call.fname).call(call.arguments, context))
        except HPXError as failure:
            return make_result(call.fname, None, failure)
        except BaseException as failure:  # exit() would end nothing but this connection
            what = f"Unhandled exception in function '{call.fname}': {_described(failure)}"
            raise _Unhandled(what) from failure

    def _unhandled(self, failure: BaseException, exchange: _Exchange) -> Reply:
        cause = failure.__cause__ if isinstance(failure, _Unhandled) else failure
        what = str(failure) if isinstance(failure, _Unhandled) else f"Unhandled {_described(failure)}"
        if cause is not None:
            trace = "".join(traceback.format_exception(type(cause), cause, cause.__traceback__))
            with self._lock:
                self.exceptions.add(ExceptionRecord(cause, trace))
                self.failures += 1
        log.error("%s", what, exc_info=cause)
        if self.dev:
            return Reply(None, False)
        return self._refuse(HPXError(what), exchange)


def _described(failure: BaseException) -> str:
    try:
        return f"{type(failure).__name__}: {failure}"
    except Exception:  # its __str__ fails
        return type(failure).__name__


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _require_json(result: object) -> None:
    try:
        to_json(result)
    except (TypeError, ValueError) as failure:
        name = result.get("fname") if isinstance(result, dict) else None
        raise _Unhandled(f"What function '{name}' returned is not JSON: {failure}") from failure
