"""Import path of the manual; the same objects."""

from .simple_sockets import (
    Event,
    Event_System,
    Exception_Collection,
    Server_Client,
    SetupError,
    Socket_Response,
    TCPClient,
    TCPServer,
)

__all__ = [
    "Event",
    "Event_System",
    "Exception_Collection",
    "Server_Client",
    "SetupError",
    "Socket_Response",
    "TCPClient",
    "TCPServer",
]
