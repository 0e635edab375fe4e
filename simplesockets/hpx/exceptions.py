"""Every error of the protocol, with its code.

An error that stands in a message is ``{"code": …, "msg": …}``. Raised by a function of a server's, any of these puts
its code and its message there; a client raises what it found there again.

    HPXError                        100 general
    ├── CoreError                   101
    ├── TimeoutError                102                        (the built-in TimeoutError)
    ├── ServerError                 400
    │   ├── ClientDisconnectError   401
    │   └── InvalidMessage          403
    ├── APIError                    404
    │   └── APIRequirementError     405
    ├── SessionError                408
    ├── EnumError                   409
    ├── ParsingError                410
    └── ClientError                 500 base of what happypandax-client 1.0.0 raises
        ├── ConnectionError         501                        (the built-in ConnectionError)
        │   └── ServerDisconnectError  502                     (ConnectionAbortedError)
        ├── AuthError               406
        │   ├── AuthRequiredError         407
        │   ├── AuthWrongCredentialsError 411
        │   └── AuthMissingCredentials    412
        └── JSONParseError          900
"""

from __future__ import annotations

import builtins

from ..errors import SimpleSocketsError


class HPXError(SimpleSocketsError):
    """An error with a code; base of all the others.

    Args:
        msg: what went wrong, for a person.
        code: another code than the class's.
    """

    code: int = 100

    def __init__(self, msg: str = "", code: int | None = None) -> None:
        super().__init__(msg)
        self.msg = msg
        if code is not None:
            self.code = code


class CoreError(HPXError):
    """Something in the core of the application failed."""

    code = 101


class TimeoutError(HPXError, builtins.TimeoutError):  # noqa: A001 - its name in the protocol
    """Something took too long."""

    code = 102


class ServerError(HPXError):
    """Something in the server failed."""

    code = 400


class ClientDisconnectError(ServerError):
    """The client is gone."""

    code = 401


class InvalidMessage(ServerError):
    """A message is not as it has to be: a key, the list of calls, a function's name, an argument."""

    code = 403


class APIError(HPXError):
    """A function cannot do what it was asked for."""

    code = 404


class APIRequirementError(APIError):
    """A function lacks something that it needs."""

    code = 405


class SessionError(HPXError):
    """The session is unknown or has expired; shake hands again."""

    code = 408


class EnumError(HPXError):
    """A value is none of those that are possible."""

    code = 409


class ParsingError(HPXError):
    """A message is no gzip."""

    code = 410


class ClientError(HPXError):
    """Base of what a client raises about itself and its server.

    Args:
        name: of the client.
        msg: what went wrong.
    """

    code = 500

    def __init__(self, name: str, msg: str) -> None:
        super().__init__(f"{name}: {msg}")
        self.name = name
        self.msg = msg

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.name, self.msg)


class ConnectionError(ClientError, builtins.ConnectionError):  # noqa: A001 - its name in release 1.0.0
    """The connection to the server broke, or cannot be used."""

    code = 501


class ServerDisconnectError(ConnectionError, ConnectionAbortedError):
    """The server ended the connection, or cannot be reached."""

    code = 502


class AuthError(ClientError):
    """The server does not accept who we are."""

    code = 406


class AuthRequiredError(AuthError):
    """That needs a handshake first, or a user instead of a guest."""

    code = 407


class AuthWrongCredentialsError(AuthError):
    """The user or the password is wrong."""

    code = 411


class AuthMissingCredentials(AuthError):
    """The server takes no guests: user and password are needed."""

    code = 412


class JSONParseError(ClientError):
    """What was received is no JSON, or not in UTF-8.

    Args:
        json_data: what was received.
        name: of the client.
        msg: what is wrong with it.
    """

    code = 900

    def __init__(self, json_data: object, name: str, msg: str) -> None:
        super().__init__(name, msg)
        self.json_data = json_data

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.json_data, self.name, self.msg)


_PLAIN: dict[int, type[HPXError]] = {
    each.code: each
    for each in (
        HPXError,
        CoreError,
        TimeoutError,
        ServerError,
        ClientDisconnectError,
        InvalidMessage,
        APIError,
        APIRequirementError,
        SessionError,
        EnumError,
        ParsingError,
    )
}
_OF_CLIENTS: dict[int, type[ClientError]] = {
    each.code: each
    for each in (
        ClientError,
        ConnectionError,
        ServerDisconnectError,
        AuthError,
        AuthRequiredError,
        AuthWrongCredentialsError,
        AuthMissingCredentials,
    )
}


def from_code(code: int, name: str, msg: str) -> HPXError:
    """The error that a message speaks of.

    Args:
        code: its code; an :class:`HPXError` with that code where it is none of the documented ones.
        name: of the client that received it.
        msg: its text.
    """
    if code in _OF_CLIENTS:
        return _OF_CLIENTS[code](name, msg)
    if code == JSONParseError.code:
        return JSONParseError(None, name, msg)
    return _PLAIN.get(code, HPXError)(msg, code)
