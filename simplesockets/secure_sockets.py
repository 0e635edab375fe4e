"""Import path of releases 0.3 and 0.4; the same objects."""

from .secure import SecureClient, SecureServer
from .simple_sockets import Server_Client, SetupError, Socket_Response, TCPClient, TCPServer

__all__ = [
    "SecureClient",
    "SecureServer",
    "Server_Client",
    "SetupError",
    "Socket_Response",
    "TCPClient",
    "TCPServer",
]
