"""TCP servers and clients without an event loop: a thread per client, polled flags or callbacks.

    from simplesockets import TCPServer

    server = TCPServer()
    server.setup(ip="127.0.0.1", port=9999, on_receive=lambda client, address, data: client.send(data))
    server.start()

How a byte travels, file by file: transport, framing, protocol, connection, dispatch, mailbox; engine has the threads,
client and server are what programs use.
"""

from . import typehints
from .certificates import Certificate, self_signed
from .client import TCPClient
from .errors import (
    BindError,
    BusyError,
    ConnectionClosed,
    FileIncomplete,
    FileTimeout,
    FrameTooLarge,
    FrameTruncated,
    InvalidHeader,
    LifecycleError,
    ProtocolError,
    ResolveError,
    SendTimeout,
    SetupError,
    SimpleSocketsError,
    SocketError,
    UnknownClient,
    WorkerError,
)
from .events import Ending, Event, Socket_Response
from .framing import DelimiterFramer, LengthPrefixFramer
from .protocol import FramedProtocol, Protocol, RawProtocol
from .secure import SecureClient, SecureServer
from .server import Server_Client, TCPServer
from .timing import Reconnect

__version__ = "1.0.0.dev0"

__all__ = [
    "BindError",
    "BusyError",
    "Certificate",
    "ConnectionClosed",
    "DelimiterFramer",
    "Ending",
    "Event",
    "FileIncomplete",
    "FileTimeout",
    "FrameTooLarge",
    "FrameTruncated",
    "FramedProtocol",
    "InvalidHeader",
    "LengthPrefixFramer",
    "LifecycleError",
    "Protocol",
    "ProtocolError",
    "RawProtocol",
    "Reconnect",
    "ResolveError",
    "SecureClient",
    "SecureServer",
    "SendTimeout",
    "Server_Client",
    "SetupError",
    "SimpleSocketsError",
    "SocketError",
    "Socket_Response",
    "TCPClient",
    "TCPServer",
    "UnknownClient",
    "WorkerError",
    "self_signed",
    "typehints",
]
