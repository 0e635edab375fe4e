"""HPX: both ends of the protocol that HappyPanda X frontends speak.

    from simplesockets import hpx

    server = hpx.Server()

    @server.function
    def add(a, b):
        return a + b

    with server, hpx.Client("my frontend") as client:
        client.handshake()
        print(client.call("add", a=1, b=2))

How a message travels, file by file: codec (frames), protocol (what messages say), sessions, functions, service (what
is answered); server and client are what programs use. ``from simplesockets import hpx as happypandax_client`` is all
that a program of happypandax-client 1.0.0 needs.
"""

from . import client, exceptions
from .client import Client, finalize
from .exceptions import (
    APIError,
    APIRequirementError,
    AuthError,
    AuthMissingCredentials,
    AuthRequiredError,
    AuthWrongCredentialsError,
    ClientDisconnectError,
    ClientError,
    ConnectionError,  # noqa: A004 - its name in release 1.0.0
    CoreError,
    EnumError,
    HPXError,
    InvalidMessage,
    JSONParseError,
    ParsingError,
    ServerDisconnectError,
    ServerError,
    SessionError,
    TimeoutError,  # noqa: A004 - its name in the protocol
)
from .functions import Context
from .protocol import ServerCommand
from .server import Server

__all__ = [
    "APIError",
    "APIRequirementError",
    "AuthError",
    "AuthMissingCredentials",
    "AuthRequiredError",
    "AuthWrongCredentialsError",
    "Client",
    "ClientDisconnectError",
    "ClientError",
    "ConnectionError",
    "Context",
    "CoreError",
    "EnumError",
    "HPXError",
    "InvalidMessage",
    "JSONParseError",
    "ParsingError",
    "Server",
    "ServerCommand",
    "ServerDisconnectError",
    "ServerError",
    "SessionError",
    "TimeoutError",
    "client",
    "exceptions",
    "finalize",
]
